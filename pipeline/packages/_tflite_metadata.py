"""Metadata inside .tflite files, in the format that Google's readers and MediaPipe take, and a model of type uint8.

A .tflite file is a flatbuffer: tables refer to tables that lie behind them. So new tables are written before the
file's own, and every byte of the file stays as it is. The labels follow as a ZIP archive, where readers expect them.
Source: tensorflow/lite/schema/metadata_schema.fbs of tflite-support.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipeline.core import Artifact, ModelSpec, Port
from pipeline.errors import Unsupported
from pipeline.packages import _labels
from pipeline.registry import extra

LABELS = "labels.txt"
NAME = "TFLITE_METADATA"
"""The name under which readers look for the metadata among those of a model."""

IDENTIFIER = b"M001"
PARSER = "1.0.0"
"""The oldest version of the metadata's format that has every field used here."""

ALIGNMENT = 16
"""Of the weights in a .tflite file."""

# Numbers of metadata_schema.fbs
RGB, GRAYSCALE = 1, 2
FEATURE_PROPERTIES, IMAGE_PROPERTIES = 1, 2
NORMALIZATION = 1
AXIS_LABELS = 2

SCALARS: Mapping[str, Mapping[int, str]] = {
    "Model": {0: "Uint32"},
    "SubGraph": {5: "Int32"},
    "Tensor": {1: "Int8", 2: "Uint32", 5: "Bool", 8: "Bool", 10: "Uint32"},
    "Operator": {0: "Uint32", 3: "Uint8", 6: "Int8", 9: "Uint64", 10: "Uint64", 13: "Int32"},
    "SignatureDef": {4: "Uint32"},
}
"""Fields of the model's tables that are no references, by their number in the schema."""

FIELDS = {"Model": 10, "SubGraph": 6, "Tensor": 11, "Operator": 14, "SignatureDef": 5}


def with_metadata(content: bytes, artifact: Artifact, version: str, licence: str) -> bytes:
    """The file with metadata: name, version, licence, and of each input and output what an app must know.

    Raises:
        Unsupported: the file has metadata already, or its weights lie outside the flatbuffer.
    """
    with extra("tflite"):
        from ai_edge_litert import schema_py_generated as schema
    model = schema.Model.GetRootAs(content, 0)
    _check(model)
    files = _Tables(content)
    graph = model.Subgraphs(0)
    described = _metadata(artifact, version, licence, (graph.InputsLength(), graph.OutputsLength()))
    data = files.data(described)
    buffers = [*files.old(model.Buffers, model.BuffersLength()), files.table({0: data})]
    named = files.table({0: files.text(NAME)}, {1: ("Uint32", len(buffers) - 1)})
    metadata = [*files.old(model.Metadata, model.MetadataLength()), named]
    root = files.copied("Model", model, {4: files.tables(buffers), 6: files.tables(metadata)})
    found = files.finished(root, b"TFL3")
    labels = _labels.lines(artifact.spec.labels)
    if labels is None or not any(_labels.belong(port, artifact.spec) for port in artifact.outputs):
        return found
    return found + _archive({LABELS: labels}, len(found))


def as_uint8(content: bytes) -> bytes | None:
    """The model with uint8 inputs and outputs where it has int8 ones: one QUANTIZE at each, which adds 128.

    Every output equals the model's, shifted by 128. None if the model has no int8 input or output with a scale.
    """
    with extra("tflite"):
        from ai_edge_litert import schema_py_generated as schema
    model = schema.Model.GetRootAs(content, 0)
    _check(model)
    graph = model.Subgraphs(0)
    int8, uint8 = schema.TensorType.INT8, schema.TensorType.UINT8
    ends = [*graph.InputsAsNumpy().tolist(), *graph.OutputsAsNumpy().tolist()]
    narrow = [index for index in dict.fromkeys(ends) if _type(graph.Tensors(index)) == int8]
    if not narrow:
        return None
    files = _Tables(content)
    tensors = files.old(graph.Tensors, graph.TensorsLength())
    new = {}
    for index in narrow:
        new[index] = len(tensors)
        tensors.append(_shifted(files, graph.Tensors(index), uint8))
    codes = files.old(model.OperatorCodes, model.OperatorCodesLength())
    quantize = schema.BuiltinOperator.QUANTIZE
    codes.append(files.table({}, {0: ("Int8", quantize), 2: ("Int32", 2), 3: ("Int32", quantize)}))

    def step(source: int, result: int) -> int:
        return files.table(
            {1: files.numbers([source]), 2: files.numbers([result])}, {0: ("Uint32", len(codes) - 1)}
        )  # fmt: skip

    inputs, outputs = graph.InputsAsNumpy().tolist(), graph.OutputsAsNumpy().tolist()
    before = [step(new[index], index) for index in inputs if index in new]
    after = [step(index, new[index]) for index in dict.fromkeys(outputs) if index in new]
    operators = [*before, *files.old(graph.Operators, graph.OperatorsLength()), *after]
    changes = {
        0: files.tables(tensors),
        1: files.numbers([new.get(index, index) for index in inputs]),
        2: files.numbers([new.get(index, index) for index in outputs]),
        3: files.tables(operators),
    }
    others = files.old(model.Subgraphs, model.SubgraphsLength())[1:]
    graphs = files.tables([files.copied("SubGraph", graph, changes), *others])
    signatures = [_signature(files, model.SignatureDefs(i), new) for i in range(model.SignatureDefsLength())]
    roots = {1: files.tables(codes), 2: graphs, **({7: files.tables(signatures)} if signatures else {})}
    return files.finished(files.copied("Model", model, roots), b"TFL3")


def _check(model: Any) -> None:
    outside = [i for i in range(model.BuffersLength()) if model.Buffers(i).Offset() > 1]
    if outside or model.ExternalBuffersLength():
        raise Unsupported("the .tflite file has weights outside its flatbuffer, as files above 2 GB do: no metadata")
    if any(model.Metadata(i).Name() == NAME.encode() for i in range(model.MetadataLength())):
        raise Unsupported(f"the .tflite file has {NAME} already")


def _type(tensor: Any) -> int | None:
    """The type of a quantized tensor; None for one that has not exactly one scale."""
    quantization = tensor.Quantization()
    return int(tensor.Type()) if quantization is not None and quantization.ScaleLength() == 1 else None


def _shifted(files: _Tables, tensor: Any, uint8: int) -> int:
    """A tensor like an int8 one in uint8: the same real values."""
    quantization = tensor.Quantization()
    (scale,), (zero_point,) = quantization.ScaleAsNumpy().tolist(), quantization.ZeroPointAsNumpy().tolist()
    scales, zeros = files.numbers([scale], "Float32"), files.numbers([zero_point + 128], "Int64")
    name = (tensor.Name() or b"").decode()
    changes = {3: files.text(f"{name}_uint8"), 4: files.table({2: scales, 3: zeros})}
    return files.copied("Tensor", tensor, changes, {1: ("Int8", uint8), 2: ("Uint32", 0)})


def _signature(files: _Tables, signature: Any, new: Mapping[int, int]) -> int:
    """A signature with the new tensors; those of other subgraphs stay."""
    if signature.SubgraphIndex() != 0:
        return files.place(signature)

    def maps(get: Callable[[int], Any], count: int) -> int:
        found = []
        for i in range(count):
            each = get(i)
            index = each.TensorIndex()
            name = files.text((each.Name() or b"").decode())
            found.append(files.table({0: name}, {1: ("Uint32", new.get(index, index))}))
        return files.tables(found)

    changes = {
        0: maps(signature.Inputs, signature.InputsLength()),
        1: maps(signature.Outputs, signature.OutputsLength()),
    }
    return files.copied("SignatureDef", signature, changes)


# -- the metadata ------------------------------------------------------------------------------------------------------


def _metadata(artifact: Artifact, version: str, licence: str, counts: tuple[int, int]) -> bytes:
    """A flatbuffer of the type ModelMetadata."""
    spec = artifact.spec
    if counts != (len(artifact.inputs), len(artifact.outputs)):
        raise Unsupported(f"the .tflite file has {counts[0]} inputs and {counts[1]} outputs, unlike its manifest")
    files = _Tables(b"")
    inputs = files.tables([_input(files, port, spec) for port in artifact.inputs])
    outputs = files.tables([_scores(files, port, spec) for port in artifact.outputs])
    graph = files.table({0: files.text(artifact.model), 2: inputs, 3: outputs})
    description = (
        f"{spec.task}: {artifact.model} {version}, recipe {artifact.recipe}, weights {artifact.weights_sha256}"
    )
    root = files.table(
        {
            0: files.text(artifact.model),
            1: files.text(description),
            2: files.text(version),
            3: files.tables([graph]),
            5: files.text(licence),
            7: files.text(PARSER),
        }
    )
    return files.finished(root, IDENTIFIER)


def _input(files: _Tables, port: Port, spec: ModelSpec) -> int:
    """An input. The graph normalises images: it takes pixels, so readers are told to subtract 0 and divide by 1."""
    preprocessing = spec.image
    tensor = next(each for each in spec.inputs if each.name == port.name)
    if preprocessing is None:
        feature = files.table({1: files.table({})}, {0: ("Uint8", FEATURE_PROPERTIES)})
        return files.table({0: files.text(port.name), 3: feature})
    height, width, channels = tensor.shape
    size = files.table({}, {0: ("Uint32", width), 1: ("Uint32", height)})
    color = RGB if preprocessing.color == "RGB" else GRAYSCALE
    image = files.table({1: size}, {0: ("Int8", color)})
    content = files.table({1: image}, {0: ("Uint8", IMAGE_PROPERTIES)})
    plain = {0: files.numbers([0.0] * channels, "Float32"), 1: files.numbers([1.0] * channels, "Float32")}
    unit = files.table({1: files.table(plain)}, {0: ("Uint8", NORMALIZATION)})
    text = (
        f"pixels from 0 to 255; the shorter side scaled to {preprocessing.resize}, then the central "
        f"{preprocessing.crop} pixels; the model subtracts {list(preprocessing.mean)} and divides by "
        f"{list(preprocessing.std)}"
    )
    return files.table(
        {
            0: files.text(port.name),
            1: files.text(text),
            3: content,
            4: files.tables([unit]),
            5: _stats(files, [0.0] * channels, [255.0] * channels),
        }
    )


def _scores(files: _Tables, port: Port, spec: ModelSpec) -> int:
    """An output, with the labels if it has a score for each."""
    feature = files.table({})
    content = files.table({1: feature}, {0: ("Uint8", FEATURE_PROPERTIES)})
    fields = {0: files.text(port.name), 3: content}
    if _labels.belong(port, spec):
        fields[1] = files.text("one score for each label")
        names = {0: files.text(LABELS), 1: files.text("the labels, in the order of the scores")}
        fields[6] = files.tables([files.table(names, {2: ("Int8", AXIS_LABELS)})])
    return files.table(fields)


def _stats(files: _Tables, least: Sequence[float], most: Sequence[float]) -> int:
    return files.table({0: files.numbers(most, "Float32"), 1: files.numbers(least, "Float32")})


def _archive(entries: Mapping[str, str], start: int) -> bytes:
    """A ZIP archive that lies behind `start` bytes of a file, not compressed, with a fixed date."""
    file = io.BytesIO()
    file.write(bytes(start))
    with zipfile.ZipFile(file, "a", zipfile.ZIP_STORED) as archive:
        for name, text in entries.items():
            archive.writestr(zipfile.ZipInfo(name), text.encode())
    return file.getvalue()[start:]


# -- flatbuffers -------------------------------------------------------------------------------------------------------


class _Tables:
    """Writes tables of a flatbuffer before the content of another one, which the new tables may refer to."""

    def __init__(self, content: bytes) -> None:
        import flatbuffers  # type: ignore[import-untyped]

        self._size = len(content) + -len(content) % ALIGNMENT
        self._builder = builder = flatbuffers.Builder(self._size + 4096)
        builder.head = len(builder.Bytes) - self._size
        builder.Bytes[builder.head : builder.head + len(content)] = content
        builder.minalign = ALIGNMENT

    def place(self, table: Any) -> int:
        """An existing table, for new ones to refer to."""
        return self._size - int(table._tab.Pos)

    def old(self, get: Callable[[int], Any], count: int) -> list[int]:
        """The existing tables of a vector."""
        return [self.place(get(i)) for i in range(count)]

    def text(self, text: str) -> int:
        return int(self._builder.CreateString(text))

    def data(self, content: bytes) -> int:
        """A vector of bytes that is aligned as weights are."""
        self._builder.StartVector(1, len(content), ALIGNMENT)
        self._builder.head -= len(content)
        self._builder.Bytes[self._builder.head : self._builder.head + len(content)] = content
        return int(self._builder.EndVector())

    def tables(self, offsets: Sequence[int]) -> int:
        """A vector of tables."""
        self._builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            self._builder.PrependUOffsetTRelative(offset)
        return int(self._builder.EndVector())

    def numbers(self, values: Sequence[float], kind: str = "Int32") -> int:
        """A vector of numbers."""
        size = 8 if kind.endswith("64") else 4
        self._builder.StartVector(size, len(values), size)
        for value in reversed(values):
            getattr(self._builder, f"Prepend{kind}")(value)
        return int(self._builder.EndVector())

    def table(self, references: Mapping[int, int], scalars: Mapping[int, tuple[str, Any]] | None = None) -> int:
        """A table. Args: references, scalars: by the field's number in the schema."""
        scalars = scalars or {}
        self._builder.StartObject(max([-1, *references, *scalars]) + 1)
        for field, offset in references.items():
            self._builder.PrependUOffsetTRelativeSlot(field, offset, 0)
        for field, (kind, value) in scalars.items():
            getattr(self._builder, f"Prepend{kind}Slot")(field, value, None)  # None: written even if it is the default
        return int(self._builder.EndObject())

    def copied(
        self,
        kind: str,
        table: Any,
        references: Mapping[int, int],
        scalars: Mapping[int, tuple[str, Any]] | None = None,
    ) -> int:
        """A copy of an existing table with some fields replaced; what it refers to is not copied."""
        from flatbuffers import number_types

        tab, same, kept = table._tab, dict[int, int](), dict[int, tuple[str, Any]]()
        vtable = tab.Pos - tab.Get(number_types.SOffsetTFlags, tab.Pos)
        fields = (tab.Get(number_types.VOffsetTFlags, vtable) - 4) // 2
        if fields > FIELDS[kind]:
            raise Unsupported(f"the .tflite file has a {kind} of a newer schema: no metadata")
        for field in range(fields):
            offset = tab.Offset(4 + 2 * field)
            if offset == 0:
                continue
            position = tab.Pos + offset
            if field in SCALARS[kind]:
                name = SCALARS[kind][field]
                kept[field] = (name, tab.Get(getattr(number_types, f"{name}Flags"), position))
            else:
                same[field] = self._size - int(tab.Indirect(position))
        return self.table({**same, **references}, {**kept, **(scalars or {})})

    def finished(self, root: int, identifier: bytes) -> bytes:
        self._builder.Finish(root, identifier)
        return bytes(self._builder.Output())
