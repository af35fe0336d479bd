"""The contract of all frameworks: train, adopt, predict, capture and quantize behave the same in each."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline import registry, sources
from pipeline.errors import BadModel, BadOption, BadWeights
from pipeline.frameworks import Framework, Settings
from pipeline.system import store
from pipeline.system.store import Store
from pipeline.system.tensorboard import Events
from tests.frameworks import synthetic
from tests.runs import Run

pytestmark = pytest.mark.usefixtures("imported")
ROOT = Path(__file__).parents[2]
TINY = ROOT / "tests" / "models" / "tiny"
MODEL = sources.find(str(TINY))
NAMES = [name for name in registry.names("frameworks") if name in MODEL.frameworks]
SHORT = Settings(epochs=3, batch_size=16, lr=1e-2, seed=7, accelerator="cpu")
KEY = "k" * 64


@pytest.fixture(params=NAMES)
def framework(request: pytest.FixtureRequest) -> Framework:
    found: Framework = registry.load("frameworks", request.param)
    return found


@pytest.fixture
def build(framework: Framework, request: pytest.FixtureRequest) -> Store:
    """A store with the framework's checkpoint and graphs of the tiny model."""
    found: Store = request.getfixturevalue({"torch": "matrix"}.get(named(framework), f"{named(framework)}_matrix"))
    return found


def named(framework: Framework) -> str:
    name: str = framework.__name__.rpartition(".")[2]  # type: ignore[attr-defined]  # it is a module
    return name


def data() -> dict[str, object]:
    return {"train": synthetic.split(MODEL.spec, 64), "validation": synthetic.split(MODEL.spec, 20, seed=1)}


def train(framework: Framework, home: Path, settings: Settings = SHORT, key: str = KEY) -> tuple[bytes, dict]:
    facts = framework.train(MODEL, data(), settings, home, key)  # type: ignore[arg-type]
    return (home / "training" / framework.WEIGHTS).read_bytes(), facts


def test_importing_it_loads_no_heavy_package() -> None:
    code = "import sys; from pipeline import registry\nfor n in registry.names('frameworks'):\n"
    code += "    registry.load('frameworks', n)\nprint([m for m in ('numpy', 'torch', 'keras', 'tensorflow') if m in "
    code += "sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "[]\n"


def test_training_learns_and_returns_its_facts(framework: Framework, tmp_path: Path) -> None:
    _, facts = train(framework, tmp_path, Settings(12, 16, 2e-2, 0, "cpu"))
    assert facts["epoch"] == 12
    assert 1 <= facts["best_epoch"] <= 12
    assert facts["best_accuracy"] > 0.5, "0.1 is chance"
    assert (facts["device"], facts["precision"]) == ("cpu", "float32")
    assert facts["seconds"] > 0 and facts["samples_per_second"] > 0
    (outputs,) = framework.predict(
        MODEL, tmp_path / "training" / framework.WEIGHTS, synthetic.split(MODEL.spec, 40, 2), "cpu"
    )
    assert outputs.dtype == np.float32 and outputs.shape == (40, 10)
    assert (outputs.argmax(1) == np.arange(40) % 10).mean() > 0.5


def test_a_last_batch_of_one_image_joins_the_batch_before_it(framework: Framework, tmp_path: Path) -> None:
    splits = {"train": synthetic.split(MODEL.spec, 33), "validation": synthetic.split(MODEL.spec, 10, seed=1)}
    facts = framework.train(MODEL, splits, Settings(2, 16, 1e-2, 0, "cpu"), tmp_path, KEY)
    assert facts["steps"] == 2 * 2 and np.isfinite(facts["losses"]).all()


def test_the_seed_determines_the_weights(framework: Framework, tmp_path: Path) -> None:
    first, _ = train(framework, tmp_path / "first")
    again, _ = train(framework, tmp_path / "again")
    other, _ = train(framework, tmp_path / "other", Settings(3, 16, 1e-2, 8, "cpu"))
    assert first == again
    assert first != other


def test_features_are_the_inputs_of_the_last_layer_and_separate_the_classes(
    framework: Framework, tmp_path: Path
) -> None:
    train(framework, tmp_path, Settings(12, 16, 2e-2, 0, "cpu"))
    split = synthetic.split(MODEL.spec, 40, 2)
    features = framework.features(MODEL, tmp_path / "training" / framework.WEIGHTS, split.inputs(range(40)))
    assert features.dtype == np.float32 and features.shape == (40, 8 * 4 * 4)
    centres = np.stack([features[split.labels == label].mean(0) for label in range(10)])
    nearest = ((features[:, None] - centres[None]) ** 2).sum(2).argmin(1)
    assert (nearest == split.labels).mean() > 0.5


def test_tensorboard_can_read_the_graph(framework: Framework, tmp_path: Path) -> None:
    train(framework, tmp_path)
    definition = framework.graph(MODEL, tmp_path / "training" / framework.WEIGHTS)
    with Events(tmp_path / "run") as events:
        events.graph(definition)
    assert any("conv" in name.lower() for name in Run(tmp_path / "run").nodes())


INTERRUPTED = """
import sys
from pathlib import Path
from pipeline import registry
from tests.frameworks.test_contract import train
train(registry.load("frameworks", sys.argv[1]), Path(sys.argv[2]))
"""


def test_an_interrupted_training_resumes_to_identical_weights(
    framework: Framework, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By SIGKILL, which leaves no more than Ctrl-C does."""
    uninterrupted, _ = train(framework, tmp_path / "uninterrupted")
    name = named(framework)
    command = [sys.executable, "-c", INTERRUPTED, name, str(tmp_path / "interrupted")]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("epoch 1/3: "):
            process.kill()
            break
    process.communicate()
    assert process.returncode != 0
    capsys.readouterr()
    resumed, facts = train(framework, tmp_path / "interrupted")
    assert "resuming after epoch " in capsys.readouterr().err
    assert resumed == uninterrupted
    assert facts["epoch"] == 3


def test_a_training_with_another_key_or_without_resume_starts_over(
    framework: Framework, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(framework, tmp_path)
    train(framework, tmp_path, key="another")
    train(framework, tmp_path, Settings(3, 16, 1e-2, 7, "cpu", resume=False), key="another")
    assert "resuming" not in capsys.readouterr().err


ON_A_GPU = """
import sys
from pathlib import Path
from pipeline import registry
from tests.frameworks.test_contract import Settings, train
_, facts = train(registry.load("frameworks", sys.argv[1]), Path(sys.argv[2]), Settings(1, 16, 1e-2, 0, "cuda"))
assert facts["device"] != "cpu" and facts["peak_gpu_bytes"] > 0, facts
"""


def test_a_missing_accelerator_is_refused(framework: Framework, tmp_path: Path) -> None:
    if shutil.which("nvidia-smi") is None:
        with pytest.raises(BadOption, match=r"^--accelerator cuda: "):
            train(framework, tmp_path, Settings(1, 16, 1e-2, 0, "cuda"))
    else:
        command = [sys.executable, "-c", ON_A_GPU, named(framework), str(tmp_path)]  # this process may hide the GPU
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


# -- weights -----------------------------------------------------------------------------------------------------------


def weights_of(build: Store, framework: Framework) -> Path:
    return build.checkpoint("tiny", named(framework)) / framework.WEIGHTS


def test_importing_its_own_weights_gives_identical_outputs(framework: Framework, build: Store, tmp_path: Path) -> None:
    weights = weights_of(build, framework)
    framework.adopt(MODEL, weights, tmp_path / framework.WEIGHTS)
    split = synthetic.split(MODEL.spec, 30)
    (expected,) = framework.predict(MODEL, weights, split, "cpu")
    assert (framework.predict(MODEL, tmp_path / framework.WEIGHTS, split, "cpu")[0] == expected).all()


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_truncated_weights_are_refused_in_one_line_with_the_path(
    share: float, framework: Framework, build: Store, tmp_path: Path
) -> None:
    complete = weights_of(build, framework)
    part = tmp_path / f"part{complete.suffix}"
    part.write_bytes(complete.read_bytes()[: int(share * complete.stat().st_size)])
    with pytest.raises(BadWeights) as caught:
        framework.adopt(MODEL, part, tmp_path / framework.WEIGHTS)
    assert str(part) in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / framework.WEIGHTS).exists()


def test_a_file_of_another_type_is_refused(framework: Framework, tmp_path: Path) -> None:
    (tmp_path / "weights.txt").write_text("1 2 3")
    with pytest.raises(BadWeights, match=r"weights\.txt.+expected a? ?\.\w+"):
        framework.adopt(MODEL, tmp_path / "weights.txt", tmp_path / "out")


def test_unpacking_and_packing_changes_no_bit(framework: Framework, build: Store, tmp_path: Path) -> None:
    weights = weights_of(build, framework)
    tensors = framework.unpack(MODEL, weights)
    assert tensors["features_0.weight"].shape == (8, 1, 3, 3) and tensors["classifier.weight"].shape == (10, 128)
    framework.pack(MODEL, tensors, tmp_path / framework.WEIGHTS)
    again = framework.unpack(MODEL, tmp_path / framework.WEIGHTS)
    assert again.keys() == tensors.keys()
    assert all((again[name] == tensors[name]).all() for name in tensors)


def test_tensors_of_another_network_are_refused_by_name(framework: Framework, build: Store, tmp_path: Path) -> None:
    tensors = framework.unpack(MODEL, weights_of(build, framework))
    wrong = {**tensors, "classifier.weight": tensors["classifier.weight"][:, :7]}
    with pytest.raises(BadModel, match=r"classifier"):
        framework.pack(MODEL, wrong, tmp_path / framework.WEIGHTS)
    with pytest.raises(BadModel, match=r"extra\.bias"):
        framework.pack(MODEL, {**tensors, "extra.bias": tensors["classifier.bias"]}, tmp_path / framework.WEIGHTS)
    assert not (tmp_path / framework.WEIGHTS).exists()


# -- graphs ------------------------------------------------------------------------------------------------------------


def test_the_captured_graph_matches_the_model_at_any_batch_size(
    framework: Framework, build: Store, tmp_path: Path
) -> None:
    weights = weights_of(build, framework)
    framework.capture(MODEL, weights, tmp_path)
    assert framework.steps(tmp_path) == (None,)
    for count in (1, 3, 70):
        split = synthetic.split(MODEL.spec, count)
        (outputs,) = framework.evaluate(tmp_path, split.inputs(range(count)))
        (expected,) = framework.predict(MODEL, weights, split, "cpu")
        assert outputs.shape == expected.shape == (count, 10)
        np.testing.assert_allclose(outputs, expected, atol=1e-4)


def test_the_quantized_graph_is_close_to_the_float_graph_and_its_outputs_are_multiples_of_the_step(
    framework: Framework, build: Store, tmp_path: Path
) -> None:
    captured = build.graphs("tiny", named(framework))
    images = synthetic.split(MODEL.spec, 64).inputs(range(64))
    before = store.sha256(captured)
    framework.quantize(captured, (0.0, 255.0), images, tmp_path, registry.load("recipes", "int8").RECIPE)
    assert store.sha256(captured) == before
    (step,) = framework.steps(tmp_path)
    assert step is not None and step > 0
    (outputs,), (expected,) = framework.evaluate(tmp_path, images), framework.evaluate(captured, images)
    np.testing.assert_allclose(outputs / np.float32(step), np.round(outputs / np.float32(step)), atol=1e-3)
    error = ((outputs - expected) ** 2).sum() / (expected**2).sum()
    assert -10 * np.log10(error) > 20
    source = framework.source(MODEL, weights_of(build, framework), captured, tmp_path)
    assert source.framework == named(framework) and source.quantized is not None
    assert framework.source(MODEL, weights_of(build, framework), captured, None).quantized is None
