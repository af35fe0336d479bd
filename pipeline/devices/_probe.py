"""What every kind of device shares for `inv devices.probe`: the noun, and hiding what identifies the device."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline import registry
from pipeline.core import Assumption, Device, Probe
from pipeline.errors import StageFailed

MACHINE = Path(__file__).with_name("_machine.py")
"""The program that checks a machine with Python. Its arguments: Lastmile's folder there."""
SECONDS = 120.0


def made(
    device: Device, hardware: str, model: str, system: str, assumptions: Iterable[Assumption], private: Iterable[str]
) -> Probe:
    """The probe of a device.

    Args:
        hardware: see `DeviceKind.hardware`; only its hash is kept.
        private: serial numbers, addresses and the like. Their hash replaces them wherever they were seen.
    """
    secrets = sorted({text for text in private if text}, key=len, reverse=True)
    return Probe(
        lastmile=registry.versions(("lastmile",))["lastmile"],
        date=datetime.now(UTC).date().isoformat(),
        kind=device.kind,
        emulated=device.emulated,
        model=_hidden(model, secrets),
        system=_hidden(system, secrets),
        hardware=hashed(hardware),
        assumptions=tuple(replace(one, seen=_hidden(one.seen, secrets)) for one in assumptions),
    )


def hashed(text: str) -> str:
    """A hash from which the text cannot be read, and by which two probes of one device are recognised."""
    return hashlib.sha256(f"lastmile probe {text}".encode()).hexdigest()[:16]


def of_machine(printed: str) -> tuple[str, str, list[Assumption]]:
    """What MACHINE printed: the model, the system, and the assumptions.

    Raises:
        StageFailed: it printed something else.
    """
    try:
        found: dict[str, Any] = json.loads(printed)
        return found["model"], found["system"], [Assumption(*one) for one in found["assumptions"]]
    except (ValueError, KeyError, TypeError) as error:
        raise StageFailed(f"the probe printed {printed[:200]!r} instead of its result") from error


def _hidden(text: str, secrets: Sequence[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, f"#{hashed(secret)[:8]}")
    return text
