"""Keras models of many kinds: the captured graph computes what Keras on TensorFlow does, or an error names a layer."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from pipeline import errors, sources
from pipeline.core import to_json
from pipeline.errors import BadModel, ParityFailed, PipelineError
from pipeline.frameworks import Settings
from pipeline.frameworks import keras as framework
from pipeline.sources import Model
from tests.frameworks import synthetic

pytestmark = pytest.mark.usefixtures("imported")
ROOT = Path(__file__).parents[2]

SPEC = """
from pipeline.core import ModelSpec, Preprocessing, Tensor, Training

SPEC = ModelSpec(
    name="{name}", task="image_classification", inputs=(Tensor("image", (12, 12, 3), value_range=(0.0, 255.0)),),
    outputs=(Tensor("logits", (5,)),), labels=tuple("abcde"),
    preprocessing=Preprocessing(color="RGB", resize=12, crop=12, mean=(127.5,) * 3, std=(63.75,) * 3),
    dataset="imagefolder", training=Training(epochs=1, batch_size=8, lr=1e-3, augment=()),
)
"""

CODE = """
import keras
from keras import layers, ops


def convolution(x, filters=12, stride=1):
    x = layers.Conv2D(filters, 3, stride, padding="same", use_bias=False)(x)
    return layers.ReLU()(layers.BatchNormalization()(x))


def backbone(size=12):
    image = keras.Input((size, size, 3))
    return keras.Model(image, convolution(image), name="backbone")


def gate_of(x):
    return layers.Dense(12, activation="sigmoid")(layers.GlobalAveragePooling2D()(x))


def head(x):
    return layers.Dense(5)(layers.GlobalAveragePooling2D()(x))


{definitions}

def build(spec):
    image = keras.Input(spec.inputs[0].shape)
{body}
"""
"""The first convolutions return images as wide as they have channels, so that a wrong axis raises no error."""

BODIES = {
    "gate_of_kept_dimensions": """
        x = convolution(image)
        gate = layers.GlobalAveragePooling2D(keepdims=True)(x)
        gate = layers.Conv2D(12, 1, activation="hard_sigmoid")(layers.Conv2D(4, 1, activation="relu")(gate))
        return keras.Model(image, head(convolution(x * gate)))""",
    "gate_of_a_reshape": """
        x = convolution(image)
        gate = layers.Reshape((1, 1, 12))(layers.GlobalAveragePooling2D()(x))
        gate = layers.Conv2D(12, 1, activation="sigmoid")(layers.Conv2D(4, 1, activation="swish")(gate))
        return keras.Model(image, head(convolution(layers.Multiply()([x, gate]))))""",
    "gate_of_a_broadcast_vector": """
        x = convolution(image)
        return keras.Model(image, head(convolution(layers.Multiply()([gate_of(x), x]))))""",
    "sum_of_an_image_and_a_vector": """
        x = convolution(image)
        return keras.Model(image, head(convolution(layers.Add()([x, gate_of(x)]))))""",
    "gate_of_lambdas": """
        x = convolution(image)
        gate = layers.Lambda(lambda y: ops.mean(y, axis=(1, 2)))(x)
        gate = layers.Lambda(lambda y: ops.expand_dims(ops.expand_dims(y, 1), 1))(layers.Dense(12)(gate))
        return keras.Model(image, head(convolution(x * ops.sigmoid(gate))))""",
    "gate_along_the_width": """
        x = convolution(image)
        gate = layers.Dense(12, activation="sigmoid")(ops.mean(x, axis=(1, 3)))
        return keras.Model(image, head(convolution(x * ops.reshape(gate, (-1, 1, 12, 1)))))""",
    "spatial_attention": """
        x = convolution(image)
        both = layers.Concatenate()([ops.mean(x, axis=-1, keepdims=True), ops.max(x, axis=-1, keepdims=True)])
        return keras.Model(image, head(x * layers.Conv2D(1, 3, padding="same", activation="sigmoid")(both)))""",
    "dense_on_an_image": """
        x = layers.Dense(12, activation="gelu")(convolution(image))
        return keras.Model(image, head(layers.Dense(12)(convolution(x)) + x))""",
    "flatten_and_reshape": """
        x = layers.Flatten()(convolution(image, stride=2))
        x = layers.Reshape((12, 12, 2))(layers.Dense(288)(x))
        return keras.Model(image, layers.Dense(5)(layers.Flatten()(convolution(x, 3))))""",
    "permuted_axes": """
        x = layers.Permute((3, 1, 2))(convolution(image))
        x = layers.Permute((2, 1, 3))(convolution(x))
        return keras.Model(image, layers.Dense(5)(layers.Flatten()(x)))""",
    "concatenation_on_every_axis": """
        x = convolution(image)
        x = layers.Concatenate(axis=1)([x, layers.Concatenate(axis=2)([x[:, :6, :6], x[:, 6:, 6:]])])
        return keras.Model(image, layers.Dense(5)(layers.Flatten()(layers.Concatenate(axis=-1)([x, x * 2.0]))))""",
    "normalisations": """
        x = layers.LayerNormalization()(convolution(image))
        x = layers.GroupNormalization(4)(layers.Conv2D(12, 3)(x))
        x = layers.BatchNormalization(axis=2)(x)
        return keras.Model(image, head(layers.UnitNormalization(axis=3)(layers.Conv2D(12, 1)(x))))""",
    "softmax_over_an_axis": """
        x = layers.Softmax(axis=1)(convolution(image)) + layers.Softmax(axis=-1)(convolution(image))
        return keras.Model(image, layers.Dense(5)(layers.Flatten()(layers.Conv2D(3, 3)(x))))""",
    "kinds_of_convolutions": """
        x = layers.SeparableConv2D(12, 3, padding="same", strides=2)(image)
        x = layers.DepthwiseConv2D(3, padding="same", strides=2, depth_multiplier=2)(x[:, 1:, :5])
        x = layers.Conv2DTranspose(8, 3, strides=2, padding="same")(x)
        x = layers.Conv2DTranspose(8, 2, strides=2)(x)
        x = layers.Conv2D(8, 3, dilation_rate=2, groups=4, padding="same")(x)
        return keras.Model(image, layers.Dense(5)(layers.Flatten()(x)))""",
    "sizes": """
        x = layers.ZeroPadding2D(((1, 2), (0, 3)))(convolution(image))
        x = layers.Cropping2D(((0, 1), (2, 0)))(layers.MaxPooling2D(3, 1, padding="same")(x))
        x = layers.UpSampling2D((2, 1))(layers.AveragePooling2D((2, 3))(x))
        x = layers.UpSampling2D(2, interpolation="bilinear")(layers.Conv2D(4, 3)(x))
        return keras.Model(image, layers.Dense(5)(layers.Flatten()(layers.MaxPooling2D(2)(x))))""",
    "attention_over_places": """
        x = layers.Reshape((36, 12))(convolution(image, stride=2))
        x = x + layers.MultiHeadAttention(3, 4)(x, x)
        x = layers.Reshape((6, 6, 12))(layers.LayerNormalization()(x))
        return keras.Model(image, head(convolution(x)))""",
    "convolution_over_rows": """
        x = layers.Reshape((12, 144))(convolution(image))
        x = layers.Conv1D(12, 3, padding="same", activation="relu")(x)
        return keras.Model(image, layers.Dense(5)(layers.GlobalMaxPooling1D()(x)))""",
    "a_maximum_over_places": """
        x = layers.Maximum()([convolution(image), convolution(image)])
        return keras.Model(image, layers.Dense(5)(layers.GlobalMaxPooling2D()(layers.PReLU()(x))))""",
    "augmentation_and_preprocessing": """
        x = layers.RandomFlip("horizontal")(image)
        x = layers.RandomContrast(0.1)(layers.RandomZoom(0.1)(layers.RandomRotation(0.1)(x)))
        x = layers.RandomTranslation(0.1, 0.1)(layers.RandomBrightness(0.1)(layers.GaussianNoise(0.1)(x)))
        x = layers.Rescaling(2.0, offset=0.5)(x)
        x = layers.Normalization(mean=[0.1, 0.2, 0.3], variance=[1.0, 2.0, 3.0])(x)
        x = layers.CenterCrop(10, 10)(layers.Resizing(16, 14)(x))
        return keras.Model(image, head(layers.SpatialDropout2D(0.1)(convolution(x))))""",
    "a_nested_model": """
        x = layers.Rescaling(0.5)(image)
        x = backbone()(layers.RandomFlip()(x), training=False)
        return keras.Model(image, head(layers.Dropout(0.2)(x)))""",
    "a_nested_model_as_the_last_layer": """
        inner = keras.Sequential([keras.Input((12, 12, 3)), backbone(), layers.GlobalAveragePooling2D()])
        last = keras.Sequential([keras.Input((12,)), layers.Dense(8, activation="tanh"), layers.Dense(5)])
        return keras.Sequential([keras.Input((12, 12, 3)), layers.Rescaling(1.0), keras.Sequential([inner, last])])""",
    "shared_layers": """
        first, shared = layers.Conv2D(3, 3, padding="same"), layers.Conv2D(12, 3, activation="relu")
        x, inner = first(first(image)), backbone(10)
        x = layers.Add()([shared(x), shared(image)])
        return keras.Model(image, head(layers.Add()([inner(first(x[..., :3])), inner(x[..., 3:6])])))""",
    "a_sequential_without_an_input": """
        return keras.Sequential([layers.Conv2D(12, 3, activation="relu"), layers.Flatten(), layers.Dense(5)])""",
    "a_subclassed_model": """
        return Mine(spec.classes)""",
    "a_subclassed_model_in_a_model": """
        return keras.Model(image, layers.Dense(5)(Mine(12)(layers.RandomFlip()(image))))""",
}
DEFINITIONS = """
@keras.saving.register_keras_serializable("tests")
class Mine(keras.Model):
    def __init__(self, outputs, **options):
        super().__init__(**options)
        self.outputs_of_last = outputs
        self.flip = layers.RandomFlip()
        self.body = [layers.Conv2D(12, 3, padding="same", activation="relu") for _ in range(2)]
        self.gate, self.last = layers.Dense(12, activation="sigmoid"), layers.Dense(outputs)

    def get_config(self):
        return {**super().get_config(), "outputs": self.outputs_of_last}

    def call(self, x, training=None):
        x = self.flip(x, training=training)
        for layer in self.body:
            x = layer(x)
        return self.last(ops.mean(x * self.gate(ops.mean(x, axis=(1, 2)))[:, None, None, :], axis=(1, 2)))
"""
REFUSED = {
    "a_normalisation_that_pytorch_lacks": (
        """
        x = layers.LayerNormalization(axis=1, name="rows")(convolution(image, 8))
        return keras.Model(image, head(x))""",
        BadModel,
        "rows (LayerNormalization)",
    ),
    "average_of_an_uneven_padding": (
        """
        x = layers.AveragePooling2D(3, 2, padding="same", name="uneven")(convolution(image))
        return keras.Model(image, head(convolution(x)))""",
        ParityFailed,
        "uneven (AveragePooling2D)",
    ),
    "a_bicubic_resize_in_a_model": (
        """
        inner = keras.Sequential([keras.Input((12, 12, 3)), layers.Resizing(7, 7, "bicubic", name="smaller")])
        return keras.Model(image, head(inner(image)))""",
        ParityFailed,
        "smaller (Resizing)",
    ),
    "a_branch_on_values": (
        """
        x = Branching(name="branch")(convolution(image))
        return keras.Model(image, head(x))""",
        BadModel,
        "branch (Branching)",
    ),
    "another_result_on_each_backend": (
        """
        return keras.Model(image, head(Other(name="other")(convolution(image))))""",
        ParityFailed,
        "other (Other)",
    ),
}
REFUSED_DEFINITIONS = """
@keras.saving.register_keras_serializable("tests")
class Branching(layers.Layer):
    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape)

    def call(self, x):
        return x * 2 if float(ops.sum(x)) > 0 else x


@keras.saving.register_keras_serializable("tests")
class Other(layers.Layer):
    def call(self, x):
        return x * (1.0 if keras.backend.backend() == "torch" else 1.001)
"""

CAPTURING = """
import json, sys
from pipeline.errors import PipelineError
from pipeline.frameworks import _keras_capture
errors = {}
for name, request in json.loads(sys.argv[1]).items():
    try:
        _keras_capture.main(request)
    except PipelineError as error:
        errors[name] = [type(error).__name__, str(error)]
print(json.dumps([errors, "tensorflow" in sys.modules]))
"""


def model_of(folder: Path, name: str, body: str, definitions: str) -> Model:
    folder.mkdir()
    (folder / "__init__.py").write_text(SPEC.format(name=name))
    body = "\n".join(line[4:] for line in body.strip("\n").splitlines())
    (folder / "keras.py").write_text(CODE.format(definitions=definitions, body=body))
    return sources.find(str(folder))


@dataclass(frozen=True)
class Captured:
    """What became of each model; one process captured them all."""

    models: dict[str, Model]
    weights: dict[str, Path]
    graphs: Path
    errors: dict[str, PipelineError]


@pytest.fixture(scope="module")
def captured(tmp_path_factory: pytest.TempPathFactory) -> Captured:
    import keras

    framework._on_tensorflow()
    from pipeline.frameworks import _keras, _keras_tensorflow

    folder = tmp_path_factory.mktemp("captured")
    models = {"tiny": sources.find(str(ROOT / "tests" / "models" / "tiny"))}
    models |= {name: model_of(folder / name, name, body, DEFINITIONS) for name, body in BODIES.items()}
    for name, (body, _, _) in REFUSED.items():
        models[name] = model_of(folder / name, name, body, REFUSED_DEFINITIONS)
    weights, requests = {}, {}
    for name, model in models.items():
        keras.utils.set_random_seed(3)
        net = _keras.network(model)
        for variable in net.weights:
            if "moving_variance" in variable.path:
                variable.assign(np.random.default_rng(0).uniform(0.5, 1.5, variable.shape))
        weights[name], reference = folder / f"{name}.keras", folder / f"{name}.npz"
        _keras.save(net, weights[name])
        _keras_tensorflow.reference(model, weights[name], reference)
        requests[name] = {
            "model": str(model.folder), "spec": to_json(model.spec), "weights": str(weights[name]),
            "folder": str(folder / "graphs" / name), "reference": str(reference),
        }  # fmt: skip
    command = [sys.executable, "-c", CAPTURING, json.dumps(requests)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found, with_tensorflow = json.loads(done.stdout.splitlines()[-1])
    assert not with_tensorflow, "Keras looks for TensorFlow, and must not import it"
    failures = {name: errors.again(*error) for name, error in found.items()}
    return Captured(models, weights, folder / "graphs", {k: v for k, v in failures.items() if v is not None})


@pytest.mark.parametrize("name", BODIES)
def test_the_graph_computes_what_keras_computes(name: str, captured: Captured) -> None:
    assert name not in captured.errors, captured.errors.get(name)
    model = captured.models[name]
    split = synthetic.split(model.spec, 5)
    (expected,) = framework.predict(model, captured.weights[name], split, "cpu")
    (outputs,) = framework.evaluate(captured.graphs / name, split.inputs(range(5)))
    noise = ((outputs - expected) ** 2).sum()
    assert noise * 1e8 < (expected**2).sum(), "80 dB"


@pytest.mark.parametrize("name", REFUSED)
def test_a_layer_that_cannot_be_captured_is_named(name: str, captured: Captured) -> None:
    _, kind, layer = REFUSED[name]
    error = captured.errors[name]
    assert type(error) is kind
    assert layer in str(error) and "\n" not in str(error)
    assert not (captured.graphs / name).exists()


def operators(captured: Captured, name: str) -> list[str]:
    from pipeline.frameworks import _graphs

    nodes = _graphs.load(captured.graphs / name / _graphs.FLOAT).graph.nodes
    found = [str(node.target).split(".")[1] for node in nodes if node.op == "call_function"]
    return [name for name in found if name != "sym_size"]


BLOCK = ["conv2d", "relu"]
"""A convolution with batch normalisation and ReLU."""


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("tiny", ["conv2d", *BLOCK, *BLOCK, "flatten", "linear"]),
        (
            "gate_of_kept_dimensions",
            ["conv2d", *BLOCK, "mean", *BLOCK, "conv2d", "hardsigmoid", "mul", *BLOCK, "mean", "linear"],
        ),
        (
            "gate_of_a_reshape",
            ["conv2d", *BLOCK, "mean", "conv2d", "silu", "conv2d", "sigmoid", "mul", *BLOCK, "mean", "linear"],
        ),
        (
            "gate_of_a_broadcast_vector",
            ["conv2d", *BLOCK, "mean", "linear", "sigmoid", "reshape", "mul", *BLOCK, "mean", "linear"],
        ),
        ("a_nested_model", ["conv2d", *BLOCK, "mean", "linear"]),
        (
            "augmentation_and_preprocessing",
            ["conv2d", "upsample_bilinear2d", "slice", "slice", *BLOCK, "mean", "linear"],
        ),
        ("dense_on_an_image", ["conv2d", *BLOCK, "conv2d", "gelu", *BLOCK, "conv2d", "add", "mean", "linear"]),
    ],
)
def test_layers_are_fused_and_transposes_cancel(name: str, expected: list[str], captured: Captured) -> None:
    """The first convolution is the input normalisation, which includes layers that rescale."""
    assert operators(captured, name) == expected


@pytest.mark.parametrize(
    ("name", "size"),
    [("gate_of_a_reshape", 12), ("a_nested_model_as_the_last_layer", 8), ("a_subclassed_model", 12), ("tiny", 128)],
)
def test_features_are_the_inputs_of_the_last_layer(name: str, size: int, captured: Captured) -> None:
    model = captured.models[name]
    images = synthetic.split(model.spec, 3).inputs(range(3))
    found = framework.features(model, captured.weights[name], images)
    assert found.shape == (3, size) and found.dtype == np.float32
    assert found.std(0).max() > 0


@pytest.mark.parametrize(
    "name", ["a_nested_model_as_the_last_layer", "a_subclassed_model", "augmentation_and_preprocessing"]
)
def test_a_model_of_any_kind_trains(name: str, captured: Captured, tmp_path: Path) -> None:
    model = captured.models[name]
    data = {"train": synthetic.split(model.spec, 16), "validation": synthetic.split(model.spec, 8)}
    facts = framework.train(model, data, Settings(1, 8, 1e-2, 0, "cpu"), tmp_path, "key")
    assert facts["epoch"] == 1
    (again,) = framework.predict(model, tmp_path / "training" / framework.WEIGHTS, data["validation"], "cpu")
    assert again.shape == (8, 5) and np.isfinite(again).all()
