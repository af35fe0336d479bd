"""Audio classification: one label for each sound."""

from pipeline.tasks._classification import check, figures, scores, truth

METRIC, TITLE, NAME = "top1", "top-1", "accuracy"
CLASSES = True
SUMMARY = "one label each for sounds"

__all__ = ["CLASSES", "METRIC", "NAME", "SUMMARY", "TITLE", "check", "figures", "scores", "truth"]
