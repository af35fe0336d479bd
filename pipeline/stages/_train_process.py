"""One of the processes that train together, started by a framework's launcher:
`python -m pipeline.stages._train_process REQUEST`.

It writes an error to the file that the launcher (PyTorch's or ours) names; `inv train` prints it as one line.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError, origin

PR_SET_PDEATHSIG = 1


def main(request: dict[str, Any]) -> int:
    """Takes part in the training; returns the exit code."""
    end_with_parent(ctypes.CDLL(None))
    over = False

    def leave(number: int, _: object) -> None:
        if not over:  # a second signal, which the launcher may send, must not interrupt what handles the first
            raise KeyboardInterrupt(*["ended by SIGTERM"] * (number == signal.SIGTERM))  # runs every `finally`

    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGINT, leave)
    try:
        from pipeline.stages import train
        from pipeline.stages.plan import Job
        from pipeline.system.store import Store

        train.take_part(Store(Path(request["build"])), Job.from_json(request["job"]))
    except BaseException as error:  # a model's code may raise anything
        over = True
        if isinstance(error, KeyboardInterrupt) and not error.args:
            return 128 + signal.SIGINT
        _record(error)
        return 128 + signal.SIGTERM if isinstance(error, KeyboardInterrupt) else 1
    return 0


def end_with_parent(library: Any) -> None:
    """Sends this process SIGTERM when its parent ends. The parent held the build folder's lock, so another run may
    now write to the folder.

    Args:
        library: the C library. It has prctl on Linux; without it (macOS) a thread checks for the parent every second.
    """
    parent = os.getppid()
    prctl = getattr(library, "prctl", None)
    if prctl is not None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        return

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def _record(error: BaseException) -> None:
    """Writes an error in the launcher's format, with its class, and its time in fractions of a second."""
    now = time.time()
    message = " ".join(f"{error}{'' if isinstance(error, PipelineError) else origin(error)}".split())
    content = {
        "message": {
            "message": message,
            "extraInfo": {"py_callstack": traceback.format_exc(), "timestamp": str(int(now))},
        },
        "kind": type(error).__name__,
        "at": now,
    }
    Path(os.environ["TORCHELASTIC_ERROR_FILE"]).write_text(json.dumps(content))


if __name__ == "__main__":
    code = main(json.loads(sys.argv[1]))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # without unloading libraries, which would print errors if the launcher sends SIGTERM now
