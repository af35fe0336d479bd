"""Where a difference starts, computed from layers' values."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.report import drift as report
from pipeline.results import drift
from pipeline.results.drift import DEVICE, FLOAT, GRAPH, HOST, Drift, Layer, Start

RANDOM = np.random.default_rng(0)
VALUES = RANDOM.normal(size=(4, 8)).astype(np.float32)


def noisy(share: float) -> np.ndarray:
    return (VALUES + share * RANDOM.normal(size=VALUES.shape)).astype(np.float32)


def layers() -> list[Layer]:
    broken = VALUES.copy()
    broken[0, 0] = np.nan
    return [
        drift.layer("first", ["conv2d"], {FLOAT: VALUES, GRAPH: noisy(0.01), HOST: VALUES}, {}),
        drift.layer("second", ["conv2d", "relu"], {FLOAT: VALUES, GRAPH: noisy(0.01), HOST: noisy(1.0)}, {}),
        drift.layer("third", ["linear"], {FLOAT: VALUES, GRAPH: noisy(1.0), HOST: broken}, {}),
        drift.layer("fourth", ["linear"], {FLOAT: VALUES}, {HOST: "merged"}),
    ]


def test_the_first_layer_below_the_threshold_is_named_with_its_place() -> None:
    assert drift.first_below(layers(), 20.0) == Start("second", HOST)
    assert drift.first_below(layers(), -900.0) == Start("third", HOST)
    assert drift.first_below(layers()[:1], 20.0) is None


def test_nan_is_named_where_it_begins() -> None:
    found = layers()
    assert drift.first_not_finite(found) == Start("third", HOST)
    assert found[2].not_finite[HOST] == 1
    assert found[2].snr_db[HOST] == -999.0
    assert drift.first_not_finite(found[:2]) is None


def test_equal_nan_on_both_sides_is_no_difference() -> None:
    values = VALUES.copy()
    values[1, 2], values[1, 3] = np.nan, np.inf
    assert drift.snr_db(values, values.copy()) == 999.0
    assert drift.snr_db(values, VALUES) == -999.0


def test_values_of_another_number_are_not_compared() -> None:
    found = drift.layer("one", ["mean"], {FLOAT: VALUES, HOST: VALUES[:, :4]}, {})
    assert found.snr_db == {}
    assert HOST in found.not_mapped


def test_a_place_is_compared_with_the_known_one_before_it() -> None:
    found = drift.layer("one", ["conv2d"], {FLOAT: VALUES, DEVICE: VALUES.reshape(4, 2, 4)}, {})
    assert found.snr_db == {DEVICE: 999.0}


def test_the_layers_worth_a_look_are_the_broken_ones() -> None:
    found = layers()
    assert drift.worth_looking_at(found, 20.0)[:2] == [2, 1]
    shown = drift.histogram({FLOAT: VALUES, HOST: VALUES * np.inf})
    assert shown is not None and sum(shown.counts[FLOAT]) == VALUES.size and sum(shown.counts[HOST]) == 0
    assert drift.histogram({FLOAT: np.full(3, np.nan)}) is None


@pytest.fixture
def found() -> Drift:
    some = layers()
    return Drift(
        "toy", "torch", "int8", "onnx", None, 4, 20.0, {FLOAT: "a", GRAPH: "b", HOST: "c"}, tuple(some),
        drift.first_below(some, 20.0), drift.first_not_finite(some), "the file", 30.0, ("a problem",),
    )  # fmt: skip


def test_the_table_and_the_page_name_every_layer(found: Drift) -> None:
    assert report.head(found) == ("layer", "operators", "graph", "host", "not finite")
    assert [report.line(found, one)[0] for one in found.layers] == ["first", "second", "third", "fourth"]
    assert report.line(found, found.layers[3])[2:] == ("–", "not mapped", "–")
    assert any("second" in line for line in report.verdict(found)) and any(
        "third" in line for line in report.verdict(found)
    )
    page = report.page(found)
    assert all(one.name in page for one in found.layers) and "a problem" in page
