"""The script ./inv: makes .venv when it is needed, and only then. The real script, in a scratch project that installs
in a second and without a network: its packages have a build backend of their own, and uv comes from this environment.
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
all = []
"""

BACKEND = """
import pathlib, zipfile

NAME = "{name}"
SCRIPT = {script!r}

def build_editable(folder, settings=None, metadata=None):
    name = f"{{NAME.replace('-', '_')}}-1-py3-none-any.whl"
    info = f"{{NAME.replace('-', '_')}}-1.dist-info"
    with zipfile.ZipFile(pathlib.Path(folder) / name, "w") as wheel:
        if SCRIPT:
            wheel.writestr(f"{{NAME}}-1.data/scripts/inv", SCRIPT)
        about = f"Metadata-Version: 2.1\\nName: {{NAME}}\\nVersion: 1\\nProvides-Extra: all\\n"
        wheel.writestr(f"{{info}}/METADATA", about)
        wheel.writestr(f"{{info}}/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(f"{{info}}/RECORD", "")
    return name

build_wheel = build_editable
"""

SCRIPT = "#!python\nimport os, sys\nprint('invoke was called with', sys.argv[1:], 'in', os.getcwd())\n"
SCRIPT += "print('from', os.environ['LASTMILE_FROM'])\n"


@dataclass
class Project:
    """A scratch project with the real ./inv.

    Attributes:
        wheels: where pip finds uv.
        path: what stands for PATH; this machine's where it is None.
    """

    root: Path
    wheels: Path
    path: Path | None = None
    environment: dict[str, str] = field(default_factory=dict)

    def start(self, *words: str, cwd: Path | None = None) -> subprocess.Popen[str]:
        quiet = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_", "VIRTUAL_"))}
        offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.wheels), "UV_NO_INDEX": "1", "UV_OFFLINE": "1",
                   "PIP_CONFIG_FILE": os.devnull, "UV_NO_CONFIG": "1"}  # fmt: skip
        path = {"PATH": str(self.path)} if self.path else {}
        return subprocess.Popen(
            [str(self.root / "inv"), *words], cwd=cwd or self.root, env=quiet | offline | path | self.environment,
            text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def inv(self, *words: str, cwd: Path | None = None) -> tuple[int, str, str]:
        process = self.start(*words, cwd=cwd)
        out, err = process.communicate()
        return process.returncode, out, err

    @property
    def stamp(self) -> Path:
        return self.root / ".venv" / ".installed-from"


def write_project(root: Path) -> None:
    """A project of the form that ./inv installs: itself with the extra "all", and edge-bench."""
    for folder, name, script in ((root, "lastmile", SCRIPT), (root / "edge-bench", "edge-bench", "")):
        folder.mkdir(parents=True)
        (folder / "pyproject.toml").write_text(PROJECT.format(name=name))
        (folder / "backend.py").write_text(BACKEND.format(name=name, script=script))
    (root / "constraints.txt").write_text("")
    shutil.copy(ROOT / "inv", root / "inv")


def pack(name: str, folder: Path) -> None:
    """An installed package as the wheel that it came from."""
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
    """A folder with a wheel of uv, as an index would have it."""
    folder = tmp_path_factory.mktemp("wheels")
    pack("uv", folder)
    return folder


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory, wheels: Path) -> Iterator[tuple[Project, tuple[int, str, str]]]:
    """A project after its first ./inv, which was two at once, and what they said."""
    project = Project(tmp_path_factory.mktemp("scratch") / "a project", wheels)
    write_project(project.root)
    both = [project.start("train", "--model", "my net") for _ in range(2)]
    said = [process.communicate() for process in both]
    codes = max(process.returncode for process in both)
    assert said[0][0] == said[1][0]
    yield project, (codes, said[0][0], "".join(err for _, err in said))


@pytest.fixture
def project(installed: tuple[Project, object]) -> Iterator[Project]:
    """The installed project, put back as it was afterwards."""
    before = {path: path.read_bytes() for path in (installed[0].root / "constraints.txt", installed[0].stamp)}
    yield installed[0]
    for path, content in before.items():
        path.write_bytes(content)


@pytest.fixture
def bare(tmp_path: Path, wheels: Path) -> Project:
    """A project in which nothing was installed yet, and a PATH with what the script needs but no Python."""
    project = Project(tmp_path / "bare", wheels, tmp_path / "bin")
    write_project(project.root)
    (tmp_path / "bin").mkdir()
    tools = "bash env cat cut dirname flock grep id mktemp readlink rm sha256sum tail"
    for tool in tools.split():
        found = shutil.which(tool)
        assert found, tool
        (tmp_path / "bin" / tool).symlink_to(found)
    return project


def test_two_first_calls_at_once_install_once_and_both_run(installed: tuple[Project, tuple[int, str, str]]) -> None:
    project, (code, out, err) = installed
    assert code == 0, err
    assert out == f"invoke was called with ['train', '--model', 'my net'] in {project.root}\nfrom {project.root}\n"
    assert err.count("setting up .venv") == 1 and len(err.splitlines()) == 1, err
    assert project.stamp.is_file()


def test_a_second_call_installs_nothing_from_wherever_it_is_made(project: Project, tmp_path: Path) -> None:
    before = project.stamp.stat().st_mtime_ns
    code, out, err = project.inv("--list", cwd=tmp_path)
    assert (code, err) == (0, "")
    assert out == f"invoke was called with ['--list'] in {project.root}\nfrom {tmp_path}\n"
    assert project.stamp.stat().st_mtime_ns == before


def test_a_changed_constraint_installs_again_into_the_same_environment(project: Project) -> None:
    (project.root / ".venv" / "mine").touch()
    (project.root / "constraints.txt").write_text("numpy<3\n")
    code, _, err = project.inv("--list")
    assert code == 0 and err.count("setting up .venv") == 1, err
    assert (project.root / ".venv" / "mine").exists()
    assert project.inv("--list")[2] == ""


def test_a_failed_installation_says_so_leaves_no_stamp_and_is_tried_again(project: Project) -> None:
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


def test_without_a_network_the_installation_fails_with_one_line_and_no_stamp(bare: Project, tmp_path: Path) -> None:
    assert bare.path is not None
    (bare.path / "python3.11").symlink_to(Path(sys.executable).resolve())
    bare.wheels = tmp_path
    bare.environment = {"TMPDIR": str(tmp_path)}
    code, out, err = bare.inv("--list")
    assert (code, out) == (2, ""), err
    assert err.splitlines()[-1].startswith(f"error: the installation failed; the whole log is {tmp_path}/")
    assert not bare.stamp.exists()


def test_without_python_3_11_it_says_what_to_install(bare: Project) -> None:
    assert bare.path is not None
    assert bare.inv("--list") == (2, "", PYTHON)
    for name in ("python3", "python"):  # some other version's
        (bare.path / name).write_text("#!/usr/bin/env bash\nexit 1\n")
        (bare.path / name).chmod(0o755)
    assert bare.inv("--list") == (2, "", PYTHON)
    assert not (bare.root / ".venv").exists()


PYTHON = "error: Python 3.11 is needed and was not found; on Debian 12: apt-get install python3 python3-venv\n"


def test_an_environment_of_another_python_is_made_anew(project: Project) -> None:
    python = project.root / ".venv" / "bin" / "python"
    python.unlink()
    python.write_text("#!/usr/bin/env bash\nexit 1\n")
    python.chmod(0o755)
    project.stamp.write_text("of before\n")
    code, out, err = project.inv("--list")
    assert code == 0 and out.startswith("invoke was called"), err
    assert python.is_symlink()


def test_a_checkout_that_was_moved_is_installed_anew(project: Project, tmp_path: Path) -> None:
    moved = Project(tmp_path / "moved", project.wheels)
    shutil.copytree(project.root, moved.root, symlinks=True)
    code, out, err = moved.inv("--list")
    assert code == 0, err
    assert out == f"invoke was called with ['--list'] in {moved.root}\nfrom {moved.root}\n"


def test_a_linked_environment_is_somebody_elses_and_stays_as_it_is(bare: Project, tmp_path: Path) -> None:
    assert bare.path is not None
    (bare.path / "python3.11").symlink_to(Path(sys.executable).resolve())
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "pyvenv.cfg").write_text("theirs\n")
    (bare.root / ".venv").symlink_to(theirs)
    code, out, err = bare.inv("--list")
    assert (code, out, len(err.splitlines())) == (2, "", 1), err
    assert err.startswith(f"error: {bare.root}/.venv is a link to {theirs}, ") and err.endswith("remove the link\n")
    assert (theirs / "pyvenv.cfg").read_text() == "theirs\n"


def test_the_real_script_is_one_that_a_shell_can_read() -> None:
    assert os.access(ROOT / "inv", os.X_OK)
    done = subprocess.run(["bash", "-n", str(ROOT / "inv")], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
