"""Build folders that `inv ship` can make a bundle of, written manifest by manifest: no model is trained or exported."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.results.bundle import manifest
from pipeline.stages import push, ship
from pipeline.stages.plan import Names, Plan
from pipeline.stages.ship import Options, Shipped
from pipeline.system import store
from tests import plans
from tests.builds import LOCAL, Tree

BOARD = {**LOCAL, "name": "desk-board", "kind": "ssh", "hardware": "a board, serial 7"}
"""A device that is no host."""


def tree(root: Path, **changes: Any) -> Tree:
    """The float model of `tiny` with its evaluation split, and no exported file. `changes` are fields of Tree."""
    made = Tree(root, model="tiny", **changes)
    made.checkpoint()
    folder = root / "data" / f"digits-{'d' * 16}"
    folder.mkdir(parents=True)
    images = np.random.default_rng(1).integers(0, 256, (len(made.truth), 8, 8, 1), np.uint8)
    np.save(folder / "images.npy", images)
    np.save(folder / "labels.npy", made.truth)
    hashes = {name: store.sha256(folder / name) for name in ("images.npy", "labels.npy")}
    noun = push.Evaluation("images.npy", "labels.npy", hashes, "d" * 64, len(made.truth))
    store.write(folder / "evaluation.json", noun)
    return made


def cell(made: Tree, recipe: str, target: str, *devices: dict[str, Any], outputs: Any = None, **changes: Any) -> None:
    """An exported file, measured on these devices. `changes` are fields of Artifact."""
    content = changes.pop("content", f"{recipe} {target}".encode() * 64)
    made.artifact(recipe, target, len(content))
    path = made.build.cell(made.model, made.framework, recipe, target) / "model.bin"
    path.write_bytes(content)
    digest = store.sha256(path)
    made.artifact(recipe, target, len(content), **{"sha256": digest, **changes})
    path.write_bytes(content)  # `artifact` writes zeros
    for device in devices:
        made.measure(recipe, target, outputs, device, artifact_sha256=digest, size_bytes=len(content))


def usual(root: Path, **changes: Any) -> Tree:
    """Files of two recipes for three targets; Core ML's was run by nothing, the others by this machine."""
    made = tree(root, **changes)
    for recipe in ("fp32", "int8"):
        for target in ("tflite", "onnx"):
            cell(made, recipe, target, LOCAL)
        cell(made, recipe, "coreml")
    return made


def plan(targets: Names = "all", recipes: Names = "all", **more: Any) -> Plan:
    return plans.plan(targets, recipes, **more)


def made(tree: Tree, version: str = "1.0.0", *, key: Path | None = None, **more: Any) -> Shipped:
    """Ships a tree without packages; `more` are arguments of `plan`."""
    options = Options(version, key=key, every_recipe="recipes" not in more, every_target="targets" not in more)
    return ship.ship(tree.build, plan(**more), options)


def keys(folder: Path, curve: str = "prime256v1") -> tuple[Path, Path]:
    """A private and a public key, as openssl makes them."""
    folder.mkdir(parents=True, exist_ok=True)
    private, public = folder / "key.pem", folder / "pub.pem"
    openssl("ecparam", "-genkey", "-name", curve, "-noout", "-out", private)
    openssl("ec", "-in", private, "-pubout", "-out", public)
    return private, public


def openssl(*words: object) -> None:
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)


def rewrite(root: Path, change: Any) -> None:
    """Changes bundle.json as someone would who can compute its digest."""
    from dataclasses import replace

    from pipeline.results import bundle

    found = manifest(root)
    files = {
        name: replace(file, sha256=store.sha256(root / name), size_bytes=(root / name).stat().st_size)
        for name, file in found.files.items()
        if (root / name).is_file()
    }
    (root / bundle.MANIFEST).write_text(bundle.text(change(replace(found, files=files))))


def rewrite_raw(root: Path, change: Any) -> None:
    """As `rewrite`, on the JSON."""
    import json

    from pipeline.results import bundle

    value = json.loads((root / bundle.MANIFEST).read_text())
    change(value)
    text = json.dumps({**value, "digest": bundle.UNSET}, indent=1) + "\n"
    digest = bundle.digest(text.encode(), bundle.UNSET)
    (root / bundle.MANIFEST).write_text(text.replace(bundle.UNSET, digest, 1))
