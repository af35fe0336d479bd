"""The emulated boards' system: Debian for arm64 on a disk image, built on the host without root or emulation.

apt, configured for arm64 and with separate folders, resolves and downloads the packages from the host's sources. They
are unpacked but not configured, because their scripts run arm64 programs: under emulation that takes twenty minutes.
files/ contains what the scripts would have set up, as far as it is needed. The kernel's drivers for the emulated disk
and network go into an initramfs.
"""

from __future__ import annotations

import compileall
import os
import py_compile
import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.emulate import debian
from pipeline.errors import StageFailed
from pipeline.system import store
from pipeline.system.progress import say
from pipeline.system.store import Store

FILES = Path(__file__).parent / "files"
KERNEL = "linux-image-arm64"
MODULES = ("virtio_pci", "virtio_blk", "virtio_net", "crc32c_generic", "ext4")
"""The drivers of the emulated disk and network. Their dependencies are added."""
DISK_BYTES = 1 << 30
PLACES = {
    "boot": ("etc/lastmile/boot", 0o755),
    "inittab": ("etc/inittab", 0o644),
    "sshd_config": ("etc/ssh/sshd_config", 0o644),
    "passwd": ("etc/passwd", 0o644),
    "group": ("etc/group", 0o644),
    "shadow": ("etc/shadow", 0o600),
}
"""Destination and mode of each file of FILES."""
LINKS = {"usr/sbin/init": "/bin/busybox", "usr/sbin/poweroff": "/bin/busybox", "usr/bin/awk": "mawk"}
PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
EXCLUDED = ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info", "usr/share/lintian", "var/cache")


@dataclass(frozen=True)
class Image:
    """A system that can boot. Its files are never written to.

    Attributes:
        folder: build/boards/<hash of what went in>/.
    """

    folder: Path

    @property
    def kernel(self) -> Path:
        return self.folder / "vmlinuz"

    @property
    def initramfs(self) -> Path:
        return self.folder / "initramfs"

    @property
    def disk(self) -> Path:
        return self.folder / "root.img"


@dataclass(frozen=True)
class Keys:
    """The key pairs of the emulated boards, made once: the boards' host key and the client key."""

    host: Path
    client: Path

    def public(self, key: Path) -> str:
        """Type and key, without the comment."""
        return " ".join(key.with_suffix(".pub").read_text().split()[:2])


def keys(build: Store) -> Keys:
    """Both pairs, which are made if they do not exist. The caller holds the lock of build/boards/."""
    folder = build.root / "boards" / "keys"
    pairs = Keys(folder / "host", folder / "client")
    if not folder.is_dir():
        new = folder.with_name("new-keys")
        store.remove(new)
        new.mkdir(mode=0o700, parents=True)
        for name in (pairs.host.name, pairs.client.name):
            debian.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"lastmile {name}", "-f", new / name])
        new.rename(folder)
    return pairs


def find(build: Store) -> Image | None:
    """The image, if it exists with this content."""
    image = Image(build.root / "boards" / _key(keys(build)))
    return image if image.folder.is_dir() else None


def make(build: Store) -> Image:
    """The image, which is built if it does not exist. The caller holds the build folder's lock.

    Raises:
        StageFailed: a package cannot be downloaded, or a tool failed. The message has the tool's reason.
    """
    made = find(build)
    if made is not None:
        return made
    say("building the system of the emulated boards: downloads about 100 MB, takes half a minute")
    pairs = keys(build)
    image = Image(build.root / "boards" / _key(pairs))
    with store.atomic(image.folder) as new:
        new.mkdir(mode=0o700)  # the disk contains the boards' private key
        work = new / "work"
        packages, kernel = _fetch(work)
        root = _unpack(packages, work / "root")
        _configure(root, pairs)
        _disk(root, new / "root.img")
        _boot_files(kernel, root, new)
        store.remove(work)
    return image


def _key(pairs: Keys) -> str:
    """Hash of what determines the image: the list of packages and the other files of FILES, the keys and this code."""
    public = [pairs.public(pairs.host), pairs.public(pairs.client)]
    return store.digest([*_parts(), public, PYTHON])[:16]


def definition() -> str:
    """Hash of what determines the system of the boards, without the keys."""
    return store.digest([*_parts(), PYTHON])


def _parts() -> list[str]:
    code = [store.sha256(Path(str(module))) for module in (__file__, debian.__file__)]
    return [*code, *map(store.sha256, sorted(FILES.iterdir()))]


# -- packages ----------------------------------------------------------------------------------------------------------


def _fetch(work: Path) -> tuple[list[Path], Path]:
    """Downloads the packages and the kernel's package."""
    env = debian.apt(work, {"APT::Architecture": "arm64", "APT::Architectures": "arm64"})
    packages = debian.fetch(work, env, (FILES / "packages").read_text().split())
    output = debian.run(["apt-cache", "depends", "--important", KERNEL], env=env).out
    found = re.search(r"Depends: (linux-image-\S+)", output)
    if not found:
        raise StageFailed(f"apt has no {KERNEL}: the emulated boards are built from Debian's packages, on Debian")
    # Without its dependencies, which only serve to configure it on a running machine.
    (work / "kernel").mkdir()
    debian.run(["apt-get", "--quiet", "download", found[1]], env=env, cwd=work / "kernel")
    return packages, next((work / "kernel").glob("*.deb"))


def _unpack(packages: Sequence[Path], root: Path) -> Path:
    """Unpacks the packages into a folder. Its files belong to the user who runs this."""
    debian.merge_usr(root, ("bin", "sbin", "lib"))
    for package in packages:
        excluded = [f"--exclude=./{folder}/*" for folder in EXCLUDED]
        debian.extract(package, root, [*excluded, "--keep-directory-symlink", "--no-same-owner"])
    return root


# -- configuration -----------------------------------------------------------------------------------------------------


def _configure(root: Path, pairs: Keys) -> None:
    """Does what the packages' scripts would have done, as far as it is needed."""
    for name, (place, mode) in PLACES.items():
        _put(root / place, (FILES / name).read_text(), mode)
    _put(root / "etc/ssh/ssh_host_ed25519_key", pairs.host.read_text(), 0o600)
    _put(root / "etc/ssh/authorized_keys", pairs.public(pairs.client) + "\n", 0o644)
    for folder in ("dev", "proc", "sys", "run", "tmp", "root", "home/pi"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for link, target in LINKS.items():
        store.remove(root / link)
        (root / link).symlink_to(target)
    _compile(root, root / "usr/lib" / PYTHON)


def _compile(root: Path, library: Path) -> None:
    """Compiles Python's library to bytecode, as its package's script does, if this Python has the same version.

    Without bytecode, every program on the board compiles what it imports, and edge-bench takes three times as many
    instructions to start.
    """
    if library.is_dir():
        mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
        compileall.compile_dir(library, quiet=2, stripdir=root, prependdir="/", invalidation_mode=mode)


def _put(path: Path, text: str, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def _disk(root: Path, disk: Path) -> None:
    """Writes the folder as a file system in which everything belongs to root, whoever runs this."""
    debian.run(["mke2fs", "-q", "-t", "ext4", "-m", "0", "-L", "root", "-d", root, disk, f"{DISK_BYTES >> 10}k"])
    if os.geteuid() == 0:
        return  # --no-same-owner has done that
    inodes = ["/", *(f"/{path.relative_to(root)}" for path in sorted(root.rglob("*")))]
    commands = disk.with_suffix(".commands")
    commands.write_text("".join(f'sif "{path}" {field} 0\n' for path in inodes for field in ("uid", "gid")))
    debian.run(["debugfs", "-w", "-f", commands, disk])
    commands.unlink()


def data_disk(path: Path, megabytes: int, owner: int = 1000) -> None:
    """Makes an empty file system for /home/pi, as a sparse file: it uses disk space only as it fills."""
    new = path.with_name(f"new-{path.name}")
    store.remove(new)
    options = ["-E", f"root_owner={owner}:{owner},lazy_itable_init=1", "-m", "0", "-L", "data"]
    debian.run(["mke2fs", "-q", "-t", "ext4", *options, new, f"{megabytes}M"])
    new.replace(path)


# -- kernel and initramfs ----------------------------------------------------------------------------------------------


def _boot_files(package: Path, root: Path, new: Path) -> None:
    """Writes vmlinuz and the initramfs: busybox, files/init and the drivers in their load order."""
    unpacked = new / "work" / "linux"
    debian.extract(package, unpacked, ["--no-same-owner"])
    shutil.copy(next((unpacked / "boot").glob("vmlinuz-*")), new / "vmlinuz")
    modules = {path.stem.replace("-", "_"): path for path in unpacked.rglob("*.ko")}
    drivers = list(_with_dependencies(MODULES, modules))
    files = {
        "bin/busybox": (root / "bin/busybox").read_bytes(),
        "init": (FILES / "init").read_bytes(),
        "modules/order": "".join(f"{path.name}\n" for path in drivers).encode(),
        **{f"modules/{path.name}": path.read_bytes() for path in drivers},
    }
    (new / "initramfs").write_bytes(_cpio(files, ("bin", "dev", "modules", "proc", "root", "sys")))


def _with_dependencies(
    names: Sequence[str], modules: Mapping[str, Path], seen: set[str] | None = None
) -> Iterator[Path]:
    """Modules by name, each once and after its dependencies. A name without a module is built into the kernel."""
    seen = set() if seen is None else seen
    for name in names:
        path = modules.get(name.replace("-", "_"))
        if path is None or name in seen:
            continue
        seen.add(name)
        # Source: the kernel's module format; .modinfo is a list of key=value, each ended by a zero byte.
        found = re.search(rb"\0depends=([^\0]*)\0", path.read_bytes())
        dependencies = found[1].decode().split(",") if found and found[1] else []
        yield from _with_dependencies(dependencies, modules, seen)
        yield path


def _cpio(files: Mapping[str, bytes], folders: Sequence[str]) -> bytes:
    """An archive in the format that the kernel unpacks ("newc"). Everything in it belongs to root.

    Source: the kernel's Documentation/driver-api/early-userspace/buffer-format.rst.
    """
    entries = [(name, 0o040755, b"") for name in folders]
    entries += [(name, 0o100755, content) for name, content in files.items()]
    entries.append(("TRAILER!!!", 0, b""))
    archive = bytearray()
    for inode, (name, mode, content) in enumerate(entries, 1):
        label = name.encode() + b"\0"
        # inode, mode, uid, gid, links, time, size, four device numbers, length of the name, checksum (unused)
        numbers = (inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(label), 0)
        archive += b"070701" + b"".join(b"%08X" % number for number in numbers) + label
        archive += bytes(-len(archive) % 4) + content
        archive += bytes(-len(archive) % 4)
    return bytes(archive)
