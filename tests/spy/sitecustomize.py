"""A process that has this on its path says at its end which frameworks it loaded: a file each in $SPY_FOLDER."""

import atexit
import json
import os
import sys
import tempfile


def _say() -> None:
    loaded = [name for name in ("torch", "keras", "tensorflow") if name in sys.modules]
    with tempfile.NamedTemporaryFile("w", dir=os.environ["SPY_FOLDER"], suffix=".json", delete=False) as file:
        json.dump({"words": sys.orig_argv, "loaded": loaded}, file)


if "SPY_FOLDER" in os.environ:
    atexit.register(_say)
