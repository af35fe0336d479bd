"""The downloader, against a server on this machine."""

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
    """Serves a folder; counts requests, and under /cut/ promises more than it sends."""

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
        """Quiet."""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """Address and sha256 of a small archive of the official form."""
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


def test_the_archive_comes_whole_and_can_be_used(site: tuple[str, str], home: Path) -> None:
    got = cifar10.download(home / "data" / "cifar.tar.gz", *site)
    assert got == home / "data" / "cifar.tar.gz" and [p.name for p in got.parent.iterdir()] == ["cifar.tar.gz"]
    assert len(cifar10.load(got, "test", synthetic.RGB)) == 10


def test_into_a_folder_it_keeps_its_name(site: tuple[str, str], home: Path) -> None:
    assert cifar10.download(home, *site) == home / NAME


def test_what_is_there_is_not_fetched_again(
    site: tuple[str, str], home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cifar10.download(home, *site)
    assert cifar10.download(home, *site) == home / NAME
    assert Site.requests == [f"/{NAME}"]
    assert "is there already" in capsys.readouterr().err


def test_another_file_of_this_name_is_replaced(site: tuple[str, str], home: Path) -> None:
    (home / NAME).write_bytes(b"half of it")
    got = cifar10.download(home, *site)
    assert hashlib.sha256(got.read_bytes()).hexdigest() == site[1]


def test_a_wrong_checksum_leaves_nothing(site: tuple[str, str], home: Path) -> None:
    with pytest.raises(BadData, match=rf"{NAME} gave [\d,]+ bytes with sha256 {site[1]}, not 6d958be0"):
        cifar10.download(home, site[0])
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("path", ["missing.tar.gz", "cut/cifar.tar.gz"])
def test_a_download_that_fails_leaves_what_was_there(site: tuple[str, str], home: Path, path: str) -> None:
    (home / "cifar.tar.gz").write_bytes(b"old")
    with pytest.raises(BadData, match="try again, or name your"):
        cifar10.download(home / "cifar.tar.gz", site[0].replace(NAME, path), site[1])
    assert [p.read_bytes() for p in home.iterdir()] == [b"old"]


def test_a_server_that_is_not_there_is_said(home: Path) -> None:
    with pytest.raises(BadData, match=r"127\.0\.0\.1:1/x cannot be fetched .*refused"):
        cifar10.download(home / "x", "http://127.0.0.1:1/x")
    assert list(home.iterdir()) == []


def test_the_constants_are_those_of_the_published_archive() -> None:
    assert cifar10.URL.endswith(f"/{NAME}")
    assert cifar10.MD5 == "c58f30108f718f92721af3b95e74349a"
    assert cifar10.SHA256 == "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"
    assert cifar10.SIZE_BYTES == 170_498_071
