"""Files in a folder or a zip that is broken, or that leads elsewhere."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.datasets._image_files import open_files
from pipeline.errors import BadData
from tests.datasets.synthetic import as_folder, as_zip, class_files, png

FILES = class_files("", {"cat": 3, "dog": 3})


@pytest.mark.parametrize("name", ["../evil.png", "cat/../../evil.png", "/evil.png", "..\\evil.png", "C:/evil.png"])
def test_a_member_that_leads_out_of_the_zip_is_refused(tmp_path: Path, name: str) -> None:
    data = as_zip(tmp_path / "x.zip", FILES | {name: png(1)})
    with pytest.raises(BadData, match="a name that leads out of the zip"):
        open_files(data)


def test_a_zip_is_never_unpacked(tmp_path: Path) -> None:
    files = open_files(as_zip(tmp_path / "x.zip", FILES))
    assert [files.read(name) for name in files.images] == [FILES[name] for name in sorted(FILES)]
    assert [path.name for path in tmp_path.iterdir()] == ["x.zip"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda link, out: link.symlink_to(out / "secret.png"), "a link that leaves the dataset"),
        (lambda link, out: link.symlink_to("../../out/secret.png"), "a link that leaves the dataset"),
        (lambda link, out: link.symlink_to(out), "which is no file"),
        (lambda link, out: link.symlink_to(out / "nothing.png"), "which is no file"),
        (lambda link, out: link.symlink_to(".."), "which is no file"),
    ],
    ids=["absolute", "relative", "a folder", "nowhere", "a circle"],
)
def test_a_link_that_leaves_the_folder_is_refused(
    tmp_path: Path, make: Callable[[Path, Path], None], message: str
) -> None:
    out = as_folder(tmp_path / "out", {"secret.png": png(1)})
    data = as_folder(tmp_path / "data", FILES)
    make(data / "cat" / "link.png", out)
    with pytest.raises(BadData, match=message) as caught:
        open_files(data)
    assert "cat/link.png" in str(caught.value)


def test_a_link_within_the_folder_is_read(tmp_path: Path) -> None:
    data = as_folder(tmp_path / "data", FILES)
    (data / "cat" / "same.png").symlink_to("000.png")
    assert open_files(data).read("cat/same.png") == FILES["cat/000.png"]


def test_the_folder_itself_may_be_a_link(tmp_path: Path) -> None:
    as_folder(tmp_path / "data", FILES)
    (tmp_path / "link").symlink_to("data")
    assert open_files(tmp_path / "link").images == tuple(sorted(FILES))


def test_a_pipe_with_a_pictures_name_is_passed_over(tmp_path: Path) -> None:
    data = as_folder(tmp_path, FILES)
    os.mkfifo(data / "cat" / "pipe.png")
    assert open_files(data).images == tuple(sorted(FILES))


@pytest.mark.parametrize("name", ["x.zip", "x.bin"])
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and no more", b"<html>404</html>"])
def test_what_is_no_zip_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadData, match="a corrupt zip" if name == "x.zip" else "no folder and no zip"):
        open_files(tmp_path / name)


def test_a_zip_cut_in_its_directory_is_corrupt(tmp_path: Path) -> None:
    data = as_zip(tmp_path / "x.zip", FILES)
    whole = data.read_bytes()
    data.write_bytes(whole[: len(whole) // 3] + whole[-22:])
    with pytest.raises(BadData, match=r"x\.zip: corrupt zip"):
        open_files(data)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("offset", [0, 60], ids=["header", "content"])
def test_a_damaged_member_is_named_when_it_is_read(tmp_path: Path, method: int, offset: int) -> None:
    data = as_zip(tmp_path / "x.zip", FILES, method)
    whole = bytearray(data.read_bytes())
    whole[offset] ^= 0xFF  # the first member is cat/000.png
    data.write_bytes(whole)
    files = open_files(data)
    with pytest.raises(BadData, match=r"x\.zip!cat/000\.png: .*fetch the zip again"):
        files.read("cat/000.png")
    assert files.read("cat/001.png") == FILES["cat/001.png"]


def test_a_member_larger_than_its_zip_is_refused(tmp_path: Path) -> None:
    data = as_zip(tmp_path / "x.zip", FILES, zipfile.ZIP_STORED)
    whole = bytearray(data.read_bytes())
    entry = whole.index(b"PK\x01\x02")
    whole[entry + 20 : entry + 24] = (0xFFFFFFF0).to_bytes(4, "little")  # its stored size
    data.write_bytes(whole)
    with pytest.raises(BadData, match=r"cat/000\.png: lies outside of the zip"):
        open_files(data)


def test_a_member_that_swells_is_cut_off(tmp_path: Path) -> None:
    data = as_zip(tmp_path / "x.zip", {"cat/bomb.png": bytes(50_000_000)})
    whole = bytearray(data.read_bytes())
    entry = whole.index(b"PK\x01\x02")
    whole[entry + 24 : entry + 28] = (100).to_bytes(4, "little")  # its real size
    data.write_bytes(whole)
    with pytest.raises(BadData, match="is not what the zip's directory says"):
        open_files(data).read("cat/bomb.png")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_compression_that_is_not_read_is_refused(tmp_path: Path, method: int) -> None:
    with pytest.raises(BadData, match="use store or deflate"):
        open_files(as_zip(tmp_path / "x.zip", FILES, method))
