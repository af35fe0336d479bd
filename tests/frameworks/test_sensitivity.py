"""How nodes are grouped by the modules that contain them."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.usefixtures("imported")

MODULES = {
    "conv": ("stem", "stem.0"),
    "conv_1": ("blocks", "blocks.0", "blocks.0.body", "blocks.0.body.0"),
    "conv_2": ("blocks", "blocks.0", "blocks.0.body", "blocks.0.body.1"),
    "add": ("blocks", "blocks.0"),
    "conv_3": ("blocks", "blocks.1"),
    "linear": ("head",),
    "mean": (),
}


@pytest.mark.parametrize(
    ("most", "names"),
    [
        (1, {"stem", "blocks", "head", "mean"}),
        (5, {"stem.0", "blocks.0", "blocks.1", "head", "mean"}),
        (6, {"stem.0", "blocks.0.body", "add", "blocks.1", "head", "mean"}),
        (32, {"stem.0", "blocks.0.body.0", "blocks.0.body.1", "add", "blocks.1", "head", "mean"}),
    ],
)
def test_modules_are_divided_while_there_are_few_enough_groups(most: int, names: set[str]) -> None:
    from pipeline.frameworks._sensitivity import grouped

    found = grouped(MODULES, most)
    assert set(found) == set(MODULES) and set(found.values()) == names
