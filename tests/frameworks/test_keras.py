"""Only for Keras: .keras files and what they must not contain, TF_CONFIG, augmentation, and graphs like PyTorch's."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import sources
from pipeline.errors import BadModel, BadOption, BadWeights, Broken, UnknownName
from pipeline.frameworks import Settings
from pipeline.frameworks import keras as framework
from pipeline.sources import Model
from tests.frameworks import synthetic

pytestmark = pytest.mark.usefixtures("imported")
ROOT = Path(__file__).parents[2]
TINY = ROOT / "tests" / "models" / "tiny"
MODEL = sources.find(str(TINY))


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(MODEL, tmp_path_factory.mktemp("mine") / "mine.keras")


@pytest.fixture
def weights(mine: Path, tmp_path: Path) -> Path:
    """The tiny model as a user would save it, with statistics in its batch normalisation."""
    return Path(shutil.copy(mine, tmp_path))


def saved(model: Model, path: Path) -> Path:
    import keras

    from pipeline.frameworks import _keras

    keras.utils.set_random_seed(3)
    net = _keras.network(model)
    for variable in net.weights:
        if "moving" in variable.path:
            variable.assign(np.random.default_rng(0).uniform(0.5, 1.5, variable.shape))
    net.save(path)
    return path


def refusal(path: Path, model: Model = MODEL) -> str:
    out = path.with_name("adopted.keras")
    with pytest.raises(BadWeights) as caught:
        framework.adopt(model, path, out)
    assert not out.exists()
    message = str(caught.value)
    assert str(path) in message and "\n" not in message
    return message


def edited(path: Path, member: str, content: bytes) -> Path:
    """A copy of a .keras file with one member replaced."""
    new = path.with_name(f"edited-{path.name}")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(new, "w") as archive:
        for name in old.namelist():
            archive.writestr(name, content if name == member else old.read(name))
    return new


def custom(folder: Path, code: str) -> Model:
    """The tiny model with another name and other code."""
    folder.mkdir()
    text = (TINY / "__init__.py").read_text().replace('name="tiny"', 'name="custom"')
    (folder / "__init__.py").write_text(text)
    (folder / "keras.py").write_text(code)
    return sources.find(str(folder))


# -- files -------------------------------------------------------------------------------------------------------------


def test_files_of_the_same_network_are_identical(weights: Path, tmp_path: Path) -> None:
    for name in ("a.keras", "b.keras"):
        framework.adopt(MODEL, weights, tmp_path / name)
    assert (tmp_path / "a.keras").read_bytes() == (tmp_path / "b.keras").read_bytes()


def test_keras_opens_the_checkpoint_in_safe_mode(weights: Path, tmp_path: Path) -> None:
    import keras

    framework.adopt(MODEL, weights, tmp_path / "checkpoint.keras")
    again = keras.saving.load_model(tmp_path / "checkpoint.keras", safe_mode=True)
    first = keras.saving.load_model(weights, safe_mode=True)
    assert all((np.asarray(a) == np.asarray(b)).all() for a, b in zip(first.weights, again.weights, strict=True))


def test_weights_of_a_compiled_model_are_imported_without_its_optimizer(weights: Path, tmp_path: Path) -> None:
    import keras

    net = keras.saving.load_model(weights)
    net.compile(optimizer="adam", loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
    net.train_on_batch(np.zeros((2, 8, 8, 1), np.float32), np.zeros(2))
    net.save(tmp_path / "compiled.keras")
    framework.adopt(MODEL, tmp_path / "compiled.keras", tmp_path / "out.keras")
    imported = keras.saving.load_model(tmp_path / "out.keras").get_weights()
    assert all((a == b).all() for a, b in zip(imported, net.get_weights(), strict=True))


def test_a_custom_loss_is_ignored(weights: Path, tmp_path: Path) -> None:
    import keras

    def loss(y: Any, x: Any) -> Any:
        return keras.losses.sparse_categorical_crossentropy(y, x, from_logits=True)

    net = keras.saving.load_model(weights)
    net.compile(loss=loss, jit_compile=False)
    net.save(tmp_path / "compiled.keras")
    framework.adopt(MODEL, tmp_path / "compiled.keras", tmp_path / "out.keras")
    assert (tmp_path / "out.keras").is_file()


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        (b"[" * 100_000 + b"]" * 100_000, "nested too deeply"),
        (b" " * (1 << 26) + b"{}", "implausible sizes"),
        (b"null", "not a .keras file"),
        (b'"text"', "not a .keras file"),
    ],
    ids=["deep", "a bomb", "null", "text"],
)
def test_an_invalid_config_is_refused(config: bytes, complaint: str, weights: Path) -> None:
    assert complaint in refusal(edited(weights, "config.json", config))


def test_a_lambda_layer_is_refused_without_running_it(weights: Path, tmp_path: Path) -> None:
    import keras

    net = keras.saving.load_model(weights)
    ran, name = tmp_path / "ran", str(tmp_path / "ran")
    with_code = keras.Sequential([net, keras.layers.Lambda(lambda x: (Path(name).touch(), x)[1], output_shape=(10,))])
    with_code.save(tmp_path / "lambda.keras")
    ran.unlink(missing_ok=True)  # creating the model ran the lambda
    message = refusal(tmp_path / "lambda.keras")
    assert "Lambda of keras.layers" in message and "was not loaded" in message
    assert "@keras.saving.register_keras_serializable()" in message and f"{TINY}/keras.py" in message
    assert not ran.exists()


@pytest.mark.parametrize("entry", [
    {"module": "os", "class_name": "system", "config": "touch ran", "registered_name": None},
    {"module": "builtins", "class_name": "function", "config": "exec", "registered_name": "function"},
    {"module": "keras.layers", "class_name": "TFSMLayer", "config": {"filepath": "/tmp"}, "registered_name": None},
    {"class_name": "__lambda__", "config": {"value": "4wEAAAA="}},
    {"module": None, "class_name": "Mine", "config": {}, "registered_name": "Custom>Mine"},
    {"module": "keras.src.utils.file_utils", "class_name": "get_file", "config": {"origin": "http://localhost"}},
    {"module": "keras.layers", "class_name": ["Dense"], "config": {}},
])  # fmt: skip
def test_any_other_code_in_a_config_is_refused_by_name(entry: dict[str, Any], weights: Path) -> None:
    with zipfile.ZipFile(weights) as archive:
        config = json.loads(archive.read("config.json"))
    config["config"]["layers"][1]["config"]["activation"] = entry
    message = refusal(edited(weights, "config.json", json.dumps(config).encode()))
    assert "was not loaded" in message and str(entry["class_name"]) in message


REGISTERED = """
import keras
from keras import layers


@keras.saving.register_keras_serializable("tests")
class Scaled(layers.Layer):
    def build(self, shape):
        self.gain = self.add_weight(name="gain", shape=(shape[-1],), initializer="ones")

    def call(self, x):
        return x * self.gain


def build(spec):
    image = keras.Input(spec.inputs[0].shape)
    x = layers.Conv2D(4, 3, 2, padding="same", activation="relu")(Scaled()(image))
    x = layers.MaxPooling2D()(layers.BatchNormalization()(x))
    return keras.Model(image, layers.Dense(spec.classes)(layers.Flatten()(x)))
"""


def test_a_class_registered_in_the_model_folder_is_allowed(tmp_path: Path) -> None:
    model = custom(tmp_path / "custom", REGISTERED)
    path = saved(model, tmp_path / "mine.keras")
    framework.adopt(model, path, tmp_path / "out.keras")
    with zipfile.ZipFile(path) as archive:
        config = archive.read("config.json").replace(b"tests>Scaled", b"others>Scaled")
    assert "(Scaled" in refusal(edited(path, "config.json", config), model)


def test_files_of_pytorch_and_keras_2_are_refused_with_advice(weights: Path, tmp_path: Path) -> None:
    for name in ("mine.safetensors", "mine.pt"):
        (tmp_path / name).write_bytes(b"")
        assert "inv convert --from torch --to keras" in refusal(tmp_path / name)
    (tmp_path / "mine.weights.h5").write_bytes(b"")
    assert "model.load_weights()" in refusal(tmp_path / "mine.weights.h5")
    (tmp_path / "mine.h5").write_bytes(b"")
    (tmp_path / "legacy").mkdir()
    (tmp_path / "legacy" / "saved_model.pb").write_bytes(b"")
    older = edited(weights, "metadata.json", b'{"keras_version": "2.15.0"}')
    for path in (tmp_path / "mine.h5", tmp_path / "legacy", older):
        assert "Keras 2" in refusal(path) and "model.save('model.keras')" in refusal(path)


def test_wrong_shapes_missing_and_unexpected_variables_are_listed(weights: Path, tmp_path: Path) -> None:
    import h5py

    with zipfile.ZipFile(weights) as archive:
        content = archive.read("model.weights.h5")
    buffer = io.BytesIO(content)
    with h5py.File(buffer, "r+") as file:
        del file["layers/dense/vars/0"], file["layers/conv2d/vars/0"]
        file["layers/dense/vars/0"] = np.zeros((7, 10), np.float32)
        file["layers/extra/vars/0"] = np.zeros(3, np.float32)
    path = edited(weights, "model.weights.h5", buffer.getvalue())
    message = refusal(path)
    for part in ("layers/conv2d/vars/0 is missing", "layers/dense/vars/0 is 7×10, expected 128×10", "layers/extra"):
        assert part in message


def test_variables_that_are_not_finite_are_refused_by_name(weights: Path, tmp_path: Path) -> None:
    import keras

    net = keras.saving.load_model(weights)
    kernel, bias = net.layers[-1].get_weights()
    net.layers[-1].set_weights([kernel, np.where(np.arange(10) == 3, np.nan, bias)])
    net.save(tmp_path / "nan.keras")
    message = refusal(tmp_path / "nan.keras")
    assert f"{net.layers[-1].name}/bias" in message and "NaN or infinite" in message


def test_variables_stored_in_another_file_are_not_read(weights: Path, tmp_path: Path) -> None:
    import h5py

    secret = tmp_path / "secret"
    secret.write_bytes(bytes(4 * 10))
    with zipfile.ZipFile(weights) as archive:
        content = archive.read("model.weights.h5")
    for how in ("external", "link"):
        buffer = io.BytesIO(content)
        with h5py.File(buffer, "r+") as file:
            group = file["layers/dense/vars"]
            del group["1"]
            if how == "external":
                group.create_dataset("1", (10,), np.float32, external=[(str(secret), 0, 40)])
            else:
                group["1"] = h5py.ExternalLink(str(secret), "/bias")
        message = refusal(edited(weights, "model.weights.h5", buffer.getvalue()))
        assert "another file" in message or "is a link" in message


def test_a_truncated_training_state_is_reported_with_a_way_out(tmp_path: Path) -> None:
    data = {"train": synthetic.split(MODEL.spec, 16), "validation": synthetic.split(MODEL.spec, 8)}
    settings = Settings(1, 16, 1e-2, 0, "cpu")
    framework.train(MODEL, data, settings, tmp_path, "key")
    path = tmp_path / "training" / "state.npz"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(Broken, match=r"state\.npz.*--no-resume"):
        framework.train(MODEL, data, settings, tmp_path, "key")


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("def build(spec):\n    return 3\n", "must return a keras.Model, not int"),
        ("def build():\n    return 3\n", r"build\(spec\) failed"),
        (
            "import keras\ndef build(spec):\n    image = keras.Input((9, 9, 1))\n    return keras.Model(image, image)",
            r"one input of shape \(None, 8, 8, 1\), not \[\(None, 9, 9, 1\)\]",
        ),
        (
            "import keras\nclass Mine(keras.Model):\n    def __init__(self, of):\n        super().__init__()\n"
            "        self.last = keras.layers.Dense(10)\n"
            "    def call(self, x): return self.last(keras.ops.mean(x, (1, 2)))\n"
            "def build(spec): return Mine(spec)\n",
            r"get_config\(\) of a layer",
        ),
        ("def build(spec):\n    return spec.options['width']\n", r"build\(spec\) failed: KeyError: 'width'"),
        (
            "import keras\ndef build(spec):\n    image = keras.Input((8, 8, 1))\n"
            "    return keras.Model(image, keras.layers.Dense(7)(keras.layers.Flatten()(image)))\n",
            r"keras\.py: .*\(2, 7\).*\(2, 10\)",
        ),
        (
            "import keras\ndef build(spec):\n    image = keras.Input((8, 8, 1))\n"
            "    return keras.Model(image, keras.layers.Reshape((10,))(image))\n",
            r"build\(spec\) failed: ValueError: The total size of the tensor must be unchanged[^\n]+$",
        ),
        (
            "import keras\ndef build(spec):\n    image = keras.Input((8, 8, 1))\n"
            "    return keras.Model(image, {'logits': keras.layers.Dense(10)(keras.layers.Flatten()(image))})\n",
            r"a dict.*\(2, 10\)",
        ),
    ],
)
def test_unusable_model_code_is_reported(body: str, complaint: str, tmp_path: Path) -> None:
    from pipeline.frameworks import _keras

    with pytest.raises(BadModel, match=complaint):
        _keras.network(custom(tmp_path / "custom", body))


def test_an_error_in_the_capturing_process_is_raised_here_with_its_type(tmp_path: Path) -> None:
    code = 'from pipeline.errors import UnknownName\nraise UnknownName("layer", "Danse", ["Dense"])\n'
    with pytest.raises(UnknownName, match=r"'Danse'.*'Dense'"):
        framework.capture(custom(tmp_path / "custom", code), tmp_path / "none.keras", tmp_path)


# -- TF_CONFIG ---------------------------------------------------------------------------------------------------------


def tf_config(task: str, index: object, **jobs: list[str]) -> str:
    return json.dumps({"cluster": jobs, "task": {"type": task, "index": index}})


def test_tf_config_sets_the_number_of_machines_and_the_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    assert framework.joined(1) is None
    for config, nodes, rank in (
        (tf_config("worker", 1, worker=["a:1", "b:1"]), 2, 1),
        (tf_config("chief", 0, chief=["a:1"], worker=["b:1", "c:1"]), 3, 0),
        (tf_config("worker", 1, chief=["a:1"], worker=["b:1", "c:1"]), 3, 2),
    ):
        monkeypatch.setenv("TF_CONFIG", config)
        group = framework.joined(4)
        assert group is not None
        assert (group.devices, group.nodes, group.node_rank, group.follows) == (4, nodes, rank, rank > 0)


@pytest.mark.parametrize("config", [
    "", "{}", '{"cluster": 3, "task": {}}', tf_config("worker", "x", worker=["a:1"]),
    tf_config("worker", 1, worker=["a:1"]), tf_config("worker", -1, worker=["a:1"]),
    tf_config("ps", 0, worker=["a:1"], ps=["b:1"]), tf_config("evaluator", 0, worker=["a:1"]),
])  # fmt: skip
def test_an_invalid_tf_config_is_refused_in_one_line(config: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_CONFIG", config)
    with pytest.raises(BadOption, match=r"^TF_CONFIG[^\n]+$"):
        framework.joined(1)


# -- augmentation ------------------------------------------------------------------------------------------------------


def test_augmented_images_are_the_images_flipped_and_shifted() -> None:
    import tensorflow as tf

    from pipeline.frameworks import _keras_tensorflow

    def augmented(images: np.ndarray, names: tuple[str, ...], start: int, end: int) -> np.ndarray:
        place = tf.constant([64, start, end], tf.int64)
        draws = _keras_tensorflow.draw_augmentations(names, tf.constant([0, 0], tf.int64), place)
        labels = tf.zeros(len(images), tf.int64)
        outputs: np.ndarray = _keras_tensorflow.augment(tf.constant(images, tf.float32), labels, names, draws)[
            0
        ].numpy()
        return outputs

    images = np.random.default_rng(0).integers(0, 256, (64, 6, 6, 2), np.uint8)
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), "reflect")
    for names, ways in ((("flip",), 2), (("shift1",), 9)):
        outputs = augmented(images, names, 0, 64)
        assert (augmented(images[10:30], names, 10, 30) == outputs[10:30]).all()
        assert (augmented(images, names, 0, 64) == outputs).all()
        found = set()
        for i, image in enumerate(outputs):
            possible = {"no": images[i], "yes": images[i, :, ::-1]} if ways == 2 else {
                f"{y}{x}": padded[i, y : y + 6, x : x + 6] for y in range(3) for x in range(3)
            }  # fmt: skip
            found.add(next(name for name, candidate in possible.items() if (candidate == image).all()))
        assert len(found) == ways


def test_tensorflow_has_a_gpu_kernel_for_every_operation_of_augmentation() -> None:
    """Without one, an operation runs on the CPU and the training step waits for it, as for the padding of bytes."""
    import tensorflow as tf
    from tensorflow.python.framework import kernels

    from pipeline.frameworks import _keras_tensorflow

    def on_gpu(operation: tf.Operation) -> bool:
        given = {name: operation.get_attr(name).as_datatype_enum for name in ("T", "Tparams", "SrcT", "DstT")
                 if name in operation.node_def.attr}  # fmt: skip
        return any(
            all(given.get(c.name, -1) in (*c.allowed_values.list.type, -1) for c in kernel.constraint)
            for kernel in kernels.get_registered_kernels_for_op(operation.type).kernel
            if kernel.device_type == "GPU"
        )

    def missing(dtype: tf.DType) -> set[str]:
        def step(images: tf.Tensor, flips: tf.Tensor, shifts: tf.Tensor) -> tf.Tensor:
            labels = tf.zeros((tf.shape(images)[0], 2, 6))
            return _keras_tensorflow.augment(tf.cast(images, dtype), labels, ("flip", "shift4"), (flips, shifts))[0]

        signature = [((None, 32, 32, 3), tf.uint8), ((None,), tf.bool), ((2, None, 1), tf.int32)]
        graph = tf.function(step).get_concrete_function(*(tf.TensorSpec(*each) for each in signature)).graph
        operations = [one for one in graph.get_operations() if one.type not in ("Placeholder", "NoOp")]
        assert len(operations) > 10
        return {one.type for one in operations if not on_gpu(one)}

    assert missing(tf.float32) == set()
    assert {"MirrorPad", "GatherV2"} <= missing(tf.uint8)


# -- processes ---------------------------------------------------------------------------------------------------------


TRAINING = """
import sys
from pathlib import Path
from tests.frameworks.test_keras import MODEL, Settings, framework, synthetic
data = {"train": synthetic.split(MODEL.spec, 16), "validation": synthetic.split(MODEL.spec, 8)}
framework.train(MODEL, data, Settings(1, 16, 1e-2, 0, "cpu"), Path(sys.argv[1]), "key")
print("tensorflow" in sys.modules, "torch" in sys.modules)
"""


def test_training_does_not_import_pytorch(tmp_path: Path) -> None:
    command = [sys.executable, "-c", TRAINING, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == "True False"
    assert [line for line in done.stderr.splitlines() if not line.startswith("epoch ")] == []


def test_a_model_folder_may_have_keras_code_only(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    shutil.copytree(TINY, folder, ignore=shutil.ignore_patterns("torch.py", "__pycache__"))
    text = (folder / "__init__.py").read_text().replace('name="tiny"', 'name="mine"')
    (folder / "__init__.py").write_text(text)
    assert sources.find(str(folder)).frameworks == ["keras"]
