"""The floor of each runtime: what one call costs, measured with an empty model.

    .venv/bin/python benchmarks/floor.py [--device local,pi4-emulated,phone-emulated] [--processes 5]

It only reports; there is no bound. An emulated board's clock counts instructions. On an emulated phone the times are
those of this machine's JVM: they compare its engines and say nothing about a phone. Figures of other devices stay.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

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
    path = _common.RESULTS / "floor.json"
    asked = options.device.split(",")
    floors = [one for one in json.loads(path.read_text())["floors"] if one["device"] not in asked]
    for name in asked:
        device = devices.find(name)
        unit = "instructions" if device.options.get("clock") == "instructions" else "ns"
        for one, _ in floor.measure(build, device, plugins("targets", "all"), options.processes):
            floors.append({"device": name, "emulated": device.device.emulated, "unit": unit, **asdict(one)})
    rows = [[one["device"], f"{one['runtime']} {one['version']}", *_cost(one)] for one in floors]
    print(_common.table(["device", "runtime", "a call", "includes the input's copy"], rows))
    _common.keep("floor", {"floors": floors})
    return 0


def _cost(one: dict[str, Any]) -> list[str]:
    call = f"{one['ns']:,.0f} instructions" if one["unit"] == "instructions" else f"{one['ns'] / 1e3:.2f} µs"
    return [call, "yes" if one["includes_input_copy"] else "no"]


if __name__ == "__main__":
    sys.exit(main())
