"""Networks that people ship, in int8: ours against each converter's default, as in int8.py.

    .venv/bin/pip install -e .[benchmarks]
    .venv/bin/python benchmarks/networks.py --data cifar10.zip [--images 20000] [NAME...]

EfficientNet-Lite0 has its ImageNet weights and a classifier for CIFAR-10 on its features. The others are trained on
CIFAR-10 here, with the defaults of networks/NAME; with --images N on the first N / 10 training images of each class.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import zipfile
from collections import Counter
from pathlib import Path, PurePosixPath

import _common
import _linear_probe
import int8

from pipeline import registry
from pipeline.stages.plan import Plan
from pipeline.system.store import Store

NETWORKS = Path(__file__).parent / "networks"
PRETRAINED = "efficientnet_lite0"


def main() -> int:
    known = sorted(path.parent.name for path in NETWORKS.glob("*/torch.py"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=known, metavar="NAME", help=", ".join(known))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=int, help="train on this many images only")
    options = parser.parse_args()
    registry.import_order()
    build = Store(Path(os.environ.get("LASTMILE_BUILD", _common.ROOT / "build")))
    holds = True
    data = options.data if options.images is None else subset(build, options.data, options.images // 10)
    for name in options.names:
        model = str(NETWORKS / name)
        if name != PRETRAINED:
            holds &= int8.compare(build, model, data)
            continue
        import torch

        (job,) = Plan.resolve(model, data=data).jobs
        with tempfile.TemporaryDirectory() as folder:
            weights = Path(folder) / "weights.pt"
            torch.save(_linear_probe.weights(job, data), weights)
            holds &= int8.compare(build, model, data, weights=weights)
    return 0 if holds else 1


def subset(build: Store, source: Path, each: int) -> Path:
    """A zip in the build folder with all test images and `each` training images a class, by name."""
    out = build.root / f"{source.stem}-{each}.zip"
    if out.exists():
        return out
    build.root.mkdir(parents=True, exist_ok=True)
    unfinished, taken = out.with_suffix(".part"), Counter[str]()
    with zipfile.ZipFile(source) as whole, zipfile.ZipFile(unfinished, "w") as part:
        for name in sorted(whole.namelist()):
            *_, split, label, _ = ("", "", *PurePosixPath(name).parts)
            if name.endswith("/") or (split == "train" and taken[label] == each):
                continue
            taken[label] += split == "train"
            part.writestr(name, whole.read(name))
    return unfinished.rename(out)


if __name__ == "__main__":
    sys.exit(main())
