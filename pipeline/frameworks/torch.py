"""PyTorch: training with Lightning Fabric, capture with torch.export, static int8 with pt2e."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.core import BiasCorrection, Operation, Recipe, Sensitivity
from pipeline.datasets import Split
from pipeline.errors import BadModel, BadOption, first_line
from pipeline.frameworks import Group, QuantizedTraining, Settings
from pipeline.registry import extra
from pipeline.sources import Model
from pipeline.targets import Source

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from pipeline.frameworks import Outputs

WEIGHTS = "model.safetensors"
TOOLS: tuple[str, ...] = ("torch", "torchao", "litert-torch", "lightning-fabric")
EXTRA = "torch"
PACKAGES: Mapping[str, str] = {"torch": "torch", "lightning_fabric": "torch"}
GRAPHS: Mapping[str, str] = {"torch": "torch", "torchao": "torch"}
FORMS: tuple[str, ...] = ("program",)
SUMMARY = "PyTorch 2, torch.export and pt2e quantization"

COUNTER = ".num_batches_tracked"
"""A batch normalisation tensor that does not affect the outputs."""


def joined(devices: int) -> Group | None:
    """See `Framework.joined`: a process started by torchrun."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    if devices != 1:
        raise BadOption("torchrun sets the number of processes: omit --devices and --num-nodes")
    names = ("LOCAL_WORLD_SIZE", "WORLD_SIZE", "GROUP_RANK", "RANK")
    local, world, node_rank, rank = (int(os.environ[name]) for name in names)
    return Group(local, world // local, node_rank, rank=rank)


def train(model: Model, data: Mapping[str, Split], settings: Settings, home: Path, key: str) -> dict[str, Any]:
    """See `Framework.train`."""
    with extra(EXTRA):
        import torch

        from pipeline.frameworks import _torch_ddp, _torch_training, _torch_weights, _training_loop
    folder, group = home / "training", settings.group
    _torch_training.device_type(settings.accelerator, group.devices)  # check the options before starting processes
    if group.size > 1 and group.command:
        _torch_ddp.launch(group)  # the new processes call train() too, without a command
        return _training_loop.read_facts(folder, group)
    torch.manual_seed(settings.seed)  # for the initial weights
    net = network(model)
    try:
        facts = _torch_training.fit(net, model, data, settings, home, key)
    except BadModel as error:
        raise BadModel(f"{model.file('torch')}: {error}") from error
    if _torch_ddp.leave_group() > 0:
        return {}
    best = torch.load(folder / "best.ckpt", map_location="cpu", weights_only=True)
    state = {name.removeprefix("net."): value for name, value in best.items() if name.startswith("net.")}
    _torch_weights.save(state, folder / WEIGHTS)
    return _training_loop.write_facts(folder, facts)


def adopt(model: Model, weights: Path, out: Path) -> None:
    """See `Framework.adopt`: safetensors, or a .pt file read with weights_only."""
    with extra(EXTRA):
        from pipeline.frameworks import _torch_weights
    net = network(model).get_submodule("net")
    expected = net.state_dict()
    counters = {name: value for name, value in expected.items() if name.endswith(COUNTER)}
    state = counters | _torch_weights.read(weights, expected)  # counters are optional in the file
    _torch_weights.check_fit(weights, state, expected)
    net.load_state_dict(state)
    _torch_weights.save(net.state_dict(), out)


def predict(model: Model, weights: Path, split: Split, accelerator: str = "auto") -> Outputs:
    """See `Framework.predict`."""
    with extra(EXTRA):
        import torch

        from pipeline.frameworks import _normalization, _torch_training

    device = torch.device(_torch_training.device_type(accelerator))
    net = loaded(model, weights).to(device)
    with torch.no_grad():
        batches = _torch_training.SplitDataset(split, "evaluation").loader(256)
        return _normalization.joined(
            net(_normalization.real(images.to(device)).clone(memory_format=torch.contiguous_format))
            for images, _ in batches
        )


def features(model: Model, weights: Path, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """See `Framework.features`."""
    with extra(EXTRA):
        import numpy as np
        import torch

        from pipeline.frameworks._normalization import network_inputs
    net, inputs = loaded(model, weights), {}
    layers = [layer for layer in net.modules() if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d)]

    def record(_: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        inputs["last"] = arguments[0].flatten(1).numpy()  # the layer that runs last overwrites the others

    for layer in layers:
        layer.register_forward_pre_hook(record)
    batches = []
    with torch.no_grad():
        for start in range(0, len(images), 64):
            net(network_inputs(torch.from_numpy(images[start : start + 64])))
            batches.append(inputs["last"])
    return np.concatenate(batches)


def graph(model: Model, weights: Path) -> bytes:
    """See `Framework.graph`: traced by TorchScript."""
    with extra(EXTRA):
        import warnings

    from pipeline.frameworks import _normalization
    from pipeline.system.tensorboard import without_tensorflow

    without_tensorflow()
    from torch.utils.tensorboard._pytorch_graph import graph as trace  # SummaryWriter.add_graph, without its file

    try:
        given = _normalization.example(model.spec, 1)
        with warnings.catch_warnings():
            # PyTorch itself calls the deprecated torch.jit.trace.
            warnings.simplefilter("ignore", DeprecationWarning)
            definition, _ = trace(loaded(model, weights), given)  # type: ignore[no-untyped-call]
    except Exception as error:  # the tracer raises whatever the model's code raises
        raise BadModel(f"TorchScript cannot trace {model.spec.name}: {first_line(error)}") from error
    return bytes(definition.SerializeToString())


def unpack(model: Model, weights: Path) -> dict[str, NDArray[np.float32]]:
    """See `Framework.unpack`."""
    from safetensors.numpy import load_file

    tensors = load_file(weights)
    return {_exchange_name(name): value for name, value in tensors.items() if not name.endswith(COUNTER)}


def pack(model: Model, tensors: Mapping[str, NDArray[np.float32]], out: Path) -> None:
    """See `Framework.pack`."""
    with extra(EXTRA):
        import torch

        from pipeline.frameworks import _torch_weights
    state = network(model).get_submodule("net").state_dict()
    names = {_exchange_name(name): name for name in state if not name.endswith(COUNTER)}
    differ = f"the PyTorch and Keras models of {model.spec.name} differ"
    unmatched = sorted(names.keys() ^ tensors.keys())
    if unmatched:
        raise BadModel(f"{differ}: only one of them has {', '.join(unmatched[:3])}")
    for exchange_name, name in names.items():
        if state[name].shape != tensors[exchange_name].shape:
            raise BadModel(f"{differ}: {name} has different shapes")
        state[name] = torch.from_numpy(tensors[exchange_name].copy())
    _torch_weights.save(state, out)


def capture(model: Model, weights: Path, folder: Path) -> None:
    """See `Framework.capture`."""
    with extra(EXTRA):
        from pipeline.frameworks import _graphs

    program = _graphs.exported(loaded(model, weights), model.spec)
    folder.mkdir(parents=True, exist_ok=True)
    _graphs.save(program, folder / _graphs.FLOAT)


def quantize(
    captured: Path, value_range: tuple[float, float] | None, images: NDArray[Any], folder: Path, recipe: Recipe
) -> BiasCorrection | None:
    """See `Framework.quantize`."""
    with extra(EXTRA):
        from pipeline.frameworks import _graphs
    return _graphs.quantize(captured, value_range, images, folder, recipe)


def sensitivity(
    captured: Path, value_range: tuple[float, float] | None, images: NDArray[Any], recipe: Recipe
) -> Sensitivity:
    """See `Framework.sensitivity`."""
    with extra(EXTRA):
        from pipeline.frameworks import _graphs
    return _graphs.sensitivity(captured, value_range, images, recipe)


def train_quantized(
    model: Model, data: Mapping[str, Split], settings: Settings, task: QuantizedTraining
) -> dict[str, Any]:
    """See `Framework.train_quantized`."""
    with extra(EXTRA):
        from pipeline.frameworks import _qat
    return _qat.train(model, data, settings, task)


def operations(captured: Path) -> tuple[Operation, ...]:
    """See `Framework.operations`."""
    from pipeline.frameworks import _graphs

    return _graphs.operations(captured)


def evaluate(folder: Path, images: NDArray[Any]) -> Outputs:
    """See `Framework.evaluate`."""
    from pipeline.frameworks import _graphs

    return _graphs.evaluate(folder, images)


def steps(folder: Path) -> tuple[float | None, ...]:
    """See `Framework.steps`."""
    from pipeline.frameworks import _graphs

    return _graphs.steps(folder)


def source(model: Model, weights: Path, captured: Path, quantized: Path | None) -> Source:
    """See `Framework.source`."""
    from pipeline.frameworks import _graphs

    return Source("torch", partial(_graphs.program, captured, quantized))


# -- networks ----------------------------------------------------------------------------------------------------------


def network(model: Model) -> torch.nn.Module:
    """The untrained network with its normalisation: raw pixels (N, channels, height, width) to the outputs.

    Raises:
        BadModel: build(spec) fails, or returns no module from images to the spec's outputs.
    """
    import torch

    from pipeline.frameworks import _build, _normalization

    net = _build.build(model, "torch")
    if not isinstance(net, torch.nn.Module):
        raise BadModel(f"{model.folder}/torch.py: build(spec) must return a torch.nn.Module, not {type(net).__name__}")
    module = _normalization.WithNormalization(net, model.spec).eval()

    def run(images: NDArray[Any]) -> Any:
        with torch.no_grad():
            outputs = module(_normalization.network_inputs(torch.from_numpy(images)))
        for each in _normalization.tensors(outputs) if len(model.spec.outputs) > 1 else (outputs,):
            if isinstance(each, torch.Tensor) and each.dtype is not torch.float32:
                raise BadModel(f"{model.file('torch')}: the network returns {each.dtype}, not torch.float32")
        return outputs

    _build.check(model, "torch", run)
    return module.train()


def loaded(model: Model, weights: Path) -> torch.nn.Module:
    """The network with a checkpoint's weights, for inference, in contiguous memory format.

    Converting a channels_last model raises no error, but the exported file's outputs are wrong.
    """
    import torch
    from safetensors.torch import load_file

    net = network(model)
    net.get_submodule("net").load_state_dict(load_file(weights))
    contiguous: torch.nn.Module = net.eval().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return contiguous


def _exchange_name(name: str) -> str:
    """A tensor's name in `Framework.unpack`: "features.0.1.weight" becomes "features_0_1.weight"."""
    layer, _, leaf = name.rpartition(".")
    return f"{layer.replace('.', '_')}.{leaf}"
