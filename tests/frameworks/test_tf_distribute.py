"""Which device TensorFlow takes, and what is reported when it cannot use the machine's GPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import BadOption

pytestmark = pytest.mark.usefixtures("imported")


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that seems to have NVIDIA's driver; TensorFlow finds no GPU."""
    (tmp_path / "nvidia-smi").touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.usefixtures("driver")
def test_a_gpu_that_tensorflow_cannot_use_is_reported_once(capsys: pytest.CaptureFixture[str]) -> None:
    import tensorflow as tf

    from pipeline.frameworks import _tf_distribute

    if tf.config.list_physical_devices("GPU"):
        pytest.skip("TensorFlow can use a GPU on this machine")
    _tf_distribute._report_unused_gpu.cache_clear()
    assert [_tf_distribute.device_type("auto") for _ in range(2)] == ["CPU", "CPU"]
    (line,) = capsys.readouterr().err.splitlines()
    assert "CPU" in line and "TensorFlow sees no GPU" in line
    with pytest.raises(BadOption, match=r"^--accelerator cuda: .*docs/scaling\.md"):
        _tf_distribute.device_type("cuda")
    assert _tf_distribute.device_type("cpu") == "CPU" and capsys.readouterr().err == ""


@pytest.mark.usefixtures("driver")
def test_gpus_hidden_by_cuda_visible_devices_are_not_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from pipeline.frameworks import _tf_distribute

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    _tf_distribute._report_unused_gpu.cache_clear()
    _tf_distribute.device_type("auto")
    assert capsys.readouterr().err == ""
