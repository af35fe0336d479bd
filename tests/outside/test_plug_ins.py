"""The package in docs/plug-ins.md, which has one plug-in of each kind, goes through the whole flow."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import registry
from pipeline.core import Artifact, Checkpoint, Measurement, from_json
from tests.cli import ROOT, Done, inv
from tests.outside.making import distribution
from tests.plans import TINY

PAGE = ROOT / "docs" / "plug-ins.md"
EXPORT = ("--target", "acme,onnx", "--recipe", "fp32,int8_64")


def blocks() -> dict[str, str]:
    """The files on the page: fenced blocks whose first line is a comment with a path."""
    found = re.findall(r"^```\w+\n# (\S+)\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    return dict(found)


def install(folder: Path, files: Mapping[str, str]) -> Path:
    """Installs the package on the page into a folder, according to its pyproject.toml."""
    project = tomllib.loads(files["pyproject.toml"])["project"]
    modules = {path: text for path, text in files.items() if path.endswith(".py")}
    return distribution(
        folder, project["name"], project["entry-points"], {"acme/__init__.py": "", **modules}, project["version"],
        project["dependencies"],
    )  # fmt: skip


@dataclass(frozen=True)
class Shop:
    """The installed package and a build folder made with it.

    Attributes:
        model: a model folder that uses the package's dataset.
    """

    root: Path
    model: Path

    def inv(self, *args: object) -> Done:
        path = os.pathsep.join([str(self.root / "site"), *filter(None, [os.environ.get("PYTHONPATH")])])
        devices = str(self.root / "devices.toml")
        return inv(self.root / "build", *args, PYTHONPATH=path, LASTMILE_DEVICES=devices)

    def edge_bench(self, *args: object) -> Done:
        path = os.pathsep.join([str(self.root / "site"), *filter(None, [os.environ.get("PYTHONPATH")])])
        command = [sys.executable, "-m", "edge_bench", *map(str, args)]
        done = subprocess.run(
            command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def export(self) -> Done:
        return self.inv("export", "--model", self.model, *EXPORT)

    def bench(self) -> Done:
        args = ("--device", "core0", "--processes", "1", "--min-runs", "5", "--min-seconds", "0")
        return self.inv("bench", "--model", self.model, *EXPORT, *args)

    def read(self, noun: type, path: str) -> Any:
        return from_json(noun, json.loads((self.root / "build" / path).read_text()))


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """A shop with everything exported and measured."""
    root = tmp_path_factory.mktemp("shop")
    files = blocks()
    install(root / "site", files)
    (root / "devices.toml").write_text(files["devices.toml"])
    shutil.copytree(TINY, root / "striped", ignore=shutil.ignore_patterns("__pycache__"))
    spec = root / "striped" / "__init__.py"
    changes = {
        'name="tiny"': 'name="striped"',
        'dataset="digits"': 'dataset="stripes"',
        "(10,)": "(2,)",
        'tuple("0123456789")': '("horizontal", "vertical")',
        "epochs=2, batch_size=64": "epochs=8, batch_size=32",
    }
    for old, new in changes.items():
        assert old in spec.read_text()
        spec.write_text(spec.read_text().replace(old, new))
    shop = Shop(root, root / "striped")
    assert len(shop.export().lines) == 4
    assert shop.bench().code == 0
    return shop


def test_the_package_has_one_plug_in_of_each_kind(shop: Shop) -> None:
    groups = tomllib.loads(blocks()["pyproject.toml"])["project"]["entry-points"]
    assert {group.rpartition(".")[2] for group in groups} == {"recipes", "targets", "datasets", "devices", "runtimes"}


def test_the_listings_include_its_plug_ins(shop: Shop) -> None:
    recipes = [line.split()[0] for line in shop.inv("recipes").lines[1:]]
    assert recipes == sorted([*registry.names("recipes"), "int8_64"])
    targets = shop.inv("targets").out
    assert [line.split()[1] for line in targets.splitlines() if line.startswith("acme")] == [".acme"]
    assert "Acme's processor has no float16" in targets
    (device,) = [line for line in shop.inv("devices").lines if "core0" in line]
    assert device.startswith("ok ") and "pinned" in device and "this machine, core 0 alone" in device
    assert "runtime acme" in shop.inv("doctor").out


def test_its_dataset_trains_and_evaluates_a_model(shop: Shop) -> None:
    checkpoint = shop.read(Checkpoint, "striped.torch/checkpoint/checkpoint.json")
    assert (checkpoint.spec.dataset, checkpoint.samples) == ("stripes", 128)
    assert checkpoint.accuracy > 0.9


def test_its_recipe_and_target_export_files_with_the_models_outputs(shop: Shop) -> None:
    for target in ("acme", "onnx"):
        artifact = shop.read(Artifact, f"striped.torch/int8_64/{target}/artifact.json")
        assert (artifact.quantized_by, artifact.calibration.samples) == ("graph", 64)
        assert artifact.parity.against == "quantized graph"
        assert artifact.parity.max_steps <= 1
    artifact = shop.read(Artifact, "striped.torch/fp32/acme/artifact.json")
    assert artifact.parity.snr_db > 100
    assert artifact.tools["acme-lastmile"] == "1.0"
    folder = shop.root / "build" / "striped.torch" / "fp32"
    assert (folder / "acme/model.acme").read_bytes() == b"ACME" + (folder / "onnx/model.onnx").read_bytes()


def test_its_device_kind_measures_with_its_runtime(shop: Shop) -> None:
    for target, runtime in (("acme", "acme"), ("onnx", "onnxruntime")):
        for recipe in ("fp32", "int8_64"):
            home = f"striped.torch/{recipe}/{target}/core0"
            measured = shop.read(Measurement, f"{home}/measurement.json")
            assert (measured.device["kind"], measured.runtime["name"]) == ("pinned", runtime)
            assert (len(measured.processes[0].runs) >= 5, measured.accuracy.samples) == (True, 128)
            assert measured.accuracy.value > 0.9
            with np.load(shop.root / "build" / home / "predictions.npz") as kept:
                assert kept["output_0"].shape == (128, 2)


def test_results_include_its_cells(shop: Shop) -> None:
    cells = shop.inv("results", "--json").json
    made = {(cell["target"], cell["recipe"]) for cell in cells if cell["device"] == "core0" and cell["status"] == "ok"}
    assert made == {(target, recipe) for target in ("acme", "onnx") for recipe in ("fp32", "int8_64")}


@pytest.fixture
def copied(shop: Shop, tmp_path: Path) -> Shop:
    """A copy of the shop that a test may change, without bytecode, which belongs to the original's sources."""
    shutil.copytree(shop.root, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    return Shop(tmp_path, shop.model)


def test_a_change_of_the_package_makes_only_its_files_out_of_date(copied: Shop) -> None:
    assert "exporting" not in copied.export().err
    target = copied.root / "site" / "acme" / "target.py"
    target.write_text(target.read_text() + "\n# changed\n")
    assert "exporting 2 files for acme\n" in copied.export().err


def test_a_broken_plug_in_is_listed_with_the_reason_and_others_work(copied: Shop) -> None:
    (copied.root / "site" / "acme" / "target.py").write_text("import acme.no_such_part\n")
    package = "acme-lastmile 1.0"
    (listed,) = [line for line in copied.inv("targets").lines if "acme" in line]
    assert package in listed and "no_such_part" in listed
    complaint = copied.inv("export", "--model", copied.model, "--target", "acme").only
    assert package in complaint and "ModuleNotFoundError" in complaint
    cells = copied.inv("results", "--json").json
    assert {cell["status"] for cell in cells if cell["target"] == "onnx" and cell["device"] == "core0"} == {"ok"}
    shown = [cell for cell in cells if cell["target"] == "acme"]
    assert {cell["recipe"] for cell in shown} == {"fp32", "int8_64"}
    assert all(cell["status"] == "failed" and package in cell["reason"] for cell in shown)


def test_a_broken_runtime_is_listed_with_the_reason_and_others_work(copied: Shop) -> None:
    (copied.root / "site" / "acme" / "runtime.py").write_text("SUFFIX = '.acme'\n")
    (failed,) = [line for line in copied.inv("doctor").out.splitlines() if "runtime acme" in line]
    assert failed.startswith("failed")
    assert "acme-lastmile 1.0" in failed and "DEFAULT, IMPORT" in failed and "load()" in failed
    files = copied.root / "build" / "striped.torch" / "fp32"
    quick = ("--min-runs", 1, "--min-seconds", 0)
    refused = copied.edge_bench("run", files / "acme" / "model.acme", "--runtime", "acme", *quick)
    assert refused.code == 2 and "acme-lastmile 1.0" in refused.err and len(refused.err.splitlines()) == 1
    assert copied.edge_bench("run", files / "onnx" / "model.onnx", *quick).json["runtime"]["name"] == "onnxruntime"


def test_a_name_that_two_packages_offer_is_one_clear_error(copied: Shop) -> None:
    points = {"lastmile.targets": {"acme": "bolt"}, "edge_bench.runtimes": {"onnxruntime": "bolt"}}
    distribution(copied.root / "site", "bolt-lastmile", points, {"bolt.py": ""}, version="2.0")
    complaint = copied.inv("targets").only
    assert "'acme'" in complaint and "acme-lastmile 1.0" in complaint and "bolt-lastmile 2.0" in complaint
    (failed,) = [line for line in copied.inv("doctor").out.splitlines() if "onnxruntime" in line and "bolt" in line]
    assert "edge-bench" in failed and "pip uninstall bolt-lastmile" in failed
