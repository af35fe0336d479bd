"""One picture here and there: the first stage that differs is named, with how much."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline import devices
from pipeline.devices import BoundDevice
from pipeline.errors import BadData, BadOption, StageFailed
from pipeline.stages import trace
from pipeline.stages.trace import Difference, Side, Trace
from pipeline.system.store import Store
from tests.phones import DEVICE, Phone
from tests.plans import cells, plan


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A picture that has to be turned, scaled and cut, with a name that a shell would misread."""
    path = tmp_path / "it's $(a) picture.jpg"
    pixels = np.random.default_rng(0).integers(0, 255, (37, 29, 3), np.uint8)
    image = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(path, exif=exif)
    return path


def traced(build: Store, device: BoundDevice, cell: tuple[str, str], image: Path) -> Trace:
    (found,) = trace.trace(build, replace(plan(*cell), devices=(device,)), image)
    return found


@pytest.mark.parametrize("cell", [("tflite", "fp32"), ("executorch", "int8")])
def test_on_this_machine_a_file_is_compared_with_the_graph_that_it_was_made_from(
    matrix: Store, picture: Path, cell: tuple[str, str]
) -> None:
    found = traced(matrix, devices.find("local"), cell, picture)
    assert [stage.stage for stage in found.stages] == ["decoded", "resized", "input_0", "output_0"]
    assert found.stages[0].here == (29, 37, 1)
    assert [stage.given for stage in found.stages] == [True, True, False, False]
    assert [stage.equal for stage in found.stages[:3]] == [1.0, 1.0, 1.0]
    assert found.stages[3].snr_db is not None and found.stages[3].snr_db > 20
    assert ("the quantized graph" if cell[1] == "int8" else "the float model") in found.here.name
    assert not list(matrix.root.glob(".tmp-*"))


def test_on_a_phone_the_app_decodes_and_resizes_by_itself(
    phone: Phone, matrix: Store, picture: Path, tmp_path: Path
) -> None:
    build = Store(tmp_path / "build")
    build.root.mkdir()
    for place in matrix.root.iterdir():
        (build.root / place.name).symlink_to(place)
    for name in ("boards", "android"):
        (build.root / name).symlink_to(phone.build.root / name)
    for cell in (("tflite", "fp32"), ("executorch", "fp32")):
        found = traced(build, devices.bound(DEVICE), cell, picture)
        decoded, resized, given, output = found.stages
        assert not any(stage.given for stage in found.stages)
        assert decoded.here == decoded.there and decoded.equal is not None and decoded.equal >= 0.99
        assert resized.equal is not None and resized.equal >= 0.99 and (resized.largest or 0) <= 1
        assert given.here == given.there
        assert output.snr_db is not None and output.snr_db > 40


def difference(name: str, equal: float | None = 1.0, largest: float | None = 0.0) -> Difference:
    return Difference(name, (2, 2, 1), (2, 2, 1) if equal is not None else (3, 2, 1), equal, largest)


@pytest.mark.parametrize(
    ("stages", "verdict"),
    [
        ([difference("decoded"), difference("output_0")], "no difference: every stage is the same, bit for bit"),
        (
            [difference("decoded"), difference("resized", 0.75, 2.0), difference("output_0", 0.5, 9.0)],
            "they first differ in: resized, cropped, in 25.00% of its values, by 2 at most",
        ),
        (
            [difference("decoded", None, None)],
            "they first differ in: decoded pixels, whose shape is 2×2×1 here and 3×2×1 there",
        ),
    ],
)
def test_the_first_stage_that_differs_is_said(stages: list[Difference], verdict: str, matrix: Store) -> None:
    artifact = cells(matrix, "tflite", "fp32").outcomes[0].artifact
    assert artifact is not None
    sides = [Side(name, {"output_0": np.array([[0.0, 2.0, 1.0]], np.float32)}) for name in ("here", "there")]
    text = trace.table(Trace(artifact, sides[0], sides[1], tuple(stages)), ["a", "b", "c"])
    assert text.splitlines()[2] == verdict
    assert text.splitlines()[-1] == "there: b (2)"


def test_values_that_are_no_numbers_on_both_sides_are_equal() -> None:
    one = np.array([[np.nan, 1.0]], np.float32)
    found = trace._difference("input_0", one, one.copy(), False)
    assert found.equal == 1.0


def test_a_picture_that_cannot_be_read_is_named(matrix: Store, tmp_path: Path) -> None:
    local, cell = devices.find("local"), ("tflite", "fp32")
    with pytest.raises(BadOption, match=r"^--image .*none\.png: No such file or directory$"):
        traced(matrix, local, cell, tmp_path / "none.png")
    (tmp_path / "text.png").write_text("text")
    with pytest.raises(BadData, match=r"text\.png: cannot be read as a picture"):
        traced(matrix, local, cell, tmp_path / "text.png")


def test_a_side_that_keeps_less_is_refused() -> None:
    full = {name: np.zeros((1, 2), np.float32) for name in ("decoded", "resized", "input_0", "output_0", "output_1")}
    less = {name: array for name, array in full.items() if name != "output_1"}
    with pytest.raises(StageFailed, match=r"^there kept no output_1$"):
        list(trace._differences(Side("here", full), Side("there", less), True))
