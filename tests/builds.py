"""Build folders written manifest by manifest, as the stages write them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import devices, registry
from pipeline.core import (
    Accuracy,
    Artifact,
    Checkpoint,
    Coverage,
    Failure,
    Measurement,
    ModelSpec,
    Parity,
    Port,
    Preprocessing,
    Process,
    Tensor,
    Training,
)
from pipeline.results import keys
from pipeline.system import store
from pipeline.system.store import Store

SAMPLES = 200
LOCAL = {
    "name": "local", "kind": "local", "emulated": False, "hardware": "a cpu, 4 cores", "board": "a desk",
    "cpu": "a cpu", "cores": 4, "os": "x",
}  # fmt: skip
EMULATED = {"name": "pi4-emulated", "kind": "ssh", "emulated": True, "hardware": "emulated pi4"}
BOARD = {**LOCAL, **EMULATED, "clock": "instructions"}
PROCESS = {field.name for field in dataclasses.fields(Process)}
RUNS = tuple((10, 245_000 + 100 * i) for i in range(101))


@dataclass
class Tree:
    """A build folder. Keyword arguments of its methods replace fields of the manifest."""

    root: Path
    model: str = "toy"
    framework: str = "torch"
    labels: tuple[str, ...] = ("a", "b", "c", "d")
    truth: Any = field(init=False)
    logits: Any = field(init=False)

    def __post_init__(self) -> None:
        random = np.random.default_rng(0)
        self.truth = np.arange(SAMPLES) % len(self.labels)
        self.logits = random.normal(size=(SAMPLES, len(self.labels))).astype(np.float32)
        self.logits[np.arange(SAMPLES), self.truth] += 6

    @property
    def build(self) -> Store:
        return Store(self.root)

    @property
    def spec(self) -> ModelSpec:
        return ModelSpec(
            name=self.model,
            task="image_classification",
            inputs=(Tensor("image", (8, 8, 1), value_range=(0.0, 255.0)),),
            outputs=(Tensor("logits", (len(self.labels),)),),
            labels=self.labels,
            preprocessing=Preprocessing("L", 8, 8, (0.0,), (255.0,)),
            dataset="digits",
            training=Training(1, 32, 1e-3),
        )

    def checkpoint(self, **changes: Any) -> Checkpoint:
        folder = self.build.checkpoint(self.model, self.framework)
        digest = predictions(folder / "predictions.npz", output_0=self.logits, labels=self.truth)
        noun = Checkpoint(
            spec=self.spec,
            framework=self.framework,
            weights="model.safetensors",
            weights_sha256="w" * 64,
            origin="trained",
            facts={"epochs": 1, "seed": 0},
            data=None,
            dataset_sha256="d" * 64,
            samples=len(self.truth),
            accuracy=self.share_right(self.logits),
            predictions="predictions.npz",
            predictions_sha256=digest,
            key="k" * 64,
            tools={"torch": "2.13.0"},
        )
        noun = dataclasses.replace(noun, **changes)
        store.write(folder / "checkpoint.json", noun)
        return noun

    def artifact(self, recipe: str, target: str, size: int = 4096, **changes: Any) -> Artifact:
        folder = self.build.cell(self.model, self.framework, recipe, target)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.bin").write_bytes(bytes(size))
        checked = target != "coreml"
        noun = Artifact(
            model=self.model,
            framework=self.framework,
            recipe=recipe,
            target=target,
            file="model.bin",
            sha256=f"{recipe}-{target}",
            size_bytes=size,
            inputs=(Port("image", (1, 8, 8, 1), "float32", "NHWC"),),
            outputs=(Port("logits", (1, len(self.labels)), "float32"),),
            quantized_by="graph" if recipe == "int8" else None,
            calibration=None,
            parity=Parity("float model", SAMPLES, 90.0, 1.0, 1e-4, None, 1.0, 0.5) if checked else None,
            graph_parity=Parity("float model", SAMPLES, 31.5, 0.9996, 0.1, None, 0.98, 0.0)
            if recipe == "int8"
            else None,
            coverage=Coverage(1.0, 1.0, ()) if recipe.startswith("int8") else None,
            unchecked=None if checked else "not checked by Lastmile: Core ML runs on Apple systems only",
            notes=(),
            spec=self.spec,
            weights_sha256="w" * 64,
            seconds=1.0,
            key="k" * 64,
            tools={"torch": "2.13.0"},
        )
        noun = dataclasses.replace(noun, **changes)
        store.write(folder / "artifact.json", noun)
        return noun

    def measure(
        self, recipe: str, target: str, outputs: Any = None, device: dict[str, Any] | None = None, **changes: Any
    ) -> Measurement:
        """A measurement by five processes; fields of `Process` apply to each."""
        device = LOCAL if device is None else device
        outputs = self.logits if outputs is None else outputs
        folder = self.build.cell(self.model, self.framework, recipe, target) / device["name"]
        digest = predictions(folder / "predictions.npz", output_0=outputs)
        value = self.share_right(outputs)
        noun = Measurement(
            artifact_sha256=f"{recipe}-{target}",
            model=self.model,
            framework=self.framework,
            target=target,
            recipe=recipe,
            device=device,
            runtime={"name": "litert", "version": "2.3.0", "threads": 1, "delegate": "XNNPACK"},
            size_bytes=4096,
            processes=(process(**{name: changes.pop(name) for name in PROCESS & set(changes)}),) * 5,
            accuracy=Accuracy(
                "digits",
                "d" * 64,
                "test",
                len(self.truth),
                "top1",
                value,
                self.share_right(self.logits),
                "predictions.npz",
                digest,
            ),
            key="k" * 64,
            tools={"python": "3.11.2"},
        )
        noun = dataclasses.replace(noun, **changes)
        store.write(folder / "measurement.json", noun)
        return noun

    def fail(self, recipe: str, target: str, reason: str, status: str = "failed", device: str | None = None) -> Path:
        """Writes the failure of an export, or of a run on a device of devices.toml, under its current key."""
        folder = self.build.cell(self.model, self.framework, recipe, target)
        checkpoint = store.read(Checkpoint, self.build.checkpoint(self.model, self.framework) / "checkpoint.json")
        assert checkpoint is not None
        if device is None:
            key = keys.artifact(self.build, checkpoint, registry.load("recipes", recipe).RECIPE, target)
        else:
            artifact, bound = store.read(Artifact, folder / "artifact.json"), devices.find(device)
            runtime = bound.runtime(registry.bind("targets", target))
            assert artifact is not None and runtime is not None
            key = keys.run(self.build, checkpoint, artifact, bound, runtime)
        path = folder / (device or ".") / "failure.json"
        store.write(path, Failure(status, reason, "" if device else "export.log", key))
        return path

    def share_right(self, outputs: Any) -> float:
        return float((np.argmax(outputs, axis=1) == self.truth).mean())

    def wrong(self, count: int) -> Any:
        """The float model's outputs, with wrong predictions for the first `count` samples."""
        outputs = self.logits.copy()
        outputs[:count] = np.roll(outputs[:count], 1, axis=1)
        return outputs


def process(**changes: Any) -> Process:
    """One process of a measurement without warnings. Its single runs are those of its loops, with a clock of 50 ns."""
    runs = changes.get("runs", RUNS)
    noun = Process(
        started_at="2026-01-01T00:00:00Z",
        load_ns=3_000_000,
        first_run_ns=90_000,
        warmup=((10, 300_000),),
        runs=runs,
        single_runs=tuple(round(ns / loops) + 50 for loops, ns in runs if loops > 1),
        clock_ns=50,
        temperature_c=(None, None),
        frequency_hz=((), ()),
        throttled=None,
        load_average=(0.5, 0.9),
        peak_rss_bytes=50_000_000,
        rss_before_load_bytes=40_000_000,
    )
    return dataclasses.replace(noun, **changes)


def predictions(path: Path, **arrays: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)
    return store.sha256(path)
