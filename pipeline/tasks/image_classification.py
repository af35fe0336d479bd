"""Image classification: one label for each sample."""

from pipeline.tasks._classification import check, figures, scores

METRIC, TITLE = "top1", "top-1"
CLASSES = True
SUMMARY = "one label each for images"

__all__ = ["CLASSES", "METRIC", "SUMMARY", "TITLE", "check", "figures", "scores"]
