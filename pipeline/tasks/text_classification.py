"""Text classification: one label for each text."""

from pipeline.core import ModelSpec
from pipeline.tasks import _classification
from pipeline.tasks._classification import figures, scores, truth

METRIC, TITLE, NAME = "top1", "top-1", "accuracy"
CLASSES = True
POOLED = False
SUMMARY = "one label each for texts"

__all__ = ["CLASSES", "METRIC", "NAME", "POOLED", "SUMMARY", "TITLE", "check", "figures", "scores", "truth"]


def check(spec: ModelSpec) -> str | None:
    """See `Task`: token ids, and the output of a classifier."""
    if spec.tokens is None:
        return (
            f"a text classifier takes token ids: preprocessing must be Tokens, not {type(spec.preprocessing).__name__}"
        )
    return _classification.check(spec)
