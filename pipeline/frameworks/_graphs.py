"""Graphs: torch.export programs on disk, static int8 by pt2e: what every framework's models become for the targets."""

from __future__ import annotations

import copy
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torchao.quantization.pt2e.quantize_pt2e as pt2e  # also registers quantized_decomposed, which saved graphs need

from pipeline.core import ModelSpec
from pipeline.errors import BadModel, first_line
from pipeline.frameworks import _int8_constants
from pipeline.registry import extra

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FLOAT, FOLDED, UNFOLDED = "float.pt2", "quantized.pt2", "unfolded.pt2"
"""Files in a graphs folder. A quantized graph exists twice: its weights stored as int8, for everybody; and as float
weights that the graph quantizes, for litert-torch."""


def exported(net: torch.nn.Module, spec: ModelSpec) -> Any:
    """A Deployable as one torch.export program with a free batch size, which serves every target.

    Raises:
        BadModel: torch.export cannot follow the model's code.
    """
    height, width, channels = spec.inputs[0].shape
    # Random, not zeros: some networks' data-dependent checks look at values. Two, because 1 would be taken as fixed.
    images = torch.rand(2, channels, height, width) * 255
    try:
        return torch.export.export(net, (images,), dynamic_shapes=({0: torch.export.Dim.AUTO},))
    except Exception as error:  # torch.export raises what the model's code raises
        raise BadModel(f"{spec.name} cannot be exported: {first_line(error)}") from error


def quantize(captured: Path, value_range: tuple[float, float], images: NDArray[np.uint8], folder: Path) -> None:
    """See `Framework.quantize`: pt2e with litert-torch's quantizer, whose graph all four targets can lower."""
    with extra("tflite"):
        from litert_torch.quantize.pt2e_quantizer import PT2EQuantizer, get_symmetric_quantization_config

    quantizer = PT2EQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    prepared = pt2e.prepare_pt2e(load(captured / FLOAT).module(), quantizer)
    with torch.no_grad():
        for start in range(0, len(images), 32):
            prepared(_nchw(torch.from_numpy(images[start : start + 32])))
    _int8_constants.pin_input_ranges(prepared, value_range)
    folder.mkdir(parents=True, exist_ok=True)
    one = _nchw(torch.from_numpy(images[:2]))
    for name, fold in ((FOLDED, True), (UNFOLDED, False)):
        converted = pt2e.convert_pt2e(copy.deepcopy(prepared), fold_quantize=fold)
        _int8_constants.round_constants(converted)
        graph = torch.export.export(converted, (one,), dynamic_shapes=({0: torch.export.Dim.AUTO},))
        save(graph, folder / name)


def evaluate(folder: Path, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """See `Framework.evaluate`."""
    import numpy as np

    module = load(_graph_file(folder)).module()
    with torch.no_grad():
        batches = [torch.from_numpy(images[start : start + 64]) for start in range(0, len(images), 64)]
        return np.concatenate([module(_nchw(batch)).numpy() for batch in batches])


def step(folder: Path) -> float | None:
    """See `Framework.step`: the scale of the last dequantize."""
    program = load(_graph_file(folder))
    (output,) = program.graph.output_node().args[0]
    if "dequantize_per_tensor" not in str(output.target):
        return None
    return float(output.args[1])


def program(captured: Path, quantized: Path | None, name: str) -> Any:
    """One of the programs of a `Source`, with a batch of one; None where these folders hold none of that name."""
    places = {"program": captured / FLOAT}
    if quantized is not None:
        places |= {"quantized": quantized / FOLDED, "unfolded": quantized / UNFOLDED}
    return _with_batch_of_one(places[name]) if name in places else None


def save(program: Any, path: Path) -> None:
    """Saves a program; through memory, because torch's own writer ends the process when the disk is full."""
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    path.write_bytes(buffer.getbuffer())


def load(path: Path) -> Any:
    """A saved program."""
    return torch.export.load(path)


def _graph_file(folder: Path) -> Path:
    return folder / FOLDED if (folder / FOLDED).is_file() else folder / FLOAT


def _with_batch_of_one(path: Path) -> Any:
    """The program in `path` with its free batch size fixed at 1, which is what runs on devices."""
    program = load(path)
    (image,) = program.example_inputs[0]
    return torch.export.export(program.module(), (image[:1].clone(),))


def _nchw(images: torch.Tensor) -> torch.Tensor:
    """uint8 (N, height, width, channels) as float32 (N, channels, height, width).

    A clone, because .contiguous() keeps the strides of a single channel as they are, and a graph traced with those
    fails in ExecuTorch and Core ML.
    """
    return images.permute(0, 3, 1, 2).float().clone(memory_format=torch.contiguous_format)
