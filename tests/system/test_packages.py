"""Programs of the operating system: missing ones are named, and installed where the user may."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from pipeline.errors import NeedsTool
from pipeline.system import packages, proc
from tests.cli import ROOT


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A PATH without programs. Those in /usr/sbin are found anyway."""
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.mark.usefixtures("nothing_installed")
def test_a_missing_program_is_named_with_the_line_that_installs_it() -> None:
    with pytest.raises(NeedsTool) as caught:
        packages.require("emulate")
    named, line = str(caught.value).split(" not found; as root: apt-get install --no-install-recommends ")
    assert {"qemu-system-aarch64", "fdtput", "ssh"} <= set(named.split(", "))
    assert {"qemu-system-arm", "device-tree-compiler", "openssh-client"} <= set(line.split(" "))
    assert [tool.program for tool in packages.missing(["boards"])] == ["ssh"]


@pytest.mark.usefixtures("nothing_installed")
def test_a_program_that_cannot_be_installed_is_named_with_the_command_for_root() -> None:
    with pytest.raises(
        NeedsTool, match=r"^ssh not found; as root: apt-get install --no-install-recommends openssh-client$"
    ):
        packages.install(["boards"])


def test_an_ssh_server_is_never_installed_if_systemd_would_start_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(packages, "SERVICES", tmp_path)
    monkeypatch.setattr(packages, "TOOLS", (packages.Tool("no-such-sshd", "openssh-server", ("tests",), serves=True),))
    with pytest.raises(NeedsTool, match=r"^no-such-sshd not found; as root: apt-get .* openssh-server$"):
        packages.install()


def test_the_command_is_printed_before_anything_is_installed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    called: list[str] = []

    def run(argv: list[str], **_: object) -> proc.Done:
        called.append(capsys.readouterr().err)
        return proc.Done(tuple(argv), 1, "", "no network", 0.0)

    monkeypatch.setattr(packages, "SERVICES", tmp_path / "none")
    monkeypatch.setattr(packages, "TOOLS", (packages.Tool("no-such-program", "no-such-package", ("tests",)),))
    monkeypatch.setattr(packages, "find", lambda program: Path("/bin/true") if program == "apt-get" else None)
    monkeypatch.setattr(packages, "_as_root", lambda: [])
    monkeypatch.setattr(packages.proc, "run", run)
    with pytest.raises(NeedsTool, match="no network"):
        packages.install()
    assert "apt-get install --no-install-recommends no-such-package" in called[0].splitlines()[0]


def calls(tree: ast.AST, name: str) -> list[ast.Call]:
    """The calls of a function by its dotted name."""
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == name]


def test_only_inv_test_installs_system_packages() -> None:
    files = [ROOT / "tasks.py", *(ROOT / "pipeline").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]
    files += [*(ROOT / "benchmarks").rglob("*.py"), *(ROOT / "models").rglob("*.py")]
    trees = {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text()) for path in files}
    callers = {path for path, tree in trees.items() if calls(tree, "packages.install")}
    assert callers == {"tasks.py", "tests/system/test_packages.py"}
    tasks = [
        node.name
        for node in trees["tasks.py"].body
        if isinstance(node, ast.FunctionDef) and calls(node, "packages.install")
    ]
    assert tasks == ["test"]
    others = {
        path
        for path, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.List | ast.Tuple)
        and (words := {each.value for each in ast.walk(node) if isinstance(each, ast.Constant)}) >= {"install"}
        and words & {"apt-get", "apt", "sudo", "brew", "dnf"}
        and "--download-only" not in words
    }
    assert others <= {"pipeline/system/packages.py", "tests/system/test_packages.py"}


def test_apt_is_not_called_if_everything_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "TOOLS", (packages.Tool("sh", "dash", ("tests",)),))
    monkeypatch.setattr(packages.proc, "run", lambda *argv, **_: pytest.fail(f"ran {argv}"))
    packages.install()
