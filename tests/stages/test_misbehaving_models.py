"""Model folders whose code fails, prints or leaves: what cannot go on fails in one line, and the rest goes on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.errors import BadModel, PipelineError, StageFailed, first_line
from pipeline.stages import train
from pipeline.system.progress import logged
from pipeline.system.store import Store
from tests import own_models, plans
from tests.cli import inv

pytestmark = pytest.mark.usefixtures("imported")

PARTS = "self.convolution, self.last = nn.Conv2d(1, 4, 3), nn.Linear(144, 10)"
RESULT = "return self.last(self.convolution(x).flatten(1))"
COUNTED = f"{PARTS}\nself.calls = 0"
LATE = """
self.calls += self.training
if self.calls > 30: {}
"""


def trained(folder: Path, code: str, build: Path, epochs: int = 1) -> PipelineError | None:
    """Trains a model folder with this code; the error, if there is one."""
    job = plans.job(model=own_models.write(folder, code), epochs=epochs)
    try:
        train.ensure(Store(build), job)
    except PipelineError as error:
        assert len(str(error).splitlines()) == 1, error
        return error
    return None


@pytest.mark.parametrize(
    ("init", "forward", "complaint"),
    [
        ("raise KeyError('init')", RESULT, "KeyError: 'init' (torch.py:10)"),
        (PARTS, "raise KeyError('forward')", "KeyError: 'forward' (torch.py:13)"),
        (PARTS, f"if not self.training: raise KeyError('eval')\n{RESULT}", "KeyError: 'eval'"),
        (
            PARTS,
            f"if self.training: raise KeyError('train')\n{RESULT}",
            "in training on a batch of 2 samples: KeyError",
        ),
        (PARTS, f"if len(x) == 1: raise KeyError('one')\n{RESULT}", "on a batch of one sample: KeyError: 'one'"),
        (PARTS, "return self.last(self.convolution(x).flatten(1)).squeeze(0)", "returns (10,) for one sample"),
        (PARTS, "return self.last(self.convolution(x).view(2, -1))", "a batch of 2 works"),
        (PARTS, "return self.last(self.convolution(x).view(64, -1))", "a batch of 64 works"),
        (
            f"{PARTS}\nself.state = torch.zeros(2, 10)",
            f"self.state = self.state + {RESULT[7:]}\nreturn self.state",
            "(",
        ),
        (PARTS, "return self.forward(x)", "RecursionError"),
        (PARTS, "return None", "a NoneType for two samples"),
        (PARTS, "return x", "(2, 1, 8, 8) for two samples"),
        (PARTS, f"return ({RESULT[7:]}).double()", "torch.float64"),
        (PARTS, "return self.last(x)", "layer last, Linear"),
        (PARTS, "print('leaving')\nraise SystemExit(0)", "SystemExit: 0"),
        (PARTS, "return torch.empty(1 << 60)", "RuntimeError"),
        (PARTS.replace("144", "145"), RESULT, "layer last, Linear"),
        (f"{PARTS}\nself.double()", RESULT, "RuntimeError"),
    ],
)
def test_code_that_cannot_be_trained_is_refused_before_training(
    init: str, forward: str, complaint: str, tmp_path: Path
) -> None:
    error = trained(tmp_path / "model", own_models.network(forward, init), tmp_path / "build")
    assert isinstance(error, BadModel) and complaint in str(error)
    assert str(error).startswith(str(tmp_path / "model" / "torch.py"))
    assert not list((tmp_path / "build").rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("late", "complaint"),
    [
        ("raise KeyError('late')", "KeyError: 'late' (torch.py:15)"),
        ("raise SystemExit(0)", "SystemExit: 0"),
        ("x = x * float('nan')", "the loss is nan"),
        ("return None", "TypeError"),
    ],
)
def test_code_that_fails_in_the_second_epoch_leaves_the_first(late: str, complaint: str, tmp_path: Path) -> None:
    code = own_models.network(LATE.format(late) + RESULT, COUNTED)
    error = trained(tmp_path / "model", code, tmp_path / "build", epochs=2)
    assert isinstance(error, StageFailed) and complaint in str(error)
    assert (tmp_path / "build" / "mine.torch" / "training" / "best.ckpt").is_file()


def test_trained_weights_survive_a_failed_evaluation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flag = tmp_path / "flag"
    flag.touch()
    forward = f"if len(x) == 256 and __import__('pathlib').Path({str(flag)!r}).exists(): raise KeyError('evaluation')\n"
    code, build = own_models.network(forward + RESULT), tmp_path / "build"
    error = trained(tmp_path / "model", code, build)
    assert isinstance(error, StageFailed) and "KeyError: 'evaluation'" in str(error)
    weights = build / "mine.torch" / "training" / "model.safetensors"
    assert weights.is_file() and str(weights) in str(error)
    flag.unlink()
    assert trained(tmp_path / "model", code, build) is None
    assert "resuming after epoch 1 of 1" in capsys.readouterr().err


def test_a_checkpoint_exists_although_tensorboard_shows_no_features_and_no_graph(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    forward = (
        "if self.last._forward_pre_hooks: raise KeyError('features')\nif torch.jit.is_tracing(): raise SystemExit(1)"
    )
    assert trained(tmp_path / "model", own_models.network(f"{forward}\n{RESULT}"), tmp_path / "build") is None
    printed = capsys.readouterr().err
    assert "TensorBoard shows no features: KeyError: 'features' (torch.py:13)" in printed
    assert "TensorBoard shows no graph: SystemExit" in printed
    assert (tmp_path / "build" / "mine.torch" / "checkpoint" / "checkpoint.json").is_file()


KERAS_LATE = """
import keras


@keras.saving.register_keras_serializable()
class Late(keras.layers.Layer):
    def call(self, x, training=False):
        if training:
            raise KeyError("training")
        return x


def build(spec):
    image = keras.Input(spec.inputs[0].shape)
    return keras.Model(image, keras.layers.Dense(spec.classes)(keras.layers.Flatten()(Late()(image))))
"""


def test_a_keras_layer_that_fails_in_training_is_an_error_of_one_line(tmp_path: Path) -> None:
    job = plans.job(model=own_models.write(tmp_path / "model", keras=KERAS_LATE), framework="keras", epochs=1)
    with pytest.raises(StageFailed) as caught:
        train.ensure(Store(tmp_path / "build"), job)
    assert str(caught.value).startswith("mine (keras): training failed: ")
    assert "KeyError" in str(caught.value) and "Late.call(). training" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1 and len(str(caught.value)) < 200


def test_code_that_deletes_its_own_file_is_an_error_of_one_line(tmp_path: Path) -> None:
    code = own_models.network(RESULT) + "\n__import__('pathlib').Path(__file__).unlink()\n"
    assert "torch.py" in str(trained(tmp_path / "model", code, tmp_path / "build"))


def test_code_that_exits_while_a_stage_logs_is_a_failure(tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match=r"sys\.exit\(3\)"), logged(tmp_path / "log"):
        raise SystemExit(3)


# -- in processes ------------------------------------------------------------------------------------------------------

NOISE = """
import os
print('{"printed": "at import"}', flush=True)
os.write(1, b'{"written": "at import"}\\n')
"""
TALK = "print('{}', flush=True)\n__import__('os').write(1, b'{}\\n')\n"
KERAS = """
import keras


def build(spec):
    image = keras.Input(spec.inputs[0].shape)
    net = keras.Model(image, keras.layers.Dense(spec.classes)(keras.layers.Flatten()(image)))
    net.summary()
    return net
"""


def test_one_framework_that_fails_does_not_stop_the_other(tmp_path: Path) -> None:
    late = own_models.network(LATE.format("raise KeyError('late')") + RESULT, COUNTED)
    folder = own_models.write(tmp_path / "model", late, KERAS)
    quick = ("--target", "onnx", "--recipe", "fp32", "--processes", "1", "--min-runs", "3", "--min-seconds", "0")
    done = inv(tmp_path / "build", "bench", "--model", folder, "--framework", "torch,keras", *quick)
    assert "1 of 2 exports failed" in done.complaint and "KeyError: 'late'" in done.complaint
    (cell,) = [cell for cell in inv(tmp_path / "build", "results", "--json").json if cell["device"] == "local"]
    assert (cell["framework"], cell["target"], cell["status"]) == ("keras", "onnx", "ok")
    done = inv(tmp_path / "build", "train", "--model", folder, "--framework", "torch,keras", "--no-resume")
    assert "1 of 2 frameworks failed" in done.complaint and "KeyError: 'late'" in done.complaint
    assert str(tmp_path / "build" / "mine.keras" / "checkpoint") in done.out


def test_what_a_model_folder_prints_breaks_no_protocol(tmp_path: Path) -> None:
    folder = own_models.write(tmp_path / "model", NOISE + own_models.network(TALK + RESULT), NOISE + KERAS)
    init = folder / "__init__.py"
    init.write_text(f"{init.read_text()}\n{NOISE}")
    options = (
        "--framework",
        "all",
        "--target",
        "onnx",
        "--recipe",
        "fp32,int8",
        "--min-runs",
        "3",
        "--min-seconds",
        "0",
    )
    done = inv(tmp_path / "build", "bench", "--model", folder, *options)
    assert done.code == 0, done.err
    cells = inv(tmp_path / "build", "results", "--json").json
    assert [cell["status"] for cell in cells if cell["device"] == "local"] == ["ok"] * 4
    two = ("--framework", "torch", "--devices", "2", "--accelerator", "cpu", "--epochs", "1")
    done = inv(tmp_path / "two", "train", "--model", folder, *two)
    assert done.code == 0, done.err


def test_a_training_process_that_leaves_is_an_error(tmp_path: Path) -> None:
    forward = "if self.training and 'RANK' in __import__('os').environ: __import__('os')._exit(0)\n"
    folder = own_models.write(tmp_path / "model", own_models.network(forward + RESULT))
    options = ("--devices", "2", "--accelerator", "cpu")
    assert "process" in inv(tmp_path / "build", "train", "--model", folder, *options).complaint


def test_warnings_that_a_model_folder_turns_into_errors_are_errors_of_one_line(tmp_path: Path) -> None:
    code = "import warnings\nwarnings.simplefilter('error')\n" + own_models.network(f"warnings.warn('mine')\n{RESULT}")
    folder = own_models.write(tmp_path / "model", code)
    assert "UserWarning: mine" in inv(tmp_path / "build", "train", "--model", folder).complaint


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("\n\nthe reason\nmore", "the reason"),
        ("", "ValueError"),
        (
            'in user code:\n\n    File "keras.py", line 3, in call  *\n        x\n\n    ValueError: the reason\n',
            "the reason",
        ),
        (
            'in user code:\n\n    File "keras.py", line 3, in call  *\n\n    KeyError: 3\n\n    arguments:\n',
            "KeyError: 3",
        ),
        ("Graph execution error:\n\nDetected at node a\nthe reason\n\t [[{{node a}}]] [Op:f]", "the reason"),
    ],
)
def test_the_first_line_of_a_message_is_its_reason(message: str, line: str) -> None:
    assert first_line(ValueError(message)) == line


def test_an_unexpected_error_is_one_line_and_debug_shows_the_traceback() -> None:
    from invoke.context import Context
    from invoke.exceptions import Exit

    import tasks

    @tasks.command()
    def fail(_c: Context) -> None:
        json.loads("{\n")

    with pytest.raises(Exit) as caught:
        fail(Context())
    assert caught.value.code == 2
    assert str(caught.value).startswith("error: JSONDecodeError: ") and "--debug" in str(caught.value)
    with pytest.raises(json.JSONDecodeError):
        fail(Context(), debug=True)
