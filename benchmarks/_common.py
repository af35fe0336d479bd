"""Shared by all benchmarks: facts of the machine, a table, and figures stored as JSON."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, Any]:
    """This machine: what a reader needs for a comparison."""
    facts = json.loads(
        subprocess.run([sys.executable, "-m", "edge_bench", "facts"], capture_output=True, check=True).stdout
    )
    device = facts.get("device", facts)
    keep = ("cpu", "cores", "memory_bytes", "os", "arch")
    return {**{key: device.get(key) for key in keep}, "python": platform.python_version(), "load": os.getloadavg()[0]}


def versions(*names: str) -> dict[str, str]:
    """Installed versions."""
    return {name: metadata.version(name) for name in names}


def median(values: Sequence[float]) -> float:
    """The median."""
    return float(statistics.median(values))


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def keep(name: str, figures: dict[str, Any]) -> None:
    """Writes results/<name>.json: the figures and the machine they were measured on."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"machine": machine(), **figures}, indent=1) + "\n")
    print(f"\n{path.relative_to(ROOT)}; {machine()}")


def verdict(what: str, holds: bool) -> bool:
    """Prints whether a bound holds."""
    print(f"{'holds' if holds else 'FALLS SHORT'}: {what}")
    return holds
