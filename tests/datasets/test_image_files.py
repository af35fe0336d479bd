"""Image files in a folder or a zip: links, corrupt zips, and names that lead outside."""

from __future__ import annotations

import os
import stat
import zipfile
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


# -- links -------------------------------------------------------------------------------------------------------------


def test_links_to_files_and_folders_are_followed_wherever_they_lead(tmp_path: Path) -> None:
    """DVC and the Hugging Face cache link files to a store, others link whole class folders."""
    as_folder(tmp_path / "store", {"6f/1b2c": png(1), "birds/wren/000.png": png(2)})
    data = as_folder(tmp_path / "data", FILES)
    (data / "cat" / "stored.png").symlink_to("../../store/6f/1b2c")
    (data / "cat" / "same.png").symlink_to("000.png")
    (data / "bird").symlink_to(tmp_path / "store" / "birds")
    files = open_files(data)
    links = {"cat/stored.png": png(1), "cat/same.png": FILES["cat/000.png"], "bird/wren/000.png": png(2)}
    assert files.images == tuple(sorted({**FILES, **links}))
    assert {name: files.read(name) for name in links} == links
    assert files.sha256("cat/same.png") == files.sha256("cat/000.png")
    assert {"bird", "bird/wren"} <= files.folders


def test_the_same_images_give_the_same_hashes_with_links_and_without(tmp_path: Path) -> None:
    plain = as_folder(tmp_path / "plain", FILES)
    linked = tmp_path / "linked"
    linked.mkdir()
    for label in ("cat", "dog"):
        (linked / label).symlink_to(plain / label)
    one, two = open_files(plain), open_files(linked)
    assert [(name, one.sha256(name)) for name in one.images] == [(name, two.sha256(name)) for name in two.images]


@pytest.mark.parametrize("target", ["nothing.png", "link.png"], ids=["nothing", "itself"])
@pytest.mark.parametrize("name", ["cat/link.png", "bird", "cat/link.heic"])
def test_a_broken_link_is_named_with_its_target(tmp_path: Path, name: str, target: str) -> None:
    data = as_folder(tmp_path / "data", FILES)
    target = Path(name).name if target == "link.png" else target
    (data / name).symlink_to(target)
    with pytest.raises(BadData) as caught:
        open_files(data)
    assert str(data / name) in str(caught.value) and target in str(caught.value)


def test_a_broken_link_of_another_file_is_ignored(tmp_path: Path) -> None:
    data = as_folder(tmp_path / "data", FILES)
    (data / "notes.txt").symlink_to("nothing")
    assert open_files(data).images == tuple(sorted(FILES))


@pytest.mark.parametrize("target", [".", "..", "../..", "/"])
def test_a_link_that_leads_in_a_circle_is_named(tmp_path: Path, target: str) -> None:
    data = as_folder(tmp_path / "data", FILES)
    (data / "cat" / "loop").symlink_to(target)
    with pytest.raises(BadData, match="circle") as caught:
        open_files(data)
    assert str(data / "cat" / "loop") in str(caught.value)


def test_folders_that_link_to_each_other_are_a_circle(tmp_path: Path) -> None:
    data = as_folder(tmp_path / "data", FILES)
    (data / "cat" / "dog").symlink_to("../dog")
    (data / "dog" / "cat").symlink_to("../cat")
    with pytest.raises(BadData, match="circle"):
        open_files(data)


@pytest.mark.parametrize("name", ["cat/link.png", "link", "notes.txt"])
def test_a_link_in_a_zip_is_refused(tmp_path: Path, name: str) -> None:
    data = as_zip(tmp_path / "x.zip", FILES)
    link = zipfile.ZipInfo(name)
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(data, "a") as archive:
        archive.writestr(link, "/etc/hostname")
    with pytest.raises(BadData, match="link") as caught:
        open_files(data)
    assert f"{data}!{name}" in str(caught.value)


def test_the_folder_itself_may_be_a_link(tmp_path: Path) -> None:
    as_folder(tmp_path / "data", FILES)
    (tmp_path / "link").symlink_to("data")
    assert open_files(tmp_path / "link").images == tuple(sorted(FILES))


def test_a_pipe_with_an_image_suffix_is_ignored(tmp_path: Path) -> None:
    data = as_folder(tmp_path, FILES)
    os.mkfifo(data / "cat" / "pipe.png")
    assert open_files(data).images == tuple(sorted(FILES))


# -- images that are not read ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_images_of_other_formats_are_listed_and_other_files_are_not(tmp_path: Path, form: str) -> None:
    others = {"cat/a.HEIC": b"x", "dog/b.psd": b"", "dog/c.svg": b"<svg/>", "dog/half.jpg.part": png(5)}
    neither = {"README": b"P6", "cat/notes.txt": b"", "cat/Thumbs.db": b"\xd0\xcf", "cat/.a.heic": b"", "x.npy": b"1"}
    content = FILES | {"cat/without_suffix": png(9)} | others | neither
    files = open_files(as_folder(tmp_path / "x", content) if form == "folder" else as_zip(tmp_path / "x.zip", content))
    assert files.images == tuple(sorted([*FILES, "cat/without_suffix"]))
    assert files.read("cat/without_suffix") == png(9)
    assert files.unread == tuple(sorted(others))
    assert files.below("dog").unread == ("b.psd", "c.svg", "half.jpg.part")


def test_a_member_that_cannot_be_read_is_no_image_without_a_suffix(tmp_path: Path) -> None:
    data = as_zip(tmp_path / "x.zip", {"README": bytes(9)}, zipfile.ZIP_BZIP2)
    with zipfile.ZipFile(data, "a") as archive:
        for name, content in FILES.items():
            archive.writestr(name, content)
    assert open_files(data).images == tuple(sorted(FILES))


def test_two_members_of_one_name_are_refused(tmp_path: Path) -> None:
    data = as_zip(tmp_path / "x.zip", FILES)
    with zipfile.ZipFile(data, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("cat/000.png", png(9))
    with pytest.raises(BadData, match=r"x\.zip!cat/000\.png: "):
        open_files(data)


# -- damaged zips ------------------------------------------------------------------------------------------------------


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
