"""The script ./inv creates .venv only when needed. The tests run the real script in a scratch project that installs in
a second without a network: its packages have their own build backend, and uv comes from this environment.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import distribution
from pathlib import Path

import pytest

from tests.cli import ROOT

PROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]

[project]
name = "{name}"
version = "1"

[project.optional-dependencies]
torch = []
tflite = []
keras-gpu = []
dev = []
all = []

[tool.other]
setting = []
"""

BACKEND = """
import pathlib, zipfile

NAME = "{name}"

def build_editable(folder, settings=None, metadata=None):
    name = f"{{NAME.replace('-', '_')}}-1-py3-none-any.whl"
    info = f"{{NAME.replace('-', '_')}}-1.dist-info"
    with zipfile.ZipFile(pathlib.Path(folder) / name, "w") as wheel:
        about = f"Metadata-Version: 2.1\\nName: {{NAME}}\\nVersion: 1\\n"
        about += "".join(f"Provides-Extra: {{extra}}\\n" for extra in ("torch", "tflite", "keras-gpu", "dev", "all"))
        wheel.writestr(f"{{info}}/METADATA", about)
        wheel.writestr(f"{{info}}/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(f"{{info}}/RECORD", "")
    return name

build_wheel = build_editable
"""

PLUGINS = {"targets/onnx.py": "onnx", "targets/tflite.py": "tflite", "targets/savedmodel.py": "keras",
           "targets/_shared.py": "other", "frameworks/torch.py": "torch", "frameworks/keras.py": "keras"}  # fmt: skip
"""Plug-ins of the scratch project with the extra that each needs."""

VERSION = f"{sys.version_info[0]}.{sys.version_info[1]}"
UV = Path(sys.executable).parent / "uv"
TOOLS = "basename bash cat cp cut dirname env mkdir mktemp readlink rm sed tail tr"
"""The programs that the script expects on every system."""

TASKS = "import os, sys\nprint('called with', sys.argv[1:], 'in', os.getcwd())\n"
TASKS += "print('from', os.environ['LASTMILE_FROM'])\n"


OWN = ("LASTMILE_", "PIP_", "PYENV_", "UV_", "VIRTUAL_")
"""Prefixes of variables that the script or its programs read. Tests remove them and set their own."""


@dataclass
class Project:
    """A scratch project with the real ./inv.

    Attributes:
        wheels: the folder where pip finds uv.
        path: the only folder on PATH; None for the PATH of this machine.
    """

    root: Path
    wheels: Path
    path: Path | None = None
    environment: dict[str, str] = field(default_factory=dict)

    def start(self, *args: str, cwd: Path | None = None) -> subprocess.Popen[str]:
        others = {name: value for name, value in os.environ.items() if not name.startswith(OWN)}
        offline = {
            "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.wheels), "PIP_CONFIG_FILE": os.devnull,
            "UV_NO_INDEX": "1", "UV_FIND_LINKS": str(self.wheels), "UV_NO_CONFIG": "1", "UV_OFFLINE": "1",
        }  # fmt: skip
        path = {"PATH": str(self.path)} if self.path else {}
        return subprocess.Popen(
            [str(self.root / "inv"), *args], cwd=cwd or self.root, env=others | offline | path | self.environment,
            text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def inv(self, *args: str, cwd: Path | None = None) -> tuple[int, str, str]:
        process = self.start(*args, cwd=cwd)
        out, err = process.communicate()
        return process.returncode, out, err

    @property
    def venv(self) -> Path:
        return self.root / ".venv"

    @property
    def stamp(self) -> Path:
        return self.venv / ".installed-from"

    @property
    def choices(self) -> list[str]:
        """The extras, the build of PyTorch and the Python that .venv was made with."""
        return (self.venv / ".choices").read_text().splitlines()[1:]

    def program(self, name: str, text: str) -> None:
        """Puts a shell script on the project's own PATH."""
        assert self.path is not None
        (self.path / name).unlink(missing_ok=True)
        (self.path / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (self.path / name).chmod(0o755)

    def tools(self, *programs: str | Path) -> None:
        """Puts programs of this machine on the project's own PATH."""
        assert self.path is not None
        for program in programs:
            found = shutil.which(program)
            assert found, program
            (self.path / Path(program).name).symlink_to(found)


def write_project(root: Path) -> None:
    """Writes a project that ./inv can install: itself with extras, and edge-bench."""
    for folder, name in ((root, "lastmile"), (root / "edge-bench", "edge-bench")):
        folder.mkdir(parents=True)
        (folder / "pyproject.toml").write_text(PROJECT.format(name=name))
        (folder / "backend.py").write_text(BACKEND.format(name=name))
    for place, extra in PLUGINS.items():
        plugin = root / "pipeline" / place
        plugin.parent.mkdir(parents=True, exist_ok=True)
        plugin.write_text(f'NAME = "a plug-in"\nEXTRA = "{extra}"\n')
    (root / "tasks.py").write_text(TASKS)
    (root / "constraints.txt").write_text("")
    shutil.copy(ROOT / "inv", root / "inv")


def pack(name: str, folder: Path) -> None:
    """Rebuilds the wheel of an installed package."""
    package = distribution(name)
    version = package.version
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        record = []
        for file in package.files or []:
            place = str(file)
            if file.name in ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json") or ".." in place:
                if "/bin/" not in place:
                    continue
                place = f"{name}-{version}.data/scripts/{file.name}"
            content = Path(str(package.locate_file(file))).read_bytes()
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            record.append(f"{place},sha256={digest},{len(content)}")
            info = zipfile.ZipInfo(place)
            info.external_attr = 0o100755 << 16
            wheel.writestr(info, content)
        place = f"{name}-{version}.dist-info/RECORD"
        wheel.writestr(place, "\n".join([*record, f"{place},,"]) + "\n")


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a wheel of uv, in place of a package index."""
    folder = tmp_path_factory.mktemp("wheels")
    pack("uv", folder)
    return folder


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory, wheels: Path) -> Iterator[tuple[Project, tuple[int, str, str]]]:
    """A project after its first ./inv, called twice at once, and the output of both calls."""
    project = Project(tmp_path_factory.mktemp("scratch") / "a project", wheels)
    write_project(project.root)
    both = [project.start("train", "--model", "my net") for _ in range(2)]
    printed = [process.communicate() for process in both]
    codes = max(process.returncode for process in both)
    assert printed[0][0] == printed[1][0]
    yield project, (codes, printed[0][0], "".join(err for _, err in printed))


@pytest.fixture
def project(installed: tuple[Project, object]) -> Iterator[Project]:
    """The installed project; its constraints and stamp are restored after the test."""
    before = {path: path.read_bytes() for path in (installed[0].root / "constraints.txt", installed[0].stamp)}
    yield installed[0]
    for path, content in before.items():
        path.write_bytes(content)


@pytest.fixture
def bare(tmp_path: Path, wheels: Path) -> Project:
    """A project without an environment, and a PATH with what the script needs except Python and uv."""
    project = Project(tmp_path / "bare", wheels, tmp_path / "bin", {"HOME": str(tmp_path), "TMPDIR": str(tmp_path)})
    write_project(project.root)
    (tmp_path / "bin").mkdir()
    project.tools(*TOOLS.split(), "flock", "sha256sum")
    return project


@pytest.fixture
def fresh(bare: Project) -> Project:
    """A project without an environment, with Python and uv on the PATH."""
    bare.tools(UV)
    python_on_path(bare, f"python{VERSION}")
    return bare


def python_on_path(project: Project, name: str) -> None:
    """Puts this Python on the PATH under a name: as a script, because a link would find its own environment."""
    project.program(name, f'exec "{Path(sys.executable).resolve()}" "$@"')


def test_two_first_calls_at_once_install_once_and_both_run(installed: tuple[Project, tuple[int, str, str]]) -> None:
    project, (code, out, err) = installed
    assert code == 0, err
    assert out == f"called with ['train', '--model', 'my net'] in {project.root}\nfrom {project.root}\n"
    assert err.count("setting up .venv") == 1 and len(err.splitlines()) == 1, err
    assert project.stamp.is_file()


def test_a_second_call_installs_nothing_from_any_folder(project: Project, tmp_path: Path) -> None:
    before = project.stamp.stat().st_mtime_ns
    code, out, err = project.inv("--list", cwd=tmp_path)
    assert (code, err) == (0, "")
    assert out == f"called with ['--list'] in {project.root}\nfrom {tmp_path}\n"
    assert project.stamp.stat().st_mtime_ns == before


def test_a_changed_constraint_reinstalls_into_the_same_environment(project: Project) -> None:
    (project.venv / "mine").touch()
    (project.root / "constraints.txt").write_text("numpy<3\n")
    code, _, err = project.inv("--list")
    assert code == 0 and err.count("setting up .venv") == 1, err
    assert (project.venv / "mine").exists()
    assert project.inv("--list")[2] == ""


def test_a_failed_installation_names_its_log_and_is_tried_again(project: Project) -> None:
    (project.root / "constraints.txt").write_text("this is ] no constraint\n")
    code, out, err = project.inv("--list")
    assert (code, out) == (2, ""), err
    found = re.fullmatch(r"error: the installation failed; the whole log is (\S+)", err.splitlines()[-1])
    assert found, err
    log = Path(found[1])
    assert "this is ] no constraint" in log.read_text()
    log.unlink()
    assert not project.stamp.exists()
    (project.root / "constraints.txt").write_text("")
    assert project.inv("--list")[0] == 0


def test_without_a_network_the_installation_fails_with_one_line(bare: Project, tmp_path: Path) -> None:
    python_on_path(bare, "python3")
    (tmp_path / "empty").mkdir()
    bare.wheels = tmp_path / "empty"
    code, out, err = bare.inv("--list")
    assert (code, out) == (2, ""), err
    assert err.splitlines()[-1].startswith(f"error: the installation failed; the whole log is {tmp_path}/")
    assert not bare.stamp.exists()


def test_an_environment_with_a_broken_python_is_rebuilt(project: Project) -> None:
    python = project.venv / "bin" / "python"
    python.unlink()
    python.write_text("#!/usr/bin/env bash\nexit 1\n")
    python.chmod(0o755)
    project.stamp.write_text("of before\n")
    code, out, err = project.inv("--list")
    assert code == 0 and out.startswith("called"), err
    assert python.is_symlink()


def test_a_moved_checkout_gets_a_new_environment(project: Project, tmp_path: Path) -> None:
    moved = Project(tmp_path / "moved", project.wheels)
    shutil.copytree(project.root, moved.root, symlinks=True)
    code, out, err = moved.inv("--list")
    assert code == 0, err
    assert out == f"called with ['--list'] in {moved.root}\nfrom {moved.root}\n"


def test_a_venv_that_is_a_symbolic_link_is_refused_and_not_changed(bare: Project, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "pyvenv.cfg").write_text("theirs\n")
    bare.venv.symlink_to(theirs)
    code, out, err = bare.inv("--list")
    assert (code, out, len(err.splitlines())) == (2, "", 1), err
    assert err.startswith(f"error: {bare.venv} is a link to {theirs}, ") and err.endswith("remove the link\n")
    assert (theirs / "pyvenv.cfg").read_text() == "theirs\n"


# -- which Python, and where uv comes from -----------------------------------------------------------------------------


def test_the_newest_supported_python_is_used_and_failing_shims_are_skipped(fresh: Project) -> None:
    fresh.program(f"python{VERSION}", "exit 127")
    fresh.program("python3.13", "echo 'pyenv: python3.13: command not found' >&2; exit 127")
    fresh.program("python3", "exit 1")
    python_on_path(fresh, "python")
    code, _, err = fresh.inv("--list")
    assert code == 0 and f"Python {VERSION} " in err, err
    assert len(err.splitlines()) == 1


def test_a_pyenv_python_without_a_shim_is_found(bare: Project, tmp_path: Path) -> None:
    bare.tools(UV)
    python = tmp_path / ".pyenv" / "versions" / f"{VERSION}.99" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/usr/bin/env bash\nexec "{Path(sys.executable).resolve()}" "$@"\n')
    python.chmod(0o755)
    code, _, err = bare.inv("--list")
    assert code == 0, err


def test_without_a_python_uv_downloads_the_newest(bare: Project, tmp_path: Path) -> None:
    """Only the download is replaced: uv's arguments are recorded, and it gets this Python instead."""
    recorded = tmp_path / "arguments"
    bare.program("uv", f"""
        if [ "$1" = venv ]; then
          echo "$@" >'{recorded}'
          exec "{UV}" venv --quiet --clear --python "{Path(sys.executable).resolve()}" "${{@: -1}}"
        fi
        exec "{UV}" "$@"
    """)  # fmt: skip
    code, _, err = bare.inv("--list")
    assert code == 0, err
    assert recorded.read_text().split() == ["venv", "--quiet", "--clear", "--python", "3.13", str(bare.venv)]


def test_without_python_and_uv_one_line_names_what_to_install(bare: Project) -> None:
    for _ in range(2):
        code, out, err = bare.inv("--list")
        assert (code, out, len(err.splitlines())) == (2, "", 1), err
        assert "python3-venv" in err and "xcode-select" in err
        bare.program("python3", "exit 1")  # the second time with broken programs of these names
        bare.program("python", "exit 1")
    assert not bare.venv.exists()


def test_a_python_without_pip_installs_uv_in_a_separate_environment(bare: Project) -> None:
    """Debian's python3 with python3-venv, but without python3-pip."""
    bare.program("python3", f'''
        if [ "$1 $2" = "-m pip" ]; then exit 1; fi
        exec "{Path(sys.executable).resolve()}" "$@"
    ''')  # fmt: skip
    code, _, err = bare.inv("--list")
    assert code == 0, err


def test_an_unsupported_python_is_refused(fresh: Project) -> None:
    fresh.environment["LASTMILE_PYTHON"] = "3.9"
    code, out, err = fresh.inv("--list")
    assert (code, out, len(err.splitlines())) == (2, "", 1), err
    assert "'3.9'" in err and "3.13 3.12 3.11" in err


def test_an_environment_in_another_folder_leaves_the_default_one_alone(fresh: Project, tmp_path: Path) -> None:
    fresh.environment |= {"LASTMILE_VENV": "other/venv", "LASTMILE_PYTHON": VERSION}
    code, out, err = fresh.inv("--list", cwd=tmp_path)
    assert code == 0 and out.startswith("called"), err
    assert (tmp_path / "other" / "venv" / ".installed-from").is_file()
    assert not fresh.venv.exists()


# -- choices -----------------------------------------------------------------------------------------------------------


def test_selected_extras_are_remembered_and_what_they_omit_is_printed(fresh: Project) -> None:
    fresh.environment["LASTMILE_EXTRAS"] = "torch, tflite"
    code, _, err = fresh.inv("--list")
    assert code == 0, err
    lines = err.splitlines()
    assert len(lines) == 2 and lines[1].startswith("not installed: "), err
    assert {"onnx", "savedmodel", "keras", "tests"} <= set(re.findall(r"\w+", lines[1]))
    assert not {"tflite", "torch", "_shared"} & set(re.findall(r"\w+", lines[1]))
    assert fresh.choices == ["torch,tflite", "default", VERSION]
    del fresh.environment["LASTMILE_EXTRAS"]
    assert fresh.inv("--list")[2] == ""
    fresh.environment["LASTMILE_EXTRAS"] = "all"
    code, _, err = fresh.inv("--list")
    assert code == 0 and len(err.splitlines()) == 1, err
    assert fresh.choices == ["all", "default", VERSION]


def test_the_choice_of_the_cpu_build_of_pytorch_is_passed_to_uv_and_remembered(fresh: Project, tmp_path: Path) -> None:
    """The real uv, called through a script in the environment that records its arguments."""
    recorded = tmp_path / "arguments"
    fresh.tools("chmod")
    fresh.program("uv", f"""
        "{UV}" "$@" || exit 1
        [ "$1" = venv ] || exit 0
        printf '#!/usr/bin/env bash\\necho "$@" >>"{recorded}"\\nexec "{UV}" "$@"\\n' >"${{@: -1}}/bin/uv"
        chmod 755 "${{@: -1}}/bin/uv"
    """)  # fmt: skip
    fresh.environment["LASTMILE_TORCH"] = "cpu"
    code, _, err = fresh.inv("--list")
    assert code == 0 and "2 GB" in err, err
    assert "--torch-backend cpu -e .[all]" in recorded.read_text()
    assert fresh.choices == ["all", "cpu", VERSION]
    del fresh.environment["LASTMILE_TORCH"]
    assert fresh.inv("--list")[2] == ""
    fresh.stamp.unlink()
    recorded.unlink()
    assert fresh.inv("--list")[0] == 0
    assert "--torch-backend cpu " in recorded.read_text()
    fresh.environment["LASTMILE_TORCH"] = "default"
    recorded.unlink()
    assert fresh.inv("--list")[0] == 0
    assert "torch-backend" not in recorded.read_text()
    assert fresh.choices == ["all", "default", VERSION]


@pytest.mark.parametrize(
    ("variable", "value", "known"),
    [("LASTMILE_EXTRAS", "torch,onxn", "torch,tflite,keras-gpu,dev,all"), ("LASTMILE_TORCH", "gpu", "cpu")],
)
def test_an_unknown_choice_is_refused_with_the_known_ones(
    fresh: Project, variable: str, value: str, known: str
) -> None:
    fresh.environment[variable] = value
    code, out, err = fresh.inv("--list")
    assert (code, out, len(err.splitlines())) == (2, "", 1), err
    assert err.startswith(f"error: {variable}") and known in err
    assert not fresh.venv.exists()


# -- macOS -------------------------------------------------------------------------------------------------------------


def test_it_works_with_the_programs_of_macos(fresh: Project) -> None:
    """No flock, no sha256sum, no setpriv; perl and shasum. Two calls at once install once."""
    assert fresh.path is not None
    (fresh.path / "flock").unlink()
    (fresh.path / "sha256sum").unlink()
    fresh.tools("perl", "shasum")
    both = [fresh.start("--list") for _ in range(2)]
    printed = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], printed
    assert "".join(err for _, err in printed).count("setting up .venv") == 1
    assert fresh.inv("--list")[2] == ""


def test_the_script_is_executable_and_uses_nothing_that_bash_3_2_lacks() -> None:
    assert os.access(ROOT / "inv", os.X_OK)
    done = subprocess.run(["bash", "-n", str(ROOT / "inv")], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    newer = r"mapfile|readarray|declare -A|local -[An]|\$\{\w+(,,?|\^\^?)\}|\$\{\w+@|&>>|\|&|readlink -f|coproc|wait -n"
    assert re.findall(newer, (ROOT / "inv").read_text()) == []
