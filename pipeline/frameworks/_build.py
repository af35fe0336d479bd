"""What a model folder's build(spec) must give, in every framework: a network, through which pictures go."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pipeline.errors import BadModel, PipelineError, first_line
from pipeline.sources import Model

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def build(model: Model, framework: str) -> Any:
    """What build(spec) returns.

    Raises:
        BadModel: there is none, or it fails.
    """
    build = model.code(framework).build
    try:
        return build(model.spec)
    except PipelineError:
        raise
    except (Exception, SystemExit) as error:  # a user's code may raise anything
        says = f"{type(error).__name__}: {error}"
        raise BadModel(f"{model.file(framework)}: build(spec) failed: {says}") from error


def check(model: Model, framework: str, network: Callable[[NDArray[np.float32]], Any]) -> None:
    """Two pictures of noise through a network, before it is trained or given weights.

    Args:
        network: takes float32 (2, height, width, channels), 0–255.

    Raises:
        BadModel: they do not go through, or the outputs are not (2, classes).
    """
    import numpy as np

    images = np.random.default_rng(0).uniform(0, 255, (2, *model.spec.inputs[0].shape)).astype(np.float32)
    try:
        outputs = network(images)
    except PipelineError:
        raise
    except (Exception, SystemExit) as error:  # a user's code may raise anything
        says = f"{type(error).__name__}: {first_line(error)}"
        raise BadModel(f"{model.file(framework)}: two pictures do not go through the network: {says}") from error
    wanted = (2, model.spec.classes)
    found = tuple(outputs.shape) if hasattr(outputs, "shape") else f"a {type(outputs).__name__}"
    if found != wanted:
        raise BadModel(f"{model.file(framework)}: two pictures give {found} where SPEC.outputs has {wanted}")
