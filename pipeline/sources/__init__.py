"""Which models there are: the folders in models/, and any folder of the same form elsewhere.

`--model` is a name, a path, either with options behind a colon: `mobilenet_v3_small:width=0.5,classes=10`.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from pipeline.core import ModelSpec, from_json, to_json
from pipeline.errors import BadModel, BadOption, Broken, PipelineError, UnknownName
from pipeline.system.store import digest, sha256

MODELS = Path(__file__).parent.parent.parent / "models"
DEFAULT = "digits_cnn"


@dataclass(frozen=True)
class Model:
    """A model folder and the spec it was asked for.

    Attributes:
        folder: holds __init__.py with SPEC and a module with build(spec) for each framework.
        spec: SPEC with the options of the command line.
    """

    folder: Path
    spec: ModelSpec

    @property
    def frameworks(self) -> list[str]:
        """Frameworks this model is written in."""
        from pipeline import registry

        return [name for name in registry.names("frameworks") if (self.folder / f"{name}.py").is_file()]

    @property
    def word(self) -> str:
        """What `--model` says for it, from any folder; see `find`."""
        changed = re.findall(r"-(\w+=[^=]+?)(?=-\w+=|$)", self.spec.name)  # as `_with_options` puts them there
        place = self.folder.name if self.folder.parent == MODELS else str(self.folder)
        return ":".join([place, *([",".join(changed)] if changed else [])])

    def file(self, framework: str) -> Path:
        """The file that makes the network.

        Raises:
            BadModel: the folder has none for this framework.
        """
        path = self.folder / f"{framework}.py"
        if not path.is_file():
            raise BadModel(f"model {self.spec.name} has no {framework}.py in {self.folder}: it needs build(spec) there")
        return path

    def code(self, framework: str) -> ModuleType:
        """The module with build(spec).

        Raises:
            BadModel: the folder has none for this framework, or it cannot be imported, or lacks build.
        """
        path = self.file(framework)
        module = _import(self.folder, framework)
        if not callable(getattr(module, "build", None)):
            raise BadModel(f"{path} has no function build(spec)")
        return module

    def source(self, framework: str) -> str:
        """Hash of the code that makes the network: the folder's, but for what is another framework's."""
        from pipeline import registry

        others = set(registry.names("frameworks")) - {framework}
        return digest([sha256(path) for path in sorted(self.folder.glob("*.py")) if path.stem not in others])


def names() -> list[str]:
    """Models in models/."""
    return sorted(path.parent.name for path in MODELS.glob("*/__init__.py"))


def find(word: str) -> Model:
    """The model that `word` says: a name or a path, with options behind a colon.

    Raises:
        UnknownName: neither a known name nor a folder.
        BadModel: a folder that is not a model's.
        BadOption: an option the model does not have, or a value that is no number.
    """
    name, _, options = word.partition(":")
    if name in names():
        folder = MODELS / name
    elif Path(name).is_dir():
        folder = Path(name).resolve()
    elif "/" in name or name.startswith("."):
        raise BadModel(f"no model folder at {name}: it would hold __init__.py with SPEC and torch.py with build(spec)")
    else:
        raise UnknownName("model", name, names())
    spec = _spec(folder)
    if folder.parent != MODELS and spec.name in names():
        raise BadModel(f"{folder}: SPEC.name {spec.name!r} is the name of a model that is already here; choose another")
    return Model(folder, _with_options(spec, options))


def fitted(model: Model, labels: tuple[str, ...]) -> Model:
    """The model for a dataset's classes.

    Raises:
        BadOption: the number of classes differs, and the model has no option for it or it was set otherwise.
    """
    spec = model.spec
    if len(labels) != spec.classes:
        raise BadOption(
            f"{spec.name} has {spec.classes} classes and the data has {len(labels)}"
            + (f": say --model …:classes={len(labels)}" if "classes" in spec.options else "")
        )
    return dataclasses.replace(model, spec=dataclasses.replace(spec, labels=labels))


def _spec(folder: Path) -> ModelSpec:
    if not (folder / "__init__.py").is_file():
        raise BadModel(f"{folder} is not a model folder: it has no __init__.py with SPEC")
    spec = getattr(_import(folder, None), "SPEC", None)
    if not isinstance(spec, ModelSpec):
        raise BadModel(f"{folder}/__init__.py has no SPEC of type pipeline.core.ModelSpec")
    try:
        spec = from_json(ModelSpec, to_json(spec), f"{folder}/__init__.py: SPEC")  # as manifests will give it back
    except Broken as error:
        raise BadModel(str(error)) from error
    _check(folder, spec)
    return spec


def _check(folder: Path, spec: ModelSpec) -> None:
    """What later stages rely on."""
    if not re.fullmatch(r"[A-Za-z0-9_-]+", spec.name):
        raise BadModel(f"{folder}: SPEC.name {spec.name!r} may have letters, digits, _ and - only")
    if spec.task != "image_classification":
        raise BadModel(f"{folder}: SPEC.task {spec.task!r} is not known (known: image_classification)")
    if len(spec.inputs) != 1 or len(spec.outputs) != 1 or len(spec.inputs[0].shape) != 3:
        raise BadModel(f"{folder}: a classifier has one input (height, width, channels) and one output (classes,)")
    height, width, channels = spec.inputs[0].shape
    preparation = spec.preprocessing
    expected = {"L": 1, "RGB": 3}.get(preparation.color)
    if expected != channels:
        raise BadModel(f"{folder}: preprocessing.color {preparation.color!r} does not go with {channels} channels")
    if not len(preparation.mean) == len(preparation.std) == channels:
        raise BadModel(f"{folder}: preprocessing.mean and .std need {channels} values each, one a channel")
    if not all(map(math.isfinite, preparation.mean)) or not all(0 < value < math.inf for value in preparation.std):
        raise BadModel(f"{folder}: preprocessing.mean must be finite, and .std more than 0 as well")
    if not height == width == preparation.crop or preparation.resize < preparation.crop:
        raise BadModel(f"{folder}: preprocessing.crop must be the height and width of the input, resize at least that")


def _with_options(spec: ModelSpec, text: str) -> ModelSpec:
    """SPEC with `width=0.5,classes=10`; the name then says what is not the default, since build/ is sorted by it."""
    if not text:
        return spec
    options = dict(spec.options)
    for part in text.split(","):
        key, _, value = part.partition("=")
        if key not in options:
            raise BadOption(f"{spec.name} has no option {key!r} (it has: {', '.join(sorted(options)) or 'none'})")
        try:
            options[key] = type(options[key])(value)
        except ValueError as error:
            raise BadOption(f"{spec.name}: {key}={value!r} is not a number") from error
        if not 0 < options[key] < math.inf:
            raise BadOption(f"{spec.name}: {key} must be more than 0, and finite")
    changed = [f"{key}={value:g}" for key, value in sorted(options.items()) if value != spec.options[key]]
    outputs = spec.outputs
    if "classes" in options:
        outputs = (dataclasses.replace(outputs[0], shape=(int(options["classes"]),)),)
    return dataclasses.replace(spec, name="-".join([spec.name, *changed]), options=options, outputs=outputs)


def _import(folder: Path, module: str | None) -> ModuleType:
    """A model folder as a package of its own, wherever it lies; `module` is one in it."""
    package = f"_lastmile_model_{digest(str(folder))[:12]}"
    name = f"{package}.{module}" if module else package
    if name in sys.modules:
        return sys.modules[name]
    path = folder / f"{module or '__init__'}.py"
    spec = importlib.util.spec_from_file_location(
        name, path, submodule_search_locations=None if module else [str(folder)]
    )
    assert spec is not None and spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    if module:
        _import(folder, None)
    sys.modules[name] = loaded
    try:
        spec.loader.exec_module(loaded)
    except PipelineError:
        raise
    except (Exception, SystemExit) as error:  # a user's code may raise anything
        del sys.modules[name]
        raise BadModel(f"{path} cannot be imported: {type(error).__name__}: {error}") from error
    return loaded


def describe(model: Model) -> str:
    """What a model folder says of itself: its __init__.py's docstring."""
    return (_import(model.folder, None).__doc__ or "").strip()
