"""What every kind of device keeps to, and devices.toml."""

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
def test_its_verbs_are_callable_and_its_description_is_one_line(kind: str) -> None:
    module = registry.load("devices", kind)
    for verb in ("describe", "unavailable", "exclusive", "setup", "identity", "push", "call", "clean"):
        assert callable(getattr(module, verb))
    assert module.__doc__ and module.__doc__.splitlines()[0].endswith(".")


def test_importing_them_loads_no_framework() -> None:
    code = (
        "import sys; from pipeline import registry\nfor n in registry.names('devices'): registry.load('devices', n)\n"
    )
    code += "print([m for m in ('numpy', 'torch', 'edge_bench', 'paramiko') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("name", list(devices.devices()))
def test_a_device_of_the_file_can_be_described_asked_and_does_not_refuse_every_target(
    name: str, tmp_path: Path
) -> None:
    device = devices.find(name)
    about, reason = device.describe(), device.unavailable(Store(tmp_path))
    assert about and "\n" not in about
    assert reason is None or "\n" not in reason
    assert any(device.unsupported(target) is None for target in plugins("targets", ALL))


# -- devices.toml ------------------------------------------------------------------------------------------------------


@pytest.fixture
def toml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A devices.toml that is used in place of the repository's."""
    path = tmp_path / "devices.toml"
    monkeypatch.setenv("LASTMILE_DEVICES", str(path))
    return path


def test_a_table_is_a_device_and_what_is_not_ours_is_for_its_kind(toml: Path) -> None:
    toml.write_text('[desk]\nkind = "local"\nemulated = true\nsummary = "a desk"\n')
    assert devices.devices() == {"desk": devices.bound(Device("desk", "local", True, {"summary": "a desk"}))}
    assert devices.find("desk").describe().startswith("a desk (")


def test_the_repositorys_file_is_used_where_no_other_is_named() -> None:
    assert devices.find("local").device == Device("local", "local", False, {"summary": "this machine"})


def test_an_unknown_device_lists_the_known(toml: Path) -> None:
    toml.write_text('[desk]\nkind = "local"\n[shelf]\nkind = "local"\n')
    with pytest.raises(UnknownName, match=r"^unknown device 'desc'; did you mean 'desk'\? \(known: desk, shelf\)$"):
        devices.find("desc")


def test_an_unknown_kind_lists_the_known(toml: Path) -> None:
    toml.write_text('[desk]\nkind = "lokal"\n')
    with pytest.raises(BadOption, match=rf"\[desk\] unknown device.* 'lokal'; .*\(known: {', '.join(KINDS)}\)$"):
        devices.devices()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[desk]\n", r"\[desk\] needs a kind"),
        ("[desk]\nkind = 3\n", r"\[desk\] needs a kind"),
        ('desk = "local"\n', r"\[desk\] needs a kind"),
        ("[desk\n", "Expected"),
        ("[desk]\nkind = local\n", "Invalid value"),
        ('[desk]\nkind = "local"\ntargets = "tflite"\n', "targets"),
        ('[desk]\nkind = "local"\ntargets = ["tflit"]\n', "tflit"),
        ('[desk]\nkind = "local"\nruntimes = "litert"\n', "runtimes"),
        ('[desk]\nkind = "local"\nemulated = "no"\n', "emulated"),
        (b"[desk]\nkind = '\xff'\n", "utf-8"),
    ],
)
def test_a_file_that_is_not_of_this_form_is_named_with_what_is_wrong(
    text: str | bytes, complaint: str, toml: Path
) -> None:
    toml.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(BadOption, match=complaint) as caught:
        devices.devices()
    assert str(toml) in str(caught.value)


def test_a_file_that_is_not_there_is_named(toml: Path) -> None:
    with pytest.raises(BadOption, match="No such file") as caught:
        devices.devices()
    assert str(toml) in str(caught.value)


def test_a_device_may_choose_its_targets_and_the_runtime_of_each() -> None:
    device = devices.find("local-tflite-runtime")
    assert device.runtime(TFLITE) == "tflite_runtime"
    assert device.runtime(ONNX) == "onnxruntime"
    assert device.unsupported(TFLITE) is None
    assert device.unsupported(ONNX) == "devices.toml does not list onnx among the targets of local-tflite-runtime"


def test_this_machine_refuses_what_nothing_here_can_run() -> None:
    for target in registry.names("targets"):
        bound = registry.bind("targets", target)
        assert devices.find("local").unsupported(bound) == bound.module.UNCHECKED
