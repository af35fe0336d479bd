"""What `inv devices.probe` checks on a phone."""

from __future__ import annotations

import json
import re
from pathlib import Path

from pipeline.core import Assumption, Probe, from_json
from pipeline.devices import _phone_probe, adb
from tests.cli import ROOT
from tests.phones import DEVICE, Phone

RECORDED = Path(__file__).parents[1] / "probes" / "phone-emulated.json"
OF_THIS_MACHINE = ("app_cpufreq", "app_governor", "app_cores", "clear_refs")
"""What the app on the emulated phone reads from the kernel of this machine."""


def test_the_docs_list_every_assumption_about_phones() -> None:
    page = (ROOT / "docs" / "android.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*?) \| ", page, re.M))
    checks = (*_phone_probe.SYSTEM, *_phone_probe.APP)
    assumed = {check.name: check.assumed for check in checks} | {name: text for name, text, _ in _phone_probe.FACTS}
    assert assumed.items() <= rows.items()
    recorded = from_json(Probe, json.loads(RECORDED.read_text()))
    assert rows == {one.name: one.assumed for one in recorded.assumptions}
    assert len(checks) == len({check.name for check in checks})


def test_a_checks_pattern_accepts_the_words_of_android_and_no_others() -> None:
    patterns = {check.name: check.holds for check in (*_phone_probe.SYSTEM, *_phone_probe.APP)}
    good = {
        "fixed_performance": "code 0", "stay_on": "15", "keyguard": "isKeyguardShowing=false",
        "compile": "Success\ncode 0",
        "flock": "refused\nsame\nfree", "thermal_status": "IsStatusOverride: false\nThermal Status: 0",
        "battery": "  status: 2\n  level: 80\n  temperature: 250",
    }  # fmt: skip
    bad = {
        "fixed_performance": "Failed to set FIXED_PERFORMANCE mode\ncode 255", "stay_on": "null", "keyguard": "",
        "compile": "Failure\ncode 1", "flock": "twice\nsame\nfree", "thermal_status": "Can't find service",
        "battery": "level: 80",
    }  # fmt: skip
    assert [name for name, text in good.items() if not re.search(patterns[name], text)] == []
    assert [name for name, text in bad.items() if re.search(patterns[name], text)] == []


# -- the emulated phone ------------------------------------------------------------------------------------------------


def test_the_emulated_phone_answers_as_its_recorded_probe_says(phone: Phone) -> None:
    recorded = from_json(Probe, json.loads(RECORDED.read_text()))
    found = adb.probe(phone.build, DEVICE)
    assert [without_numbers(one) for one in found.assumptions] == [without_numbers(one) for one in recorded.assumptions]
    assert (found.model, found.system, found.hardware) == (recorded.model, recorded.system, recorded.hardware)


def without_numbers(one: Assumption) -> tuple[str, str, str, bool | None]:
    """An assumption without what differs from machine to machine: numbers, and what the app reads of this one."""
    if one.name in OF_THIS_MACHINE:
        return one.name, one.assumed, "", None
    return one.name, one.assumed, re.sub(r"\d+", "#", one.seen), one.holds
