"""Model folders that tests write: the tiny model's SPEC with other code."""

from __future__ import annotations

from pathlib import Path

from pipeline import sources
from pipeline.sources import Model
from tests.plans import TINY

TORCH = '''"""A network that a test describes."""

import torch
from torch import nn


class Mine(nn.Module):
    def __init__(self, spec):
        super().__init__()
        {init}

    def forward(self, x):
        {forward}


def build(spec):
    return Mine(spec)
'''


def network(forward: str, init: str = "self.convolution, self.last = nn.Conv2d(1, 4, 3), nn.Linear(144, 10)") -> str:
    """torch.py with these statements, one a line."""
    return TORCH.format(**{
        name: text.strip().replace("\n", "\n        ") for name, text in (("init", init), ("forward", forward))
    })  # fmt: skip


def write(folder: Path, torch: str | None = None, keras: str | None = None, spec: dict[str, str] | None = None) -> Path:
    """Writes a model folder named "mine".

    Args:
        torch, keras: the content of torch.py and keras.py.
        spec: changes of the SPEC's text.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = (TINY / "__init__.py").read_text()
    for old, new in {'name="tiny"': 'name="mine"', **(spec or {})}.items():
        assert old in text
        text = text.replace(old, new)
    (folder / "__init__.py").write_text(text)
    for name, code in (("torch", torch), ("keras", keras)):
        if code is not None:
            (folder / f"{name}.py").write_text(code)
    return folder


def model(folder: Path, torch: str | None = None, keras: str | None = None) -> Model:
    """As `write`; the model."""
    return sources.find(str(write(folder, torch, keras)))
