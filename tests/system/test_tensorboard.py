"""Event files: TensorBoard reads them back, and writing them loads no framework."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.system.tensorboard import BUCKETS, MISTAKES, THUMBNAIL, Events, graph_nodes, tags, without_tensorflow
from tests.runs import Run

ROOT = Path(__file__).parents[2]
RNG = np.random.default_rng(0)


def noise(_: int = 0) -> NDArray[np.uint8]:
    return RNG.integers(0, 256, (8, 8, 1), dtype=np.uint8)


def test_scalars_are_read_back_with_their_steps(tmp_path: Path) -> None:
    with Events(tmp_path / "run") as events:
        events.scalars({"loss/train": 2.5, "lr": 0.25}, 10)
        events.scalars({"loss/train": 1.5}, 20)
    run = Run(tmp_path / "run")
    assert run.scalars("loss/train") == [(10, 2.5), (20, 1.5)]
    assert run.scalars("lr") == [(10, 0.25)]


def test_tags_are_read_back_with_their_plugin_and_seconds(tmp_path: Path) -> None:
    without_tensorflow()
    from tensorboard.compat.proto.graph_pb2 import GraphDef
    from tensorboard.compat.proto.node_def_pb2 import NodeDef

    with Events(tmp_path) as events:
        events.scalars({"loss/train": 2.5}, 10)
        events.histograms({"layer.weight": np.ones(3, np.float32)}, 10)
        events.scalars({"loss/train": 1.5}, 20)
        events.graph(GraphDef(node=[NodeDef(name="a"), NodeDef(name="b")]).SerializeToString())
    found = tags(tmp_path)
    assert {name: tag.plugin for name, tag in found.items()} == {
        "loss/train": "scalars", "weights/layer.weight": "histograms", "__run_graph__": "graphs",
    }  # fmt: skip
    curve = found["loss/train"].points
    assert [value for _, value in curve] == [2.5, 1.5] and 0 <= curve[0][0] <= curve[1][0]
    assert graph_nodes(tmp_path) == ["a", "b"]


def test_a_folder_without_events_has_no_tags(tmp_path: Path) -> None:
    assert tags(tmp_path) == {} and graph_nodes(tmp_path) == []


def test_a_resumed_run_continues_the_old_one_and_records_the_step(tmp_path: Path) -> None:
    with Events(tmp_path) as events:
        events.scalars({"loss/train": 1}, 10)
    with Events(tmp_path, 10) as events:
        events.scalars({"loss/train": 2}, 20)
    run = Run(tmp_path)
    assert run.scalars("loss/train") == [(10, 1), (20, 2)]
    assert run.starts() == [11]


def test_a_run_from_scratch_replaces_the_old_one(tmp_path: Path) -> None:
    for value in (1.0, 2.0):
        with Events(tmp_path / "run") as events:
            events.scalars({"loss/train": value}, 10)
    assert Run(tmp_path / "run").scalars("loss/train") == [(10, 2.0)]


def test_a_histogram_counts_every_finite_value(tmp_path: Path) -> None:
    values = RNG.normal(size=(3, 5, 7)).astype(np.float32)
    values[0, 0, :2] = np.nan, np.inf
    with Events(tmp_path) as events:
        events.histograms({"layer.weight": values, "layer.bias": np.zeros(4, np.float32)}, 5)
    run = Run(tmp_path)
    table = run.tensor("weights/layer.weight")
    finite = values[np.isfinite(values)]
    assert table.shape == (BUCKETS, 3) and table[:, 2].sum() == 103
    assert (table[0, 0], table[-1, 1]) == pytest.approx((finite.min(), finite.max()))
    assert run.tensor("weights/layer.bias")[:, 2].sum() == 4


def test_the_most_confident_mistakes_are_shown_with_label_and_prediction(tmp_path: Path) -> None:
    outputs = np.zeros((40, 3), np.float32)
    outputs[:, 1] = np.arange(40) + 1.0  # all predict "b", with growing confidence
    labels = np.where(np.arange(40) < 35, 0, 1)
    with Events(tmp_path) as events:
        events.mistakes(outputs, labels, ("a", "b", "c"), noise, 7)
    shown = {tag: found for tag, found in Run(tmp_path).images().items() if tag.startswith("mistakes/")}
    assert len(shown) == MISTAKES
    assert sorted(shown) == [f"mistakes/{i:05}: a predicted as b" for i in range(35 - MISTAKES, 35)]
    size, description = shown["mistakes/00034: a predicted as b"]
    assert size == (128, 128) and "100%" in description


def test_the_projector_has_a_row_and_a_thumbnail_for_every_sample(tmp_path: Path) -> None:
    from PIL import Image

    features = RNG.normal(size=(5, 3)).astype(np.float32)
    images = [np.full((8, 8, 1), 40 * i, np.uint8) for i in range(5)]
    with Events(tmp_path) as events:
        events.projector(features, {"label": list("abcde"), "answer": ["x\ty", *"xyzu"]}, images)
    embedding = Run(tmp_path).embedding()
    assert np.loadtxt(tmp_path / embedding.tensor_path) == pytest.approx(features, rel=1e-4)
    rows = [line.split("\t") for line in (tmp_path / embedding.metadata_path).read_text().splitlines()]
    assert rows[:3] == [["label", "answer"], ["a", "x y"], ["b", "x"]] and len(rows) == 6
    assert list(embedding.sprite.single_image_dim) == [THUMBNAIL, THUMBNAIL]
    with Image.open(tmp_path / embedding.sprite.image_path) as sprite:
        assert sprite.size == (3 * THUMBNAIL, 3 * THUMBNAIL)
        fourth = sprite.getpixel((THUMBNAIL // 2, THUMBNAIL + THUMBNAIL // 2))
    assert fourth == (120, 120, 120)


def test_hyperparameters_mark_the_session_as_finished(tmp_path: Path) -> None:
    with Events(tmp_path) as events:
        events.hyperparameters({"lr": 0.5, "epochs": 3, "framework": "torch", "resumed": False}, "torch-1")
    assert Run(tmp_path).hyperparameters() == {"lr": 0.5, "epochs": 3, "framework": "torch", "resumed": False}
    assert Run(tmp_path).ended()


def test_writing_loads_no_framework(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nimport numpy as np\nfrom pipeline.system.tensorboard import Events\n"
        "with Events(Path(sys.argv[1])) as events:\n"
        "    events.scalars({'a': 1.0}, 1)\n    events.histograms({'b': np.ones(3)}, 1)\n"
        "    events.hyperparameters({'c': 1}, 'd')\n"
        "    events.mistakes(np.eye(2), np.array([1, 0]), 'xy', lambda i: np.zeros((4, 4, 3), np.uint8), 1)\n"
        "    events.projector(np.eye(2), {'e': 'xy'}, [np.zeros((4, 4, 3), np.uint8)] * 2)\n"
        "print([name for name in ('torch', 'tensorflow', 'keras') if name in sys.modules])"
    )
    command: list[Any] = [sys.executable, "-c", code, tmp_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
