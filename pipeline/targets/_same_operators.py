"""Finds the operators of one file in another one that the same converter made from the same graph with more outputs."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Place = tuple[int, tuple[int, ...] | None]
"""The place of a tensor among a file's outputs, and the axes to transpose its values by; None if they are as needed."""


@dataclass(frozen=True)
class Operation:
    """An operator of a file, in the order of the file.

    Attributes:
        kind: its type and its options.
        inputs, outputs: the tensors, as the file numbers or names them.
        constants: input → (shape and type, hash of the values) of the inputs that the file stores.
        axes: of a transpose.
    """

    kind: str
    inputs: tuple[Hashable, ...]
    outputs: tuple[Hashable, ...]
    constants: Mapping[Any, tuple[str, str]] = field(default_factory=dict, hash=False)
    axes: tuple[int, ...] | None = None

    @property
    def contents(self) -> list[str]:
        return [self.constants[each][1] for each in self.inputs if each in self.constants]


def matched(file: Sequence[Operation], other: Iterable[Operation], inputs: Mapping[Any, Any]) -> dict[Any, Any]:
    """Tensors of `other` → the tensors of `file` that hold the same values.

    An operator is the same if its type, its options, the shapes of its constants and the tensors that it reads are the
    same. Of several, the one with the same constants is taken, or else the next in order. An operator that reads
    something else is the same if exactly one has its constants.

    Args:
        inputs: the inputs of `other` → those of `file`.
    """
    found, used = dict(inputs), set()
    for one in other:
        alike = [each for each in file if _form(each) == _form(one)]
        fitting = [each for each in alike if _reads_the_same(one, each, found)]
        fitting = [each for each in fitting if each.contents == one.contents] or fitting
        fitting = [each for each in fitting if each not in used] or fitting
        if not fitting and one.contents:
            exact = [each for each in alike if each.contents == one.contents]
            fitting = exact if len(exact) == 1 else []
        if fitting:
            used.add(fitting[0])
            found.update(zip(one.outputs, fitting[0].outputs, strict=True))
    return found


def _form(one: Operation) -> tuple[object, ...]:
    stored = tuple(one.constants[each][0] if each in one.constants else None for each in one.inputs)
    return one.kind, stored, len(one.outputs)


def _reads_the_same(one: Operation, other: Operation, found: Mapping[Any, Any]) -> bool:
    pairs = zip(one.inputs, other.inputs, strict=True)
    return all(mine in one.constants or (mine in found and found[mine] == theirs) for mine, theirs in pairs)


def traced(
    tensor: Hashable, other: Sequence[Operation], found: Mapping[Any, Any], through: Sequence[str]
) -> tuple[Any, tuple[int, ...] | None] | None:
    """The tensor of the file with the values of a tensor of `other`, and the axes to transpose it by; None if there is
    none.

    Args:
        through: operators that `other` has between a layer and an output of its own, by the start of their kind.
    """
    makers = {each: one for one in other for each in one.outputs}
    axes: tuple[int, ...] | None = None
    while tensor not in found:
        maker = makers.get(tensor)
        if maker is None or not maker.kind.startswith(tuple(through)):
            return None
        if axes is not None and maker.kind.startswith("RESHAPE"):  # the axes are those of another shape
            return None
        if maker.axes is not None:
            axes = maker.axes if axes is None else tuple(maker.axes[axis] for axis in axes)
        tensor = maker.inputs[0]
    return found[tensor], axes
