"""Only for PyTorch: .pt files, memory formats, the normalisation layer, the input's scale."""

from __future__ import annotations

import argparse
import os
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import registry, sources
from pipeline.core import Preprocessing
from pipeline.errors import BadModel, BadWeights, Broken
from pipeline.frameworks import Settings
from pipeline.frameworks import torch as framework
from pipeline.system.store import Store
from tests.frameworks import synthetic

pytestmark = pytest.mark.usefixtures("imported")
MODEL = sources.find(str(Path(__file__).parents[1] / "models" / "tiny"))


@pytest.fixture
def weights(matrix: Store) -> Path:
    return matrix.checkpoint("tiny", "torch") / framework.WEIGHTS


@pytest.fixture
def state(weights: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return dict(load_file(weights))


def adopt(path: Path) -> dict[str, Any]:
    """Imports a file and returns the checkpoint's tensors."""
    from safetensors.torch import load_file

    out = path.with_name("adopted.safetensors")
    framework.adopt(MODEL, path, out)
    return dict(load_file(out))


def refusal(path: Path) -> str:
    with pytest.raises(BadWeights) as caught:
        adopt(path)
    assert not path.with_name("adopted.safetensors").exists()
    message = str(caught.value)
    assert str(path) in message and "\n" not in message
    return message


# -- a user's weights --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".PT"])
def test_a_pt_file_with_a_state_dict_is_imported(
    suffix: str, wrapped: bool, state: dict[str, Any], tmp_path: Path
) -> None:
    import torch

    path = tmp_path / f"mine{suffix}"
    torch.save({"state_dict": state, "epoch": 3} if wrapped else state, path)
    adopted = adopt(path)
    assert adopted.keys() == state.keys()
    assert all(torch.equal(adopted[name], state[name]) for name in state)


def test_half_precision_weights_are_converted_to_float32(state: dict[str, Any], tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    halved = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    save_file(halved, tmp_path / "half.safetensors")
    adopted = adopt(tmp_path / "half.safetensors")
    assert adopted["classifier.weight"].dtype == torch.float32
    assert torch.equal(adopted["classifier.weight"], halved["classifier.weight"].float())


def test_wrong_shapes_missing_and_unexpected_tensors_are_listed(state: dict[str, Any], tmp_path: Path) -> None:
    import torch

    path = tmp_path / "mine.pt"
    wrong = {**state, "classifier.weight": torch.zeros(7, 128), "extra.weight": torch.zeros(1)}
    del wrong["features.0.weight"]
    torch.save(wrong, path)
    message = refusal(path)
    for part in ("features.0.weight is missing", r"classifier.weight is 7×128, expected 10×128", "extra.weight"):
        assert part in message
    torch.save({"a": 1}, path)
    assert "state_dict" in refusal(path)
    torch.save({f"x{i}": torch.zeros(1) for i in range(5)}, path)
    assert refusal(path).endswith("more")


def test_the_counters_of_batch_normalisation_are_optional(state: dict[str, Any], tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    fewer = {name: value for name, value in state.items() if not name.endswith(framework.COUNTER)}
    save_file(fewer, tmp_path / "mine.SAFETENSORS")
    adopted = adopt(tmp_path / "mine.SAFETENSORS")
    assert len(fewer) < len(state) and adopted.keys() == state.keys()
    assert all(torch.equal(adopted[name], fewer[name]) for name in fewer)


def renamed(state: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {prefix + name: value for name, value in state.items()}


def left_by_trainers(state: dict[str, Any]) -> dict[str, Any]:
    """Checkpoints as training scripts and libraries write them."""
    import torch

    other = {name: value * 2 for name, value in state.items()}
    return {
        "tutorial.pt": {"model_state_dict": state, "optimizer_state_dict": {"lr": 0.1}, "epoch": 3},
        "torchvision.pth": {"model": state, "best_accuracy": np.float64(0.9), "epoch": np.int64(3)},
        "net.bin": {"net": state},
        "lightning.ckpt": {"state_dict": renamed(state, "model."), "pytorch-lightning_version": "2.5"},
        "timm.pth.tar": {"state_dict": state, "state_dict_ema": other},
        "with_ema.pt": {"model": state, "ema": other},
        "only_ema.pt": {"model_ema": state, "optimizer": {}},
        "within.pt": {"ema": {"module": renamed(state, "module.")}},
        "parallel.pt": renamed(state, "module."),
        "compiled.pt": renamed(state, "_orig_mod."),
        "all_of_them.pt": {"model": renamed(state, "module._orig_mod.model.")},
        "averaged.pt": {**renamed(state, "module."), "n_averaged": torch.tensor(5)},
    }


def test_checkpoints_of_training_scripts_are_imported(
    state: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch
    from safetensors.torch import save_file

    for name, content in left_by_trainers(state).items():
        torch.save(content, tmp_path / name)
        adopted = adopt(tmp_path / name)
        assert adopted.keys() == state.keys(), name
        assert all(torch.equal(adopted[tensor], state[tensor]) for tensor in state), name
        assert str(tmp_path / name) in capsys.readouterr().err, "what was used is printed"
    save_file(renamed(state, "model."), tmp_path / "mine.safetensors")
    assert adopt(tmp_path / "mine.safetensors").keys() == state.keys()


def test_the_moving_average_is_named_where_it_is_used_and_where_it_is_not(
    state: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    for name, printed in (("only_ema.pt", "using model_ema, a moving average"), ("timm.pth.tar", "not state_dict_ema")):
        torch.save(left_by_trainers(state)[name], tmp_path / name)
        adopt(tmp_path / name)
        assert printed in capsys.readouterr().err


def test_a_checkpoint_that_fits_in_part_or_is_ambiguous_is_refused_with_its_names(
    state: dict[str, Any], tmp_path: Path
) -> None:
    import torch

    fewer = {name: value for name, value in state.items() if name != "classifier.bias"}
    refused: dict[str, tuple[Any, str]] = {
        "fewer.pt": ({"model": renamed(fewer, "module.")}, "classifier.bias is missing"),
        "more.ckpt": ({"state_dict": {**renamed(state, "model."), "loss.weight": torch.ones(3)}}, "loss.weight is not"),
        "two.pt": ({"model": state, "net": state}, "model, net"),
        "unknown.pt": ({"generator": state, "epoch": 1}, "generator, epoch"),
        "tensor.pt": (torch.ones(3), "Tensor"),
        "arguments.pt": ({"model": state, "args": argparse.Namespace(lr=1e-3)}, "argparse.Namespace"),
    }
    for name, (content, complaint) in refused.items():
        torch.save(content, tmp_path / name)
        assert complaint in refusal(tmp_path / name)


def test_a_torchscript_file_is_refused_without_a_warning(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "scripted.pt"))
    recwarn.clear()
    message = refusal(tmp_path / "scripted.pt")
    assert "TorchScript" in message and "state_dict()" in message and not recwarn.list


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300])
def test_weights_that_are_not_finite_are_refused_by_name(value: float, state: dict[str, Any], tmp_path: Path) -> None:
    from safetensors.torch import save_file

    state["classifier.bias"] = state["classifier.bias"].double()
    state["classifier.bias"][3] = value
    save_file(state, tmp_path / "mine.safetensors")
    message = refusal(tmp_path / "mine.safetensors")
    assert "classifier.bias" in message and "NaN or infinite" in message


class Evil:
    """Creates a folder when unpickled by an unsafe reader."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_file_with_code_is_refused_without_running_it(legacy: bool, state: dict[str, Any], tmp_path: Path) -> None:
    import torch

    ran, path = tmp_path / "ran", tmp_path / "mine.pt"
    torch.save({**state, "evil": Evil(ran)}, path, _use_new_zipfile_serialization=not legacy)
    message = refusal(path)
    assert not ran.exists()
    assert "posix.mkdir" in message and "was not loaded" in message
    assert "weights_only=False" not in message, "torch's advice to load it anyway must not reach the user"
    path.write_bytes(pickle.dumps(Evil(ran), protocol=2))
    refusal(path)
    assert not ran.exists()


def test_a_pickled_model_is_refused_with_advice(tmp_path: Path) -> None:
    import torch

    torch.save(torch.nn.Linear(2, 2), tmp_path / "model.pt")
    assert "save model.state_dict()" in refusal(tmp_path / "model.pt")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.95])
def test_a_truncated_pt_file_is_refused(share: float, state: dict[str, Any], tmp_path: Path) -> None:
    import torch

    path = tmp_path / "mine.pt"
    torch.save(state, path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert "truncated" in refusal(path)


def test_a_text_file_named_pt_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.pt").write_text("<html>404</html>")
    assert "not a .pt file" in refusal(tmp_path / "mine.pt")


def test_a_truncated_training_state_is_reported_with_a_way_out(tmp_path: Path) -> None:
    data = {"train": synthetic.split(MODEL.spec, 16), "validation": synthetic.split(MODEL.spec, 8)}
    settings = Settings(1, 16, 1e-2, 0, "cpu")
    framework.train(MODEL, data, settings, tmp_path, "key")
    path = tmp_path / "training" / "state.ckpt"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(Broken, match=r"state\.ckpt.*--no-resume"):
        framework.train(MODEL, data, settings, tmp_path, "key")


# -- networks ----------------------------------------------------------------------------------------------------------


def copy_of(name: str, folder: Path, change: tuple[str, str]) -> sources.Model:
    """A copy of a model folder with another name and one change in its code."""
    original = sources.find(name)
    for file, (old, new) in {"__init__.py": ('name="', 'name="copy_of_'), "torch.py": change}.items():
        text = (original.folder / file).read_text()
        assert old in text
        (folder / file).write_text(text.replace(old, new, 1))
    return sources.find(str(folder))


def test_loaded_weights_are_contiguous_even_if_the_model_is_channels_last(tmp_path: Path) -> None:
    """Converting a channels_last model raises no error, but the exported file's outputs are wrong."""
    import torch

    from pipeline.frameworks import _torch_weights

    plain = "return ResNet8(spec.classes)"
    model = copy_of("resnet8", tmp_path, (plain, f"{plain}.to(memory_format=torch.channels_last)"))
    net = framework.network(model)
    assert not all(parameter.is_contiguous() for parameter in net.parameters())
    _torch_weights.save(net.get_submodule("net").state_dict(), tmp_path / "weights.safetensors")
    loaded = framework.loaded(model, tmp_path / "weights.safetensors")
    assert not loaded.training
    for parameter in loaded.parameters():
        assert parameter.stride() == torch.empty(parameter.shape).stride()


def test_the_normalisation_layer_computes_x_minus_mean_over_std_and_is_frozen() -> None:
    import torch

    from pipeline.frameworks import _normalization

    layer = _normalization.normalization_layer(
        Preprocessing("RGB", 8, 8, (123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
    )
    pixels = torch.randint(0, 256, (2, 3, 8, 8)).float()
    mean, std = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
    torch.testing.assert_close(layer(pixels), (pixels - mean[:, None, None]) / std[:, None, None])
    assert not any(parameter.requires_grad for parameter in layer.parameters())


@pytest.mark.parametrize("brightest", [200, 254, 255])
def test_the_input_scale_does_not_depend_on_the_calibration_set(brightest: int, matrix: Store, tmp_path: Path) -> None:
    from pipeline.frameworks import _graphs

    images = np.random.default_rng(0).integers(0, brightest + 1, (40, 8, 8, 1), np.uint8)
    framework.quantize(
        matrix.graphs("tiny", "torch"), (0.0, 255.0), images, tmp_path, registry.load("recipes", "int8").RECIPE
    )
    for name in (_graphs.FOLDED, _graphs.UNFOLDED):
        nodes = _graphs.load(tmp_path / name).graph.nodes
        first = next(node for node in nodes if "quantize_per_tensor" in str(node.target))
        assert [float(first.args[1]), int(first.args[2])] == [1.0, -128]


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("def build(spec):\n    return 3\n", "must return a torch.nn.Module, not int"),
        ("def build():\n    return 3\n", r"build\(spec\) failed"),
        ("def make(spec):\n    return 3\n", r"build\(spec\)"),
        ("import no_such_package\n", "ModuleNotFoundError"),
    ],
)
def test_unusable_model_code_is_reported_with_its_file(body: str, complaint: str, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text(body)
    spec = (MODEL.folder / "__init__.py").read_text().replace('name="tiny"', 'name="unusable"')
    (tmp_path / "__init__.py").write_text(spec)
    with pytest.raises(BadModel, match=complaint) as caught:
        framework.network(sources.find(str(tmp_path)))
    assert str(tmp_path / "torch.py") in str(caught.value)


def test_a_model_with_data_dependent_control_flow_is_refused(weights: Path, tmp_path: Path) -> None:
    branch = "        if image.sum() > 3:\n            image = -image\n        logits: torch"
    model = copy_of(str(MODEL.folder), tmp_path, ("        logits: torch", branch))
    with pytest.raises(BadModel, match=r"^torch\.export cannot export copy_of_tiny: .*torch\.py:\d+"):
        framework.capture(model, weights, tmp_path / "graphs")
