"""Time series classification: one label for each sample."""

from pipeline.tasks._classification import check, figures, scores

METRIC, TITLE = "top1", "top-1"
CLASSES = True
SUMMARY = "one label each for windows of a sensor's values, or other series"

__all__ = ["CLASSES", "METRIC", "SUMMARY", "TITLE", "check", "figures", "scores"]
