"""The emulated phone's system: Debian trixie's adbd, mksh and toybox, unpacked; they run in a namespace only.

The three are pinned by version and content; what they link against is what the archive has, which apt checks by its
signature.
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
LEFT_OUT = ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info", "usr/share/lintian")
FOLDERS = ("proc", "dev", "tmp", "data", "sdcard", "system/bin", "etc")
ASKED = (
    "am", "cmd", "dumpsys", "getprop", "input", "locksettings", "logcat", "pm", "run-as", "service", "settings", "wm",
)  # fmt: skip
"""Programs of Android's shell that ask its system process, which system.py is here."""


@dataclass(frozen=True)
class Image:
    """A phone's root file system as a folder; it is copied at every start.

    Attributes:
        folder: build/boards/<hash of what went in>/.
    """

    folder: Path

    @property
    def root(self) -> Path:
        return self.folder / "root"


def there(build: Store) -> Image | None:
    """The image, if this content of it is there."""
    image = Image(build.root / "boards" / _key())
    return image if image.folder.is_dir() else None


def make(build: Store) -> Image:
    """The image, made when it is not there. The caller holds the build folder's lock.

    Raises:
        StageFailed: a package cannot be had, or is not the one that is pinned.
    """
    made = there(build)
    if made is not None:
        return made
    say("making the system of the emulated phone: about 20 MB to fetch")
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
    """The packages' files, of which those that are pinned are what they shall be."""
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
            raise StageFailed(f"{SUITE}'s {name} {version} is not the one that {FILES / 'packages'} lists")
    return found


def _unpack(packages: list[Path], root: Path) -> None:
    """The packages' files as a phone has them: the shell and its programs in /system/bin."""
    debian.merged(root, ("bin", "sbin", "lib", "lib64"))
    excluded = [f"--exclude=./{folder}/*" for folder in LEFT_OUT]
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
    for name in ASKED:
        store.remove(programs / name)
        (programs / name).symlink_to("ask")
    shutil.copyfile(FILES / "build.prop", root / "system" / "build.prop")
    (root / "etc" / "passwd").write_text("root:x:0:0::/:/system/bin/sh\nshell:x:2000:2000::/:/system/bin/sh\n")
    (root / "etc" / "group").write_text("root:x:0:\nshell:x:2000:\n")
