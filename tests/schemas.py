"""The JSON Schemas of the device protocol: edge-bench/schemas/, one for each command of edge-bench."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from referencing import Registry, Resource

FOLDER = Path(__file__).parents[1] / "edge-bench" / "schemas"
SCHEMAS: dict[str, Any] = {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}
REGISTRY: Any = Registry().with_resources(
    [(f"{name}.json", Resource.from_contents(schema)) for name, schema in SCHEMAS.items()]
)


def wrong(name: str, answer: Any) -> list[str]:
    """What does not fit the schema, by place: "device.cores: …"."""
    found = Draft202012Validator(SCHEMAS[name], registry=REGISTRY).iter_errors(answer)
    return sorted(f"{'.'.join(map(str, error.path))}: {error.message[:200]}" for error in found)
