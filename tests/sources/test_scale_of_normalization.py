"""mean and std are of pixels from 0 to 255; those of pixels from 0 to 1 are recognized."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline import sources
from tests import own_models

ZERO_TO_ONE = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.mark.parametrize(
    ("mean", "std", "likely"),
    [
        (*ZERO_TO_ONE, ["mean=(123.675, 116.28, 103.53,)", "std=(58.395, 57.12, 57.375,)"]),
        ((0.5,) * 3, (0.5,) * 3, ["mean=(127.5, 127.5, 127.5,)", "std=(127.5, 127.5, 127.5,)"]),
        ((123.675, 116.28, 103.53), ZERO_TO_ONE[1], ["std=(58.395, 57.12, 57.375,)"]),
        (ZERO_TO_ONE[0], (1.0,) * 3, ["mean=(123.675, 116.28, 103.53,)"]),
        ((0.0,) * 3, (1.0,) * 3, []),
        ((0.0,) * 3, (255.0,) * 3, []),
        ((127.5,) * 3, (127.5,) * 3, []),
        ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), []),
        ((103.939, 116.779, 123.68), (1.0,) * 3, []),
    ],
)
def test_mean_and_std_of_pixels_from_0_to_1_give_a_warning_with_the_likely_values(
    mean: tuple[float, ...], std: tuple[float, ...], likely: list[str], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    spec = {
        "(8, 8, 1)": "(8, 8, 3)", 'color="L"': 'color="RGB"', "mean=(0.0,)": f"mean={mean}",
        "std=(255.0,)": f"std={std}",
    }  # fmt: skip
    sources.find(str(own_models.write(tmp_path / "model", own_models.network("return x"), spec=spec)))
    printed = capsys.readouterr().err
    assert printed.count("warning: ") == bool(likely)
    assert [name for name in likely if name not in printed] == []
