"""Rewrites the layers of a captured graph to the few operators that the quantizer and all converters know.

torch.export keeps an operator as the model's code calls it: padding="same" is another operator than padding=1, a
parametrized weight is arithmetic on tensors, and `x @ weight` is no linear layer. A quantizer leaves what it does not
know in float, without an error.
"""

from __future__ import annotations

from typing import Any

import torch

OPS = torch.ops.aten
PADDED = {
    OPS.conv1d.padding: OPS.conv1d.default,
    OPS.conv2d.padding: OPS.conv2d.default,
    OPS.conv3d.padding: OPS.conv3d.default,
}
"""Convolutions with padding="same" or "valid" → those with numbers."""
CONVOLUTIONS = (
    OPS.conv1d.default, OPS.conv2d.default, OPS.conv3d.default, OPS.convolution.default,
    OPS.conv_transpose1d.default, OPS.conv_transpose2d.input, OPS.conv_transpose3d.input,
)  # fmt: skip
WEIGHTED = (*CONVOLUTIONS, OPS.linear.default)
"""Operators whose second argument is a weight and whose third is a bias."""


def simplified(program: Any) -> torch.fx.GraphModule | None:
    """The module of a torch.export program with its layers rewritten, or None if there was nothing to rewrite."""
    module: torch.fx.GraphModule = program.module()
    rewriter = _Rewriter(module)
    for node in list(module.graph.nodes):
        if node.op == "call_function":
            rewriter.pad_by_numbers(node)
            rewriter.use_linear(node)
            rewriter.fold_weights(node)
    if not rewriter.changed:
        return None
    module.graph.eliminate_dead_code()
    module.graph.lint()
    module.recompile()
    return module


class _Rewriter:
    def __init__(self, module: torch.fx.GraphModule) -> None:
        self.module, self.graph = module, module.graph
        self.changed = False

    def pad_by_numbers(self, node: Any) -> None:
        """Replaces padding="same" and "valid" by numbers, with a padding of its own where the sides differ."""
        if node.target not in PADDED:
            return
        given = _arguments(node)
        kernel = list(given["weight"].meta["val"].shape[2:])
        axes = range(len(kernel))
        dilation = _per_axis(given["dilation"], len(kernel))
        total = [dilation[i] * (kernel[i] - 1) if given["padding"] == "same" else 0 for i in axes]
        image = given["input"]
        before = [amount // 2 for amount in total]
        if any(amount % 2 for amount in total):
            # The last axis comes first; the odd pixel is at the end, as in torch.nn.functional.
            sides = [side for i in reversed(axes) for side in (before[i], total[i] - before[i])]
            with self.graph.inserting_before(node):
                image = self.graph.call_function(OPS.pad.default, (image, sides))
            image.meta = {**node.meta, "val": OPS.pad.default(given["input"].meta["val"], sides)}
            before = [0 for _ in axes]
        stride = _per_axis(given["stride"], len(kernel))
        node.args = (image, given["weight"], given["bias"], stride, before, dilation, given["groups"])
        node.kwargs = {}
        node.target = PADDED[node.target]
        self.changed = True

    def use_linear(self, node: Any) -> None:
        """Replaces a product with a constant matrix by a linear layer."""
        product = _product(node)
        if product is None:
            return
        value, matrix, transposed, bias = product
        weight = self._value(matrix)
        if weight is None or weight.dim() != 2:
            return
        if bias is not None:
            constant = self._value(bias)
            if constant is None or constant.shape != (weight.shape[0 if transposed else 1],):
                return
        with self.graph.inserting_before(node):
            matrix = self._constant(node, weight if transposed else weight.t(), "weight")
            linear = self.graph.call_function(OPS.linear.default, (value, matrix, bias) if bias else (value, matrix))
        linear.meta = dict(node.meta)
        node.replace_all_uses_with(linear)
        self.graph.erase_node(node)
        self.fold_weights(linear)
        self.changed = True

    def fold_weights(self, node: Any) -> None:
        """Replaces a weight or bias that is computed from constants (weight_norm, parametrizations) by its value."""
        if node.target not in WEIGHTED:
            return
        for place, name in ((1, "weight"), (2, "bias")):
            argument = node.args[place] if len(node.args) > place else None
            if not isinstance(argument, torch.fx.Node) or argument.op == "get_attr":
                continue
            value = self._value(argument)
            if value is not None:
                with self.graph.inserting_before(node):
                    node.update_arg(place, self._constant(node, value, name))
                self.changed = True

    def _value(self, node: Any) -> torch.Tensor | None:
        """The value of a node that depends on constants only; None for others."""
        if node.op == "get_attr":
            path, _, name = str(node.target).rpartition(".")
            tensor: torch.Tensor = getattr(self.module.get_submodule(path), name)
            return tensor.detach()
        if node.op != "call_function" or not node.all_input_nodes or _is_random(node):
            return None
        inputs = {each: self._value(each) for each in node.all_input_nodes}
        if any(value is None for value in inputs.values()):
            return None
        args, kwargs = torch.fx.map_arg((node.args, node.kwargs), lambda each: inputs[each])
        result = node.target(*args, **kwargs)
        return result if isinstance(result, torch.Tensor) else None

    def _constant(self, layer: Any, value: torch.Tensor, name: str) -> Any:
        """A node with a new constant, which is stored in the layer's module."""
        path = _module_path(layer)
        owner = self.module
        for part in filter(None, path.split(".")):
            if not isinstance(getattr(owner, part, None), torch.nn.Module):
                owner.add_module(part, torch.nn.Module())
            owner = getattr(owner, part)
        taken, leaf, count = {*owner._parameters, *owner._buffers, *owner._modules, *vars(owner)}, name, 1
        while leaf in taken:
            leaf, count = f"{name}_{count}", count + 1
        owner.register_parameter(
            leaf, torch.nn.Parameter(value.clone(memory_format=torch.contiguous_format), requires_grad=False)
        )
        constant = self.graph.get_attr(f"{path}.{leaf}" if path else leaf)
        constant.meta = {"val": value}
        return constant


def with_own_weights(module: torch.fx.GraphModule) -> torch.fx.GraphModule:
    """Gives each use of a layer's weight or bias a tensor of its own, in place.

    Batch normalisation is folded into the convolution before it, in place, by pt2e and by ExecuTorch: a convolution
    that is used twice would be scaled twice, which gives another network.
    """
    seen: set[int] = set()
    for node in list(module.graph.nodes):
        if node.op != "call_function" or node.target not in WEIGHTED:
            continue
        for place in (1, 2):
            argument = node.args[place] if len(node.args) > place else None
            if not isinstance(argument, torch.fx.Node) or argument.op != "get_attr":
                continue
            path, _, name = str(argument.target).rpartition(".")
            owner = module.get_submodule(path)
            tensor = getattr(owner, name)
            if id(tensor) in seen:
                copy = f"{name}_{len(seen)}"
                tensor = torch.nn.Parameter(tensor.detach().clone(), requires_grad=False)
                owner.register_parameter(copy, tensor)
                with module.graph.inserting_before(argument):
                    own = module.graph.get_attr(f"{path}.{copy}" if path else copy)
                own.meta = dict(argument.meta)
                node.update_arg(place, own)
            seen.add(id(tensor))
    module.recompile()
    return module


def _arguments(node: Any) -> dict[str, Any]:
    """A node's arguments by name, with defaults."""
    schema = node.target._schema.arguments
    given = dict(zip((argument.name for argument in schema), node.args, strict=False)) | node.kwargs
    return {argument.name: given.get(argument.name, argument.default_value) for argument in schema}


def _per_axis(value: Any, axes: int) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    return values * axes if len(values) == 1 else values


def _product(node: Any) -> tuple[Any, Any, bool, Any] | None:
    """(value, matrix, whether the matrix is (outputs, inputs), bias) of a matrix product; None for another node."""
    if node.target in (OPS.matmul.default, OPS.mm.default):
        return node.args[0], node.args[1], False, None
    if node.target == OPS.addmm.default and not node.kwargs and len(node.args) == 3:
        return node.args[1], node.args[2], False, node.args[0]
    if node.target != OPS.einsum.default or len(node.args[1]) != 2:
        return None
    given, _, made = node.args[0].replace(" ", "").partition("->")
    left, right = given.split(",")
    if made and len(right) == 2 and left[:-1] == made[:-1] and left[-1] not in made:
        if right == made[-1] + left[-1]:
            return *node.args[1], True, None
        if right == left[-1] + made[-1]:
            return *node.args[1], False, None
    return None


def _is_random(node: Any) -> bool:
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def _module_path(node: Any) -> str:
    """The path of the module that a node was captured in; empty for the model itself."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return str(stack[-1][0]).removeprefix("L['self']").removeprefix(".") if stack else ""
