"""Debugging: the messages for a wrong shape and for a NaN, and whether they name the layer."""

from __future__ import annotations

import re
from typing import Any

from pipeline.framework_comparison.parts import EXACT, FRAMEWORKS, Found, Row, Run, Side
from pipeline.framework_comparison.parts._turns import Turns, take

ORDER = 4
TITLE = "Debugging"
ABOUT = (
    "The same mistakes in the same network, in the second layer that mixes channels: it expects one channel more "
    "than it gets (shape), or its output is the logarithm of negative numbers (NaN). Each runs for one training step "
    "with the framework's defaults, and the NaN once more with the framework's own check on "
    "(torch.autograd.set_detect_anomaly, tf.debugging.enable_check_numerics). Messages are verbatim, except that "
    "terminal colours are removed and paths of the environment replaced."
)

CASES = {
    "shape": "a wrong number of channels",
    "nan": "a NaN",
    "nan, looked for": "a NaN, with the framework's own check on",
}
MODES = ("eager", "compiled")
OPERATION = re.compile(r"\b[Ll]og(Backward\d*)?\b")
"""Matches the logarithm in a message."""
SILENCE = "(no message: the loss is NaN and training continues)"


def prepare(run: Run) -> object:
    """See `Comparison.prepare`."""
    return [run.model.source(name) for name in run.jobs]


def measure(run: Run) -> Found:
    """See `Comparison.measure`."""
    turns = take(run, "mistakes", "mistakes", lambda *_: {"modes": MODES}, rounds=1)
    keys = [(case, mode) for case in CASES for mode in MODES]
    rows = [
        *(_row(turns, key, "Is there a message", lambda one: bool(one["message"])) for key in keys),
        *(_row(turns, key, "Is the layer named", _names_layer) for key in keys),
        *(_row(turns, key, "Is the operation named", _names_operation) for key in keys if key[0] != "shape"),
        *(_row(turns, key, "Before the first step", _early) for key in keys if key[0] == "shape"),
        *(_messages(turns, key) for key in keys),
    ]
    return Found(tuple(rows), loaded=turns.loaded)


def _names_layer(one: dict[str, Any]) -> bool:
    return any(name in one["message"] for name in one["layer"])


def _names_operation(one: dict[str, Any]) -> bool:
    return OPERATION.search(one["message"]) is not None


def _early(one: dict[str, Any]) -> bool:
    return bool(one["when"] != "in the first step")


def _row(turns: Turns, key: tuple[str, str], table: str, holds: Any) -> Row:
    """A row of yes or no."""

    def side(name: str) -> Side:
        if name in turns.reasons:
            return Side(reason=turns.reasons[name])
        yes = holds(turns.found[name][0][", ".join(key)])
        return Side(((float(yes),),), text="yes" if yes else "no")

    return Row(
        table, f"{CASES[key[0]]}, {key[1]}", "yes or no", "higher", EXACT, {name: side(name) for name in FRAMEWORKS}
    )


def _messages(turns: Turns, key: tuple[str, str]) -> Row:
    """The messages and their lengths."""

    def side(name: str) -> Side:
        if name in turns.reasons:
            return Side(reason=turns.reasons[name])
        message = turns.found[name][0][", ".join(key)]["message"]
        return Side(((float(len(message)),),), text=message or SILENCE)

    return Row(
        MESSAGES,
        f"{CASES[key[0]]}, {key[1]}",
        "characters",
        "neither",
        EXACT,
        {name: side(name) for name in FRAMEWORKS},
    )


MESSAGES = "Messages, verbatim"
"""The title of the table of messages."""
