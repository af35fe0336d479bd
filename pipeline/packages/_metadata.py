"""Metadata inside shipped model files: name, version, licence, labels, and how to make the input.

A file in build/ stays as it was measured. The file in a bundle has metadata added to it, so its sha256 differs; every
byte of the measured file is in it, and the model is the same. Formats without a place for metadata are copied.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from pipeline.core import Artifact, to_json
from pipeline.packages import _tflite_metadata
from pipeline.system import store

UINT8 = ".uint8"
"""model.uint8.tflite: model.tflite with uint8 in place of int8 inputs and outputs."""

FORMATS = {".tflite": "tflite", ".onnx": "onnx", ".mlpackage": "coreml"}
"""The files that metadata is added to, and their targets. What another target writes under such a name may be read
otherwise, and is copied."""

PROGRAM = Path("Data", "com.apple.CoreML", "model.mlmodel")
"""The model inside a .mlpackage folder."""

# Numbers of protobuf fields. Sources: onnx.proto; Model.proto and FeatureTypes.proto of Core ML
METADATA_PROPS, KEY, VALUE = 14, 1, 2
DESCRIPTION, METADATA = 2, 100
SHORT_DESCRIPTION, VERSION_STRING, LICENSE, USER_DEFINED = 1, 2, 4, 100


def write(source: Path, artifact: Artifact, version: str, licence: str, folder: Path) -> Artifact:
    """Writes a model file with metadata into `folder`, and beside an int8 .tflite file the same model with uint8.

    Args:
        source: the measured file, or the folder of a .mlpackage.
        version: the bundle's.
        licence: an SPDX expression.

    Returns:
        The manifest with sha256 and size of the written file.

    Raises:
        Unsupported: the file has metadata of that kind already.
    """
    out = folder / source.name
    suffix = source.suffix if FORMATS.get(source.suffix) == artifact.target else None
    if suffix == ".tflite":
        content = source.read_bytes()
        out.write_bytes(_tflite_metadata.with_metadata(content, artifact, version, licence))
        uint8 = _tflite_metadata.as_uint8(content)
        if uint8 is not None:
            described = _tflite_metadata.with_metadata(uint8, artifact, version, licence)
            out.with_name(f"{out.stem}{UINT8}{out.suffix}").write_bytes(described)
    elif suffix == ".onnx":
        out.write_bytes(source.read_bytes() + _onnx(about(artifact, version, licence)))
    elif suffix == ".mlpackage":
        shutil.copytree(source, out)
        with (out / PROGRAM).open("ab") as file:
            file.write(_coreml(about(artifact, version, licence)))
    elif source.is_dir():
        shutil.copytree(source, out)
    else:
        shutil.copyfile(source, out)
    return replace(artifact, sha256=store.sha256(out), size_bytes=store.size(out))


def about(artifact: Artifact, version: str, licence: str) -> dict[str, str]:
    """The metadata of ONNX and Core ML files. `labels`, `preprocessing` and `inputs` are JSON; `model_license` is the
    name in ONNX's own list of keys."""
    spec = artifact.spec
    return {
        "model": artifact.model,
        "version": version,
        "model_license": licence,
        "task": spec.task,
        "labels": json.dumps(list(spec.labels), ensure_ascii=False),
        "inputs": json.dumps(to_json(spec.inputs)),
        "preprocessing": json.dumps(to_json(spec.preprocessing)),
        "recipe": artifact.recipe,
        "framework": artifact.framework,
        "weights_sha256": artifact.weights_sha256,
    }


# A protobuf message that is written twice is merged: repeated fields are joined, and fields of sub-messages added. So
# what is appended to a file is added to its message.


def _onnx(entries: Mapping[str, str]) -> bytes:
    return b"".join(_field(METADATA_PROPS, _entry(key, value)) for key, value in entries.items())


def _coreml(entries: Mapping[str, str]) -> bytes:
    own = [
        _field(SHORT_DESCRIPTION, f"{entries['model']}: {entries['task']}, recipe {entries['recipe']}".encode()),
        _field(VERSION_STRING, entries["version"].encode()),
        _field(LICENSE, entries["model_license"].encode()),
        *(_field(USER_DEFINED, _entry(f"org.lastmile.{key}", value)) for key, value in entries.items()),
    ]
    return _field(DESCRIPTION, _field(METADATA, b"".join(own)))


def _entry(key: str, value: str) -> bytes:
    return _field(KEY, key.encode()) + _field(VALUE, value.encode())


def _field(number: int, content: bytes) -> bytes:
    """A field of protobuf's wire type 2: its number, its length and its content."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])
