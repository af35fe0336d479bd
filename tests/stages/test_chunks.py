"""Chunks: each is requested once, stored and verified; joined, they equal the result of one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import Broken, Unreachable
from pipeline.stages import _chunks
from pipeline.system import store

SAMPLES = 23
ARGS = ["predict", "model"]


class Device:
    """A stand-in for edge-bench: sample i gives (i, i + 0.5, 2 i) and i². Call number `lost` loses the connection."""

    def __init__(self, lost: int | None = None) -> None:
        self.lost, self.starts = lost, list[int]()

    def __call__(self, args: Sequence[str | Path]) -> Mapping[str, Any]:
        assert list(args[:2]) == ARGS
        if len(self.starts) == self.lost:
            raise Unreachable("board: the connection was lost")
        start, count, out = int(args[3]), int(args[5]), Path(args[7])
        self.starts.append(start)
        i = np.arange(start, start + count, dtype=np.float32)
        with out.open("wb") as file:
            np.savez(file, output_0=np.stack([i, i + 0.5, 2 * i], 1), output_1=i * i)
        return {"samples": count, "predictions_sha256": store.sha256(out)}


def predict_all(folder: Path, device: Device, chunk: int | None = 5, key: str = "k") -> list[Path]:
    return list(_chunks.predict(folder, key, ARGS, _chunks.spans(SAMPLES, chunk), device))


def test_spans_cover_every_sample_once() -> None:
    assert _chunks.spans(7, 3) == [range(3), range(3, 6), range(6, 7)]
    assert _chunks.spans(6, 3) == [range(3), range(3, 6)]
    assert _chunks.spans(7, None) == [range(7)]
    assert _chunks.spans(7, 100) == [range(7)]


def test_a_small_remainder_is_added_to_the_last_chunk() -> None:
    assert _chunks.spans(504, 500) == [range(504)]
    assert _chunks.spans(1050, 500) == [range(500), range(500, 1050)]
    assert _chunks.spans(1051, 500) == [range(500), range(500, 1000), range(1000, 1051)]
    assert _chunks.spans(50, 500) == [range(50)]


@pytest.mark.parametrize("chunk", [1, 5, 22, 23, None])
def test_joined_chunks_equal_the_result_of_one_call(tmp_path: Path, chunk: int | None) -> None:
    _chunks.join(predict_all(tmp_path, Device(), chunk), tmp_path / "all.npz")
    i = np.arange(SAMPLES, dtype=np.float32)
    with np.load(tmp_path / "all.npz", allow_pickle=False) as joined:
        assert joined.files == ["output_0", "output_1"]
        assert np.array_equal(joined["output_0"], np.stack([i, i + 0.5, 2 * i], 1))
        assert np.array_equal(joined["output_1"], i * i)
        assert joined["output_0"].dtype == joined["output_1"].dtype == np.float32


def test_after_a_lost_connection_only_missing_chunks_are_requested(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Unreachable):
        predict_all(tmp_path, Device(lost=2))
    again = Device()
    predict_all(tmp_path, again)
    assert again.starts == [10, 15, 20]
    assert "2 of 5 chunks of samples exist" in capsys.readouterr().err
    assert not list(tmp_path.rglob(".tmp-*"))


def test_a_damaged_or_missing_chunk_is_requested_again(tmp_path: Path) -> None:
    predict_all(tmp_path, Device())
    (tmp_path / "chunks/5.npz").write_bytes(b"damaged")
    (tmp_path / "chunks/15.npz").unlink()
    (tmp_path / "chunks/20.json").write_text("{")
    again = Device()
    predict_all(tmp_path, again)
    assert again.starts == [5, 15, 20]


def test_chunks_with_another_key_or_size_are_not_reused(tmp_path: Path) -> None:
    predict_all(tmp_path, Device())
    other, smaller = Device(), Device()
    predict_all(tmp_path, other, key="other")
    assert other.starts == [0, 5, 10, 15, 20]
    predict_all(tmp_path, smaller, chunk=4, key="other")
    assert smaller.starts == [0, 4, 8, 12, 16]  # the chunk 20 to 22 occurs in both sizes


def test_a_chunk_with_another_hash_than_the_device_reported_is_refused(tmp_path: Path) -> None:
    def wrong_hash(args: Sequence[str | Path]) -> Mapping[str, Any]:
        return {**Device()(args), "predictions_sha256": "0" * 64}

    with pytest.raises(Broken, match="was damaged on its way from the device"):
        list(_chunks.predict(tmp_path, "k", ARGS, _chunks.spans(4, None), wrong_hash))
    assert not list(tmp_path.rglob("*.npz"))


def test_a_finished_process_is_reused(tmp_path: Path) -> None:
    def run(args: Sequence[str | Path]) -> Mapping[str, Any]:
        return {"runs": [[1, 2]], "args": list(args)}

    def never(args: Sequence[str | Path]) -> Mapping[str, Any]:
        raise AssertionError

    first = _chunks.run(tmp_path, "k", 0, ["run"], run)
    assert _chunks.run(tmp_path, "k", 0, ["run"], never) == first
    for key, round in (("other", 0), ("k", 1)):
        with pytest.raises(AssertionError):
            _chunks.run(tmp_path, key, round, ["run"], never)
    _chunks.forget(tmp_path)
    with pytest.raises(AssertionError):
        _chunks.run(tmp_path, "k", 0, ["run"], never)
