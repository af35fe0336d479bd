"""Registries: the plug-ins are the files of a folder and the entry points of installed packages."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest
from edge_bench import runtimes

from pipeline import registry
from pipeline.errors import BadPlugIn, MissingExtra, PipelineError, UnknownName
from tests.outside.making import distribution

ROOT = Path(__file__).parents[1]
FOLDERS = {
    "targets": "Target",
    "frameworks": "Framework",
    "datasets": "Dataset",
    "tasks": "Task",
    "recipes": "RecipeModule",
    "devices": "DeviceKind",
    "packages": "Package",
    "framework_comparison.parts": "Comparison",
}
"""The Protocol of each folder."""


@pytest.mark.parametrize("folder", FOLDERS)
def test_names_are_the_files_that_do_not_begin_with_an_underscore(folder: str) -> None:
    files = {path.name for path in ROOT.joinpath("pipeline", *folder.split(".")).iterdir() if path.suffix == ".py"}
    assert registry.names(folder) == sorted(name.removesuffix(".py") for name in files if not name.startswith("_"))
    assert registry.names(folder)


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_name_loads_its_module(folder: str) -> None:
    for name in registry.names(folder):
        assert registry.load(folder, name).__name__ == f"pipeline.{folder}.{name}"


@pytest.mark.parametrize("name", ["tflit", "_pt2e", "", "../core", "tflite.py"])
def test_an_unknown_name_is_refused_and_the_known_are_listed(name: str) -> None:
    known = ", ".join(registry.names("targets"))
    with pytest.raises(UnknownName) as caught:
        registry.load("targets", name)
    assert str(caught.value).startswith(f"unknown target {name!r}")
    assert str(caught.value).endswith(f"(known: {known})")


def test_the_nearest_name_is_suggested() -> None:
    with pytest.raises(UnknownName, match=r"^unknown target 'tflit'; did you mean 'tflite'\? "):
        registry.load("targets", "tflit")


def test_plug_ins_are_checked_against_the_protocol_of_their_folder() -> None:
    assert registry.PROTOCOLS == FOLDERS


RECIPE = """
from pipeline.core import Recipe

RECIPE = Recipe(name={name!r}, weights={weights!r}, activations={activations!r}, calibration=0, summary="x")
"""


def recipe(name: str, weights: str = "float32", activations: str = "float32") -> str:
    return RECIPE.format(name=name, weights=weights, activations=activations)


def offer_plug_in(
    monkeypatch: pytest.MonkeyPatch, folder: Path, group: str, text: str, name: str = "acme_one", package: str = "acme"
) -> str:
    """Puts a package with one plug-in on the path. Returns the name of the plug-in's module."""
    module = f"{package}_{folder.name}_{name.strip('_.')}".replace("-", "_")
    files = {f"{module}.py": text}
    distribution(folder / package, package, {f"lastmile.{group}": {name: module}}, files, version="1.2")
    monkeypatch.syspath_prepend(folder / package)
    return module


def test_a_plug_in_of_another_package_is_listed_and_loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    own = registry.names("recipes")
    module = offer_plug_in(monkeypatch, tmp_path, "recipes", recipe("acme_one"))
    assert registry.names("recipes") == sorted([*own, "acme_one"])
    assert module not in sys.modules
    assert registry.load("recipes", "acme_one").__name__ == module
    loaded, broken = registry.load_all("recipes")
    assert [*loaded] == registry.names("recipes")
    assert broken == {}


def test_the_first_of_two_installations_of_a_package_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    distribution(tmp_path / "old", "ac-me", {"lastmile.recipes": {"old": "old"}}, {}, version="1")
    distribution(tmp_path / "new", "ac_me", {"lastmile.recipes": {"new": "new"}}, {}, version="2")
    monkeypatch.syspath_prepend(tmp_path / "old")
    monkeypatch.syspath_prepend(tmp_path / "new")
    assert {"old", "new"} & {*registry.names("recipes")} == {"new"}


def test_the_name_of_a_built_in_plug_in_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    offer_plug_in(monkeypatch, tmp_path, "recipes", recipe("int8"), "int8")
    for call in (registry.names, registry.load_all, lambda folder: registry.load(folder, "fp32")):
        with pytest.raises(BadPlugIn) as caught:
            call("recipes")
        for part in ("'int8'", "lastmile", "acme 1.2", "pip uninstall acme"):
            assert part in str(caught.value)
    assert registry.names("targets")


def test_a_name_that_two_packages_offer_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    offer_plug_in(monkeypatch, tmp_path, "recipes", recipe("acme_one"))
    offer_plug_in(monkeypatch, tmp_path, "recipes", recipe("acme_one"), package="bolt")
    with pytest.raises(BadPlugIn) as caught:
        registry.load("recipes", "acme_one")
    for part in ("'acme_one'", "acme 1.2", "bolt 1.2", "pip uninstall"):
        assert part in str(caught.value)


@pytest.mark.parametrize("name", ["all", "../up", "a,b", "_own", "a b"])
def test_a_name_that_is_no_valid_option_or_folder_name_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    distribution(tmp_path, "acme", {"lastmile.recipes": {name: "acme"}}, {})
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(BadPlugIn, match=r"acme 1\.0"):
        registry.names("recipes")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("def (", "SyntaxError: "),
        ("", "lacks RECIPE of pipeline.recipes.RecipeModule"),
        (recipe("acme_two"), "'acme_two'"),
        (recipe("acme_one", weights="float8"), "'float8'"),
        (recipe("acme_one", activations="int4"), "'int4'"),
        (recipe("acme_one", activations="int8"), "calibration"),
        ("RECIPE = 3", "int"),
    ],
)
def test_an_unusable_plug_in_is_reported_with_its_package_and_does_not_affect_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, message: str
) -> None:
    own = registry.names("recipes")
    offer_plug_in(monkeypatch, tmp_path, "recipes", text)
    with pytest.raises(PipelineError) as caught:
        registry.load("recipes", "acme_one")
    assert message in str(caught.value)
    assert "acme 1.2" in str(caught.value)
    assert "\n" not in str(caught.value)
    loaded, broken = registry.load_all("recipes")
    assert [*loaded] == own
    assert broken == {"acme_one": str(caught.value)}


def test_an_incomplete_target_is_refused_with_the_missing_names(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    text = """
    SUFFIX, RUNTIME, UNCHECKED, LAYOUT, TOOLS, EXTRA = ".x", None, "never", "NHWC", (), ""
    supports = None
    """
    offer_plug_in(monkeypatch, tmp_path, "targets", dedent(text))
    with pytest.raises(BadPlugIn, match=r"lacks SUMMARY, supports\(\), export\(\) of pipeline\.targets\.Target"):
        registry.load("targets", "acme_one")


def hash_of(folder: Path) -> str:
    """The hash of the recipe acme_one in a process that has this folder on its path."""
    code = "from pipeline import registry; print(registry.source_hash('recipes', 'acme_one'))"
    path = f"{folder}:{ROOT}"
    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": path}, capture_output=True, check=True)
    return done.stdout.decode().strip()


def test_the_hash_of_an_installed_plug_in_changes_with_its_files_and_version(tmp_path: Path) -> None:
    points = {"lastmile.recipes": {"acme_one": "acme.recipes.one"}}
    files = {"acme/__init__.py": "", "acme/recipes/one.py": recipe("acme_one"), "acme/_helper.py": "A = 1"}
    one = hash_of(distribution(tmp_path / "one", "acme", points, files))
    assert one == hash_of(distribution(tmp_path / "again", "acme", points, files))
    assert one != hash_of(distribution(tmp_path / "newer", "acme", points, files, version="1.1"))
    changed = {**files, "acme/_helper.py": "A = 2"}
    assert one != hash_of(distribution(tmp_path / "changed", "acme", points, changed))
    del files["acme/__init__.py"]
    space = hash_of(distribution(tmp_path / "space", "acme", points, files))
    del files["acme/_helper.py"]  # packages share a namespace package, so this file is not the plug-in's
    assert space == hash_of(distribution(tmp_path / "smaller", "acme", points, files))


def test_listing_names_imports_no_plug_in(tmp_path: Path) -> None:
    distribution(tmp_path, "acme", {"lastmile.recipes": {"acme_one": "acme"}}, {"acme.py": "1 / 0"})
    code = "import sys; from pipeline import registry; print(registry.names('recipes'))\n"
    code += "print([name for name in ('acme', 'numpy', 'pipeline.recipes') if name in sys.modules])"
    environment = {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True, text=True)
    assert "acme_one" in done.stdout
    assert done.stdout.splitlines()[1] == "[]"


def test_the_extra_of_another_package_is_named_as_pip_expects_it() -> None:
    with pytest.raises(MissingExtra, match=r"pip install 'acme-lastmile\[npu]'"), registry.extra("acme-lastmile[npu]"):
        import no_such_package  # noqa: F401


def test_a_missing_package_is_reported_with_the_install_command() -> None:
    message = r"^no_such_package is not installed.*LASTMILE_EXTRAS.*pip install '\.\[onnx]'$"
    with pytest.raises(MissingExtra, match=message), registry.extra("onnx"):
        import no_such_package  # noqa: F401


def test_another_error_inside_an_extra_is_not_changed() -> None:
    with pytest.raises(ZeroDivisionError), registry.extra("onnx"):
        raise ZeroDivisionError


def test_versions_are_those_of_the_installed_packages() -> None:
    found = registry.versions(("numpy", "no-such-distribution"))
    import numpy

    assert found == {"numpy": numpy.__version__, "no-such-distribution": "none"}


def test_every_tool_that_decides_the_output_is_an_installed_distribution() -> None:
    for folder in ("targets", "frameworks"):
        for name in registry.names(folder):
            versions = registry.versions(registry.load(folder, name).TOOLS)
            assert versions and "none" not in versions.values(), (name, versions)


def test_the_hash_of_code_covers_the_modules_that_it_names_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {
        "targets/one.py": "from pipeline.targets import Target, _shared\n",
        "targets/_shared.py": "from pipeline.frameworks._graphs import (\n    nodes,\n)\n",
        "frameworks/_graphs.py": 'ARGV = ["-m", "pipeline.frameworks._process"]\n',
        "frameworks/_process.py": "from pipeline.system import store\nfrom pipeline.errors import Broken\n",
        "targets/_other.py": "", "targets/two.py": "", "system/store.py": "", "errors.py": "",
    }  # fmt: skip
    for name, text in files.items():
        path = tmp_path / "pipeline" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(registry, "HERE", tmp_path / "pipeline")

    def hash_of(module: str) -> str:
        registry.code_hash.cache_clear()
        return registry.code_hash(module)

    before, changing = hash_of("pipeline.targets.one"), []
    for name in files:
        path = tmp_path / "pipeline" / name
        text = path.read_text()
        path.write_text(text + "# changed\n")
        if hash_of("pipeline.targets.one") != before:
            changing.append(name)
        path.write_text(text)
    registry.code_hash.cache_clear()
    assert changing == ["targets/one.py", "targets/_shared.py", "frameworks/_graphs.py", "frameworks/_process.py"]


def test_every_plug_in_has_a_different_source_hash() -> None:
    hashes = {registry.source_hash("targets", name) for name in registry.names("targets")}
    assert len(hashes) == len(registry.names("targets"))


def test_mypy_accepts_every_plug_in_as_an_instance_of_its_protocol(tmp_path: Path) -> None:
    lines = []
    for folder, protocol in FOLDERS.items():
        lines.append(f"from pipeline.{folder} import {protocol}")
        for name in registry.names(folder):
            alias = f"{folder.replace('.', '_')}_{name}"
            lines.append(f"from pipeline.{folder} import {name} as {alias}")
            lines.append(f"_{alias}: {protocol} = {alias}")
    lines.append("from edge_bench.runtimes import Runtime")
    for name in runtimes.names():
        lines.append(f"from edge_bench.runtimes import {name} as runtime_{name}\n_{name}: Runtime = runtime_{name}")
    file = tmp_path / "held.py"
    file.write_text("\n".join(lines) + "\n")
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), "--strict", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout == "Success: no issues found in 1 source file\n"


def test_mypy_rejects_a_plug_in_that_lacks_a_verb(tmp_path: Path) -> None:
    (tmp_path / "lame.py").write_text('SUFFIX = ".lame"\n')
    (tmp_path / "held.py").write_text("import lame\nfrom pipeline.targets import Target\n_: Target = lame\n")
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), "--strict"]
    environment = {"MYPYPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [*command, "held.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert 'variable has type "Target"' in done.stdout
