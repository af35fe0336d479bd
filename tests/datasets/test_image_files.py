"""Image files in a folder or a zip: corrupt zips, and names and links that lead outside."""

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
def test_a_member_whose_name_leads_out_of_the_zip_is_refused(tmp_path: Path, name: str) -> None:
    data = as_zip(tmp_path / "x.zip", FILES | {name: png(1)})
    with pytest.raises(BadData, match="leads out of the zip"):
        open_files(data)


def test_a_zip_is_not_unpacked(tmp_path: Path) -> None:
    files = open_files(as_zip(tmp_path / "x.zip", FILES))
    assert [files.read(name) for name in files.images] == [FILES[name] for name in sorted(FILES)]
    assert [path.name for path in tmp_path.iterdir()] == ["x.zip"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda link, out: link.symlink_to(out / "secret.png"), "out of the dataset"),
        (lambda link, out: link.symlink_to("../../out/secret.png"), "out of the dataset"),
        (lambda link, out: link.symlink_to(out), "not a file"),
        (lambda link, out: link.symlink_to(out / "nothing.png"), "not a file"),
        (lambda link, out: link.symlink_to(".."), "not a file"),
    ],
    ids=["absolute", "relative", "a folder", "a missing file", "a loop"],
)
def test_a_link_out_of_the_folder_or_to_no_file_is_refused(
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


def test_a_pipe_with_an_image_suffix_is_ignored(tmp_path: Path) -> None:
    data = as_folder(tmp_path, FILES)
    os.mkfifo(data / "cat" / "pipe.png")
    assert open_files(data).images == tuple(sorted(FILES))


@pytest.mark.parametrize("name", ["x.zip", "x.bin"])
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and no more", b"<html>404</html>"])
def test_a_file_that_is_no_zip_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadData, match="a corrupt zip" if name == "x.zip" else "neither a folder nor a zip"):
        open_files(tmp_path / name)


def test_a_zip_with_a_truncated_directory_is_refused(tmp_path: Path) -> None:
    data = as_zip(tmp_path / "x.zip", FILES)
    content = data.read_bytes()
    data.write_bytes(content[: len(content) // 3] + content[-22:])
    with pytest.raises(BadData, match=r"x\.zip: corrupt zip"):
        open_files(data)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("offset", [0, 60], ids=["header", "content"])
def test_a_damaged_member_is_named_when_it_is_read(tmp_path: Path, method: int, offset: int) -> None:
    data = as_zip(tmp_path / "x.zip", FILES, method)
    content = bytearray(data.read_bytes())
    content[offset] ^= 0xFF  # the first member is cat/000.png
    data.write_bytes(content)
    files = open_files(data)
    with pytest.raises(BadData, match=r"x\.zip!cat/000\.png: "):
        files.read("cat/000.png")
    assert files.read("cat/001.png") == FILES["cat/001.png"]


def test_a_member_larger_than_its_zip_is_refused(tmp_path: Path) -> None:
    data = as_zip(tmp_path / "x.zip", FILES, zipfile.ZIP_STORED)
    content = bytearray(data.read_bytes())
    entry = content.index(b"PK\x01\x02")
    content[entry + 20 : entry + 24] = (0xFFFFFFF0).to_bytes(4, "little")  # the compressed size
    data.write_bytes(content)
    with pytest.raises(BadData, match=r"cat/000\.png: exceeds"):
        open_files(data)


def test_a_decompression_bomb_is_refused(tmp_path: Path) -> None:
    data = as_zip(tmp_path / "x.zip", {"cat/bomb.png": bytes(50_000_000)})
    content = bytearray(data.read_bytes())
    entry = content.index(b"PK\x01\x02")
    content[entry + 24 : entry + 28] = (100).to_bytes(4, "little")  # the real size
    data.write_bytes(content)
    with pytest.raises(BadData, match=r"cat/bomb\.png: size or checksum"):
        open_files(data).read("cat/bomb.png")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_an_unsupported_compression_is_refused(tmp_path: Path, method: int) -> None:
    with pytest.raises(BadData, match="use store or deflate"):
        open_files(as_zip(tmp_path / "x.zip", FILES, method))
