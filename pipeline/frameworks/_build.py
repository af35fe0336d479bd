"""Calls a model folder's build(spec) and checks the network that it returns, in every framework."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pipeline import tasks
from pipeline.core import Audio, ModelSpec, Standardization
from pipeline.errors import BadModel, PipelineError, described
from pipeline.sources import Model
from pipeline.system.progress import say

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pipeline.frameworks import Outputs


def build(model: Model, framework: str) -> Any:
    """Returns what build(spec) returns.

    Raises:
        BadModel: the model folder has no build(spec), or it fails.
    """
    user_build = model.code(framework).build
    try:
        return user_build(model.spec)
    except PipelineError:
        raise
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        raise BadModel(f"{model.file(framework)}: build(spec) failed: {described(error)}") from error


def check(model: Model, framework: str, network: Callable[[NDArray[Any]], Any]) -> None:
    """Runs a network on noise, so that a mistake shows before training or importing weights.

    On two samples and on one: training and evaluation take batches of different sizes, and devices run single samples.

    Args:
        network: takes (N, …) in the spec's shape: images as float32 0–255, others as they are before normalisation.

    Raises:
        BadModel: the network fails, or its outputs are not (N, classes).
    """
    for count in (2, 1):
        problem = _problem(model, network, count)
        if problem is not None:
            size = model.spec.training.batch_size
            others = [n for n in dict.fromkeys((2, 1, size)) if n != count and _problem(model, network, n) is None]
            advice = ""
            if others:
                advice = f"; a batch of {others[0]} works: the code must keep the batch axis, of any size"
            raise BadModel(f"{model.file(framework)}: {problem}{advice}")


def token_ids(spec: ModelSpec, count: int) -> NDArray[np.int32]:
    """Random token ids (count, length) of a spec with `Tokens`: texts of different lengths, filled with padding."""
    import numpy as np

    assert spec.tokens is not None and spec.inputs[0].value_range is not None  # `sources.folder` has checked it
    length = spec.tokens.length
    ids = np.random.default_rng(0).integers(0, int(spec.inputs[0].value_range[1]), (count, length), np.int32, True)
    for i, row in enumerate(ids):
        row[max(1, (i + 1) * length // count) :] = spec.tokens.padding
    return ids


def _problem(model: Model, network: Callable[[NDArray[Any]], Any], count: int) -> str | None:
    """What is wrong with a network's outputs for a number of samples."""
    import numpy as np

    noise, shape = np.random.default_rng(0), (count, *model.spec.inputs[0].shape)
    number = {1: "one sample", 2: "two samples"}.get(count, f"{count} samples")
    inputs: NDArray[Any]
    if model.spec.tokens:
        inputs = token_ids(model.spec, count)
    elif isinstance(model.spec.preprocessing, Audio | Standardization):
        mean, std = np.array(model.spec.preprocessing.mean), np.array(model.spec.preprocessing.std)
        inputs = (noise.normal(size=shape) * std + mean).astype(np.float32)
    else:
        inputs = noise.uniform(0, 255, shape).astype(np.float32)
    try:
        outputs = network(inputs)
    except PipelineError:
        raise
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        return f"the network fails on a batch of {number}: {described(error)}"
    wanted = [(count, *output.shape) for output in model.spec.outputs]
    several = list(outputs) if isinstance(outputs, list | tuple) and len(wanted) > 1 else [outputs]
    found = [tuple(each.shape) if hasattr(each, "shape") else f"a {type(each).__name__}" for each in several]
    if found != wanted:
        returned, required = (", ".join(map(str, each)) for each in (found, wanted))
        return f"the network returns {returned} for {number}, but SPEC.outputs requires {required}"
    return None


def warn_of_probabilities(model: Model, framework: str, outputs: Outputs, sigmoid: bool) -> None:
    """Prints a warning if a network that is about to be trained returns probabilities: the loss expects logits.

    Args:
        outputs: of a few samples. Logits after log_softmax are not changed by the loss's own.
        sigmoid: whether the last operation is a sigmoid.
    """
    if not tasks.of(model.spec).CLASSES:
        return
    rows = outputs[0].astype("float64")
    softmax = rows.shape[1] > 1 and rows.min() >= 0 and rows.max() <= 1 and abs(rows.sum(1) - 1).max() < 1e-2
    if softmax or sigmoid:
        say(
            f"warning: {model.file(framework)}: the network ends with a {'softmax' if softmax else 'sigmoid'}, but the "
            "loss applies its own softmax to logits and cannot fall to 0: return the values before it"
        )
