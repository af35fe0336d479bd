"""Programs of the operating system: what is missing is named, and installed where we may."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import NeedsTool
from pipeline.system import packages


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A PATH without programs; those in /usr/sbin are found all the same."""
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
def test_where_it_cannot_be_installed_the_line_is_said_and_nothing_is_done() -> None:
    with pytest.raises(
        NeedsTool, match=r"^ssh not found; as root: apt-get install --no-install-recommends openssh-client$"
    ):
        packages.install(["boards"])


def test_an_ssh_server_is_never_installed_where_it_would_be_started(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(packages, "SERVICES", tmp_path)
    monkeypatch.setattr(packages, "TOOLS", (packages.Tool("no-such-sshd", "openssh-server", ("tests",), serves=True),))
    with pytest.raises(NeedsTool, match=r"^no-such-sshd not found; as root: apt-get .* openssh-server$"):
        packages.install()


def test_nothing_is_asked_of_apt_where_all_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "TOOLS", (packages.Tool("sh", "dash", ("tests",)),))
    monkeypatch.setattr(packages.proc, "run", lambda *words, **_: pytest.fail(f"ran {words}"))
    packages.install()
