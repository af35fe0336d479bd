"""Recipes of ai-edge-quantizer, which are lists of rules, as fields of a `Recipe`."""

from __future__ import annotations

import re
from typing import Any

from pipeline.errors import BadRecipe
from pipeline.recipes import INT16

ALGORITHMS = ("min_max_uniform_quantize", "OCTAV", "float_casting")
"""How ranges are found is the targets' choice: a rule with one of these differs in nothing that a recipe expresses."""
OPERATORS = {
    "CONV_2D": "conv2d", "DEPTHWISE_CONV_2D": "conv2d", "FULLY_CONNECTED": "linear",
    "CONV_2D_TRANSPOSE": "conv_transpose2d",
    "BATCH_MATMUL": "matmul", "ADD": "add", "MUL": "mul", "SUB": "sub", "MEAN": "mean", "CONCATENATION": "cat",
    "SOFTMAX": "softmax", "LOGISTIC": "sigmoid", "TANH": "tanh", "GELU": "gelu", "RESHAPE": "reshape",
}  # fmt: skip
"""Operators of TFLite → those of torch.export."""
BLOCKS = {"CHANNELWISE": None, "BLOCKWISE_32": 32, "BLOCKWISE_64": 64, "BLOCKWISE_128": 128, "BLOCKWISE_256": 256}
EVERYTHING = (".*", ".+", "")


def fields(name: str, rules: Any) -> dict[str, Any]:
    """The fields of the recipe that a list of rules amounts to.

    Raises:
        BadRecipe: a rule cannot be expressed; names it.
    """
    if not isinstance(rules, list) or not rules or not all(isinstance(rule, dict) for rule in rules):
        raise BadRecipe("not a recipe of ai-edge-quantizer: that is a list of rules")
    found: dict[str, Any] = {}
    exceptions: dict[str, str] = {}
    for number, rule in enumerate(rules, 1):
        try:
            if rule.get("algorithm_key") == "no_quantize":
                exceptions = {**_exception(rule), **exceptions}
                continue
            made = _base(rule)
        except BadRecipe as error:
            raise BadRecipe(f"rule {number}: {error}") from error
        if found or exceptions:
            raise BadRecipe(f"rule {number}: it is a second way to quantize; a recipe has one, and layers in float")
        found = made
    if not found:
        raise BadRecipe("no rule quantizes anything")
    return {"name": re.sub(r"\W", "_", name, flags=re.ASCII), **found, "exceptions": exceptions}


def _base(rule: dict[str, Any]) -> dict[str, Any]:
    """The weights, activations and block of a rule for the whole model."""
    unknown = set(rule) - {"regex", "operation", "algorithm_key", "op_config"}
    if unknown:
        raise BadRecipe(f"unknown key {min(unknown)!r}")
    algorithm, operation, config = rule.get("algorithm_key"), rule.get("operation"), rule.get("op_config")
    if algorithm not in ALGORITHMS:
        raise BadRecipe(f"the algorithm {algorithm!r} is not one of {', '.join(ALGORITHMS)}")
    if rule.get("regex") not in EVERYTHING:
        raise BadRecipe(f"it quantizes only what {rule.get('regex')!r} matches, and a recipe quantizes everything")
    if not isinstance(config, dict) or not isinstance(config.get("weight_tensor_config"), dict):
        raise BadRecipe("it lacks op_config.weight_tensor_config")
    weight, activation = config["weight_tensor_config"], config.get("activation_tensor_config")
    if config.get("min_weight_elements"):
        raise BadRecipe("min_weight_elements has no counterpart")
    bits, kind = weight.get("num_bits"), weight.get("dtype", "INT")
    if (bits, kind) == (16, "FLOAT"):
        return {"weights": "float16", "activations": "float16"}
    granularity = weight.get("granularity", "TENSORWISE")
    if bits not in (4, 8) or kind != "INT" or not weight.get("symmetric", True):
        raise BadRecipe(f"{bits}-bit weights of the type {kind} have no counterpart: only symmetric 4 and 8 bits")
    if granularity not in BLOCKS:
        raise BadRecipe(f"weights of the granularity {granularity!r} have no counterpart: only {', '.join(BLOCKS)}")
    if operation != ("FULLY_CONNECTED" if bits == 4 else "*"):
        scope = "linear layers: FULLY_CONNECTED" if bits == 4 else "every operator: *"
        raise BadRecipe(
            f"int{bits} weights of the operation {operation!r} have no counterpart: a recipe is for {scope}"
        )
    made = {"weights": f"int{bits}", "activations": _activations(config, activation)}
    return made if BLOCKS[granularity] is None else {**made, "block": BLOCKS[granularity]}


def _activations(config: dict[str, Any], activation: Any) -> str:
    if isinstance(activation, dict):
        if activation.get("num_bits") == 16:
            raise BadRecipe(f"int16 activations are not supported: {INT16}")
        if activation.get("num_bits") != 8:
            raise BadRecipe(f"{activation.get('num_bits')}-bit activations have no counterpart")
        return "int8"
    return "int8_dynamic" if config.get("compute_precision") == "INTEGER" else "float32"


def _exception(rule: dict[str, Any]) -> dict[str, str]:
    """What a rule leaves in float, as a pattern: layers by name, or one kind of operator in the whole model."""
    regex, operation = str(rule.get("regex")), rule.get("operation")
    if operation == "*" and regex not in EVERYTHING:
        literal = regex.replace(".*", "*").replace("\\.", ".")
        if re.search(r"[\\^$+?()\[\]{}|]", literal):
            raise BadRecipe(f"the regular expression {regex!r} has no counterpart: names and .* only")
        return {f"*{literal}*".replace("**", "*"): "float32"}
    if regex in EVERYTHING and operation in OPERATORS:
        return {OPERATORS[operation]: "float32"}
    raise BadRecipe(f"the operation {operation!r} of {regex!r} cannot be left out: a name, or a kind of operator, can")
