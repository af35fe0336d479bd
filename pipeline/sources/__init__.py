"""Sources: where a model comes from. Today: the folders in models/, and any folder of the same form.

`--model` is a name or a path, optionally with options after a colon: `mobilenet_v3_small:width=0.5,classes=10`.
"""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from pipeline import registry, tasks
from pipeline.core import ModelSpec
from pipeline.datasets import check_labels
from pipeline.errors import BadData, BadModel, BadOption, UnknownName
from pipeline.system.store import digest, sha256

MODELS = Path(__file__).parent.parent.parent / "models"
DEFAULT = "digits_cnn"


@dataclass(frozen=True)
class Model:
    """A model folder with the spec that the user asked for.

    Attributes:
        folder: contains __init__.py with SPEC, and a module with build(spec) for each framework.
        spec: SPEC with the options of the command line applied.
    """

    folder: Path
    spec: ModelSpec

    @property
    def frameworks(self) -> list[str]:
        """Frameworks that have an implementation of this model."""
        return [name for name in registry.names("frameworks") if (self.folder / f"{name}.py").is_file()]

    @property
    def word(self) -> str:
        """The value of `--model` that finds it from any folder; see `find`."""
        changed = re.findall(r"-(\w+=[^=]+?)(?=-\w+=|$)", self.spec.name)  # as `_with_options` writes them
        place = self.folder.name if self.folder.parent == MODELS else str(self.folder)
        return ":".join([place, *([",".join(changed)] if changed else [])])

    @property
    def summary(self) -> str:
        """First line of the folder's docstring; empty where it has none."""
        from pipeline.sources import folder

        return ((folder.module(self.folder).__doc__ or "").strip().splitlines() or [""])[0]

    def file(self, framework: str) -> Path:
        """The file with build(spec) for a framework.

        Raises:
            BadModel: the folder has none.
        """
        path = self.folder / f"{framework}.py"
        if not path.is_file():
            raise BadModel(
                f"model {self.spec.name} has no {framework}.py in {self.folder}: add one with a function build(spec)"
            )
        return path

    def code(self, framework: str) -> ModuleType:
        """The module with build(spec).

        Raises:
            BadModel: the folder has none for this framework, it cannot be imported, or it has no build.
        """
        from pipeline.sources import folder

        path = self.file(framework)
        module = folder.module(self.folder, framework)
        if not callable(getattr(module, "build", None)):
            raise BadModel(f"{path} has no function build(spec)")
        return module

    def source(self, framework: str) -> str:
        """Hash of the Python files that define the network, those in sub-folders included; the files of other
        frameworks do not count."""
        from pipeline.sources import folder

        others = {f"{name}.py" for name in registry.names("frameworks") if name != framework}
        return digest([(name, sha256(self.folder / name)) for name in folder.files(self.folder) if name not in others])


def names() -> list[str]:
    """Models in models/."""
    return sorted(path.parent.name for path in MODELS.glob("*/__init__.py"))


def find(word: str) -> Model:
    """The model for a value of `--model`: a name or a path, optionally with options after a colon.

    Raises:
        UnknownName: neither a known name nor a folder.
        BadModel: the folder is not a model folder.
        BadOption: the model has no such option, or the value is not a number.
    """
    from pipeline.sources import folder

    name, _, options = word.partition(":")
    if name in names():
        home = MODELS / name
    elif Path(name).is_dir():
        home = Path(name).resolve()
    elif "/" in name or name.startswith("."):
        raise BadModel(f"no model folder at {name}: it needs __init__.py with SPEC, and torch.py with build(spec)")
    else:
        raise UnknownName("model", name, names())
    spec = folder.load(home)
    if home.parent != MODELS and spec.name in names():
        raise BadModel(f"{home}: SPEC.name {spec.name!r} is the name of a built-in model; choose another")
    return Model(home, _with_options(spec, options))


def fitted(model: Model, names: tuple[str, ...]) -> Model:
    """The model with labels: its own, or where SPEC has none, a dataset's class names in the dataset's order.

    Raises:
        BadData: SPEC has other labels than the dataset, or the dataset's truth is of another kind.
        BadOption: the number of classes differs, and the model has no option for it or it was set otherwise.
    """
    spec = model.spec
    if not tasks.of(spec).CLASSES:
        return model  # what the truth is shows when the samples are read
    if not names:
        raise BadData(f"the truth in {spec.dataset} is a number, and {spec.task} needs classes")
    if spec.labels:
        check_labels(spec, names)
        return model
    if len(names) != spec.classes:
        raise BadOption(
            f"{spec.name} has {spec.classes} classes and the data has {len(names)}"
            + (f": use --model …:classes={len(names)}" if "classes" in spec.options else "")
        )
    return dataclasses.replace(model, spec=dataclasses.replace(spec, labels=names))


def _with_options(spec: ModelSpec, text: str) -> ModelSpec:
    """SPEC with `width=0.5,classes=10`. Options other than the defaults become part of the name, because build/ has a
    folder for each name."""
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
            raise BadOption(f"{spec.name}: {key} must be above 0 and finite")
    changed = [f"{key}={value:g}" for key, value in sorted(options.items()) if value != spec.options[key]]
    outputs, labels = spec.outputs, spec.labels
    if "classes" in options:
        *others, last = outputs
        outputs = (*others, dataclasses.replace(last, shape=(*last.shape[:-1], int(options["classes"]))))
        labels = labels if len(labels) == options["classes"] else ()
    name = "-".join([spec.name, *changed])
    return dataclasses.replace(spec, name=name, options=options, outputs=outputs, labels=labels)
