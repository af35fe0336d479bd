"""The kinds of device, and devices.toml."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import devices, registry
from pipeline.core import Device
from pipeline.errors import BadOption, UnknownName
from pipeline.stages.plan import ALL, plugins
from pipeline.system.store import Store

ROOT = Path(__file__).parents[2]
TFLITE, ONNX = plugins("targets", ["tflite", "onnx"])
KINDS = registry.names("devices")


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_has_all_verbs_and_a_docstring(kind: str) -> None:
    module = registry.load("devices", kind)
    for verb in ("describe", "unavailable", "exclusive", "setup", "hardware", "identity", "push", "call", "clean"):
        assert callable(getattr(module, verb))
    assert module.__doc__ and module.__doc__.splitlines()[0].endswith(".")


def test_importing_the_kinds_imports_no_framework() -> None:
    code = (
        "import sys; from pipeline import registry\nfor n in registry.names('devices'): registry.load('devices', n)\n"
    )
    code += "print([m for m in ('numpy', 'torch', 'edge_bench', 'paramiko') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("name", list(devices.devices()))
def test_each_device_of_the_file_has_a_description_an_availability_and_a_supported_target(
    name: str, tmp_path: Path
) -> None:
    device = devices.find(name)
    description, reason = device.describe(), device.unavailable(Store(tmp_path))
    assert description and "\n" not in description
    assert reason is None or "\n" not in reason
    assert any(device.unsupported(target) is None for target in plugins("targets", ALL))


# -- devices.toml ------------------------------------------------------------------------------------------------------


@pytest.fixture
def toml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A devices.toml that replaces the repository's."""
    path = tmp_path / "devices.toml"
    monkeypatch.setenv("LASTMILE_DEVICES", str(path))
    return path


def test_a_table_is_a_device_and_its_other_keys_are_options_of_the_kind(toml: Path) -> None:
    toml.write_text('[desk]\nkind = "local"\nemulated = true\nsummary = "a desk"\n')
    assert devices.devices() == {"desk": devices.bound(Device("desk", "local", True, {"summary": "a desk"}))}
    assert devices.find("desk").describe().startswith("a desk (")


def test_the_default_is_the_repositorys_devices_toml() -> None:
    assert devices.find("local").device == Device("local", "local", False, {"summary": "this machine"})


def test_an_unknown_device_is_an_error_that_lists_the_known_ones(toml: Path) -> None:
    toml.write_text('[desk]\nkind = "local"\n[shelf]\nkind = "local"\n')
    with pytest.raises(UnknownName, match=r"^unknown device 'desc'; did you mean 'desk'\? \(known: desk, shelf\)$"):
        devices.find("desc")


def test_an_unknown_kind_is_an_error_that_lists_the_known_ones(toml: Path) -> None:
    toml.write_text('[desk]\nkind = "lokal"\n')
    with pytest.raises(BadOption, match=rf"\[desk\] unknown device.* 'lokal'; .*\(known: {', '.join(KINDS)}\)$"):
        devices.devices()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[desk]\n", r"\[desk\] .*kind"),
        ("[desk]\nkind = 3\n", r"\[desk\] .*kind"),
        ('desk = "local"\n', r"\[desk\] .*kind"),
        ("[desk\n", "Expected"),
        ("[desk]\nkind = local\n", "Invalid value"),
        ('[desk]\nkind = "local"\ntargets = "tflite"\n', "targets"),
        ('[desk]\nkind = "local"\ntargets = ["tflit"]\n', "tflit"),
        ('[desk]\nkind = "local"\nruntimes = "litert"\n', "runtimes"),
        ('[desk]\nkind = "local"\nemulated = "no"\n', "emulated"),
        (b"[desk]\nkind = '\xff'\n", "utf-8"),
    ],
)
def test_an_invalid_file_is_an_error_with_its_path_and_the_reason(text: str | bytes, message: str, toml: Path) -> None:
    toml.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(BadOption, match=message) as caught:
        devices.devices()
    assert str(toml) in str(caught.value)


def test_a_missing_file_is_an_error_with_its_path(toml: Path) -> None:
    with pytest.raises(BadOption, match="No such file") as caught:
        devices.devices()
    assert str(toml) in str(caught.value)


def test_a_device_can_restrict_its_targets_and_choose_their_runtimes() -> None:
    device = devices.find("local-tflite-runtime")
    assert device.runtime(TFLITE) == "tflite_runtime"
    assert device.runtime(ONNX) == "onnxruntime"
    assert device.unsupported(TFLITE) is None
    reason = device.unsupported(ONNX)
    assert reason is not None and "onnx" in reason and "local-tflite-runtime" in reason


def test_targets_without_a_runtime_are_unsupported_on_this_machine() -> None:
    for target in registry.names("targets"):
        bound = registry.bind("targets", target)
        assert devices.find("local").unsupported(bound) == bound.module.UNCHECKED
