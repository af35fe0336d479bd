"""PyTorch: training steps (eager, compiled), and the messages that mistakes produce."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from pipeline.errors import NeedsTool
from pipeline.framework_comparison.parts._clock import Clock, cleaned, noise
from pipeline.frameworks import _torch_training, _torch_trial
from pipeline.frameworks import torch as framework
from pipeline.sources import Model

Step = Callable[[torch.Tensor, torch.Tensor], float]


def device(model: Model, request: dict[str, Any]) -> str:
    """See `_keras.device`."""
    return _torch_training.device_type(request["accelerator"])


def steps(model: Model, request: dict[str, Any]) -> dict[str, Any]:
    """See `_keras.steps`. The ways are eager and torch.compile with its default backend, which generates C++ or
    Triton code."""
    device = torch.device(_torch_training.device_type(request["accelerator"]))
    found: dict[str, Any] = {"device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu"}
    clock = Clock(request)
    for way in ("eager", "compiled"):
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        torch.manual_seed(0)
        step = _step(model, device, compiled=way == "compiled")

        def batch(count: int) -> tuple[torch.Tensor, torch.Tensor]:
            images, labels = noise(model.spec, count)
            return torch.from_numpy(images).permute(0, 3, 1, 2).to(device), torch.from_numpy(labels).to(device)

        try:
            found[way] = clock.times(step, batch)
        except Exception as error:  # a compiler may raise anything; the eager result remains valid
            if way == "eager":
                raise
            found[way] = {"reason": _reason(error)}
            continue
        found[way]["graphs"] = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    return found


def _step(model: Model, device: torch.device, compiled: bool) -> Step:
    """A training step like the training loop's, on a new network."""
    training = model.spec.training
    net = framework.network(model).to(device)

    def autocast() -> Any:
        return torch.autocast(device.type, torch.bfloat16, enabled=_torch_training.precision(device.type) == "bfloat16")

    example, classes = (torch.from_numpy(each).to(device) for each in noise(model.spec, 2))
    criterion = nn.CrossEntropyLoss(label_smoothing=training.label_smoothing)
    memory_format = _torch_trial.attempt(net, example.permute(0, 3, 1, 2), classes, criterion, autocast).memory_format
    optimizer = torch.optim.AdamW(net.parameters(), training.lr, weight_decay=training.weight_decay)
    run = torch.compile(net) if compiled else net

    def step(images: torch.Tensor, labels: torch.Tensor) -> float:
        with autocast():
            loss = criterion(run(_torch_trial.arranged(images, memory_format)), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


def _reason(error: Exception) -> str:
    """Why a step could not be compiled, which is mostly a missing compiler."""
    text = " ".join(str(error).split())
    if "compiler" in text.lower() or "g++" in text:
        return str(NeedsTool(f"torch.compile needs a C++ compiler: {text[:200]}"))
    return f"failed: {type(error).__name__}: {text[:200]}"


# -- mistakes ----------------------------------------------------------------------------------------------------------


def mistakes(model: Model, request: dict[str, Any]) -> dict[str, Any]:
    """See `_keras.mistakes`."""
    found: dict[str, Any] = {}
    for mode in request["modes"]:
        for case in ("shape", "nan", "nan, looked for"):
            torch._dynamo.reset()
            torch.manual_seed(0)
            net = framework.network(model).train()
            name, layer = _second(net)
            if case == "shape":
                net.set_submodule(name, _one_more_input(layer))
            else:
                layer.register_forward_hook(lambda _module, _inputs, output: torch.log(-output.abs() - 1))
            with _anomalies(case == "nan, looked for") as caught:
                message = _provoked(model, torch.compile(net) if mode == "compiled" else net)
            text = "\n".join([*(str(warning.message) for warning in caught), message]) if message else ""
            found[f"{case}, {mode}"] = {
                "message": cleaned(text),
                "layer": [name.removeprefix("net."), name.removeprefix("net.").replace(".", "_")],
                "when": "in the first step",
            }
    return found


def _provoked(model: Model, net: Callable[[torch.Tensor], torch.Tensor]) -> str:
    """The error raised in one step; empty if there is none."""
    images, labels = noise(model.spec, model.spec.training.batch_size)
    try:
        outputs = net(torch.from_numpy(images).permute(0, 3, 1, 2))
        loss = nn.functional.cross_entropy(outputs, torch.from_numpy(labels))
        loss.backward()  # type: ignore[no-untyped-call]
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


@contextlib.contextmanager
def _anomalies(on: bool) -> Iterator[list[warnings.WarningMessage]]:
    """Turns PyTorch's anomaly detection on or off, and yields the list that receives its warnings at the end."""
    with warnings.catch_warnings(record=True) as recorded, torch.autograd.set_detect_anomaly(on):
        warnings.simplefilter("always")
        own: list[warnings.WarningMessage] = []
        yield own
        own += [warning for warning in recorded if "Traceback of forward call" in str(warning.message)]


def _second(net: nn.Module) -> tuple[str, nn.Module]:
    """The second layer that mixes channels, with its name. Depthwise convolutions do not."""
    layers = [
        (name, layer)
        for name, layer in net.get_submodule("net").named_modules(prefix="net")
        if isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1)
    ]
    return layers[min(1, len(layers) - 1)]


def _one_more_input(layer: nn.Module) -> nn.Module:
    """The same layer for one more input channel."""
    if isinstance(layer, nn.Linear):
        return nn.Linear(layer.in_features + 1, layer.out_features)
    assert isinstance(layer, nn.Conv2d)
    size, stride = layer.kernel_size, layer.stride
    return nn.Conv2d(layer.in_channels + 1, layer.out_channels, size, stride, layer.padding)  # type: ignore[arg-type]
