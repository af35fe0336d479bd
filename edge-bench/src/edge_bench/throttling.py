"""What slows this machine while a model is measured: heat, power, or a limit of CPU time.

It may start and end within a run, so it is read between the entries of a measurement, never inside one.
"""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Callable

from . import cpus, facts

HWMON = Path("/sys/class/hwmon")
CPU_FOLDER = Path("/sys/devices/system/cpu")
EVERY_SECONDS = 0.25
"""How often the state is read during a measurement. vcgencmd takes a few milliseconds."""

BITS = ("undervoltage", "frequency_capped", "throttled", "soft_temperature_limit")
"""Bits 0 to 3 of vcgencmd get_throttled: now. Bits 16 to 19 are the same since boot. Source: the vcgencmd manual."""
COOLING, TRIP_POINT, HEAT, CPU_LIMIT = "cooling_device", "trip_point", "thermal_throttling", "cpu_limit"

SLOWING = re.compile(r"cpufreq|cpuidle|idle|processor|powerclamp", re.IGNORECASE)
"""Types of cooling devices that slow the CPUs; others are fans, GPUs and disks. Source: drivers/thermal and
drivers/acpi/processor_thermal.c of the kernel."""


class Watch:
    """Collects the reasons for which the machine was slowed, from now on.

    A state is seen if it is present when `look` reads it. A counter of the kernel shows everything since the start.
    """

    def __init__(self) -> None:
        states = (_pi, _alarm, _cooling, _trip_points)
        self._states = [state for state in states if state() is not None]
        counters = {HEAT: _heat_count, CPU_LIMIT: _limit_count}
        begun = {name: counter() for name, counter in counters.items()}
        self._counters = [(name, counters[name], count) for name, count in begun.items() if count is not None]
        self._bits = _bits() or 0
        self._seen: set[str] = set()
        self._looked = time.monotonic()
        self.look()

    def look(self) -> None:
        """Reads the state."""
        for state in self._states:
            self._seen |= state() or set()
        self._looked = time.monotonic()

    def look_if_due(self) -> bool:
        """Reads the state if that was long enough ago. Returns whether it did."""
        if not self._states or time.monotonic() - self._looked < EVERY_SECONDS:
            return False
        self.look()
        return True

    def result(self) -> list[str] | None:
        """Every reason since the start; None if this machine reports none of them."""
        if not self._states and not self._counters:
            return None
        self.look()
        new = (_bits() or 0) & ~self._bits
        since_boot = {name for place, name in enumerate(BITS) if new >> (16 + place) & 1}
        counted = {name for name, counter, begin in self._counters if (counter() or 0) > begin}
        return sorted(self._seen | since_boot | counted)


def _bits() -> int | None:
    text = facts.throttled()
    return int(text, 16) if text else None


def _pi() -> set[str] | None:
    bits = _bits()
    return None if bits is None else {name for place, name in enumerate(BITS) if bits >> place & 1}


def _alarm() -> set[str] | None:
    """A Raspberry Pi's voltage sensor. Source: the kernel's drivers/hwmon/raspberrypi-hwmon.c."""
    sensors = [path.parent for path in HWMON.glob("*/name") if facts.read(path) == "rpi_volt"]
    alarms = [facts.read(sensor / "in0_lcrit_alarm") for sensor in sensors]
    return {BITS[0]} & {BITS[0] for alarm in alarms if alarm == "1"} if alarms else None


def _cooling() -> set[str] | None:
    """Source: Documentation/driver-api/thermal/sysfs-api.rst: cur_state above 0 cools."""
    folders = [path.parent for path in facts.THERMAL_FOLDER.glob("cooling_device*/type")]
    states = [_number(one / "cur_state") for one in folders if SLOWING.search(facts.read(one / "type") or "")]
    return {COOLING for state in states if state is not None and state > 0} if states else None


def _trip_points() -> set[str] | None:
    """Zones above the temperature from which the kernel slows the CPUs, where no cooling device shows it."""
    if _cooling() is not None:
        return None
    found = None
    for kind in facts.THERMAL_FOLDER.glob("thermal_zone*/trip_point_*_type"):
        if facts.read(kind) != "passive":
            continue
        limit = _number(kind.with_name(kind.name.replace("_type", "_temp")))
        now = _number(kind.parent / "temp")
        if limit is None or now is None or limit <= 0:
            continue
        found = (found or set()) | ({TRIP_POINT} if now >= limit else set())
    return found


def _heat_count() -> int | None:
    """A PC's count of its CPUs' throttling. Source: the kernel's arch/x86/kernel/cpu/mce/therm_throt.c."""
    counts = [_number(path) for path in CPU_FOLDER.glob("cpu[0-9]*/thermal_throttle/core_throttle_count")]
    return sum(filter(None, counts)) if counts else None


def _limit_count() -> int | None:
    """How often the cgroups of this process stopped it until the next period. None without a limit."""
    if cpus.limit() is None:
        return None
    return sum(cpus.times_stopped())


def _number(path: Path) -> int | None:
    text = facts.read(path) or ""
    return int(text) if text.lstrip("-").isdigit() else None


Look = Callable[[], bool]


def never() -> bool:
    """For a measurement that nothing watches."""
    return False
