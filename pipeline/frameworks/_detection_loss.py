"""The loss of object detection, the same in every framework: task-aligned assignment and quality targets.

Each true box takes the anchors whose boxes and scores fit it best: score ** ALPHA * IoU ** BETA. Their scores shall be
as high as their boxes are good, all others 0 (binary cross entropy); their boxes shall be the true one (GIoU). An
anchor's target depends on what it returns, so the loss needs no anchors and fits every detector with decoded boxes. A
sum over an image is divided by the sum of its targets. Boxes that do not count are background.

Source: Feng et al., TOOD: Task-aligned One-stage Object Detection, 2021 (arXiv:2108.07755).
"""

ALPHA, BETA, ANCHORS = 0.5, 6.0, 9
"""Exponents, and anchors for each true box."""
CLASSES, BOXES = 1.0, 4.0
"""Weights of the two parts."""
