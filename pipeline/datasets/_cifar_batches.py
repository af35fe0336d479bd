"""CIFAR-10's official "python version": pickled batches, read without running anything that a pickle asks for.

A batch is a dict with the keys b"data" (uint8 (N, 3072): red, green and blue planes of 32×32, row by row) and
b"labels" (N numbers 0–9). In place of numpy's own functions the pickle gets stand-ins that only keep what they are
given; every other global is refused.

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
"""A batch is 31 MB; what says to be larger than this is none."""


def is_batches(data: Path) -> bool:
    """Whether a path looks like the official folder (or the folder around it) or archive."""
    if data.is_dir():
        return any((_home(data) / name).exists() for name in (META, *TRAIN, *TEST))
    return data.is_file() and (data.name.endswith((".tar.gz", ".tgz", ".tar")) or tarfile.is_tarfile(data))


def label_names(data: Path) -> tuple[str, ...]:
    """Class names in label order.

    Raises:
        BadData: the file of them is missing, unreadable or not of this form.
    """
    where, meta = next(iter(_read(data, (META,))))
    names = meta.get(b"label_names")
    if not isinstance(names, list) or not names or not all(isinstance(name, bytes) for name in names):
        raise BadData(f"{where}: has no list 'label_names'; fetch the official archive again")
    return tuple(name.decode("ascii", "replace") for name in names)


def pictures(data: Path, batches: Iterable[str]) -> tuple[list[str], NDArray[np.uint8], NDArray[np.int64]]:
    """The batches' pictures, one after another.

    Returns:
        names ("data_batch_1/0"), uint8 (N, 32, 32, 3) RGB 0–255, and int64 (N,).

    Raises:
        BadData: a batch is missing, unreadable or not of this form, or wants to run code.
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
    """Pixels uint8 (N, 3072) and N labels of a batch, if that is what they are."""
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
    """For people's eyes where it was read, and the dict, of each of the batches, in this order."""
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
            continue  # said by _read
        except OSError as error:
            raise BadData(f"{path}: cannot be read ({error.strerror}); expected a file of pickled pictures") from error
    return found


def _read_archive(data: Path, names: tuple[str, ...]) -> dict[str, tuple[str, bytes]]:
    """Members by their base name, read in memory; nothing is unpacked."""
    found: dict[str, tuple[str, bytes]] = {}
    try:
        with tarfile.open(data) as archive:
            for member in archive:
                name = PurePosixPath(member.name).name
                if name not in names or name in found or not member.isreg():
                    continue
                file = archive.extractfile(member)
                if file is None or member.size > LARGEST_BYTES:
                    raise BadData(f"{data}!{member.name}: is larger than a batch can be; fetch the archive again")
                found[name] = (f"{data}!{member.name}", file.read())
                if len(found) == len(names):
                    break
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        reason = str(error).partition("\n")[0].rstrip(":")  # tarfile lists what it tried, a line each
        raise BadData(f"{data}: corrupt archive ({reason}); fetch it again") from error
    return found


# -- pickles -----------------------------------------------------------------------------------------------------------


class _Type:
    """Stands for numpy.dtype: remembers its name."""

    def __init__(self, name: Any = None, *_: Any) -> None:
        self.name = name

    def __setstate__(self, state: Any) -> None:
        """Byte order and the like: uint8 has none."""


class _Array:
    """Stands for numpy.ndarray: remembers the state it would be given."""

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
    """Stands for numpy's function of this name, which makes the empty array that then gets its state."""
    return _Array()


ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Type,
}
"""What a batch may ask for, and what it gets."""


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
            f"{where}: asks for {error}, which no batch of CIFAR-10 needs; nothing of it was run, and it is not trusted"
        ) from None
    except Exception as error:  # a broken pickle raises what it likes: UnpicklingError, EOFError, KeyError …
        reason = str(error) or type(error).__name__
        raise BadData(f"{where}: cannot be read as a batch ({reason}); fetch the official archive again") from error
    if not isinstance(value, dict):
        raise BadData(f"{where}: is a {type(value).__name__} and not a batch's dict; fetch the official archive again")
    return value
