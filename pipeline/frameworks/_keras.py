"""Keras models and their files, on whatever backend this process has: built, loaded, saved, and read when not ours."""

from __future__ import annotations

import json
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import keras
import numpy as np

from pipeline.errors import BadModel, BadWeights, first_line
from pipeline.frameworks import _build
from pipeline.sources import Model
from pipeline.system import store

if TYPE_CHECKING:
    from numpy.typing import NDArray

CONFIG, METADATA, VARIABLES = "config.json", "metadata.json", "model.weights.h5"
"""What a .keras file, a zip, holds."""

RUNS_CODE = frozenset({"Lambda", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer", "function", "__lambda__"})
"""Classes of Keras's own that stand for code, in the file or beside it."""


VALUES = frozenset({
    "__keras_tensor__", "__tuple__", "__slice__", "__bytes__", "__ellipsis__", "__numpy__", "__tensor__",
    "__typespec__",
})  # fmt: skip
"""What stands for a value, in the place of a class."""


# -- models ------------------------------------------------------------------------------------------------------------


def network(model: Model, scope: Callable[[], AbstractContextManager[Any]] = nullcontext) -> keras.Model:
    """The untrained network: normalised (N, height, width, channels) to logits.

    Args:
        scope: what its variables are made in, as a strategy's scope.

    Raises:
        BadModel: build(spec) fails, or returns no Keras model that takes such pictures and gives logits.
    """
    keras.utils.clear_session()  # layers without a name get the same one in every process
    file = f"{model.folder}/keras.py"
    with scope(), _short_errors():
        net = _build.build(model, "keras")
    if not isinstance(net, keras.Model):
        raise BadModel(f"{file}: build(spec) must return a keras.Model, not {type(net).__name__}")
    wanted = (None, *model.spec.inputs[0].shape)
    inputs = [tuple(tensor.shape) for tensor in getattr(net, "inputs", None) or ()]
    if inputs != [wanted]:
        found = inputs or "a class of its own: keras.Model(image, Mine()(image)) makes one"
        raise BadModel(f"{file}: build(spec) must return a model with one input of shape {wanted}, not {found}")
    try:
        keras.saving.serialize_keras_object(net)
    except (NotImplementedError, TypeError) as error:  # said now, and not when it was trained
        raise BadModel(
            f"{file}: a layer has no get_config() that gives all of its arguments: {first_line(error)}"
        ) from error
    with _short_errors():
        _build.check(model, "keras", lambda images: net(images, training=False))
    return net


@contextmanager
def _short_errors() -> Iterator[None]:
    """Errors say what they were raised with. Else Keras puts paragraphs around that, of where it was and of what."""
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
    """Writes a .keras file; the same network gives the same bytes."""
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
    """A config whose objects are numbered as they come, and not by their addresses in memory."""
    if isinstance(value, list):
        return [_renumbered(item, ids) for item in value]
    if not isinstance(value, dict):
        return value
    new = {key: _renumbered(item, ids) for key, item in value.items()}
    if "shared_object_id" in new:
        new["shared_object_id"] = ids.setdefault(new["shared_object_id"], len(ids))
    return new


# -- files of others ---------------------------------------------------------------------------------------------------


def adopt(model: Model, path: Path) -> keras.Model:
    """The network with the weights of a user's .keras file. Nothing that the file describes is made: its variables go
    into the model of the model folder, whose shapes they must have.

    Raises:
        BadWeights: it is no whole .keras file, describes code, or does not fit.
    """
    try:
        foreign = set(_described_code(_read_config(path), model))
    except RecursionError as error:
        raise BadWeights(f"{path} is not a whole .keras file: its config is nested too deeply") from error
    custom = sorted(f"{name} of {module}" if module else name for name, module in foreign)
    if custom:
        raise BadWeights(
            f"{path} describes code and was not loaded ({', '.join(custom[:3])}); write the layer as a class in "
            f"{model.folder}/keras.py under @keras.saving.register_keras_serializable(), and save a model built from it"
        )
    net = network(model)
    with tempfile.TemporaryDirectory() as folder:
        mine, theirs = Path(folder) / f"mine.{VARIABLES}", Path(folder) / f"theirs.{VARIABLES}"
        net.save_weights(mine)
        try:
            with zipfile.ZipFile(path) as archive:
                theirs.write_bytes(archive.read(VARIABLES))
            _check_shapes(path, _variable_shapes(theirs), _variable_shapes(mine))
            net.load_weights(theirs)
        except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise BadWeights(f"{path} is not a whole .keras file: {first_line(error)}") from error
    for variable in net.weights:
        if not np.isfinite(keras.ops.convert_to_numpy(variable)).all():
            raise BadWeights(
                f"{path}: {variable.path} has values that are NaN or infinite; save weights from before they were"
            )
    return net


MAX_CONFIG_BYTES = 1 << 26
"""In bytes: a config names layers and holds no weights."""


def _read_config(path: Path) -> dict[str, Any]:
    """The config in a .keras file, if it is one of Keras 3; without what it was compiled with, which nothing reads."""
    if path.suffix.lower() != ".keras":
        raise BadWeights(f"{path}: {_advice(path)}")
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
            large = max(archive.getinfo(name).file_size for name in (CONFIG, METADATA)) > MAX_CONFIG_BYTES
            if large or unpacked > 100 * max(path.stat().st_size, 1) or archive.testzip():
                raise BadWeights(f"{path} is not a whole .keras file: its content is not what it says")
            config, metadata = (json.loads(archive.read(name)) for name in (CONFIG, METADATA))
            version = str(metadata["keras_version"])
            config = {key: value for key, value in config.items() if key != "compile_config"}
    except (OSError, KeyError, ValueError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise BadWeights(f"{path} is not a whole .keras file: {first_line(error)}") from error
    if not version.startswith("3."):
        raise BadWeights(f"{path} is of Keras {version}: {_KERAS_2}")
    return config


_KERAS_2 = "load it where it was made, with Keras 3 installed, and save it with model.save('model.keras')"


def _advice(path: Path) -> str:
    """What to do with a file that is no .keras file."""
    suffix = path.suffix.lower()
    if suffix in (".safetensors", ".pt", ".pth", ".bin"):
        return "weights of PyTorch: adopt them with --framework torch, then inv convert --from torch --to keras"
    if path.name.lower().endswith(".weights.h5"):
        return "weights alone: model.load_weights() where it was made, then model.save('model.keras')"
    if suffix in (".h5", ".hdf5") or (path / "saved_model.pb").is_file():
        return f"the format of Keras 2: {_KERAS_2}"
    return "weights are a .keras file, as model.save('model.keras') writes it"


def _described_code(config: Any, model: Model) -> Iterator[tuple[str, str | None]]:
    """(class, module) of what a config names that is code, or neither Keras's nor the model folder's."""
    if isinstance(config, list):
        for item in config:
            yield from _described_code(item, model)
    elif isinstance(config, dict):
        name, module = config.get("class_name"), config.get("module")
        if name is not None:
            name = str(name)
            a_class = name[:1].isupper()  # as all of Keras's are; the rest of keras.* are functions
            ours = str(module).split(".")[0] == "keras" and a_class and name not in RUNS_CODE
            known = config.get("registered_name")
            registered = isinstance(known, str) and keras.saving.get_registered_object(known) is not None
            if not (ours or name in VALUES or registered):
                yield name, str(module) if module else None
        for item in config.values():
            yield from _described_code(item, model)


def _variable_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the variables in an .h5 file by their place; those of an optimizer left out.

    Raises:
        ValueError: one of them lies in another file.
    """
    found: dict[str, tuple[int, ...]] = {}

    def look(group: h5py.Group, where: str) -> None:
        for name in group:
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise ValueError(f"{where}{name} points elsewhere")
            item = group[name]
            if isinstance(item, h5py.Dataset):
                if item.external or item.is_virtual:
                    raise ValueError(f"{where}{name} lies in another file")
                found[f"{where}{name}"] = tuple(item.shape)
            elif (where, name) != ("", "optimizer"):
                look(item, f"{where}{name}/")

    with h5py.File(path) as file:
        look(file, "")
    return found


def _check_shapes(path: Path, found: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]]) -> None:
    wrong = [
        f"{name} is {'missing' if name not in found else f'{_shape(found[name])} where the model has {_shape(shape)}'}"
        for name, shape in wanted.items()
        if found.get(name) != shape
    ] + [f"{name} is not the model's" for name in found if name not in wanted]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise BadWeights(f"{path} does not fit the model: {'; '.join(wrong[:3])}{more}")


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "a scalar"


# -- the other framework's form ----------------------------------------------------------------------------------------

LEAVES = {
    "kernel": "weight", "bias": "bias", "gamma": "weight", "beta": "bias",
    "moving_mean": "running_mean", "moving_variance": "running_var",
}  # fmt: skip
"""What PyTorch calls a layer's variables."""


def variables(net: keras.Model) -> dict[str, Any]:
    """Variables by "<layer>.<name>", PyTorch's name; random number generators' left out.

    Raises:
        BadModel: two have one name, or a layer has variables that PyTorch has not.
    """
    found: dict[str, Any] = {}
    for variable in net.weights:
        layer, leaf = variable.path.split("/")[-2:]
        name = f"{layer}.{LEAVES.get(leaf)}"
        if leaf not in LEAVES or name in found:
            raise BadModel(
                f"{variable.path}: convert knows convolutions, dense layers and batch normalisation, each by name"
            )
        found[name] = variable
    return found


def to_torch(value: NDArray[np.float32], depthwise: bool) -> NDArray[np.float32]:
    """A Keras variable as PyTorch's tensor.

    A kernel (…, inputs, outputs) is a weight (outputs, inputs, …); a depthwise one (…, channels, multiplier) is
    (channels × multiplier, 1, …).
    """
    if value.ndim < 2:
        return value
    spatial = range(value.ndim - 2)
    if not depthwise:
        return value.transpose(value.ndim - 1, value.ndim - 2, *spatial)
    moved = value.transpose(value.ndim - 2, value.ndim - 1, *spatial)
    return moved.reshape(-1, 1, *moved.shape[2:])


def assign_from_torch(variable: Any, value: NDArray[np.float32], depthwise: bool) -> None:
    """Gives a variable the value of PyTorch's tensor: the inverse of `exchanged`.

    Raises:
        BadModel: its shape is another.
    """
    shape = tuple(variable.shape)
    if value.ndim > 1:
        spatial = range(2, value.ndim)
        if depthwise and value.size == variable.numpy().size:
            value = value.reshape(shape[-2], shape[-1], *value.shape[2:]).transpose(*spatial, 0, 1)
        else:
            value = value.transpose(*spatial, 1, 0)
    if value.shape != shape:
        raise BadModel(f"the twins differ: {variable.path} is {_shape(shape)}, and {_shape(value.shape)} in the other")
    variable.assign(value)


def depthwise_layers(net: keras.Model) -> set[str]:
    """Names of the depthwise convolutions."""
    return {layer.name for layer in net._flatten_layers() if isinstance(layer, keras.layers.DepthwiseConv2D)}
