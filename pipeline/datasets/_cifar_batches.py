"""CIFAR-10's official "python version": pickled batches, read without running any code that a pickle refers to.

A batch is a dict with the keys b"data" (uint8 (N, 3072): red, green and blue planes of 32×32, row by row) and
b"labels" (N numbers 0–9). NumPy's functions are replaced by stand-ins that only store their arguments; every other
global is refused.

Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009, and
https://www.cs.toronto.edu/~kriz/cifar.html for the layout.
"""

from __future__ import annotations

import io
import pickle
import tarfile
import zlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from pipeline.errors import BadData

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

META = "batches.meta"
TRAIN = tuple(f"data_batch_{i}" for i in range(1, 6))
TEST = ("test_batch",)
SIDE = 32
LARGEST_BYTES = 256 << 20
"""Upper limit for a batch, which has 31 MB."""


def is_batches(data: Path) -> bool:
    """Whether a path looks like the official folder, its parent folder, or the archive."""
    if data.is_dir():
        return any((_home(data) / name).exists() for name in (META, *TRAIN, *TEST))
    return data.is_file() and (data.name.endswith((".tar.gz", ".tgz", ".tar")) or tarfile.is_tarfile(data))


def label_names(data: Path) -> tuple[str, ...]:
    """Class names in label order.

    Raises:
        BadData: the META file is missing, unreadable or in another format.
    """
    where, meta = next(iter(_read(data, (META,))))
    names = meta.get(b"label_names")
    if not isinstance(names, list) or not names or not all(isinstance(name, bytes) for name in names):
        raise BadData(f"{where}: has no list 'label_names'; fetch the official archive again")
    return tuple(name.decode("ascii", "replace") for name in names)


def read_images(data: Path, batches: Iterable[str]) -> tuple[list[str], NDArray[np.uint8], NDArray[np.int64]]:
    """Reads the images of the batches, one after another.

    Returns:
        names ("data_batch_1/0"), images uint8 (N, 32, 32, 3) RGB 0–255, labels int64 (N,).

    Raises:
        BadData: a batch is missing, unreadable or in another format, or refers to code.
    """
    import numpy as np

    names: list[str] = []
    images: list[NDArray[np.uint8]] = []
    labels: list[int] = []
    for name, (where, batch) in zip(batches, _read(data, tuple(batches)), strict=True):
        planes, numbers = _checked(where, batch)
        images.append(planes.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1))
        labels += numbers
        names += [f"{name}/{i}" for i in range(len(numbers))]
    return names, np.concatenate(images), np.array(labels, dtype=np.int64)


def _checked(where: str, batch: dict[Any, Any]) -> tuple[NDArray[np.uint8], list[int]]:
    """The pixels, uint8 (N, 3072), and N labels of a batch, after checking them."""
    data, labels = batch.get(b"data"), batch.get(b"labels")
    if not isinstance(data, _Array) or not isinstance(labels, list):
        raise BadData(f"{where}: has no array 'data' and list 'labels'; fetch the official archive again")
    pixels = data.pixels()
    if pixels is None or pixels.shape != (len(labels), 3 * SIDE * SIDE):
        raise BadData(f"{where}: 'data' is not uint8 ({len(labels)}, 3072); fetch the official archive again")
    if not all(type(label) is int and 0 <= label <= 9 for label in labels):
        raise BadData(f"{where}: 'labels' are not numbers 0–9; fetch the official archive again")
    return pixels, labels


# -- files -------------------------------------------------------------------------------------------------------------


def _home(data: Path) -> Path:
    inner = data / "cifar-10-batches-py"
    return inner if inner.is_dir() else data


def _read(data: Path, names: tuple[str, ...]) -> list[tuple[str, dict[Any, Any]]]:
    """(source for messages, dict) of each batch, in order."""
    read = _read_folder if data.is_dir() else _read_archive
    contents = read(data, names)
    missing = [name for name in names if name not in contents]
    if missing:
        raise BadData(f"{data} has no {missing[0]}: expected {META}, data_batch_1 to data_batch_5 and test_batch")
    return [(where, _loads(content, where)) for where, content in map(contents.pop, names)]


def _read_folder(data: Path, names: tuple[str, ...]) -> dict[str, tuple[str, bytes]]:
    found = {}
    for path in (_home(data) / name for name in names):
        try:
            found[path.name] = (str(path), path.read_bytes())
        except FileNotFoundError:
            continue  # reported by _read
        except OSError as error:
            raise BadData(f"{path}: cannot be read ({error.strerror}); expected a file with pickled images") from error
    return found


def _read_archive(data: Path, names: tuple[str, ...]) -> dict[str, tuple[str, bytes]]:
    """Members by base name, read into memory without unpacking the archive."""
    found: dict[str, tuple[str, bytes]] = {}
    try:
        with tarfile.open(data) as archive:
            for member in archive:
                name = PurePosixPath(member.name).name
                if name not in names or name in found or not member.isreg():
                    continue
                file = archive.extractfile(member)
                if file is None or member.size > LARGEST_BYTES:
                    raise BadData(f"{data}!{member.name}: is too large for a batch; fetch the archive again")
                found[name] = (f"{data}!{member.name}", file.read())
                if len(found) == len(names):
                    break
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        reason = str(error).partition("\n")[0].rstrip(":")  # tarfile lists its attempts on further lines
        raise BadData(f"{data}: corrupt archive ({reason}); fetch it again") from error
    return found


# -- pickles -----------------------------------------------------------------------------------------------------------


class _Type:
    """Replaces numpy.dtype: stores its name."""

    def __init__(self, name: Any = None, *_: Any) -> None:
        self.name = name

    def __setstate__(self, state: Any) -> None:
        """Ignores byte order and alignment, which uint8 does not have."""


class _Array:
    """Replaces numpy.ndarray: stores its state."""

    def __init__(self, *_: Any) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def pixels(self) -> NDArray[np.uint8] | None:
        """The array, if the state is (version, shape, uint8, Fortran order, bytes) and complete."""
        import numpy as np

        match self.state:
            case (_, (int(rows), int(columns)), _Type(name=b"u1" | "u1"), bool(fortran), bytes(raw)):
                if rows >= 0 and columns >= 0 and rows * columns == len(raw):
                    return np.frombuffer(raw, np.uint8).reshape((rows, columns), order="F" if fortran else "C")
        return None


def _reconstruct(*_: Any) -> _Array:
    """Replaces NumPy's function of this name, which creates an empty array before its state is set."""
    return _Array()


ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Type,
}
"""Globals that a batch may refer to, and their replacements."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return ALLOWED[module, name]
        except KeyError:
            raise _RefusedGlobalError(f"{module}.{name}") from None


class _RefusedGlobalError(Exception):
    """A global that is not in ALLOWED."""


def _loads(content: bytes, where: str) -> dict[Any, Any]:
    try:
        value = _Unpickler(io.BytesIO(content), encoding="bytes").load()
    except _RefusedGlobalError as error:
        raise BadData(
            f"{where}: refers to {error}, which no CIFAR-10 batch needs; it was not run, and the file is not trusted"
        ) from None
    except Exception as error:  # a corrupt pickle raises many types: UnpicklingError, EOFError, KeyError …
        reason = str(error) or type(error).__name__
        raise BadData(f"{where}: cannot be read as a batch ({reason}); fetch the official archive again") from error
    if not isinstance(value, dict):
        raise BadData(f"{where}: is a {type(value).__name__} instead of a dict; fetch the official archive again")
    return value
