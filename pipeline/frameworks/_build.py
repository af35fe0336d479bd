"""Calls a model folder's build(spec) and checks the network that it returns, in every framework."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pipeline.errors import BadModel, PipelineError, first_line
from pipeline.sources import Model

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


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
        reason = f"{type(error).__name__}: {error}"
        raise BadModel(f"{model.file(framework)}: build(spec) failed: {reason}") from error


def check(model: Model, framework: str, network: Callable[[NDArray[np.float32]], Any]) -> None:
    """Runs a network on two images of noise, so that a mistake shows before training or importing weights.

    Args:
        network: takes float32 (2, height, width, channels), 0–255.

    Raises:
        BadModel: the network fails, or its outputs are not (2, classes).
    """
    import numpy as np

    images = np.random.default_rng(0).uniform(0, 255, (2, *model.spec.inputs[0].shape)).astype(np.float32)
    try:
        outputs = network(images)
    except PipelineError:
        raise
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise BadModel(f"{model.file(framework)}: the network fails on a batch of two images: {reason}") from error
    wanted = (2, model.spec.classes)
    found = tuple(outputs.shape) if hasattr(outputs, "shape") else f"a {type(outputs).__name__}"
    if found != wanted:
        raise BadModel(
            f"{model.file(framework)}: the network returns {found} for two images, but SPEC.outputs requires {wanted}"
        )
