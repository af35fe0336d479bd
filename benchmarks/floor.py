"""The floor of each runtime: what one call costs, measured with an empty model.

    .venv/bin/python benchmarks/floor.py [--device local,phone-emulated] [--processes 5]

It only reports; there is no bound. On an emulated phone the times are those of this machine's JVM: they compare its
engines and say nothing about a phone.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import asdict
from pathlib import Path

import _common

from pipeline import devices
from pipeline.stages import floor
from pipeline.stages.plan import plugins
from pipeline.system.store import Store


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="local,local-executorch-runner")
    parser.add_argument("--processes", type=int, default=5)
    options = parser.parse_args()
    build = Store(Path(os.environ.get("LASTMILE_BUILD", _common.ROOT / "build")))
    found = [
        (name, one)
        for name in options.device.split(",")
        for one, _ in floor.measure(build, devices.find(name), plugins("targets", "all"), options.processes)
    ]
    rows = [
        [name, f"{one.runtime} {one.version}", f"{one.ns / 1e3:.2f}", "yes" if one.includes_input_copy else "no"]
        for name, one in found
    ]
    print(_common.table(["device", "runtime", "a call, µs", "includes the input's copy"], rows))
    _common.keep("floor", {"floors": [{"device": name, **asdict(one)} for name, one in found]})
    return 0


if __name__ == "__main__":
    sys.exit(main())
