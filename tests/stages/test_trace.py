"""The trace stage: one image on the host and on a device, compared step by step."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline import devices
from pipeline.devices import BoundDevice
from pipeline.errors import BadData, BadOption, StageFailed
from pipeline.results import image_trace
from pipeline.results.image_trace import Side, Trace
from pipeline.stages import trace
from pipeline.system.store import Store
from tests.phones import DEVICE, Phone
from tests.plans import plan


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An image that must be rotated, resized and cropped, with a name that a shell would misread."""
    path = tmp_path / "it's $(a) image.jpg"
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
def test_on_the_host_an_artifact_is_compared_with_the_graph_it_was_exported_from(
    matrix: Store, image: Path, cell: tuple[str, str]
) -> None:
    found = traced(matrix, devices.find("local"), cell, image)
    assert [stage.stage for stage in found.stages] == ["decoded", "resized", "input_0", "output_0"]
    assert found.stages[0].host == (29, 37, 1)
    assert [stage.given for stage in found.stages] == [True, True, False, False]
    assert [stage.equal for stage in found.stages[:3]] == [1.0, 1.0, 1.0]
    assert found.stages[3].snr_db is not None and found.stages[3].snr_db > 20
    assert ("the quantized graph" if cell[1] == "int8" else "the float model") in found.host.name
    assert not list(matrix.root.glob(".tmp-*"))


def test_on_a_phone_the_app_decodes_and_resizes_the_image_itself(
    phone: Phone, matrix: Store, image: Path, tmp_path: Path
) -> None:
    build = Store(tmp_path / "build")
    build.root.mkdir()
    for path in matrix.root.iterdir():
        (build.root / path.name).symlink_to(path)
    for name in ("boards", "android"):
        (build.root / name).symlink_to(phone.build.root / name)
    for cell in (("tflite", "fp32"), ("executorch", "fp32")):
        found = traced(build, devices.bound(DEVICE), cell, image)
        decoded, resized, given, output = found.stages
        assert not any(stage.given for stage in found.stages)
        assert decoded.host == decoded.device and decoded.equal is not None and decoded.equal >= 0.99
        assert resized.equal is not None and resized.equal >= 0.99 and (resized.largest or 0) <= 1
        assert given.host == given.device
        assert output.snr_db is not None and output.snr_db > 40


def test_nan_on_both_sides_is_equal() -> None:
    one = np.array([[np.nan, 1.0]], np.float32)
    found = image_trace.difference("input_0", one, one.copy(), False)
    assert found.equal == 1.0


def test_an_image_that_cannot_be_read_is_named_in_the_error(matrix: Store, tmp_path: Path) -> None:
    local, cell = devices.find("local"), ("tflite", "fp32")
    with pytest.raises(BadOption, match=r"^--image .*none\.png: No such file or directory$"):
        traced(matrix, local, cell, tmp_path / "none.png")
    (tmp_path / "text.png").write_text("text")
    with pytest.raises(BadData, match=r"text\.png: "):
        traced(matrix, local, cell, tmp_path / "text.png")


def test_a_side_without_one_of_the_outputs_is_an_error() -> None:
    full = {name: np.zeros((1, 2), np.float32) for name in ("decoded", "resized", "input_0", "output_0", "output_1")}
    less = {name: array for name, array in full.items() if name != "output_1"}
    with pytest.raises(StageFailed, match=r"board.*output_1"):
        list(image_trace.differences(Side("host", full), Side("board", less), True))
