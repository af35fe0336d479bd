"""`./inv demo` in a fresh clone on each supported Python, and the sizes of the files that it makes on each.

    .venv/bin/python benchmarks/pythons.py [3.11 3.12 3.13]

Needs the Pythons on this machine, 8 GB of disk for one environment at a time, and the network. Seconds include the
installation and depend on uv's cache. The clone is removed afterwards.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import _common

SUPPORTED = ("3.11", "3.12", "3.13")
RESULT = _common.RESULTS / "pythons.json"


def main(versions: list[str]) -> int:
    kept = json.loads(RESULT.read_text())["pythons"] if RESULT.exists() else {}
    for version in versions or SUPPORTED:
        kept[version] = demo(version)
        _common.keep("pythons", {"pythons": kept})
    found = sorted(kept)
    cells = sorted({cell for version in found for cell in kept[version]["bytes"]})
    rows = [["Python", *(kept[version]["python"] for version in found)]]
    rows += [["seconds, with the installation", *(f"{kept[version]['seconds']:.0f}" for version in found)]]
    rows += [[cell, *(kept[version]["bytes"].get(cell, "–") for version in found)] for cell in cells]
    print(_common.table(rows[0], rows[1:]))
    same = all(kept[version]["bytes"] == kept[found[0]]["bytes"] for version in found)
    return 0 if _common.verdict("every file has the same size on every Python", same) else 1


def demo(version: str) -> dict[str, Any]:
    """Clones the commit that is checked out and runs the demo there."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("LASTMILE_", "PYTHONPATH"))}
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "lastmile"
        subprocess.run(["git", "clone", "--quiet", _common.ROOT, clone], check=True)
        started = time.perf_counter()
        subprocess.run(["./inv", "demo"], cwd=clone, check=True, env=own | {"LASTMILE_PYTHON": version})
        seconds = time.perf_counter() - started
        python = [clone / ".venv" / "bin" / "python", "-c", "import platform; print(platform.python_version())"]
        exact = subprocess.run(python, check=True, capture_output=True, text=True).stdout.strip()
        files = sorted((clone / "build" / "digits_cnn.torch").glob("*/*/artifact.json"))
        sizes = {f"{path.parts[-2]} {path.parts[-3]}": json.loads(path.read_text())["size_bytes"] for path in files}
    return {"python": exact, "seconds": seconds, "bytes": sizes}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
