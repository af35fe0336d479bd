"""Makes the JSON Schema of bundle.json from the nouns: `python -m tests.bundle_schema` writes it into docs/."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.core import SCHEMA, Bundle

FILE = Path(__file__).parents[1] / "docs" / "bundle.schema.json"
PLAIN = {str: "string", int: "integer", float: "number", bool: "boolean"}


def schema() -> dict[str, Any]:
    """The schema, with one definition for each noun."""
    definitions: dict[str, Any] = {}
    top = _noun(Bundle, definitions)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "bundle.schema.json",
        "title": "bundle.json",
        **top,
        "$defs": dict(sorted(definitions.items())),
    }


def _noun(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    hints, about = typing.get_type_hints(kind), _described(kind)
    properties, required = {}, []
    for field in dataclasses.fields(kind):
        found = {"const": SCHEMA} if field.name == "schema" else _type(hints[field.name], definitions)
        properties[field.name] = {**found, **({"description": about[field.name]} if field.name in about else {})}
        required.append(field.name)
    summary = " ".join((inspect.getdoc(kind) or "").split("\n\n")[0].split())
    return {
        "description": summary,
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def _type(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return {}
    if dataclasses.is_dataclass(kind):
        name = typing.cast(type, kind).__name__
        if name not in definitions:
            definitions[name] = {}
            definitions[name] = _noun(kind, definitions)
        return {"$ref": f"#/$defs/{name}"}
    if origin is types.UnionType:
        return {"anyOf": [_type(arg, definitions) for arg in args]}
    if kind is types.NoneType:
        return {"type": "null"}
    if origin is tuple and args[-1] is Ellipsis:
        return {"type": "array", "items": _type(args[0], definitions)}
    if origin is tuple:
        return {
            "type": "array", "prefixItems": [_type(arg, definitions) for arg in args],
            "minItems": len(args), "maxItems": len(args),
        }  # fmt: skip
    if origin is Mapping:
        return {"type": "object", "additionalProperties": _type(args[1], definitions)}
    return {"type": PLAIN[kind]}


def _described(kind: Any) -> dict[str, str]:
    """What a docstring says about each attribute; "a, b: text" is about both."""
    _, _, text = (inspect.getdoc(kind) or "").partition("Attributes:\n")
    found = {}
    for names, about in re.findall(r"^    ([\w, ]+): (.*(?:\n {8,}.*)*)", text, re.MULTILINE):
        for name in names.split(", "):
            found[name] = " ".join(about.split())
    return found


if __name__ == "__main__":
    FILE.write_text(json.dumps(schema(), indent=1) + "\n")
