"""edge-bench's own overhead: its median beside a bare loop around the runtime's call, in turn, in one run.

    .venv/bin/python benchmarks/overhead.py [--model mobilenet_v3_small:classes=10] [--data PATH]

The model must take 1 ms or more. Bound: within 1 %.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import _common
import numpy as np

from pipeline import stats, train
from pipeline.export import export
from pipeline.store import Store

ROUNDS = 9


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mobilenet_v3_small:classes=10")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--bare", metavar="FILE", help="be the bare loop")
    options = parser.parse_args()
    if options.bare:
        print(json.dumps(bare(Path(options.bare))))
        return 0
    build = Store(Path(os.environ.get("LASTMILE_BUILD", _common.ROOT / "build")))
    outcomes = export(
        build, train.Job(model=options.model, data=options.data), ["tflite", "executorch", "onnx"], ["fp32"]
    )
    rows, holds, figures = [], True, {}
    for outcome in outcomes:
        pairs = []
        for _ in range(ROUNDS):
            run = json.loads(call("-m", "edge_bench", "run", str(outcome.path)))
            loop = json.loads(call(__file__, "--bare", str(outcome.path)))
            pairs.append((stats.latency(run["runs"]).p50, 1e3 * _common.median(loop)))
        ratio = _common.median([ours / bare_ for ours, bare_ in pairs])
        figures[outcome.target] = {"pairs_ms": pairs, "ratio": ratio}
        rows.append([outcome.target, *(f"{_common.median([p[i] for p in pairs]):.3f}" for i in (0, 1)), f"{ratio:.4f}"])
        holds &= _common.verdict(
            f"{outcome.target}: edge-bench's median is within 1 % of the bare loop's", abs(ratio - 1) <= 0.01
        )
    print(_common.table(["target", "edge-bench, ms", "bare loop, ms", "ratio (median)"], rows))
    _common.keep("overhead", {"model": options.model, "targets": figures})
    return 0 if holds else 1


def call(*words: str) -> bytes:
    return subprocess.run([sys.executable, *words], capture_output=True, check=True).stdout


def bare(path: Path) -> list[float]:
    """Seconds of each of the runs that 1 s holds, after 0.25 s of warm-up, with the runtime's own interface."""
    invoke = {".tflite": litert, ".pte": executorch, ".onnx": onnxruntime}[path.suffix](path)
    clock = time.perf_counter
    end = clock() + 0.25
    while clock() < end:
        invoke()
    times = []
    end = clock() + 1
    while clock() < end:
        before = clock()
        invoke()
        times.append(clock() - before)
    return times


def sample(shape: Any) -> Any:
    return np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32)


def litert(path: Path) -> Callable[[], Any]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    (detail,) = interpreter.get_input_details()
    interpreter.set_tensor(detail["index"], sample(detail["shape"]))
    return interpreter.invoke


def executorch(path: Path) -> Callable[[], Any]:
    import torch
    from executorch.extension.pybindings import portable_lib

    portable_lib._unsafe_reset_threadpool(1)
    module = portable_lib._load_for_executorch(str(path))
    shape = module.method_meta("forward").input_tensor_meta(0).sizes()
    inputs = (torch.from_numpy(sample(shape)),)
    return lambda: module.forward(inputs)


def onnxruntime(path: Path) -> Callable[[], Any]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (detail,) = session.get_inputs()
    feed = {detail.name: sample(detail.shape)}
    return lambda: session.run(None, feed)


if __name__ == "__main__":
    sys.exit(main())
