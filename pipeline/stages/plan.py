"""Plan: what a command or a script asks for, with every name resolved to its plug-in once.

Stages take a build folder and a plan. Nothing below this module looks a name up again, except to read manifests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import devices as device_registry
from pipeline import registry, sources
from pipeline.core import ModelSpec, Recipe, from_json, to_json
from pipeline.errors import BadData, BadModel, BadOption, BadRecipe, Unsupported
from pipeline.recipes import _files, of_model
from pipeline.registry import Plugin
from pipeline.sources import Model
from pipeline.system.progress import say

if TYPE_CHECKING:
    from pipeline.datasets import Dataset
    from pipeline.devices import BoundDevice
    from pipeline.frameworks import Framework
    from pipeline.targets import Target

ALL = "all"

Names = str | Sequence[str]
"""Plug-ins: one name, several, or "all"."""


@dataclass(frozen=True)
class TrainingOptions:
    """How to train. None leaves a choice open: any existing checkpoint is accepted, and a new one uses the model's
    default.

    Attributes:
        accelerator: "auto" (a GPU if there is one), "cpu" or "cuda".
        resume: continue an interrupted training that had the same settings.
        devices, num_nodes, node_rank, main_address: the group that trains; see `frameworks.Group`.
        member: this process is one of that group, and not the one that starts them.
    """

    epochs: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    seed: int | None = None
    accelerator: str = "auto"
    resume: bool = True
    devices: int = 1
    num_nodes: int = 1
    node_rank: int = 0
    main_address: str | None = None
    member: bool = False


@dataclass(frozen=True)
class Job:
    """One framework's share of a plan.

    Attributes:
        data: --data, or None for an embedded dataset or the path of an earlier training.
        weights: the user's own weights, which replace training.
    """

    model: Model
    framework: Plugin[Framework]
    dataset: Plugin[Dataset]
    data: Path | None = None
    weights: Path | None = None
    training: TrainingOptions = TrainingOptions()

    def to_json(self) -> dict[str, Any]:
        """The job for another process of ours; see `from_json`."""
        return {
            "folder": str(self.model.folder),
            "spec": to_json(self.model.spec),
            "framework": self.framework.name,
            "data": str(self.data) if self.data else None,
            "weights": str(self.weights) if self.weights else None,
            "training": to_json(self.training),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Job:
        """The inverse of `to_json`."""
        model = Model(Path(value["folder"]), from_json(ModelSpec, value["spec"]))
        return cls(
            model,
            registry.bind("frameworks", value["framework"]),
            registry.bind("datasets", model.spec.dataset),
            Path(value["data"]) if value["data"] else None,
            Path(value["weights"]) if value["weights"] else None,
            TrainingOptions(**value["training"]),
        )


@dataclass(frozen=True)
class Plan:
    """A model, where it comes from, and everything that is to become of it. Made by `Plan.resolve`.

    Attributes:
        frameworks: the frameworks whose checkpoints are used, one job each.
        recipes, targets: every target is made under every recipe.
        devices: where the files are measured.
        data, weights, training: see `Job`.
    """

    model: Model
    frameworks: tuple[Plugin[Framework], ...]
    dataset: Plugin[Dataset]
    recipes: tuple[Recipe, ...] = ()
    targets: tuple[Plugin[Target], ...] = ()
    devices: tuple[BoundDevice, ...] = ()
    data: Path | None = None
    weights: Path | None = None
    training: TrainingOptions = TrainingOptions()

    @classmethod
    def resolve(
        cls,
        model: str | Path = sources.DEFAULT,
        *,
        frameworks: Names = "torch",
        recipes: Names = "fp32",
        targets: Names = ALL,
        devices: Names = (),
        data: Path | None = None,
        weights: Path | None = None,
        training: TrainingOptions = TrainingOptions(),
    ) -> Plan:
        """Resolves names. Loads no framework, and makes nothing.

        Args:
            model: a model's name or the path of a model folder, optionally with options after a colon.

        Raises:
            UnknownName: a name that no plug-in has; the message lists the known ones.
            BadModel, BadData, BadOption: the model folder, the data or the combination of options is invalid.
            Unsupported: targets and recipes are both named, and a target does not support a recipe; or targets are
                named, and a device does not run one of them.
        """
        found = sources.find(str(model))
        dataset = registry.bind("datasets", found.spec.dataset)
        names = found.frameworks if frameworks == ALL else _names(frameworks)
        plan = cls(
            model=found,
            frameworks=tuple(registry.bind("frameworks", name) for name in names),
            dataset=dataset,
            recipes=tuple(of_model(recipe, found.spec) for recipe in recipes_of(recipes)),
            targets=plugins("targets", targets),
            devices=tuple(devices_of(devices)),
            data=data,
            weights=weights,
            training=training,
        )
        plan._check()
        if ALL not in (targets, recipes):
            plan.refuse_unsupported()
        if ALL not in (targets, devices):
            refuse_unmeasurable(plan.devices, plan.targets)
        return plan

    @property
    def jobs(self) -> tuple[Job, ...]:
        """One job for each framework."""
        return tuple(
            Job(self.model, framework, self.dataset, self.data, self.weights, self.training)
            for framework in self.frameworks
        )

    def refuse_unsupported(self) -> None:
        """
        Raises:
            Unsupported: a target does not support a recipe; the message has its reason.
        """
        for framework in self.frameworks:
            for target in self.targets:
                for recipe in self.recipes:
                    reason = target.module.supports(recipe, framework.name)
                    if reason:
                        raise Unsupported(f"{target.name} does not support {recipe.name}: {reason}")

    def _check(self) -> None:
        if self.weights and len(self.frameworks) > 1:
            names = " or ".join(framework.name for framework in self.frameworks)
            raise BadOption(f"--weights belongs to one framework: add --framework {names}")
        for framework in self.frameworks:
            self.model.file(framework.name)  # raises where the model is not written in this framework
        needs_images, spec = self.dataset.module.IMAGES, self.model.spec
        if needs_images != bool(spec.image):
            kinds = "Standardization", "Preprocessing"
            raise BadModel(
                f"{spec.name}: {self.dataset.name} has {'images' if needs_images else 'no images'}, so "
                f"SPEC.preprocessing must be a {kinds[needs_images]}, not a {kinds[not needs_images]}"
            )
        if self.data is None:
            return
        if self.dataset.module.EMBEDDED:
            name = self.model.spec.name
            raise BadOption(f"{name} trains on {self.dataset.name}, which is built in: omit --data")
        if not self.data.exists():
            raise BadData(f"--data {self.data}: no such file or folder")


def recipes_of(names: Names) -> tuple[Recipe, ...]:
    """Recipes by name, or from files: names that end in .toml or .json are paths. "all" omits those whose graph must be
    trained, which is done for single models.

    Raises:
        UnknownName: there is no such recipe.
        BadRecipe: a file has no valid recipe, or two recipes have one name.
    """
    if names == ALL:
        every = (plugin.module.RECIPE for plugin in plugins("recipes", names))
        return tuple(recipe for recipe in every if recipe.training == "ptq")
    found = [
        _files.read(Path(name)) if name.endswith(_files.SUFFIXES) else registry.bind("recipes", name).module.RECIPE
        for name in _names(names)
    ]
    same = [recipe.name for recipe in found]
    for name in same:
        if same.count(name) > 1:
            raise BadRecipe(f"two recipes have the name {name!r}: rename one")
    return tuple(found)


def refuse_unmeasurable(devices: Sequence[BoundDevice], targets: Sequence[Plugin[Target]]) -> None:
    """
    Raises:
        Unsupported: a device does not run one of the targets.
    """
    for device in devices:
        for target in targets:
            reason = device.unsupported(target)
            if reason:
                raise Unsupported(f"{target.name} cannot be measured on {device.name}: {reason}")


def plugins(folder: str, names: Names) -> tuple[Plugin[Any], ...]:
    """Plug-ins of a registry by name. "all" omits a plug-in of another package that cannot be loaded, and prints why.

    Raises:
        UnknownName: there is no such plug-in.
    """
    if names != ALL:
        return tuple(registry.bind(folder, name) for name in _names(names))
    loaded, broken = registry.load_all(folder)
    for reason in broken.values():
        say(f"omitted: {reason}")
    return tuple(Plugin(folder, name, module) for name, module in loaded.items())


def devices_of(names: Names) -> list[BoundDevice]:
    """Devices by name.

    Raises:
        UnknownName: devices.toml has no such table.
    """
    if names == ALL:
        return list(device_registry.devices().values())
    return [device_registry.find(name) for name in _names(names)]


def _names(names: Names) -> list[str]:
    """Each name once, in the order given."""
    return list(dict.fromkeys([names] if isinstance(names, str) else names))
