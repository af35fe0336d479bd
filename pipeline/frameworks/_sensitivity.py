"""How much noise each group of layers adds to the outputs in int8: one calibrated graph, and a partial pass for each
set of tensors that are quantized together.

pt2e's observers become fake quantizers that can be switched. The noise of different tensors adds up (rounding errors
are independent), so the noise of any set of layers is the sum of its parts.
"""

from __future__ import annotations

from collections import ChainMap, defaultdict
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torchao.quantization.pt2e.observer import ObserverBase

from pipeline.core import LayerGroup, Noise, Sensitivity
from pipeline.frameworks import _quantizer
from pipeline.frameworks._normalization import network_inputs
from pipeline.frameworks._rounding import Rounding

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_GROUPS = 32
SAMPLES, PIXELS = 64, 2**20
"""Samples that the noise is measured on, and how many pixels they have together at most: all intermediate results are
in memory."""
LAYERS = (_quantizer.layer, _quantizer.transposed)
"""Rules of operators with weights."""


def measure(prepared: torch.fx.GraphModule, names: Mapping[str, str], images: NDArray[Any]) -> Sensitivity:
    """The noise of each group in a calibrated graph of pt2e.

    The normalisation of the input is in no group: no exception of a recipe can name it, so it stays quantized.

    Args:
        names: names of nodes → names of the operators in the source; see `Operation`.
        images: samples of a split, of which the first are used.
    """
    images = images[: max(8, min(SAMPLES, PIXELS // prod(images.shape[1:3])))]
    points = [node for node in prepared.graph.nodes if _observer(prepared, node) is not None]
    owners = {point: _owners(point) for point in points}
    groups = grouped({owner: _modules(names.get(owner.name, "")) for found in owners.values() for owner in found})
    together: dict[frozenset[str], list[Any]] = defaultdict(list)
    for point in points:
        together[frozenset(groups[owner] for owner in owners[point])].append(point)
    with torch.no_grad():
        passes = _Passes(prepared, network_inputs(torch.from_numpy(images)))
        noises = [Noise(tuple(sorted(names)), passes.noise(found)) for names, found in together.items()]
        everything = passes.noise(points)
    members: dict[str, list[Any]] = defaultdict(list)
    for owner, name in groups.items():
        members[name].append(owner)
    return Sensitivity(
        groups=tuple(
            _group(name, nodes, prepared)
            for name, nodes in members.items()
            if all(name in _modules(names.get(node.name, "")) for node in nodes)
        ),
        noises=tuple(noises),
        power=everything,
        samples=len(images),
    )


def grouped(modules: Mapping[Any, tuple[str, ...]], most: int = MOST_GROUPS) -> dict[Any, str]:
    """Which group each node belongs to: a model's modules, divided further while there are few enough.

    Args:
        modules: the paths of the modules that contain each node, outermost first.
        most: the number of groups at most, unless the outermost modules are more.

    Returns:
        node → the path of a module, or the node's name where its module was divided and it is in no part.
    """
    depth = dict.fromkeys(modules, 0)

    def name(node: Any, place: int) -> str:
        return modules[node][place] if place < len(modules[node]) else str(node)

    while True:
        members: dict[str, list[Any]] = defaultdict(list)
        for node, place in depth.items():
            members[name(node, place)].append(node)
        for nodes in sorted(members.values(), key=len, reverse=True):
            parts = {name(node, depth[node] + 1) for node in nodes}
            divisible = any(len(modules[node]) > depth[node] + 1 for node in nodes)
            if divisible and len(members) - 1 + len(parts) <= most:
                depth |= {node: depth[node] + 1 for node in nodes}
                break
        else:
            return {node: name(node, place) for node, place in depth.items()}


class _Passes:
    """Passes through a prepared graph, of which only what changes is computed."""

    def __init__(self, prepared: torch.fx.GraphModule, images: torch.Tensor) -> None:
        self.nodes = list(prepared.graph.nodes)
        self.run = torch.fx.Interpreter(prepared)
        self.quantize = {node: Rounding(observer) for node in self.nodes if (observer := _observer(prepared, node))}
        self.kept: dict[Any, Any] = {}
        for node in self.nodes:
            self.kept[node] = images if node.op == "placeholder" else self._value(node, self.kept, set())
        self.signal = self._power(self.kept[self.nodes[-1]])

    def noise(self, points: Iterable[Any]) -> float:
        """The power of the difference at the outputs, relative to the signal's, when these tensors are quantized."""
        on = set(points)
        changed: dict[Any, Any] = {}
        last = {source: node for node in self.nodes for source in node.all_input_nodes}
        for node in self.nodes:
            if node in on or any(source in changed for source in node.all_input_nodes):
                changed[node] = self._value(node, ChainMap(changed, self.kept), on)
            for source in node.all_input_nodes:
                if last[source] is node:
                    changed.pop(source, None)
        before, after = _tensors(self.kept[self.nodes[-1]]), _tensors(changed.get(self.nodes[-1], ()))
        return self._power([b - a for b, a in zip(before, after, strict=False)]) / max(self.signal, 1e-30)

    def _value(self, node: Any, values: MutableMapping[Any, Any], on: set[Any]) -> Any:
        if node in self.quantize:
            value = values[node.args[0]]
            return self.quantize[node](value) if node in on else value
        self.run.env = values  # type: ignore[assignment]  # it only reads
        return self.run.run_node(node)

    @staticmethod
    def _power(outputs: Any) -> float:
        return sum(float(output.double().square().sum()) for output in _tensors(outputs))


def _observer(prepared: torch.fx.GraphModule, node: Any) -> Any:
    if node.op != "call_module":
        return None
    module = prepared.get_submodule(str(node.target))
    return module if isinstance(module, ObserverBase) else None


def _owners(point: Any) -> list[Any]:
    """The operators for which a tensor is quantized: one that has it as a quantized result or input."""
    (tensor,) = point.all_input_nodes
    found = []
    if _annotation(tensor, "output_qspec") is not None:
        fused = not _annotation(tensor, "input_qspec_map")  # a clamp after a layer or a sum is part of it
        found = [tensor.args[0] if fused else tensor]
    return found + [user for user in point.users if tensor in (_annotation(user, "input_qspec_map") or {})]


def _annotation(node: Any, field: str) -> Any:
    return getattr(node.meta.get(_quantizer.KEY), field, None)


def _modules(name: str) -> tuple[str, ...]:
    """The modules that contain an operator, outermost first, and the layer itself."""
    parts = name.split(".") if name else []
    return tuple(".".join(parts[: length + 1]) for length in range(len(parts)))


def _group(name: str, nodes: Sequence[Any], prepared: torch.fx.GraphModule) -> LayerGroup:
    layers = [node for node in nodes if _quantizer.RULES.get(_quantizer.operator(node)) in LAYERS]
    sizes = [_weight(node, prepared).shape for node in layers]
    costs = [prod(node.meta["val"].shape[1:]) * prod(size[1:]) for node, size in zip(layers, sizes, strict=True)]
    return LayerGroup(name, len(layers), sum(map(prod, sizes)), sum(map(int, costs)))


def _weight(node: Any, prepared: torch.fx.GraphModule) -> torch.Tensor:
    weight = node.args[1]
    while weight.op != "get_attr":
        (weight,) = weight.all_input_nodes
    path, _, name = str(weight.target).rpartition(".")
    tensor: torch.Tensor = getattr(prepared.get_submodule(path), name)
    return tensor


def _tensors(outputs: Any) -> list[torch.Tensor]:
    if isinstance(outputs, torch.Tensor):
        return [outputs]
    return [tensor for output in outputs for tensor in _tensors(output)]
