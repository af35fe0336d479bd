"""Bad input gives one line that names the problem and the fix, and exit code 2; no incomplete file remains."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import tasks
from pipeline import registry
from pipeline.errors import BadData, BadWeights, MissingExtra, PipelineError
from pipeline.stages.plan import Job
from pipeline.stages.train import ensure, ready
from pipeline.system.store import Store
from tests import plans
from tests.cli import ROOT, Done, contexts, environment, inv, tree, unfinished
from tests.datasets.synthetic import as_folder, as_zip, class_files, divided_files, png

SPEC = """
from pipeline.core import ModelSpec, Preprocessing, Tensor, Training

SPEC = ModelSpec(
    name="{name}",
    task="image_classification",
    inputs=(Tensor("image", (8, 8, 1), value_range=(0.0, 255.0)),),
    outputs=(Tensor("logits", ({classes},)),),
    labels={labels},
    preprocessing=Preprocessing(color="L", resize=8, crop=8, mean=(0.0,), std=(255.0,)),
    dataset="{dataset}",
    training=Training(epochs=1, batch_size=16, lr=1e-2),
)
"""


def folder(path: Path, spec: str, code: str | None = None) -> Path:
    """Writes a model folder with these files."""
    path.mkdir()
    (path / "__init__.py").write_text(spec)
    if code is not None:
        (path / "torch.py").write_text(code)
    return path


@pytest.fixture
def pets(tmp_path: Path, tiny: Path) -> Path:
    """A model like tiny that is trained on class folders with two classes."""
    spec = SPEC.format(name="pets", classes=2, labels=("cat", "dog"), dataset="imagefolder")
    return folder(tmp_path / "pets", spec, (tiny / "torch.py").read_text())


def refused(build: Path, *args: object, **more: str) -> str:
    """The error of a call that is refused before any work: nothing else is printed and nothing is written."""
    done = inv(build, *args, **more)
    assert tree(build) == {}
    return done.only


def training_error(build: Path, **options: Any) -> str:
    """The error of a training in this process, which has PyTorch loaded; importing it again takes seconds."""
    with pytest.raises(PipelineError) as caught:
        ensure(Store(build), plans.job(**options))
    assert tree(build) == {}
    return str(caught.value)


# -- names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("exprot",), "No idea what 'exprot' is (see inv --list)"),
        (("--help", "exprot"), "No idea what 'exprot' is (see inv --list)"),
        (("export", "--targt", "onnx"), "No idea what '--targt' is (see inv --help export)"),
        (
            ("devices.setup",),
            "devices.setup needs --device (see inv --help devices.setup)",
        ),
        (("convert", "--from", "keras"), "convert needs --to (see inv --help convert)"),
        (("train", "--model"), "--model needs a value (see inv --help train)"),
        (("--list-depth", "x", "recipes"), "--list-depth 'x' is not a whole number (see inv --list)"),
        (("--list-format", "tree", "--list"), "--list-format must be one of flat, nested, json"),
    ],
)
def test_a_command_line_that_cannot_be_parsed_is_bad_input(tmp_path: Path, args: tuple[str, ...], message: str) -> None:
    assert refused(tmp_path / "build", *args) == message


def test_an_option_given_twice_is_refused(tmp_path: Path) -> None:
    """invoke would take the second value for a task, and run it."""
    (tmp_path / "keep").write_text("a file of a user")
    for args in (
        ("train", "--model", "tiny", "--model", "clean"),
        ("train", "--model=tiny", "--epochs=1", "--model=digits_cnn"),
        ("train", "--resume", "--no-resume"),
        ("clean", "--dry", "--model", "tiny", "-R"),
    ):
        assert "is given twice" in inv(tmp_path, *args).only, args
    assert (tmp_path / "keep").is_file()


def test_an_empty_value_is_refused(tmp_path: Path) -> None:
    for args in (("train", "--model="), ("train", "--data", ""), ("bench", "--device", " "), ("bench", "--record=")):
        option = args[1].rstrip("=")
        assert refused(tmp_path / "build", *args).startswith(f"{option} needs a value")


@pytest.mark.parametrize(
    ("args", "wrong"),
    [
        (("train", "--model", "resnet8", "--data", "~no-such-user/x"), "~no-such-user/x"),
        (("train", "--model", "~no-such-user/x"), "~no-such-user/x"),
        (("android.build", "--keystore", "/nonexistent/key"), "--keystore /nonexistent/key"),
        (("export", "--model", "\x1b[31mred\nline"), "\\x1b[31mred"),
    ],
)
def test_a_path_that_does_not_exist_is_named(tmp_path: Path, args: tuple[str, ...], wrong: str) -> None:
    error = refused(tmp_path / "build", *args)
    assert wrong in error and error.isprintable()


def test_a_build_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    build = tmp_path / "build"
    build.write_text("a user's")
    for args in (("results",), ("clean",), ("report",), ("train",)):
        assert inv(build, *args).only.startswith(f"the build folder {build} is not a folder")
    assert build.read_text() == "a user's"


@pytest.mark.parametrize(
    "option",
    [
        "--echo", "-e", "--warn-only", "-w", "--hide=both", "--pty", "-p", "--command-timeout=1", "-T1", "--no-dedupe",
        "--prompt-for-sudo-password", "--config=x.yaml", "-fx.yaml", "--write-pyc", "--collection=x", "--search-root=/",
    ],
)  # fmt: skip
def test_options_of_invoke_without_effect_are_unknown(tmp_path: Path, option: str) -> None:
    for args in ((option, "recipes"), ("recipes", option)):
        assert "No idea what" in refused(tmp_path / "build", *args)


class NothingRuns(tasks.Lastmile):
    def execute(self) -> None:
        pytest.fail(f"{[task.name for task in self.tasks]} would run")


def test_every_task_but_clean_refuses_to_run_dry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", sys.dont_write_bytecode)
    for task in contexts():
        values = [word for each in task.positional_args for word in (f"--{each.name.rstrip('_')}", "x")]
        runs = task.name == "clean"
        expected = pytest.raises(pytest.fail.Exception) if runs else pytest.raises(SystemExit, match=r"^2$")
        for args in ((task.name, *values, "--dry"), ("-R", task.name, *values), ("clean", task.name, *values, "-R")):
            with expected:
                NothingRuns(name="inv", binary="inv").run(["inv", *args])


def test_a_task_that_cannot_run_dry_is_named(tmp_path: Path) -> None:
    assert refused(tmp_path / "build", "clean", "recipes", "--dry") == "recipes cannot run dry: only clean can"


@pytest.mark.parametrize(
    ("args", "kind", "name", "nearest"),
    [
        (("export", "--target", "tflight"), "target", "tflight", "tflite"),
        (("export", "--target", "onnx,torchscript"), "target", "torchscript", None),
        (("export", "--recipe", "int7"), "recipe", "int7", "int8"),
        (("bench", "--recipe", "fp32,q4"), "recipe", "q4", None),
        (("export", "--framework", "jax"), "framework", "jax", None),
        (("train", "--framework", "torhc"), "framework", "torhc", "torch"),
        (("data.download", "--dataset", "cifar100"), "dataset", "cifar100", "cifar10"),
    ],
)
def test_an_unknown_plug_in_is_refused_with_the_known_and_the_nearest_names(
    tmp_path: Path, args: tuple[str, ...], kind: str, name: str, nearest: str | None
) -> None:
    error = refused(tmp_path / "build", *args)
    near = f"; did you mean {nearest!r}?" if nearest else ""
    assert error == f"unknown {kind} {name!r}{near} (known: {', '.join(registry.names(f'{kind}s'))})"


def test_an_unknown_model_is_refused_with_the_known_and_the_nearest_names(tmp_path: Path) -> None:
    known = sorted(path.parent.name for path in Path("models").glob("*/__init__.py"))
    error = refused(tmp_path / "build", "train", "--model", "digits_cn")
    assert error == f"unknown model 'digits_cn'; did you mean 'digits_cnn'? (known: {', '.join(known)})"
    assert refused(tmp_path / "build", "bench", "--model", "zzz") == f"unknown model 'zzz' (known: {', '.join(known)})"


def test_an_unknown_device_is_refused_with_the_known_and_the_nearest_names(tmp_path: Path) -> None:
    toml = tmp_path / "devices.toml"
    toml.write_text('[here]\nkind = "local"\n[there]\nkind = "local"\n')
    for task in ("bench", "push"):
        error = refused(tmp_path / "build", task, "--device", "theer", LASTMILE_DEVICES=str(toml))
        assert error == "unknown device 'theer'; did you mean 'there'? (known: here, there)"


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ('[here]\nkind = "usb"\n', "unknown device 'usb' (known: "),
        ("[here]\nemulated = true\n", "[here] needs a kind (known: "),
        ("here = 1\n", "[here] needs a kind (known: "),
        ("[here\n", "devices.toml: "),
    ],
)
def test_an_invalid_devices_file_is_refused(tmp_path: Path, text: str, wrong: str) -> None:
    toml = tmp_path / "devices.toml"
    toml.write_text(text)
    assert wrong in refused(tmp_path / "build", "bench", LASTMILE_DEVICES=str(toml))


def test_a_missing_image_is_named_before_anything_is_trained(tmp_path: Path) -> None:
    error = refused(tmp_path / "build", "trace", "--image", tmp_path / "cat.png")
    assert error.startswith(f"--image {tmp_path / 'cat.png'}: ")


def test_paths_are_relative_to_the_users_folder(tmp_path: Path, tiny: Path) -> None:
    """./inv changes to its own folder and passes the user's in LASTMILE_FROM."""
    shutil.copytree(tiny, tmp_path / "mine", ignore=shutil.ignore_patterns("keras.py", "__pycache__"))
    variables = {"LASTMILE_FROM": str(tmp_path)}
    error = refused(tmp_path / "build", "export", "--model", "mine", "--framework", "keras", **variables)
    assert error.startswith(f"model tiny has no keras.py in {tmp_path / 'mine'}")
    error = refused(tmp_path / "build", "trace", "--image", "cat.png", **variables)
    assert error.startswith(f"--image {tmp_path / 'cat.png'}: ")
    error = refused(tmp_path / "build", "train", "--model", "mine", "--weights", "w.pt", **variables)
    assert str(tmp_path / "w.pt") in error


def test_a_missing_devices_file_is_named(tmp_path: Path) -> None:
    error = refused(tmp_path / "build", "devices", LASTMILE_DEVICES=str(tmp_path / "nowhere.toml"))
    assert error.startswith(str(tmp_path / "nowhere.toml"))


# -- numbers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "wrong"),
    [
        (("train", "--epochs", "many"), "--epochs 'many' is not a whole number"),
        (("train", "--epochs", "1.5"), "--epochs '1.5' is not a whole number"),
        (("train", "--epochs", "0"), "--epochs, --batch-size and --lr"),
        (("train", "--batch-size", "-1"), "--epochs, --batch-size and --lr"),
        (("train", "--lr", "fast"), "--lr 'fast' is not a number"),
        (("train", "--lr", "nan"), "--epochs, --batch-size and --lr"),
        (("train", "--lr", "inf"), "--epochs, --batch-size and --lr"),
        (("train", "--seed", "-1"), "--seed -1: must be from 0 to 4294967295"),
        (("train", "--seed", "4294967296"), "--seed 4294967296: must be from 0 to 4294967295"),
        (("train", "--accelerator", "gpu"), "--accelerator 'gpu': must be auto, cpu or cuda"),
        (("train", "--weights", "w.pt", "--epochs", "3"), "omit --epochs, --batch-size, --lr and --seed"),
        (("bench", "--threads", "0"), "--threads, --processes, --min-runs and --samples must be at least 1"),
        (("bench", "--processes", "0"), "--processes, --min-runs and --samples must be at least 1"),
        (("bench", "--cpus", "3-1"), "--cpus '3-1'"),
        (("bench", "--cpus", "0", "--threads", "2"), "--threads 2"),
        (("bench", "--threads", "1,0"), "--threads, --processes, --min-runs and --samples must be at least 1"),
        (("bench", "--threads", "1,,2"), "--threads '1,,2': must be comma-separated whole numbers, or all"),
        (("bench", "--threads", "every"), "--threads 'every': must be comma-separated whole numbers, or all"),
        (("bench", "--samples", "0"), "--threads, --processes, --min-runs and --samples must be at least 1"),
        (("bench", "--samples", "half"), "--samples 'half' is not a whole number"),
        (("bench", "--min-runs", "x"), "--min-runs 'x' is not a whole number"),
        (("bench", "--min-seconds", "nan"), "--min-seconds at least 0"),
        (("bench", "--min-seconds", "inf"), "--min-seconds at least 0"),
        (("bench", "--time-limit", "0"), "--time-limit above 0"),
        *(
            ((task, "--margin", text), f"--margin {text}")
            for task in ("report", "results", "bench")
            for text in ("0", "-1", "nan", "inf", "100")
        ),
        (("report", "--margin", "small"), "--margin 'small' is not a number"),
        (("export", "--model", "mobilenet_v3_small:width=wide"), "width='wide' is not a number"),
        (("export", "--model", "mobilenet_v3_small:depth=2"), "has no option 'depth' (it has: classes, width)"),
        (("export", "--model", "mobilenet_v3_small:width=0"), "width must be above 0"),
    ],
)
def test_an_invalid_number_is_refused(tmp_path: Path, args: tuple[str, ...], wrong: str) -> None:
    assert wrong in refused(tmp_path / "build", *args)


def test_an_invalid_option_is_refused_even_if_everything_is_up_to_date(copied: Store, tiny: Path) -> None:
    before = tree(copied.root)
    error = inv(copied.root, "train", "--model", tiny, "--accelerator", "gpu").only
    assert error == "--accelerator 'gpu': must be auto, cpu or cuda"
    assert tree(copied.root) == before


# -- combinations ------------------------------------------------------------------------------------------------------


def test_a_recipe_that_a_target_does_not_support_is_refused_with_the_reason(tmp_path: Path) -> None:
    error = refused(tmp_path / "build", "export", "--target", "tflite,coreml", "--recipe", "int8_dynamic")
    assert error.startswith("coreml does not support int8_dynamic: ") and "int8_weight_only" in error


def test_bench_and_push_refuse_a_target_that_does_not_run_on_linux(tmp_path: Path) -> None:
    for task in ("bench", "push"):
        error = refused(tmp_path / "build", task, "--target", "coreml")
        assert error.startswith("coreml cannot be measured on local: ") and "Apple" in error


def test_a_target_that_devices_toml_excludes_is_refused(tmp_path: Path) -> None:
    error = refused(tmp_path / "build", "bench", "--target", "onnx", "--device", "local-tflite-runtime")
    assert error.startswith("onnx cannot be measured on local-tflite-runtime: devices.toml ")


def test_a_budget_is_refused_on_a_device_that_does_not_count_instructions(tmp_path: Path) -> None:
    for option in ("--check", "--record"):
        error = refused(tmp_path / "build", "bench", option, tmp_path / "instructions.json")
        assert error.startswith("local does not count instructions")


def test_an_invalid_budget_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    file = tmp_path / "instructions.json"
    bench = ("bench", "--device", "pi4-emulated")
    assert refused(tmp_path / "build", *bench, "--check", file).startswith(f"{file}: no such file")
    assert refused(tmp_path / "build", *bench, "--check", file, "--record", file).startswith("--check and --record ")
    assert "there is no folder" in refused(tmp_path / "build", *bench, "--record", tmp_path / "none" / "file")
    file.write_text("counts = 1")
    for option in ("--check", "--record"):
        assert refused(tmp_path / "build", *bench, option, file).startswith(f"{file}: not JSON")


def test_a_framework_that_a_model_is_not_written_in_is_refused(tmp_path: Path) -> None:
    path = folder(tmp_path / "mine", SPEC.format(name="mine", classes=10, labels=(), dataset="digits"))
    error = refused(tmp_path / "build", "train", "--model", path)
    assert error.startswith(f"model mine has no torch.py in {path}: ") and "build(spec)" in error


# -- model folders -----------------------------------------------------------------------------------------------------

DIGITS = SPEC.format(name="mine", classes=10, labels=tuple("0123456789"), dataset="digits")
FOLDERS = {
    "no SPEC": ("x = 1", "__init__.py has no SPEC of type pipeline.core.ModelSpec"),
    "a failing import": ("import nosuchpackage", "__init__.py cannot be imported: ModuleNotFoundError: No mod"),
    "an error of two lines": ('raise ValueError("one\\ntwo")', "cannot be imported: ValueError: one two"),
    "a syntax error": ("SPEC = (", "__init__.py cannot be imported: SyntaxError: "),
    "a name with a slash": (DIGITS.replace('"mine"', '"a/b"'), "SPEC.name 'a/b'"),
    "the name of a built-in model": (DIGITS.replace('"mine"', '"resnet8"'), "SPEC.name 'resnet8'"),
    "an unknown task": (DIGITS.replace("image_class", "sound_class"), "unknown task 'sound_classification'"),
    "two colors": (DIGITS.replace('color="L"', 'color="RGB"'), "preprocessing.color 'RGB'"),
    "a range of 0 to 1": (DIGITS.replace("(0.0, 255.0)", "(0.0, 1.0)"), "value_range (0.0, 1.0)"),
    "a mean of three": (DIGITS.replace("mean=(0.0,)", "mean=(0.0,) * 3"), "need 1 values each"),
    "a crop of another size": (DIGITS.replace("crop=8", "crop=7"), "preprocessing.crop"),
    "an unknown dataset": (DIGITS.replace('"digits"', '"mnist"'), "unknown dataset 'mnist'"),
}  # fmt: skip


@pytest.mark.parametrize("what", FOLDERS)
def test_an_invalid_model_folder_is_refused(tmp_path: Path, what: str) -> None:
    spec, wrong = FOLDERS[what]
    path = folder(tmp_path / "mine", spec, "")
    assert wrong in refused(tmp_path / "build", "train", "--model", path)


@pytest.mark.parametrize(
    ("code", "wrong"),
    [
        ("def make(spec): ...", "torch.py has no function build(spec)"),
        ("import nosuchpackage", "torch.py cannot be imported: ModuleNotFoundError: No module named 'nosuchpackage'"),
        ("def build(): ...", "torch.py: build(spec) failed: "),
        ("def build(spec): ...", "torch.py: build(spec) must return a torch.nn.Module, not NoneType"),
        ("raise SystemExit(3)", "torch.py cannot be imported: SystemExit: 3"),
        ("def build(spec): raise SystemExit(3)", "torch.py: build(spec) failed: SystemExit: 3"),
        ("def build(spec): return spec.options['width']", "torch.py: build(spec) failed: KeyError: 'width'"),
        (
            "from torch import nn\ndef build(spec): return nn.RelU()",
            "torch.py: build(spec) failed: AttributeError: module 'torch.nn' has no attribute 'RelU'",
        ),
        (
            "from torch import nn\ndef build(spec): return nn.Conv2d(3, 8, 3)",
            "RuntimeError: Given groups=1, weight of size [8, 3",
        ),
        (
            "from torch import nn\ndef build(spec): return nn.Linear(8, 10)",
            "(2, 1, 8, 10)",
        ),
        (
            "from torch import nn\ndef build(spec): return nn.MaxPool2d(8, return_indices=True)",
            "a tuple",
        ),
    ],
)
def test_code_that_builds_no_network_is_refused(tmp_path: Path, code: str, wrong: str) -> None:
    path = folder(tmp_path / "mine", DIGITS, code)
    error = training_error(tmp_path / "build", model=path)
    assert "torch.py" in error and wrong in error


def test_weights_for_a_network_with_other_outputs_than_its_spec_are_refused(tmp_path: Path) -> None:
    import torch

    code = "from torch import nn\ndef build(spec): return nn.Sequential(nn.Flatten(), nn.Linear(64, 7))"
    path = folder(tmp_path / "mine", DIGITS, code)
    torch.save({"1.weight": torch.zeros(7, 64), "1.bias": torch.zeros(7)}, tmp_path / "mine.pt")
    error = training_error(tmp_path / "build", model=path, weights=tmp_path / "mine.pt")
    assert error.startswith(f"{path}/torch.py: ") and "(2, 7)" in error and "(2, 10)" in error


def test_a_folder_without_an_init_is_refused(tmp_path: Path) -> None:
    error = refused(tmp_path / "build", "train", "--model", tmp_path)
    assert error.startswith(str(tmp_path)) and "__init__.py" in error and "SPEC" in error


def test_a_missing_model_folder_is_refused(tmp_path: Path) -> None:
    error = refused(tmp_path / "build", "train", "--model", tmp_path / "nowhere")
    assert error.startswith(f"no model folder at {tmp_path}/nowhere: ") and "__init__.py" in error


# -- data --------------------------------------------------------------------------------------------------------------


def test_missing_data_is_refused(tmp_path: Path) -> None:
    error = refused(tmp_path / "build", "train", "--model", "resnet8", "--data", tmp_path / "nowhere")
    assert error.startswith(f"--data {tmp_path}/nowhere: ")


def test_without_data_the_error_names_the_download_command(tmp_path: Path) -> None:
    error = refused(tmp_path / "build", "export", "--model", "resnet8")
    assert error.startswith("cifar10 needs --data PATH") and "inv data.download --dataset cifar10" in error


def test_data_for_a_built_in_dataset_is_refused(tmp_path: Path) -> None:
    error = refused(tmp_path / "build", "train", "--data", tmp_path)
    assert "digits_cnn" in error and "--data" in error


def test_empty_data_is_refused(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for model in ("resnet8", "mobilenet_v3_small"):
        error = refused(tmp_path / "build", "train", "--model", model, "--data", empty)
        assert error.startswith(f"{empty} has no images") and "class folders" in error


def test_a_truncated_zip_is_refused(tmp_path: Path, pets: Path) -> None:
    archive = as_zip(tmp_path / "pets.zip", class_files("", {"cat": 5, "dog": 5}))
    archive.write_bytes(archive.read_bytes()[:-100])
    error = refused(tmp_path / "build", "train", "--model", pets, "--data", archive)
    assert error.startswith(f"{archive} is a corrupt zip")


def test_data_with_other_classes_than_the_model_is_refused(tmp_path: Path, pets: Path) -> None:
    data = as_folder(tmp_path / "data", class_files("", {"cat": 5, "dog": 5, "owl": 5}))
    error = refused(tmp_path / "build", "train", "--model", pets, "--data", data)
    assert error.startswith("pets has 2 ") and "'owl'" in error
    error = refused(tmp_path / "build", "train", "--model", "mobilenet_v3_small", "--data", data)
    assert all(part in error for part in ("mobilenet_v3_small", "1000", " 3", "--model …:classes=3"))


def test_an_unreadable_image_is_named(tmp_path: Path, pets: Path) -> None:
    files = divided_files({"cat": 6, "dog": 6}) | {"train/dog/broken.png": png(9)[:60]}
    data = as_folder(tmp_path / "data", files)
    error = training_error(tmp_path / "build", model=pets, data=data)
    assert error.startswith(f"{data}/train/dog/broken.png: ")


def test_an_unreadable_test_image_does_not_lose_the_training(
    tmp_path: Path, pets: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    files = divided_files({"cat": 6, "dog": 6}) | {"test/dog/broken.png": png(9)[:60]}
    data, build = as_folder(tmp_path / "data", files), Store(tmp_path / "build")
    job = plans.job(model=pets, data=data)
    with pytest.raises(BadData, match=rf"^{data}/test/dog/broken\.png: "):
        ensure(build, job)
    assert not list(build.root.rglob("checkpoint*")) and not unfinished(build.root)
    (data / "test" / "dog" / "broken.png").write_bytes(png(9))
    assert ensure(build, job).samples == 5
    assert "resuming after epoch 1 of 1" in capfd.readouterr().err.splitlines()


# -- weights -----------------------------------------------------------------------------------------------------------


def test_a_pickle_that_contains_code_is_not_executed(tmp_path: Path, tiny: Path) -> None:
    proof, evil = tmp_path / "proof", tmp_path / "evil.pt"
    evil.write_bytes(f'cos\nsystem\n(S"touch {proof}"\ntR.'.encode())
    error = refused(tmp_path / "build", "export", "--model", tiny, "--weights", evil)
    assert error.startswith(f"{evil} contains more than weights (") and "model.state_dict()" in error
    assert not proof.exists()


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of another network: one tensor too few, one of another shape, one too many."""
    import torch
    from safetensors.torch import save_file

    from tests.models.tiny import SPEC as TINY
    from tests.models.tiny.torch import build

    state = dict(build(TINY).state_dict())
    del state["features.1.weight"]
    state |= {"classifier.weight": torch.zeros(10, 64), "head.bias": torch.zeros(3)}
    path = tmp_path_factory.mktemp("foreign")
    save_file(state, path / "foreign.safetensors")
    torch.save(state, path / "foreign.pt")
    return path


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_weights_that_do_not_fit_are_refused_with_the_first_wrong_tensors(
    tmp_path: Path, tiny: Path, foreign: Path, suffix: str
) -> None:
    weights = foreign / f"foreign{suffix}"
    error = training_error(tmp_path / "build", model=tiny, weights=weights)
    for part in (str(weights), "features.1.weight is missing", "classifier.weight is 10×64", "10×128", "head.bias"):
        assert part in error


def test_weights_that_do_not_fit_leave_the_checkpoint_unchanged(copied: Store, tiny: Path, foreign: Path) -> None:
    before = tree(copied.root)
    with pytest.raises(BadWeights, match="does not fit"):
        ensure(copied, plans.job(weights=foreign / "foreign.safetensors"))
    assert tree(copied.root) == before


@pytest.mark.parametrize(
    ("name", "content", "wrong"),
    [
        ("w.safetensors", b"\x00" * 40, "not a safetensors file"),
        ("w.safetensors", b"", "not a safetensors file"),
        ("w.pt", b"PK\x03\x04 and no more", "not a .pt file"),
        ("w.pt", b"", "not a .pt file"),
        ("w.h5", b"\x89HDF", "not a weights file"),
    ],
)
def test_a_file_that_contains_no_weights_is_refused(
    tmp_path: Path, tiny: Path, name: str, content: bytes, wrong: str
) -> None:
    weights = tmp_path / name
    weights.write_bytes(content)
    error = training_error(tmp_path / "build", model=tiny, weights=weights)
    assert error.startswith(str(weights)) and wrong in error


def test_missing_weights_are_refused(tmp_path: Path, tiny: Path) -> None:
    error = refused(tmp_path / "build", "train", "--model", tiny, "--weights", tmp_path / "w.pt")
    assert error.startswith(f"--weights {tmp_path}/w.pt: ")


# -- damaged files -----------------------------------------------------------------------------------------------------


def damage(path: Path, how: str) -> None:
    """Truncates a file or changes one bit of it, as a bad disk or copy may do."""
    content = bytearray(path.read_bytes())
    if how == "truncated":
        content = content[: len(content) // 2]
    else:
        content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_damaged_artifacts_are_exported_again_with_a_message(copied: Store, tiny: Path) -> None:
    """One file is truncated, another file and a folder have one bit changed, and a manifest is truncated. One call for
    all saves time."""

    def cell(recipe: str, target: str) -> Path:
        return copied.cell("tiny", "torch", recipe, target)

    before = tree(copied.root)
    files = cell("fp32", "onnx") / "model.onnx", cell("fp16", "onnx") / "model.onnx"
    package = cell("fp32", "coreml") / "model.mlpackage"
    damage(files[0], "truncated")
    damage(files[1], "altered")
    damage(package / "Manifest.json", "altered")
    damage(cell("int8", "onnx") / "artifact.json", "truncated")
    args = ("export", "--model", tiny, "--target", "onnx,coreml", "--recipe", "fp32,fp16,int8")
    done = inv(copied.root, *args)
    assert done.code == 0, done.err
    for path in (*files, package):
        assert f"{path} does not match its manifest (sha256 differs): exporting again" in done.err.splitlines()
    assert re.search(r"int8/onnx/artifact\.json: not JSON ", done.err)
    assert done.err.count(" bytes in ") == 4
    after = tree(copied.root)
    assert [name for name in before if "/model." in name and after[name] != before[name]] == []
    assert inv(copied.root, *args).err == ""


def test_damaged_predictions_are_measured_again_with_a_message(copied: Store, tiny: Path) -> None:
    home = copied.cell("tiny", "torch", "fp32", "onnx") / "local"
    damage(home / "predictions.npz", "altered")
    quick = ("--processes", "1", "--min-runs", "3", "--min-seconds", "0")
    done = inv(copied.root, "bench", "--model", tiny, "--target", "onnx", *quick)
    assert done.code == 0, done.err
    assert f"{home}/predictions.npz does not match its manifest: measuring again" in done.err.splitlines()


def test_altered_weights_are_trained_again_with_a_message(
    copied: Store, job: Job, capfd: pytest.CaptureFixture[str]
) -> None:
    before = ready(copied, job)
    weights = copied.checkpoint("tiny", "torch") / "model.safetensors"
    damage(weights, "altered")
    after = ensure(copied, job)
    assert f"{weights} does not match its manifest: training again" in capfd.readouterr().err.splitlines()
    assert before is not None and after.weights_sha256 == before.weights_sha256  # the same seed gives the same weights


# -- missing packages --------------------------------------------------------------------------------------------------


@pytest.fixture
def without(tmp_path: Path) -> str:
    """A folder for PYTHONPATH: Python processes then do not find the packages that the variable ABSENT names."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(ABSENT)
    return str(site)


ABSENT = """
import os, sys
from importlib.machinery import PathFinder

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name in os.environ["ABSENT"].split(",") else PathFinder.find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Without
"""


def missing_extra(package: str, extra: str) -> str:
    return str(MissingExtra(package, extra))


@pytest.mark.parametrize(("package", "framework"), [("torch", "torch"), ("tensorflow", "keras"), ("keras", "keras")])
def test_training_without_its_extra_prints_the_install_command(
    package: str, framework: str, tmp_path: Path, without: str
) -> None:
    done = inv(tmp_path / "build", "train", "--framework", framework, PYTHONPATH=without, ABSENT=package)
    assert done.complaint == missing_extra(package, framework)
    assert tree(tmp_path / "build") == {}


@pytest.mark.parametrize(
    ("args", "package", "extra"),
    [
        (("convert", "--from", "torch", "--to", "keras"), "tensorflow", "keras"),
        (("convert", "--from", "keras", "--to", "torch"), "lightning_fabric", "torch"),
        (("export", "--framework", "keras"), "torch", "torch"),
        (("export", "--framework", "all"), "torchao", "torch"),
    ],
)
def test_a_missing_package_of_either_framework_is_reported_before_the_training(
    args: tuple[str, ...], package: str, extra: str, tmp_path: Path, without: str
) -> None:
    done = inv(tmp_path / "build", *args, PYTHONPATH=without, ABSENT=package)
    assert done.only == missing_extra(package, extra)
    assert tree(tmp_path / "build") == {}


def test_a_target_without_its_extra_prints_the_install_command_and_others_are_exported(
    copied: Store, tiny: Path, without: str
) -> None:
    for target in ("executorch", "coreml"):
        shutil.rmtree(copied.cell("tiny", "torch", "fp32", target))
    args = ("export", "--model", tiny, "--target", "executorch,coreml")
    done = inv(copied.root, *args, PYTHONPATH=without, ABSENT="executorch")
    assert done.complaint == f"1 of 2 exports failed (executorch fp32): {missing_extra('executorch', 'executorch')}"
    assert not list(copied.cell("tiny", "torch", "fp32", "executorch").glob("model.*"))
    assert (copied.cell("tiny", "torch", "fp32", "coreml") / "model.mlpackage").exists()
    assert not unfinished(copied.root)


@pytest.mark.parametrize(
    ("target", "package"), [("tflite", "litert_torch"), ("tflite", "ai_edge_quantizer"), ("executorch", "executorch"),
                            ("coreml", "coremltools"), ("onnx", "onnx")],
)  # fmt: skip
def test_every_target_checks_its_packages_first(tmp_path: Path, without: str, target: str, package: str) -> None:
    script = (
        f"from pathlib import Path; from pipeline.targets import {target} as target, Source\n"
        "from pipeline.recipes.fp32 import RECIPE; from models.digits_cnn import SPEC\n"
        "target.export(Source('torch', None), SPEC, RECIPE, Path('nowhere'))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=environment(tmp_path, PYTHONPATH=without, ABSENT=package),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    error = done.stderr.splitlines()[-1]
    assert error == f"pipeline.errors.MissingExtra: {missing_extra(package, target)}"


def test_a_missing_runtime_is_reported_with_the_install_command(copied: Store, tiny: Path, without: str) -> None:
    quick = ("--processes", "1", "--min-runs", "3", "--min-seconds", "0", "--again")
    done = inv(
        copied.root, "bench", "--model", tiny, "--target", "onnx", *quick, PYTHONPATH=without, ABSENT="onnxruntime"
    )
    assert "onnxruntime" in done.complaint and "install" in done.complaint


def test_weights_of_the_other_framework_are_refused_with_the_conversion_command(tmp_path: Path) -> None:
    for framework, other, suffix in (("torch", "keras", ".keras"), ("keras", "torch", ".safetensors")):
        (tmp_path / f"mine{suffix}").write_bytes(b"")
        args = ("train", "--framework", framework, "--weights", tmp_path / f"mine{suffix}")
        error = inv(tmp_path / "build", *args).complaint
        assert f"--framework {other}" in error and f"inv convert --from {other} --to {framework}" in error
        assert tree(tmp_path / "build") == {}


def test_one_weights_file_for_all_frameworks_is_refused(tmp_path: Path) -> None:
    error = inv(tmp_path / "build", "export", "--framework", "all", "--weights", "mine.keras").only
    assert "--weights" in error and "--framework keras or torch" in error


def test_conversion_to_the_same_framework_is_refused(tmp_path: Path) -> None:
    error = inv(tmp_path / "build", "convert", "--from", "keras", "--to", "keras").only
    assert "--from" in error and "--to" in error and "keras, torch" in error


# -- other errors ------------------------------------------------------------------------------------------------------


def test_a_build_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "build").write_text("")
    assert str(tmp_path / "build") in inv(tmp_path / "build", "train").only


def test_debug_and_release_together_are_refused(tmp_path: Path) -> None:
    done = inv(tmp_path / "build", "android.build", "--debug", "--release")
    assert done.only.startswith("--debug and --release ")


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done: Done = inv(tmp_path / "build", "export", "--target", "tflight", "--debug")
    assert done.code != 0 and "Traceback" in done.err and "UnknownName: unknown target 'tflight'" in done.err


# -- bundles -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "wrong"),
    [
        (("ship", "--version", "1.0"), "--version"),
        (("ship", "--version", "1.0.0", "--licence", "GNU GPL"), "--licence"),
        (("ship", "--version", "1.0.0", "--key", "/nonexistent/key.pem"), "/nonexistent/key.pem"),
        (("ship", "--version", "1.0.0", "--package", "carrier_pigeon"), "carrier_pigeon"),
        (("ship", "--version", "1.0.0", "--framework", "torch,keras"), "--framework"),
        (("ship", "--version", "1.0.0"), "digits_cnn"),
        (("ship",), "--version"),
        (("verify", "/nonexistent/bundle"), "/nonexistent/bundle"),
        (("verify",), "--bundle"),
        (("verify", ".", "--key", "/nonexistent/key.pem"), "/nonexistent/key.pem"),
    ],
)
def test_a_bundle_that_cannot_be_made_or_checked_is_refused(tmp_path: Path, args: tuple[str, ...], wrong: str) -> None:
    assert wrong in refused(tmp_path / "build", *args)
