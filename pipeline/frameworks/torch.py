"""PyTorch: training on Lightning Fabric, capture by torch.export, static int8 by pt2e."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.catalog import Model
from pipeline.core import Preprocessing
from pipeline.datasets import Split
from pipeline.errors import BadModel
from pipeline.frameworks import Settings
from pipeline.plugins import extra
from pipeline.targets import Source

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

WEIGHTS = "model.safetensors"
TOOLS: tuple[str, ...] = ("torch", "torchao", "litert-torch", "lightning-fabric")
EXTRA = "torch"
SUMMARY = "PyTorch 2, torch.export and pt2e quantization"

FLOAT, FOLDED, UNFOLDED = "float.pt2", "quantized.pt2", "unfolded.pt2"
"""Files in a graphs folder. A quantized graph exists twice: its weights stored as int8, for everybody; and as float
weights that the graph quantizes, for litert-torch."""


def train(model: Model, data: Mapping[str, Split], settings: Settings, home: Path, key: str) -> dict[str, Any]:
    """See `Framework.train`."""
    with extra(EXTRA):
        import torch

        from pipeline.frameworks import _fit, _weights

    torch.manual_seed(settings.seed)  # of the initial weights
    facts = _fit.fit(network(model), model.spec.training, data, settings, home, key)
    best = torch.load(home / "training" / "best.ckpt", map_location="cpu", weights_only=True)
    _weights.save(
        {name.removeprefix("net."): value for name, value in best.items() if name.startswith("net.")},
        home / "training" / WEIGHTS,
    )
    return facts


def adopt(model: Model, weights: Path, out: Path) -> None:
    """See `Framework.adopt`: safetensors, or a .pt file read with weights_only."""
    with extra(EXTRA):
        from pipeline.frameworks import _weights
    state = _weights.read(weights)
    net = model.code("torch").build(model.spec)
    _weights.check_fit(weights, state, net.state_dict())
    net.load_state_dict(state)
    _weights.save(net.state_dict(), out)


def predict(model: Model, weights: Path, split: Split, accelerator: str = "auto") -> NDArray[np.float32]:
    """See `Framework.predict`."""
    with extra(EXTRA):
        import numpy as np
        import torch

        from pipeline.frameworks import _fit

    device = _fit.fabric(accelerator).device
    net = loaded(model, weights).to(device)
    with torch.no_grad():
        batches = _fit.Pictures(split, "evaluation").loader(256)
        return np.concatenate([net(images.to(device).float().contiguous()).cpu().numpy() for images, _ in batches])


def capture(model: Model, weights: Path, folder: Path) -> None:
    """See `Framework.capture`: one torch.export with a free batch size, which serves every target."""
    with extra(EXTRA):
        import torch

        from pipeline.frameworks import _weights

    net = loaded(model, weights)
    height, width, channels = model.spec.inputs[0].shape
    # Random, not zeros: some networks' data-dependent checks look at values. Two, because 1 would be taken as fixed.
    images = torch.rand(2, channels, height, width) * 255
    try:
        program = torch.export.export(net, (images,), dynamic_shapes=({0: torch.export.Dim.AUTO},))
    except Exception as error:  # torch.export raises what the model's code raises
        raise BadModel(f"{model.spec.name} cannot be exported: {_weights.first_line(error)}") from error
    folder.mkdir(parents=True, exist_ok=True)
    _keep(program, folder / FLOAT)


def quantize(captured: Path, value_range: tuple[float, float], images: NDArray[np.uint8], folder: Path) -> None:
    """See `Framework.quantize`: pt2e with litert-torch's quantizer, whose graph all four targets can lower."""
    with extra(EXTRA):
        import copy

        import torch
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

        from pipeline.frameworks import _constants
    with extra("tflite"):
        from litert_torch.quantize.pt2e_quantizer import PT2EQuantizer, get_symmetric_quantization_config

    quantizer = PT2EQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    program = torch.export.load(captured / FLOAT)
    prepared = prepare_pt2e(program.module(), quantizer)
    with torch.no_grad():
        for start in range(0, len(images), 32):
            prepared(_planar(torch.from_numpy(images[start : start + 32])))
    _constants.pin_input_ranges(prepared, value_range)
    folder.mkdir(parents=True, exist_ok=True)
    one = _planar(torch.from_numpy(images[:2]))
    for name, fold in ((FOLDED, True), (UNFOLDED, False)):
        converted = convert_pt2e(copy.deepcopy(prepared), fold_quantize=fold)
        _constants.round_constants(converted)
        graph = torch.export.export(converted, (one,), dynamic_shapes=({0: torch.export.Dim.AUTO},))
        _keep(graph, folder / name)


def evaluate(folder: Path, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """See `Framework.evaluate`."""
    import numpy as np
    import torch

    module = _load(_graph(folder)).module()
    with torch.no_grad():
        batches = [torch.from_numpy(images[start : start + 64]) for start in range(0, len(images), 64)]
        return np.concatenate([module(_planar(batch)).numpy() for batch in batches])


def step(folder: Path) -> float | None:
    """See `Framework.step`: the scale of the last dequantize."""
    program = _load(_graph(folder))
    (output,) = program.graph.output_node().args[0]
    if "dequantize_per_tensor" not in str(output.target):
        return None
    return float(output.args[1])


def source(captured: Path, quantized: Path | None) -> Source:
    """See `Framework.source`: programs with a batch of one."""
    if quantized is None:
        return Source("torch", _single(captured / FLOAT))
    return Source("torch", _single(captured / FLOAT), _single(quantized / FOLDED), _single(quantized / UNFOLDED))


# -- networks ----------------------------------------------------------------------------------------------------------


def network(model: Model) -> torch.nn.Module:
    """The untrained network behind its normalisation: raw pixels (N, channels, height, width) to logits.

    Raises:
        BadModel: build(spec) fails or does not return a module.
    """
    import torch

    try:
        net = model.code("torch").build(model.spec)
    except TypeError as error:
        raise BadModel(f"{model.folder}/torch.py: build(spec) failed: {error}") from error
    if not isinstance(net, torch.nn.Module):
        raise BadModel(f"{model.folder}/torch.py: build(spec) must return a torch.nn.Module, not {type(net).__name__}")

    class Deployable(torch.nn.Module):
        """What is trained, exported and measured: normalisation is the graph's first operation."""

        def __init__(self) -> None:
            super().__init__()
            self.normalize = _normalization(model.spec.preprocessing)
            self.net = net

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.net(self.normalize(image))
            return logits

    return Deployable()


def loaded(model: Model, weights: Path) -> torch.nn.Module:
    """The network with a checkpoint's weights, for inference, in contiguous memory format: a model left in
    channels_last converts without an error to a file that answers nonsense."""
    import torch
    from safetensors.torch import load_file

    net = network(model)
    net.get_submodule("net").load_state_dict(load_file(weights))
    contiguous: torch.nn.Module = net.eval().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return contiguous


def _normalization(preprocessing: Preprocessing) -> torch.nn.Module:
    """(x - mean) / std as a depthwise 1×1 convolution that is not trained.

    As a multiplication and a subtraction, quantizers would give the two constants coarse scales of their own; as a
    convolution they get a scale per channel and a 32-bit bias, and int8 pixels stay as exact as they came.
    """
    import torch

    mean, std = torch.tensor(preprocessing.mean), torch.tensor(preprocessing.std)
    channels = len(mean)
    layer = torch.nn.Conv2d(channels, channels, 1, groups=channels)
    layer.weight.data = (1 / std).reshape(channels, 1, 1, 1)
    layer.bias.data = -mean / std  # type: ignore[union-attr]
    return layer.requires_grad_(False)


# -- graphs ------------------------------------------------------------------------------------------------------------


def _keep(program: Any, path: Path) -> None:
    """Saves a program; through memory, because torch's own writer ends the process when the disk is full."""
    import io

    import torch

    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    path.write_bytes(buffer.getbuffer())


def _load(path: Path) -> Any:
    """A saved program; quantized graphs need torchao's operators to be known."""
    import torch
    import torchao.quantization.pt2e.quantize_pt2e  # noqa: F401  # registers quantized_decomposed

    return torch.export.load(path)


def _graph(folder: Path) -> Path:
    return folder / FOLDED if (folder / FOLDED).is_file() else folder / FLOAT


def _single(path: Path) -> Any:
    """The program in `path` with its free batch size fixed at 1, which is what runs on devices."""
    import torch

    program = _load(path)
    (image,) = program.example_inputs[0]
    return torch.export.export(program.module(), (image[:1].clone(),))


def _planar(images: torch.Tensor) -> torch.Tensor:
    """uint8 (N, height, width, channels) as float32 (N, channels, height, width).

    A clone, because .contiguous() keeps the strides of a single channel as they are, and a graph traced with those
    fails in ExecuTorch and Core ML.
    """
    import torch

    return images.permute(0, 3, 1, 2).float().clone(memory_format=torch.contiguous_format)
