"""Programs of the operating system: missing ones are named, and installed where the user may."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import NeedsTool
from pipeline.system import packages


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


def test_apt_is_not_called_if_everything_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "TOOLS", (packages.Tool("sh", "dash", ("tests",)),))
    monkeypatch.setattr(packages.proc, "run", lambda *argv, **_: pytest.fail(f"ran {argv}"))
    packages.install()
