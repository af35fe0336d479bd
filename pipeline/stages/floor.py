"""Floor: what one call of a runtime costs on a device, measured with a model that does almost nothing.

The model adds 1 to a single pixel. Each target converts it once, in a process of its own, like any model:

    build/floors/models/<target>-<hash>/model.<suffix>, image.npy
    build/floors/<device>/<runtime>.json
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from pipeline import registry
from pipeline.core import Floor, ModelSpec, Preprocessing, Tensor, Training
from pipeline.devices import BoundDevice
from pipeline.errors import StageFailed
from pipeline.registry import Plugin
from pipeline.results import latency_meaning
from pipeline.system import proc, store
from pipeline.system.progress import working
from pipeline.system.store import Store
from pipeline.targets import Target

SPEC = ModelSpec(
    name="empty",
    task="image_classification",
    inputs=(Tensor("image", (1, 1, 1)),),
    outputs=(Tensor("logits", (1,)),),
    labels=("one",),
    preprocessing=Preprocessing("L", 1, 1, (0.0,), (1.0,)),
    dataset="digits",
    training=Training(1, 1, 0.1),
)
EXPORT_SECONDS, RUN_SECONDS = 600.0, 300.0
EFFORT = ("--min-runs", "64", "--min-seconds", "0.1", "--warmup-seconds", "0.05")


def measure(
    build: Store, device: BoundDevice, targets: Sequence[Plugin[Target]], processes: int
) -> Iterator[tuple[Floor, Path]]:
    """The floor of the runtime of each target that the device runs, and the file that has it.

    Raises:
        StageFailed: the model cannot be converted, or the device cannot run it.
        Unreachable: there is no connection to the device.
    """
    runnable = [target for target in targets if device.unsupported(target) is None]
    files = [(target, model(build, target)) for target in runnable]  # before the device is locked
    with device.exclusive(build):
        hardware = device.hardware(build)
        for target, file in files:
            floor = _measured(build, device, target, file, processes, hardware)
            path = latency_meaning.path(build, device.name, floor.runtime)
            store.write(path, floor)
            yield floor, path


def model(build: Store, target: Plugin[Target]) -> Path:
    """The empty model in a target's format.

    Raises:
        StageFailed: the converter failed.
    """
    code = [registry.source_hash("targets", target.name), store.sha256(Path(__file__))]
    key = store.digest([code, registry.versions(tuple(target.module.TOOLS))])
    folder = build.root / "floors" / "models" / f"{target.name}-{key[:16]}"
    path = folder / f"model{target.module.SUFFIX}"
    if path.is_file():
        return path
    with working(f"converting an empty model for {target.name}"), store.atomic(folder) as new:
        new.mkdir()
        argv: list[str | Path] = [sys.executable, "-m", "pipeline.stages.floor", target.name, new / path.name]
        done = proc.run(argv, timeout=EXPORT_SECONDS)
        if done.code != 0:
            raise StageFailed(f"{target.name} cannot convert an empty model: {done.reason}")
    return path


def _measured(
    build: Store, device: BoundDevice, target: Plugin[Target], file: Path, processes: int, hardware: str
) -> Floor:
    runtime, images = device.runtime(target), file.with_name("image.npy")
    assert runtime is not None  # `unsupported` gave no reason
    device.setup(build, runtime)
    device.push(build, [file, images])
    layout = ["--layout", target.module.LAYOUT] if target.module.LAYOUT in ("NHWC", "NCHW") else []
    words: list[str | Path] = [
        "run",
        file,
        "--inputs",
        images,
        "--runtime",
        runtime,
        "--threads",
        "1",
        *layout,
        *EFFORT,
    ]
    found: list[Any] = []
    for _ in range(processes):
        done = device.call(build, runtime, words, RUN_SECONDS)
        if done.code != 0:
            raise StageFailed(f"{target.name} on {device.name}: {done.reason.removeprefix('edge-bench: ')}")
        found.append(done.result("runs"))
    return Floor(
        hardware=hardware,
        runtime=found[0]["runtime"]["name"],  # on a phone, another one than edge-bench's
        version=found[0]["runtime"]["version"],
        processes=processes,
        ns=median(median(ns / loops for loops, ns in run["runs"]) for run in found),
        includes_input_copy=found[0].get("includes_input_copy"),
    )


def export(name: str, out: Path) -> None:
    """Converts the empty model with a target's plug-in. Runs in a process of its own."""
    registry.import_order()
    import numpy as np
    import torch

    from pipeline.targets import Source

    class Empty(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return image.flatten(1) + 1

    program = torch.export.export(Empty().eval(), (torch.zeros(1, 1, 1, 1),))
    source = Source("torch", {"program": program}.get)
    recipe = registry.load("recipes", "fp32").RECIPE
    registry.bind("targets", name).module.export(source, SPEC, recipe, out)
    np.save(out.with_name("image.npy"), np.zeros((1, 1, 1, 1), np.uint8))


if __name__ == "__main__":
    export(sys.argv[1], Path(sys.argv[2]))
