"""Makes the small real models for the tests of edge-bench, with the real converters. Run as a script.

Usage: make_models.py [--only-executorch] FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

SAMPLES, SIDE = 20, 8


class Net(nn.Module):
    """(1, 3, 8, 8) → scores (1, 5) and a mean (1, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.last = nn.Linear(16 * 4 * 4, 5)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.relu(self.second(torch.relu(self.first(x / 255))))
        x = x.flatten(1)
        return self.last(x), x.mean(1, keepdim=True)


class Overwrites(nn.Module):
    """A chain of operators outside any backend, so that the planner reuses the input's memory."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cumsum(torch.cumsum(torch.cumsum(x, 1), 2), 3)


class Quantizes(nn.Module):
    """Quantization as operators of the graph, outside any backend."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        ops = torch.ops.quantized_decomposed
        q = ops.quantize_per_tensor(x, 2.0, 3, -128, 127, torch.int8)
        return ops.dequantize_per_tensor(q, 2.0, 3, -128, 127, torch.int8)


class Looks(nn.Module):
    """An embedding: takes indices, (1, 4) int64."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.table(x)


class OverwritesIndices(nn.Module):
    """As Overwrites, for indices, (1, 4) int32: what is left of them is out of range."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.table(x)
        for _ in range(3):
            found = torch.cumsum(found, 1) + 100.0
        return found


class Adds(nn.Module):
    """Takes two inputs."""

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x + y


def to_onnx(module: nn.Module, inputs: tuple[torch.Tensor, ...], path: Path, split: bool = False) -> None:
    torch.onnx.export(module.eval(), inputs, str(path), dynamo=True, verbose=False, external_data=split)


def to_pte(module: nn.Module, x: torch.Tensor, path: Path) -> None:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    exported = torch.export.export(module.eval(), (x,))
    program = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()]).to_executorch()
    path.write_bytes(program.buffer)


def to_tflite(module: nn.Module, x: torch.Tensor, path: Path) -> None:
    import litert_torch

    channels_last = litert_torch.to_channel_last_io(module.eval(), args=[0])
    litert_torch.convert(channels_last, (x.permute(0, 2, 3, 1).contiguous(),)).export(str(path))


def to_int8(path: Path, samples: np.ndarray, out: Path) -> None:
    """Quantizes to int8 inputs and outputs. The quantizer averages the samples' ranges, so give it the widest."""
    from ai_edge_quantizer import quantizer, recipe

    maker = quantizer.Quantizer(str(path), recipe.static_wi8_ai8())
    name = next(iter(input_names(path)))
    calibration = maker.calibrate({"serving_default": [{name: sample[np.newaxis]} for sample in samples]})
    maker.quantize(calibration).export_model(str(out), overwrite=True)


def input_names(path: Path) -> list[str]:
    from ai_edge_litert.interpreter import Interpreter

    return list(Interpreter(str(path)).get_signature_list()["serving_default"]["inputs"])


def main(folder: Path, only_executorch: bool) -> None:
    torch.manual_seed(0)
    net = Net().eval()
    for parameter in net.parameters():
        parameter.data *= 3  # initial weights give outputs near zero, which would hide differences
    # Noise, each sample brighter than the previous one, so that the outputs differ.
    noise = np.random.default_rng(0).random((SAMPLES, SIDE, SIDE, 3))
    pixels = np.floor(noise * np.linspace(20, 256, SAMPLES)[:, None, None, None]).astype(np.float32)
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    if only_executorch:
        np.save(folder / "x.npy", pixels)
        to_pte(net, x[:1], folder / "net.pte")
        return
    with torch.no_grad():
        scores, means = net(x)
    np.save(folder / "samples.npy", pixels)
    np.savez(folder / "expected.npz", output_0=scores.numpy(), output_1=means.numpy())
    to_onnx(net, (x[:1],), folder / "net.onnx")
    to_onnx(net, (x[:1],), folder / "split.onnx", split=True)
    to_onnx(Looks(), (torch.zeros(1, 4, dtype=torch.int64),), folder / "looks.onnx")
    to_onnx(Adds(), (torch.zeros(1, 2), torch.zeros(1, 2)), folder / "adds.onnx")
    to_pte(net, x[:1], folder / "net.pte")
    to_pte(Overwrites(), x[:1], folder / "overwrites.pte")
    to_pte(OverwritesIndices(), torch.ones(1, 4, dtype=torch.int32), folder / "overwrites_ids.pte")
    to_pte(Quantizes(), x[:1], folder / "quantizes.pte")
    to_tflite(net, x[:1], folder / "net.tflite")
    to_int8(folder / "net.tflite", pixels[-4:], folder / "int8.tflite")


if __name__ == "__main__":
    main(Path(sys.argv[-1]), "--only-executorch" in sys.argv[1:])
