"""Keras models and .keras files on any backend: build, load, save, import a user's weights, exchange with PyTorch."""

from __future__ import annotations

import json
import math
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import keras
import numpy as np

from pipeline.core import Audio, ModelSpec, Standardization, Tokens
from pipeline.errors import BadModel, BadWeights, first_line
from pipeline.frameworks import _build
from pipeline.sources import Model
from pipeline.system import store

if TYPE_CHECKING:
    from numpy.typing import NDArray

CONFIG, METADATA, VARIABLES = "config.json", "metadata.json", "model.weights.h5"
"""The members of a .keras file, which is a zip."""

RUNS_CODE = frozenset({"Lambda", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer", "function", "__lambda__"})
"""Keras classes that run code from the file or from another file."""

VALUES = frozenset({
    "__keras_tensor__", "__tuple__", "__slice__", "__bytes__", "__ellipsis__", "__numpy__", "__tensor__",
    "__typespec__",
})  # fmt: skip
"""Values of "class_name" that denote a plain value instead of a class."""


# -- models ------------------------------------------------------------------------------------------------------------


def network(model: Model, scope: Callable[[], AbstractContextManager[Any]] = nullcontext) -> keras.Model:
    """The untrained network: normalised images (N, height, width, channels) to logits.

    Args:
        scope: the context in which its variables are created, such as a strategy's scope.

    Raises:
        BadModel: build(spec) fails, or returns no Keras model from such images to logits.
    """
    keras.utils.clear_session()  # so that unnamed layers get the same names in every process
    file = f"{model.folder}/keras.py"
    with scope(), _short_errors():
        net = _build.build(model, "keras")
    if not isinstance(net, keras.Model):
        raise BadModel(f"{file}: build(spec) must return a keras.Model, not {type(net).__name__}")
    wanted = (None, *model.spec.inputs[0].shape)
    inputs = [tuple(tensor.shape) for tensor in getattr(net, "inputs", None) or ()]
    if inputs not in ([], [wanted]):
        raise BadModel(f"{file}: build(spec) must return a model with one input of shape {wanted}, not {inputs}")
    if not inputs:  # a subclassed model or a Sequential without Input: its first call creates its variables
        with scope(), _short_errors():
            _build.check(model, "keras", lambda images: net(images, training=False))
    try:
        keras.saving.serialize_keras_object(net)
    except (NotImplementedError, TypeError) as error:  # reported now instead of after training
        raise BadModel(
            f"{file}: the get_config() of a layer does not return all of its arguments: {first_line(error)}"
        ) from error
    with _short_errors():
        _build.check(model, "keras", lambda images: net(images, training=False))
    return net


@contextmanager
def _short_errors() -> Iterator[None]:
    """Disables Keras's traceback filtering, which adds paragraphs to the message of an error."""
    filtered = keras.config.is_traceback_filtering_enabled()
    keras.config.disable_traceback_filtering()
    try:
        yield
    finally:
        if filtered:
            keras.config.enable_traceback_filtering()


def load(model: Model, weights: Path) -> keras.Model:
    """The network with a checkpoint's weights."""
    net = network(model)
    net.load_weights(weights)
    return net


def save(net: keras.Model, path: Path) -> None:
    """Writes a .keras file, byte for byte the same for the same network."""
    with store.atomic(path) as temporary:
        net.save(temporary)
        with zipfile.ZipFile(temporary) as archive:
            content = {name: archive.read(name) for name in (METADATA, CONFIG, VARIABLES)}
        ids: dict[int, int] = {}
        content[CONFIG] = json.dumps(_renumbered(json.loads(content[CONFIG]), ids)).encode()
        content[METADATA] = json.dumps({**json.loads(content[METADATA]), "date_saved": "1980-01-01@00:00:00"}).encode()
        with zipfile.ZipFile(temporary, "w") as archive:
            for name, value in content.items():
                archive.writestr(zipfile.ZipInfo(name), value)


def _renumbered(value: Any, ids: dict[int, int]) -> Any:
    """The config with its objects numbered in order instead of by memory address."""
    if isinstance(value, list):
        return [_renumbered(item, ids) for item in value]
    if not isinstance(value, dict):
        return value
    new = {key: _renumbered(item, ids) for key, item in value.items()}
    if "shared_object_id" in new:
        new["shared_object_id"] = ids.setdefault(new["shared_object_id"], len(ids))
    return new


# -- comparison of two backends ---------------------------------------------------------------------------------------


@dataclass
class Calls:
    """The calls of layers and operations of a network, in the order in which they end: those inside come first.

    Attributes:
        names: of the layers and operations.
        results: some values of each one's first output, float32.
        last_input: the input of the last layer with a kernel.
        failed: the innermost layer or operation that raised the last exception, and the first line of its message.
    """

    names: list[str] = field(default_factory=list)
    results: list[NDArray[np.float32]] = field(default_factory=list)
    last_input: Any = None
    failed: tuple[str, str] | None = None


WEIGHTS_TO_COMPARE = ("trained", "random")
LEAST_SNR_DB = 80.0
"""Between two backends, both in float32 on the CPU. Rounding alone leaves over 100 dB in networks of 200 layers."""
RESULTS = 4096
"""Values of a layer's output that are recorded, evenly spaced."""


@contextmanager
def recorded(values: bool = True) -> Iterator[Calls]:
    """Records every call of a layer or operation within the context.

    Args:
        values: record the outputs too; impossible while a graph is traced.
    """
    calls, original = Calls(), keras.Operation.__call__
    last: Exception | None = None

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal last
        name = f"{self.name} ({type(self).__name__})"
        if any(len(variable.shape) > 1 for variable in getattr(self, "_trainable_variables", ())):  # the layer's own
            calls.last_input = args[0]
        try:
            result = original(self, *args, **kwargs)
        except Exception as error:
            if error is not last:
                calls.failed, last = (name, f"{type(error).__name__}: {first_line(error)}"), error
            raise
        if values:
            outputs = keras.tree.flatten(result)
            array = np.ravel(keras.ops.convert_to_numpy(outputs[0])) if outputs else np.empty(0)
            calls.names.append(name)
            calls.results.append(array[:: -(-max(array.size, 1) // RESULTS)].astype(np.float32))
        return result

    keras.Operation.__call__ = call
    try:
        yield calls
    finally:
        keras.Operation.__call__ = original


def randomize(net: keras.Model) -> None:
    """Gives a network random weights of usual sizes, the same on every backend.

    A hardly trained network has gates near 0.5 and biases near 0, so that a mistake in them does not show.
    Constants that a Normalization layer has computed from its variables stay as they are.
    """
    random = np.random.default_rng(0)
    for layer in net._flatten_layers():
        own = layer._trainable_variables + layer._non_trainable_variables
        for variable in [] if hasattr(layer, "finalize_state") else own:
            shape, name = tuple(variable.shape), variable.path.split("/")[-1]
            if not np.issubdtype(np.dtype(str(variable.dtype)), np.floating):
                continue
            if name in ("bias", "beta", "moving_mean"):
                value = random.normal(0, 0.5, shape)
            elif len(shape) < 2:  # positive, for variances and roots
                value = random.uniform(0.5, 1.5, shape)
            else:
                depthwise = name == "depthwise_kernel" or isinstance(layer, keras.layers.DepthwiseConv2D)
                inputs = math.prod(shape[:-2] if depthwise else shape[:-1])
                value = random.normal(0, math.sqrt(2 / inputs), shape)
            variable.assign(value.astype(np.float32))


def normalized(images: NDArray[Any], spec: ModelSpec) -> NDArray[Any]:
    """Raw inputs as the network takes them. Token ids stay as they are."""
    preprocessing = spec.preprocessing
    if isinstance(preprocessing, Tokens):
        return images
    return np.asarray((images - np.array(preprocessing.mean)) / np.array(preprocessing.std), np.float32)


def probe(spec: ModelSpec, count: int = 4) -> NDArray[Any]:
    """Raw inputs (count, …): images with different colours in different places, and noise; of another kind noise."""
    random, shape = np.random.default_rng(0), spec.inputs[0].shape
    if spec.tokens:
        return _build.token_ids(spec, count)
    if isinstance(spec.preprocessing, Audio | Standardization):
        noise = random.normal(size=(count, *shape))
        return np.asarray(noise * spec.preprocessing.std + spec.preprocessing.mean, np.float32)
    height, width, channels = shape
    blocks = random.uniform(0, 255, (count, 3, 3, channels))
    rows, columns = np.arange(height) * 3 // height, np.arange(width) * 3 // width
    images = 0.75 * blocks[:, rows][:, :, columns] + 0.25 * random.uniform(0, 255, (count, *shape))
    return np.asarray(np.round(images), np.float32)


# -- a user's files ----------------------------------------------------------------------------------------------------


def adopt(model: Model, path: Path) -> keras.Model:
    """The network with the weights of a user's .keras file.

    Does not build what the file describes: its variables are loaded into the model of the model folder.

    Raises:
        BadWeights: the file is truncated, refers to code, or does not fit the model.
    """
    try:
        code = set(_described_code(_read_config(path), model))
    except RecursionError as error:
        raise BadWeights(f"{path} is corrupt or not a .keras file: its config is nested too deeply") from error
    names = sorted(f"{name} of {module}" if module else name for name, module in code)
    if names:
        raise BadWeights(
            f"{path} refers to code ({', '.join(names[:3])}) and was not loaded; define the layer as a class in "
            f"{model.folder}/keras.py with @keras.saving.register_keras_serializable(), and save a model built from it"
        )
    net = network(model)
    with tempfile.TemporaryDirectory() as folder:
        expected, given = Path(folder) / f"expected.{VARIABLES}", Path(folder) / f"given.{VARIABLES}"
        net.save_weights(expected)
        try:
            with zipfile.ZipFile(path) as archive:
                given.write_bytes(archive.read(VARIABLES))
            _check_shapes(path, _variable_shapes(given), _variable_shapes(expected))
            net.load_weights(given)
        except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise BadWeights(f"{path} is corrupt or not a .keras file: {first_line(error)}") from error
    for variable in net.weights:
        if not np.isfinite(keras.ops.convert_to_numpy(variable)).all():
            raise BadWeights(f"{path}: {variable.path} has NaN or infinite values; use an earlier checkpoint")
    return net


MAX_CONFIG_BYTES = 1 << 26
"""Far more than any real config: it describes layers and contains no weights."""


def _read_config(path: Path) -> dict[str, Any]:
    """Reads the config in a Keras 3 file, without the compile_config, which is not used.

    Raises:
        BadWeights: the file is no .keras file, corrupt, a decompression bomb, or from Keras 2.
    """
    if path.suffix.lower() != ".keras":
        raise BadWeights(f"{path}: {_advice(path)}")
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
            large = max(archive.getinfo(name).file_size for name in (CONFIG, METADATA)) > MAX_CONFIG_BYTES
            if large or unpacked > 100 * max(path.stat().st_size, 1) or archive.testzip():
                raise BadWeights(f"{path} is corrupt or not a .keras file: implausible sizes or wrong checksums")
            config, metadata = (json.loads(archive.read(name)) for name in (CONFIG, METADATA))
            version = str(metadata["keras_version"])
            config = {key: value for key, value in config.items() if key != "compile_config"}
    except (OSError, KeyError, ValueError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise BadWeights(f"{path} is corrupt or not a .keras file: {first_line(error)}") from error
    if not version.startswith("3."):
        raise BadWeights(f"{path} was saved by Keras {version}: {_KERAS_2}")
    return config


_KERAS_2 = "load it in the code that created it, with Keras 3, and save it with model.save('model.keras')"


def _advice(path: Path) -> str:
    """What to do with a file that is no .keras file."""
    suffix = path.suffix.lower()
    if suffix in (".safetensors", ".pt", ".pth", ".bin"):
        return "PyTorch weights: import them with --framework torch, then run inv convert --from torch --to keras"
    if path.name.lower().endswith(".weights.h5"):
        return "weights without a model: call model.load_weights() in your code, then model.save('model.keras')"
    if suffix in (".h5", ".hdf5") or (path / "saved_model.pb").is_file():
        return f"the format of Keras 2: {_KERAS_2}"
    return "not a weights file: expected a .keras file, as model.save('model.keras') writes it"


def _described_code(config: Any, model: Model) -> Iterator[tuple[str, str | None]]:
    """(class, module) of everything in a config that is code, or that neither Keras nor the model folder defines."""
    if isinstance(config, list):
        for item in config:
            yield from _described_code(item, model)
    elif isinstance(config, dict):
        name, module = config.get("class_name"), config.get("module")
        if name is not None:
            name = str(name)
            is_class = name[:1].isupper()  # lower-case names in keras.* are functions
            safe = str(module).split(".")[0] == "keras" and is_class and name not in RUNS_CODE
            known = config.get("registered_name")
            registered = isinstance(known, str) and keras.saving.get_registered_object(known) is not None
            if not (safe or name in VALUES or registered):
                yield name, str(module) if module else None
        for item in config.values():
            yield from _described_code(item, model)


def _variable_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the variables in an .h5 file by path, without the optimizer's.

    Raises:
        ValueError: a variable is stored in another file.
    """
    found: dict[str, tuple[int, ...]] = {}

    def visit(group: h5py.Group, prefix: str) -> None:
        for name in group:
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise ValueError(f"{prefix}{name} is a link")
            item = group[name]
            if isinstance(item, h5py.Dataset):
                if item.external or item.is_virtual:
                    raise ValueError(f"{prefix}{name} is stored in another file")
                found[f"{prefix}{name}"] = tuple(item.shape)
            elif (prefix, name) != ("", "optimizer"):
                visit(item, f"{prefix}{name}/")

    with h5py.File(path) as file:
        visit(file, "")
    return found


def _check_shapes(path: Path, found: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]]) -> None:
    wrong = [
        f"{name} is {'missing' if name not in found else f'{_shape(found[name])}, expected {_shape(shape)}'}"
        for name, shape in wanted.items()
        if found.get(name) != shape
    ] + [f"{name} is not in the model" for name in found if name not in wanted]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise BadWeights(f"{path} does not fit the model: {'; '.join(wrong[:3])}{more}")


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "a scalar"


# -- exchange with PyTorch ---------------------------------------------------------------------------------------------

TABLE = "embeddings"
"""The variable of an embedding: (rows, values) in both frameworks."""

LEAVES = {
    "kernel": "weight", "bias": "bias", "gamma": "weight", "beta": "bias", TABLE: "weight",
    "moving_mean": "running_mean", "moving_variance": "running_var",
}  # fmt: skip
"""Keras's names of a layer's variables → PyTorch's."""


def variables(net: keras.Model) -> dict[str, Any]:
    """Variables by "<layer>.<PyTorch's name>".

    Raises:
        BadModel: two variables have the same name, or PyTorch has no such variable.
    """
    found: dict[str, Any] = {}
    for variable in net.weights:
        layer, leaf = variable.path.split("/")[-2:]
        name = f"{layer}.{LEAVES.get(leaf)}"
        if leaf not in LEAVES or name in found:
            raise BadModel(
                f"{variable.path}: convert supports convolutions, dense layers, normalisation and embeddings, uniquely "
                "named"
            )
        found[name] = variable
    return found


def to_torch(variable: Any, depthwise: bool) -> NDArray[np.float32]:
    """The value of a Keras variable in PyTorch's axes.

    A kernel (…, inputs, outputs) becomes (outputs, inputs, …); a depthwise kernel (…, channels, multiplier) becomes
    (channels × multiplier, 1, …).
    """
    value = np.asarray(variable)
    if value.ndim < 2 or _is_table(variable):
        return value
    spatial = range(value.ndim - 2)
    if not depthwise:
        return value.transpose(value.ndim - 1, value.ndim - 2, *spatial)
    transposed = value.transpose(value.ndim - 2, value.ndim - 1, *spatial)
    return transposed.reshape(-1, 1, *transposed.shape[2:])


def assign_from_torch(variable: Any, value: NDArray[np.float32], depthwise: bool) -> None:
    """Assigns PyTorch's tensor to a Keras variable: the inverse of `to_torch`.

    Raises:
        BadModel: the shapes differ.
    """
    shape = tuple(variable.shape)
    if value.ndim > 1 and not _is_table(variable):
        spatial = range(2, value.ndim)
        if depthwise and value.size == variable.numpy().size:
            value = value.reshape(shape[-2], shape[-1], *value.shape[2:]).transpose(*spatial, 0, 1)
        else:
            value = value.transpose(*spatial, 1, 0)
    if value.shape != shape:
        raise BadModel(
            f"the Keras and PyTorch models differ: {variable.path} is {_shape(shape)} in Keras and "
            f"{_shape(value.shape)} in PyTorch"
        )
    variable.assign(value)


def _is_table(variable: Any) -> bool:
    return bool(variable.path.split("/")[-1] == TABLE)


def depthwise_layers(net: keras.Model) -> set[str]:
    """Names of the depthwise convolutions."""
    return {layer.name for layer in net._flatten_layers() if isinstance(layer, keras.layers.DepthwiseConv2D)}
