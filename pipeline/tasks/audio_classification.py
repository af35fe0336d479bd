"""Audio classification: one label for each sound."""

from pipeline.tasks._classification import check, figures, scores, truth

METRIC, TITLE, NAME = "top1", "top-1", "accuracy"
CLASSES = True
POOLED = False
SUMMARY = "one label each for sounds"

__all__ = ["CLASSES", "METRIC", "NAME", "POOLED", "SUMMARY", "TITLE", "check", "figures", "scores", "truth"]
