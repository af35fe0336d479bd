"""What a bundle says about its origin: a CycloneDX 1.7 bill of materials, and SLSA v1 provenance.

Neither has a time or a place in it: the same inputs give the same bytes. Sources: cyclonedx.org/docs/1.7/json;
slsa.dev/spec/v1.0/provenance.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline import registry
from pipeline.core import Bundle, BundledCell, BundledFile
from pipeline.system import store

SBOM, PROVENANCE = "sbom.cdx.json", "provenance.intoto.json"
NO_LICENCE = "NOASSERTION"
NAMESPACE = uuid.UUID("c1b0a4c2-5a2e-4d0e-9d58-5d1f6a3f0b17")
"""Ours: the serial number of a bill is a hash of the bundle's key in it."""
BUILD_TYPE, BUILDER = "urn:lastmile:ship:v1", "urn:lastmile:inv"


def write(root: Path, bundle: Bundle, files: Mapping[str, BundledFile]) -> None:
    """Writes the bill of materials and, about it as well, the provenance.

    Args:
        bundle: without its files.
        files: the files that are in `root` so far.
    """
    _write(root / SBOM, bill(bundle, files))
    content = BundledFile(store.sha256(root / SBOM), (root / SBOM).stat().st_size)
    _write(root / PROVENANCE, provenance(bundle, {**files, SBOM: content}))


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def bill(bundle: Bundle, files: Mapping[str, BundledFile]) -> dict[str, Any]:
    """The CycloneDX ML-BOM: the model with its card, its files, its data and the tools that made the files."""
    model = f"{bundle.model}@{bundle.version}"
    components = [*(_file(cell, files) for cell in bundle.cells), _dataset(bundle), *_libraries(bundle)]
    licences = {} if bundle.licence == NO_LICENCE else {"licenses": [{"expression": bundle.licence}]}
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.7.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.7",
        "serialNumber": f"urn:uuid:{uuid.uuid5(NAMESPACE, bundle.key)}",
        "version": 1,
        "metadata": {
            "tools": {"components": [{"type": "application", "name": "lastmile", "version": _own_version()}]},
            "component": {
                "type": "machine-learning-model",
                "bom-ref": model,
                "name": bundle.model,
                "version": bundle.version,
                **licences,
                "hashes": [{"alg": "SHA-256", "content": bundle.weights_sha256}],
                "modelCard": _card(bundle),
            },
        },
        "components": components,
        "dependencies": [
            {"ref": model, "dependsOn": [one["bom-ref"] for one in components if one["type"] != "library"]},
            *(
                {"ref": one["bom-ref"], "dependsOn": [lib["bom-ref"] for lib in components if lib["type"] == "library"]}
                for one in components
                if one["type"] == "machine-learning-model"
            ),
        ],
    }


def _card(bundle: Bundle) -> dict[str, Any]:
    spec = bundle.spec
    metrics = [
        {"type": "accuracy", "value": repr(bundle.accuracy), "slice": "float model, test split"},
        *_measured(bundle),
    ]
    unrun = [
        f"{cell.recipe} on {cell.target}: {result.unchecked}"
        for cell in bundle.cells
        for result in cell.results
        if result.device is None
    ]
    return {
        "modelParameters": {
            "approach": {"type": "supervised"},
            "task": spec.task,
            "datasets": [{"ref": f"dataset:{spec.dataset}"}],
            "inputs": [{"format": f"{t.name} {t.dtype} {list(t.shape)}"} for t in spec.inputs],
            "outputs": [{"format": f"{t.name} {t.dtype} {list(t.shape)}"} for t in spec.outputs],
        },
        "quantitativeAnalysis": {"performanceMetrics": metrics},
        **({"considerations": {"technicalLimitations": unrun}} if unrun else {}),
    }


def _measured(bundle: Bundle) -> Iterator[dict[str, Any]]:
    """Accuracy of each file on each device, and its drop in points with the interval."""
    for cell in bundle.cells:
        for result in cell.results:
            if result.accuracy is None or result.drop_interval is None or result.drop_points is None:
                continue
            where = f"{cell.recipe} on {cell.target}, {result.device}, {result.samples} samples"
            low, high = map(repr, result.drop_interval)
            yield {"type": "accuracy", "value": repr(result.accuracy), "slice": where}
            yield {
                "type": "accuracy drop in points",
                "value": repr(result.drop_points),
                "slice": where,
                "confidenceInterval": {"lowerBound": low, "upperBound": high},
            }


def _file(cell: BundledCell, files: Mapping[str, BundledFile]) -> dict[str, Any]:
    """A model file; a folder's files are its components."""
    own = {name: file for name, file in files.items() if name == cell.file or name.startswith(f"{cell.file}/")}
    found = {
        "type": "machine-learning-model",
        "bom-ref": cell.file,
        "name": cell.file,
        "description": f"{cell.recipe} on {cell.target}",
    }
    if list(own) == [cell.file]:
        return {**found, "hashes": [{"alg": "SHA-256", "content": own[cell.file].sha256}]}
    parts = [
        {"type": "file", "name": name, "hashes": [{"alg": "SHA-256", "content": file.sha256}]}
        for name, file in own.items()
    ]
    return {**found, "components": parts}


def _dataset(bundle: Bundle) -> dict[str, Any]:
    return {
        "type": "data",
        "bom-ref": f"dataset:{bundle.spec.dataset}",
        "name": bundle.spec.dataset,
        "description": f"evaluation split, {bundle.samples} samples",
        "hashes": [{"alg": "SHA-256", "content": bundle.dataset_sha256}],
        "data": [{"type": "dataset", "name": bundle.spec.dataset}],
    }


def _libraries(bundle: Bundle) -> Iterator[dict[str, Any]]:
    """The Python packages that made the files."""
    for name, version in bundle.tools.items():
        if name != "python" and version != "none":
            yield {
                "type": "library", "bom-ref": _purl(name, version), "name": name, "version": version,
                "scope": "excluded", "purl": _purl(name, version),
            }  # fmt: skip


def _purl(name: str, version: str) -> str:
    return f"pkg:pypi/{name.lower().replace('_', '-')}@{version.replace('+', '%2B')}"


def _own_version() -> str:
    return registry.versions(("lastmile",))["lastmile"]


def provenance(bundle: Bundle, files: Mapping[str, BundledFile]) -> dict[str, Any]:
    """The in-toto statement: which files this build made, from which weights, data and tools."""
    materials = [
        {"name": f"weights of {bundle.model} ({bundle.framework})", "digest": {"sha256": bundle.weights_sha256}},
        {"name": f"evaluation split of {bundle.spec.dataset}", "digest": {"sha256": bundle.dataset_sha256}},
        *({"name": one["name"], "uri": one["purl"]} for one in _libraries(bundle)),
    ]
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": name, "digest": {"sha256": file.sha256}} for name, file in files.items()],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "model": bundle.model,
                    "version": bundle.version,
                    "framework": bundle.framework,
                    "licence": bundle.licence,
                    "files": [f"{cell.recipe} on {cell.target}" for cell in bundle.cells],
                    "packages": list(bundle.packages),
                },
                "resolvedDependencies": materials,
            },
            "runDetails": {
                "builder": {"id": BUILDER, "version": {"lastmile": _own_version()}},
                "metadata": {"invocationId": bundle.key},
            },
        },
    }
