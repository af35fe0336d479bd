"""The time of `inv --list` against a bare two-task file, and of an up-to-date export of everything against the list.

    .venv/bin/python benchmarks/listing.py

Bounds: 1.2 times the bare file, and three times the list. The calls alternate; each figure is a median of ratios.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import _common

ROUNDS = 25
BARE = "from invoke import task\n@task\ndef a(c):\n    pass\n@task\ndef b(c):\n    pass\n"


def main() -> int:
    inv, ours = Path(sys.executable).with_name("inv"), [sys.executable, _common.ROOT / "tasks.py"]
    export = [*ours, "export", "--target", "all", "--recipe", "all"]
    subprocess.run(export, cwd=_common.ROOT, check=True, stdout=subprocess.DEVNULL)
    with tempfile.TemporaryDirectory() as bare:
        (Path(bare) / "tasks.py").write_text(BARE)
        rows = [
            (
                seconds([inv, "--list"], Path(bare)),
                seconds([*ours, "--list"], _common.ROOT),
                seconds(export, _common.ROOT),
            )
            for _ in range(ROUNDS)
        ]
    list_ratio = _common.median([ours / bare for bare, ours, _ in rows])
    export_ratio = _common.median([export / ours for _, ours, export in rows])
    print(_common.table(
        ["command", "ms (median)", "ratio (median)"],
        [
            ["bare `inv --list`", f"{1e3 * _common.median([r[0] for r in rows]):.0f}", "1"],
            ["`inv --list`", f"{1e3 * _common.median([r[1] for r in rows]):.0f}", f"{list_ratio:.2f} of the bare one"],
            ["`inv export --target all --recipe all`, up to date", f"{1e3 * _common.median([r[2] for r in rows]):.0f}",
             f"{export_ratio:.2f} of `inv --list`"],
        ],
    ))  # fmt: skip
    holds = _common.verdict("inv --list takes at most 1.2 times a bare file", list_ratio <= 1.2)
    holds &= _common.verdict("an up-to-date export takes at most 3 times inv --list", export_ratio <= 3)
    _common.keep("listing", {"rounds_s": rows, "list_ratio": list_ratio, "export_ratio": export_ratio})
    return 0 if holds else 1


def seconds(argv: list[str | Path], folder: Path) -> float:
    started = time.perf_counter()
    subprocess.run(argv, cwd=folder, check=True, stdout=subprocess.DEVNULL, env=os.environ)
    return time.perf_counter() - started


if __name__ == "__main__":
    sys.exit(main())
