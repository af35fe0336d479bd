"""Debian packages as files: downloaded with the host's apt from its sources and unpacked, never installed."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.errors import StageFailed
from pipeline.system import packages, proc


def apt(work: Path, settings: Mapping[str, str | Path]) -> dict[str, str]:
    """Makes separate folders for apt below `work`.

    Args:
        settings: further settings of apt.conf(5); those for the folders override them.

    Returns:
        The environment variables with which apt uses these folders.
    """
    work = work.resolve()  # apt takes relative paths as below its root
    archives, state = work / "cache" / "archives", work / "state"
    for folder in (archives / "partial", state / "lists" / "partial"):
        folder.mkdir(parents=True)
    (work / "status").touch()
    own = {
        "APT::Install-Recommends": "false",
        "APT::Sandbox::User": "",  # otherwise root's apt downloads as a user who may not write here
        "Dir::State": state,
        "Dir::State::status": work / "status",
        "Dir::Cache": work / "cache",
    }
    (work / "apt.conf").write_text("".join(f'{key} "{value}";\n' for key, value in {**settings, **own}.items()))
    return {"APT_CONFIG": str(work / "apt.conf"), "LC_ALL": "C"}


def fetch(work: Path, env: Mapping[str, str], wanted: Sequence[str]) -> list[Path]:
    """Downloads packages and their dependencies; apt checks each against the archive's signature.

    Raises:
        StageFailed: apt cannot download one of them. The message has apt's reason.
    """
    run(["apt-get", "--quiet", "update"], env=env)
    run(["apt-get", "--quiet", "--yes", "--download-only", "install", *wanted], env=env)
    return sorted((work / "cache" / "archives").glob("*.deb"))


def extract(package: Path, into: Path, options: Sequence[str]) -> None:
    """Unpacks a package with tar, which can keep links such as /bin."""
    into.mkdir(parents=True, exist_ok=True)
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE) as archive:
        argv = ["tar", "--extract", "--file=-", f"--directory={into}", "--preserve-permissions", *options]
        done = subprocess.run(argv, stdin=archive.stdout, capture_output=True, text=True, check=False)
    if done.returncode != 0 or archive.returncode != 0:
        raise StageFailed(f"{package.name} cannot be unpacked: {done.stderr.strip() or 'dpkg-deb failed'}")


def merge_usr(root: Path, names: Sequence[str]) -> None:
    """Makes folders such as /bin links into /usr. Call it before anything is unpacked."""
    for name in names:
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")


def sources(suite: str, folder: Path = Path("/etc/apt")) -> str:
    """The host's apt source of Debian's main archive, changed to another suite, as a sources.list.d/*.sources file.

    Raises:
        StageFailed: the host has no such source.
    """
    files = [*sorted((folder / "sources.list.d").glob("*.sources")), folder / "sources.list"]
    files += sorted((folder / "sources.list.d").glob("*.list"))
    for path in files:
        text = path.read_text() if path.is_file() else ""
        found = _stanza(text) if path.suffix == ".sources" else _line(text)
        if found:
            fields = {**found, "Suites": suite, "Components": "main", "Types": "deb"}
            return "".join(f"{name}: {value}\n" for name, value in fields.items())
    raise StageFailed(
        f"apt's sources in {folder} contain no Debian archive; the emulated phone is built from Debian {suite}"
    )


def _stanza(text: str) -> dict[str, str] | None:
    """The first stanza in deb822 format whose archive is Debian's own. Source: sources.list(5)."""
    for stanza in re.split(r"\n\s*\n", text):
        lines = [line for line in stanza.splitlines() if not line.startswith("#")]
        fields: dict[str, str] = {}
        for line in lines:
            name, _, value = line.partition(":")
            if line[:1].isspace() and fields:
                fields[list(fields)[-1]] += "\n" + line  # a value of several lines, such as a key
            elif value:
                fields[name.strip()] = value.strip()
        if (
            _is_main(fields.get("URIs", "").split()[:1], fields.get("Components", ""))
            and "deb" in fields.get("Types", "").split()
        ):
            return {key: fields[key] for key in ("URIs", "Signed-By") if key in fields}
    return None


def _line(text: str) -> dict[str, str] | None:
    """The first line in one-line format whose archive is Debian's own: deb [options] URI suite components…"""
    for line in text.splitlines():
        found = re.match(r"deb\s+(?:\[([^]]*)]\s+)?(\S+)\s+\S+\s+(.*)", line)
        if found and _is_main([found[2]], found[3]):
            key = re.search(r"signed-by=(\S+)", found[1] or "")
            return {"URIs": found[2], **({"Signed-By": key[1]} if key else {})}
    return None


def _is_main(uris: Sequence[str], components: str) -> bool:
    return any(uri.rstrip("/").endswith("/debian") for uri in uris) and "main" in components.split()


def run(argv: Sequence[str | Path], env: Mapping[str, str] | None = None, cwd: Path | None = None) -> proc.Done:
    """Runs a program, searching /sbin too.

    Raises:
        StageFailed: it failed. The message has its last line of output.
    """
    program = packages.find(str(argv[0])) or argv[0]
    done = proc.run([program, *argv[1:]], timeout=900, env=env, cwd=cwd)
    if done.code != 0:
        raise StageFailed(f"{argv[0]} failed: {done.reason}")
    return done
