"""Our int8 against each converter's default int8: size, latency and accuracy drop, in one run.

    .venv/bin/python benchmarks/int8.py --model resnet8 --data PATH [--framework keras]

`networks.py` does the same for networks of torchvision and timm.

The defaults: ai-edge-quantizer's static_wi8_ai8 on our float .tflite, onnxruntime's quantize_static on our float .onnx,
with the same calibration set. For Keras, ai-edge-quantizer quantizes the float .tflite of TensorFlow's own converter.
Measurements of the files alternate, so that a change in the machine's load affects all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import _common
import numpy as np

from pipeline import registry, sources, stats
from pipeline.core import Artifact, to_json
from pipeline.stages import push, train
from pipeline.stages.export import export
from pipeline.stages.plan import Job, Plan, plugins, recipes_of
from pipeline.system import store
from pipeline.system.store import Store

ROUNDS = 5

THEIRS = {"int8 tflite": "ai-edge-quantizer's default", "int8 onnx": "onnxruntime's default"}
"""Our file, and the converter's default it is compared with."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=sources.DEFAULT)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--framework", default="torch")
    options = parser.parse_args()
    build = Store(Path(os.environ.get("LASTMILE_BUILD", _common.ROOT / "build")))
    return 0 if compare(build, options.model, options.data, options.framework) else 1


def compare(
    build: Store, model: str, data: Path | None = None, framework: str = "torch", weights: Path | None = None
) -> bool:
    """Measures one model, prints and stores its figures. Returns whether every bound holds."""
    more: dict[str, Any] = {"frameworks": framework, "data": data, "weights": weights}
    plan = Plan.resolve(model, targets=["tflite", "executorch", "onnx"], recipes=["fp32", "int8"], **more)
    (job,) = plan.jobs
    outcomes = export(build, plan)
    checkpoint = train.ready(build, job)
    assert checkpoint is not None
    paths = {(o.target, o.recipe): o.path for o in outcomes}
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        samples = calibration(job, checkpoint)
        theirs = tensorflow_lite(build, plan, scratch) if framework == "keras" else paths["tflite", "fp32"]
        files = {
            "fp32 tflite": (paths["tflite", "fp32"], "NHWC"),
            "fp32 executorch": (paths["executorch", "fp32"], "NCHW"),
            "fp32 onnx": (paths["onnx", "fp32"], "NCHW"),
            "int8 tflite": (paths["tflite", "int8"], "NHWC"),
            "int8 executorch": (paths["executorch", "int8"], "NCHW"),
            "int8 onnx": (paths["onnx", "int8"], "NCHW"),
            "ai-edge-quantizer's default": (their_tflite(theirs, samples, scratch), "NHWC"),
            "onnxruntime's default": (their_onnx(paths["onnx", "fp32"], samples, scratch), "NCHW"),
        }
        images = push.evaluation(build, job, checkpoint)
        figures = measure(files, images, checkpoint, build, scratch)
    rows = [
        [
            name,
            f"{f['size_bytes']:,}",
            f"{f['ms']:.4f}",
            f"{f['top1']:.2f}",
            f"{f['drop']:+.2f} [{f['low']:+.2f}, {f['high']:+.2f}]",
        ]
        for name, f in figures.items()
    ]
    name = checkpoint.spec.name
    print(f"{name}, {checkpoint.accuracy:.2%} in float on {checkpoint.samples:,} images\n")
    print(_common.table(["file", "bytes", "ms (median of medians)", "top-1 %", "drop, points [95 %]"], rows))
    holds = judge(figures, name)
    tools = _common.versions(
        "litert-torch", "ai-edge-quantizer", "ai-edge-litert", "executorch", "onnxruntime", "torch"
    )
    graph = store.read(Artifact, paths["tflite", "int8"].parent / "artifact.json").graph_parity
    _common.keep(
        f"int8_{name}" + ("_keras" if framework == "keras" else ""),
        {
            "files": figures, "samples": checkpoint.samples, "tools": tools, "float": checkpoint.accuracy,
            "training": checkpoint.facts, "graph_parity": to_json(graph),
        },
    )  # fmt: skip
    return holds


def tensorflow_lite(build: Store, plan: Plan, scratch: Path) -> Path:
    """The float .tflite that TensorFlow's own converter makes from our SavedModel."""
    registry.import_order()
    import tensorflow as tf

    saved_model = replace(plan, targets=plugins("targets", "savedmodel"), recipes=recipes_of("fp32"))
    (outcome,) = export(build, saved_model)
    out = scratch / "tensorflow.tflite"
    out.write_bytes(tf.lite.TFLiteConverter.from_saved_model(str(outcome.path / "1")).convert())
    return out


def calibration(job: Job, checkpoint: Any) -> Any:
    """Our recipe's calibration set: float32 (n, height, width, channels)."""
    recipe = registry.load("recipes", "int8").RECIPE
    split = train.split_of(checkpoint, job, "train")
    return split.inputs(range(recipe.calibration)).astype(np.float32)


def their_tflite(source: Path, samples: Any, scratch: Path) -> Path:
    """ai-edge-quantizer's static recipe, called as in its README."""
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer import quantizer, recipe

    (detail,) = Interpreter(str(source)).get_input_details()
    signature = next(iter(Interpreter(str(source)).get_signature_list().items()))
    name = signature[1]["inputs"][0]
    q = quantizer.Quantizer(str(source), recipe.static_wi8_ai8())
    result = q.calibrate({signature[0]: [{name: sample[None]} for sample in samples]})
    out = scratch / "theirs.tflite"
    q.quantize(result).export_model(str(out))
    assert detail["dtype"] == np.float32
    return out


def their_onnx(source: Path, samples: Any, scratch: Path) -> Path:
    """onnxruntime's static quantizer with its defaults."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    name = onnx.load(source).graph.input[0].name

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.rest = iter(samples)

        def get_next(self) -> dict[str, Any] | None:
            sample = next(self.rest, None)
            return None if sample is None else {name: sample[None].transpose(0, 3, 1, 2).copy()}

    out = scratch / "theirs.onnx"
    quantize_static(source, out, Reader())
    return out


def measure(files: dict[str, tuple[Path, str]], images: Path, checkpoint: Any, build: Store, scratch: Path) -> Any:
    """Size, median latency over alternating rounds, and accuracy on the whole evaluation split."""
    medians: dict[str, list[float]] = {name: [] for name in files}
    for round_ in range(ROUNDS):
        for name, (path, layout) in files.items():
            run = edge_bench("run", path, "--inputs", images, "--layout", layout)
            medians[name].append(stats.median_ms(run["runs"]))
        print(f"round {round_ + 1} of {ROUNDS}", file=sys.stderr)
    with np.load(build.checkpoint(checkpoint.spec.name, checkpoint.framework) / checkpoint.predictions) as kept:
        before, labels = kept["output_0"].argmax(1) == kept["labels"], kept["labels"]
    figures: dict[str, Any] = {}
    outputs, correct = {}, {}
    for name, (path, layout) in files.items():
        answers = scratch / "answers.npz"
        edge_bench("predict", path, "--inputs", images, "--layout", layout, "--out", answers)
        with np.load(answers) as kept:
            outputs[name] = kept["output_0"]
        right = correct[name] = outputs[name].argmax(1) == labels
        drop, (low, high) = stats.paired_drop(before, right)
        figures[name] = {
            "size_bytes": path.stat().st_size, "ms": _common.median(medians[name]), "rounds_ms": medians[name],
            "top1": 100 * float(right.mean()), "drop": drop, "low": low, "high": high,
        }  # fmt: skip
    for ours, theirs in THEIRS.items():
        drop, interval = stats.paired_drop(correct[theirs], correct[ours])
        figures[ours]["drop_against_theirs"] = [drop, *interval]
    for first, second in (("tflite", "executorch"), ("tflite", "onnx")):
        equal = int((outputs[f"int8 {first}"] == outputs[f"int8 {second}"]).all(1).sum())
        print(f"int8 {first} and {second}: outputs bit-equal on {equal} of {len(labels)} samples")
        figures[f"int8 {first}"][f"equal_to_{second}"] = equal
    return figures


def edge_bench(*words: Any) -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-m", "edge_bench", *map(str, words)], capture_output=True, check=True)
    value: dict[str, Any] = json.loads(done.stdout)
    return value


def judge(figures: Any, model: str) -> bool:
    """Checks the bounds that this project sets itself."""
    good = True
    allowed = 0.3 if model in ("resnet8", "mobilenet_v3_small_64") else 0.5
    if model == "digits_cnn":
        good &= _common.verdict("fp32 has 98 % top-1 or more", figures["fp32 tflite"]["top1"] >= 98)
    for target in ("tflite", "executorch", "onnx"):
        ours, float_ = figures[f"int8 {target}"], figures[f"fp32 {target}"]
        share = ours["size_bytes"] / float_["size_bytes"]
        good &= _common.verdict(
            f"{target} int8 loses at most {allowed} points ({ours['drop']:+.2f})", ours["drop"] <= allowed
        )
        good &= _common.verdict(f"{target} int8 has at most 60 % of the float file ({share:.0%})", share <= 0.6)
    if model == "mobilenet_v3_small_64":
        ours, float_ = figures["int8 tflite"], figures["fp32 tflite"]
        ratio = _common.median([x / y for x, y in zip(ours["rounds_ms"], float_["rounds_ms"], strict=True)])
        good &= _common.verdict(f"tflite int8 takes at most 0.75 of fp32's time ({ratio:.2f})", ratio <= 0.75)
    if model == "efficientnet_lite0":
        gain = -figures["int8 tflite"]["drop_against_theirs"][0]
        good &= _common.verdict(
            f"ours loses at least 2 points less than {THEIRS['int8 tflite']} ({gain:+.2f})", gain >= 2
        )
    for ours, theirs in THEIRS.items():
        a, b = figures[ours], figures[theirs]
        ratio = _common.median([x / y for x, y in zip(a["rounds_ms"], b["rounds_ms"], strict=True)])
        sizes = f"{a['size_bytes']:,} bytes to {b['size_bytes']:,}"
        good &= _common.verdict(f"{ours} is no larger than {theirs}: {sizes}", a["size_bytes"] <= b["size_bytes"])
        good &= _common.verdict(f"{ours} takes {ratio:.2f} of the time of {theirs} (2 % is noise)", ratio <= 1.02)
        drop, low, high = a["drop_against_theirs"]
        difference = f"{drop:+.2f} points lost [{low:+.2f}, {high:+.2f}], paired"
        good &= _common.verdict(f"{ours} is not resolved as less accurate than {theirs}: {difference}", low <= 0)
    return good


if __name__ == "__main__":
    sys.exit(main())
