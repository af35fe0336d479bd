"""Bias correction: int8 shifts the mean of a layer's outputs, and its bias can take the shift back.

Source: Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction, 2019 (arXiv:1906.04721).
"""

from __future__ import annotations

import copy
from math import prod
from typing import TYPE_CHECKING, Any

import torch

from pipeline import stats
from pipeline.core import BiasCorrection, Parity
from pipeline.frameworks import _rounding
from pipeline.frameworks._normalization import network_inputs, tensors
from pipeline.frameworks._quantizer import RULES, layer, operator, usual

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_PIXELS = 64 * 224 * 224
"""Pixels of the images that the means are taken over: all pass through a layer at once."""

AGREEMENT_MARGIN = 0.02
"""A correction may cost the float model's top-1 on this share of the images. Outputs with a large common part, such as
those of a network that has hardly been trained, may come nearer to the float model's and yet get another order."""


def correct(prepared: Any, images: NDArray[Any], always: bool = False) -> BiasCorrection | None:
    """Corrects the biases of a calibrated pt2e graph in place, if its outputs come nearer to the float model's.

    One half of the calibration images gives the means, the other half decides. None if there are too few images.

    Args:
        always: correct the biases whatever the other half says.
    """
    count = min(len(images), max(2, MOST_PIXELS // (prod(images.shape[1:3]))))
    seen, judged = (network_inputs(torch.from_numpy(images[first:count:2])) for first in (0, 1))
    if not len(judged):
        return None
    simulated = copy.deepcopy(prepared)
    rounding = _rounding.simulate(simulated)
    with torch.no_grad():
        float_means = _Means(simulated, {})
        _rounding.switch(rounding, on=False)
        reference = tensors(simulated(judged))
        float_means.run(seen)
        _rounding.switch(rounding, on=True)
        before = _compared(reference, simulated(judged))
        _Means(simulated, float_means.found).run(seen)
        after = _compared(reference, simulated(judged))
    keeps_order = (after.top1_agreement or 0) >= (before.top1_agreement or 0) - AGREEMENT_MARGIN
    used = always or (after.snr_db > before.snr_db and keeps_order)
    if used:
        for node in filter(_has_bias, prepared.graph.nodes):
            _bias(prepared, node).data.copy_(_bias(simulated, node))
    return BiasCorrection(used, without_snr_db=before.snr_db, with_snr_db=after.snr_db)


class _Means(torch.fx.Interpreter):
    """Runs a graph and keeps the means of every layer's output, per image and channel.

    Args:
        expected: means that the layers shall have; their biases are changed on the way, so that a layer is corrected
            for what the layers before it still do wrong. Outliers among the images do not count: their values are
            clipped, which no bias can take back.
    """

    def __init__(self, graph: Any, expected: dict[str, torch.Tensor]) -> None:
        super().__init__(graph)
        self.expected, self.found = expected, dict[str, torch.Tensor]()

    def run_node(self, n: Any) -> Any:
        result = super().run_node(n)
        if not _has_bias(n):
            return result
        channels = result.dim() - 1 if operator(n) == torch.ops.aten.linear.default else 1
        others = [axis for axis in range(1, result.dim()) if axis != channels]
        means = result.mean(others) if others else result  # without axes, the mean is over all
        if n.name in self.expected:
            shifts = self.expected[n.name] - means
            shift = shifts[usual(shifts)].mean(0)
            _bias(self.module, n).data += shift
            result = result + shift.reshape([-1 if axis == channels else 1 for axis in range(result.dim())])
        self.found[n.name] = means
        return result


def _compared(reference: tuple[torch.Tensor, ...], outputs: Any) -> Parity:
    before, after = ([tensor.numpy() for tensor in each] for each in (reference, tensors(outputs)))
    return stats.parity("float model", before, after, [None] * len(reference), classes=after[0].ndim == 2)


def _has_bias(node: Any) -> bool:
    if RULES.get(operator(node)) is not layer or len(node.args) < 3:
        return False
    return isinstance(node.args[2], torch.fx.Node) and node.args[2].op == "get_attr"


def _bias(module: Any, node: Any) -> torch.Tensor:
    path, _, name = str(node.args[2].target).rpartition(".")
    tensor: torch.Tensor = getattr(module.get_submodule(path), name)
    return tensor
