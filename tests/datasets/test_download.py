"""The downloader, with a server on localhost."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pipeline.datasets import cifar10
from pipeline.errors import BadData
from tests.datasets import synthetic

NAME = "cifar-10-python.tar.gz"


class Site(SimpleHTTPRequestHandler):
    """Serves a folder and records requests; under /cut/ it sends less than its Content-Length."""

    requests: list[str]

    def do_GET(self) -> None:
        self.requests.append(self.path)
        if self.path.startswith("/cut/"):
            self.send_response(200)
            self.send_header("Content-Length", "100000")
            self.end_headers()
            self.wfile.write(b"half")
        else:
            super().do_GET()

    def log_message(self, format: str, *args: object) -> None:
        """Logs nothing."""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """URL and sha256 of a small archive in the official format."""
    (tmp_path / "site").mkdir()
    archive = synthetic.as_tar(tmp_path / "site" / NAME, synthetic.official_files(10))
    Site.requests = []
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Site, directory=str(archive.parent))) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/{NAME}", hashlib.sha256(archive.read_bytes()).hexdigest()
        server.shutdown()
        thread.join()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def test_the_downloaded_archive_can_be_loaded(site: tuple[str, str], home: Path) -> None:
    path = cifar10.download(home / "data" / "cifar.tar.gz", *site)
    assert path == home / "data" / "cifar.tar.gz" and [p.name for p in path.parent.iterdir()] == ["cifar.tar.gz"]
    assert len(cifar10.load(path, "test", synthetic.RGB)) == 10


def test_a_download_to_a_folder_keeps_the_archives_name(site: tuple[str, str], home: Path) -> None:
    assert cifar10.download(home, *site) == home / NAME


def test_an_existing_archive_is_not_downloaded_again(
    site: tuple[str, str], home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cifar10.download(home, *site)
    assert cifar10.download(home, *site) == home / NAME
    assert Site.requests == [f"/{NAME}"]
    assert "already exists" in capsys.readouterr().err


def test_another_file_with_the_same_name_is_replaced(site: tuple[str, str], home: Path) -> None:
    (home / NAME).write_bytes(b"half of it")
    path = cifar10.download(home, *site)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == site[1]


def test_a_wrong_checksum_leaves_no_file(site: tuple[str, str], home: Path) -> None:
    with pytest.raises(BadData, match=rf"{NAME} .*{site[1]}.*6d958be0"):
        cifar10.download(home, site[0])
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("path", ["missing.tar.gz", "cut/cifar.tar.gz"])
def test_a_failed_download_keeps_the_existing_file(site: tuple[str, str], home: Path, path: str) -> None:
    (home / "cifar.tar.gz").write_bytes(b"old")
    with pytest.raises(BadData, match="try again"):
        cifar10.download(home / "cifar.tar.gz", site[0].replace(NAME, path), site[1])
    assert [p.read_bytes() for p in home.iterdir()] == [b"old"]


def test_an_unreachable_server_is_reported(home: Path) -> None:
    with pytest.raises(BadData, match=r"127\.0\.0\.1:1/x .*refused"):
        cifar10.download(home / "x", "http://127.0.0.1:1/x")
    assert list(home.iterdir()) == []


def test_the_constants_are_the_published_archives() -> None:
    assert cifar10.URL.endswith(f"/{NAME}")
    assert cifar10.MD5 == "c58f30108f718f92721af3b95e74349a"
    assert cifar10.SHA256 == "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"
    assert cifar10.SIZE_BYTES == 170_498_071
