"""The emulated phone's system: Debian trixie's adbd, mksh and toybox, unpacked. They run only in a namespace.

The three are pinned by version and hash. The libraries that they need come from the archive in its current version;
apt checks its signature.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.emulate import debian
from pipeline.errors import StageFailed
from pipeline.system import store
from pipeline.system.progress import say
from pipeline.system.store import Store

FILES = Path(__file__).parent / "files"
SUITE = "trixie"
EXCLUDED = ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info", "usr/share/lintian")
FOLDERS = ("proc", "dev", "tmp", "data", "sdcard", "system/bin", "etc")
SYSTEM_COMMANDS = (
    "am", "cmd", "dumpsys", "getprop", "input", "locksettings", "logcat", "pm", "run-as", "service", "settings", "svc",
    "wm",
)  # fmt: skip
"""Commands that Android's system process carries out; here, system.py does."""


@dataclass(frozen=True)
class Image:
    """A phone's root file system as a folder. It is copied at every boot.

    Attributes:
        folder: build/boards/<hash of what went in>/.
    """

    folder: Path

    @property
    def root(self) -> Path:
        return self.folder / "root"


def find(build: Store) -> Image | None:
    """The image, if it exists with this content."""
    image = Image(build.root / "boards" / _key())
    return image if image.folder.is_dir() else None


def make(build: Store) -> Image:
    """The image, which is built if it does not exist. The caller holds the build folder's lock.

    Raises:
        StageFailed: a package cannot be downloaded, or differs from the pinned one.
    """
    made = find(build)
    if made is not None:
        return made
    say("building the system of the emulated phone: downloads about 20 MB")
    image = Image(build.root / "boards" / _key())
    with store.atomic(image.folder) as new:
        new.mkdir()
        work = new / "work"
        _unpack(_fetch(work), new / "root")
        store.remove(work)
    return image


def pinned() -> Iterator[tuple[str, str, str]]:
    """Name, version and sha256 of the packages that files/packages lists."""
    for line in (FILES / "packages").read_text().splitlines():
        name, version, sha256 = line.split()
        yield name, version, sha256


def _key() -> str:
    code = [store.sha256(Path(str(module))) for module in (__file__, debian.__file__)]
    return store.digest(["phone", *code, *map(store.sha256, sorted(FILES.iterdir()))])[:16]


def _fetch(work: Path) -> list[Path]:
    """Downloads the packages and checks the hashes of the pinned ones."""
    work.mkdir()
    (work / "lastmile.sources").write_text(debian.sources(SUITE))
    settings: dict[str, str | Path] = {
        "APT::Architecture": "amd64",
        "APT::Architectures": "amd64",
        "Dir::Etc::SourceList": "/dev/null",
        "Dir::Etc::SourceParts": work.resolve() / "sources",
    }
    (work / "sources").mkdir()
    (work / "lastmile.sources").rename(work / "sources" / "lastmile.sources")
    env = debian.apt(work, settings)
    found = debian.fetch(work, env, [f"{name}={version}" for name, version, _ in pinned()])
    for name, version, sha256 in pinned():
        package = next((path for path in found if path.name.startswith(f"{name}_")), None)
        if package is None or store.sha256(package) != sha256:
            raise StageFailed(f"Debian {SUITE}'s {name} {version} differs from the one in {FILES / 'packages'}")
    return found


def _unpack(packages: list[Path], root: Path) -> None:
    """Unpacks the packages into a phone's layout: the shell and its programs in /system/bin."""
    debian.merge_usr(root, ("bin", "sbin", "lib", "lib64"))
    excluded = [f"--exclude=./{folder}/*" for folder in EXCLUDED]
    for package in packages:
        debian.extract(package, root, [*excluded, "--keep-directory-symlink", "--no-same-owner"])
    for folder in FOLDERS:
        (root / folder).mkdir(parents=True, exist_ok=True)
    programs = root / "system" / "bin"
    for name in (FILES / "toybox").read_text().split():
        (programs / name).symlink_to("/usr/bin/toybox")
    store.remove(root / "usr/bin/sh")
    for link in (root / "usr/bin/sh", programs / "sh"):
        link.symlink_to("/usr/bin/mksh")
    shutil.copyfile(FILES / "ask", programs / "ask")
    (programs / "ask").chmod(0o755)
    for name in SYSTEM_COMMANDS:
        store.remove(programs / name)
        (programs / name).symlink_to("ask")
    shutil.copyfile(FILES / "build.prop", root / "system" / "build.prop")
    (root / "etc" / "passwd").write_text("root:x:0:0::/:/system/bin/sh\nshell:x:2000:2000::/:/system/bin/sh\n")
    (root / "etc" / "group").write_text("root:x:0:\nshell:x:2000:\n")
