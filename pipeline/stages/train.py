"""Train: a model and a dataset become a checkpoint, with the accuracy every later figure is compared with."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from pipeline import registry, sources, stats
from pipeline.core import Checkpoint, ModelSpec, to_json
from pipeline.datasets import SPLITS, Split
from pipeline.errors import BadData, BadModel, BadOption, Broken
from pipeline.frameworks import Group, Settings
from pipeline.system import store
from pipeline.system.progress import say
from pipeline.system.store import Store

MANIFEST = "checkpoint.json"
PREDICTIONS = "predictions.npz"


@dataclass(frozen=True)
class Job:
    """What a command asks of the training stage; None where it leaves the choice.

    A choice left open accepts whatever checkpoint is there, and is the model's default where there is none.

    Attributes:
        devices, num_nodes, node_rank, main_address: the group that trains; see `frameworks.Group`.
        member: this process is one of that group, and not the one that starts them.
    """

    model: str = sources.DEFAULT
    framework: str = "torch"
    data: Path | None = None
    weights: Path | None = None
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


def plain(build: Store, job: Job) -> dict[str, Any]:
    """A job on a build folder as JSON takes it, for a process of ours."""
    return {"build": str(build.root), **{name: str(v) if isinstance(v, Path) else v for name, v in vars(job).items()}}


def planned(request: dict[str, Any]) -> tuple[Store, Job]:
    """What `plain` was given."""
    fields = {name: value for name, value in request.items() if name != "build"}
    paths = {name: Path(fields[name]) if fields[name] else None for name in ("data", "weights")}
    return Store(Path(request["build"])), Job(**{**fields, **paths})


def ready(build: Store, job: Job) -> Checkpoint | None:
    """The checkpoint that is there, if it is what `job` asks for and its files are whole. Loads no framework.

    Raises:
        UnknownName, BadModel, BadOption: as the command line deserves.
    """
    model = _model(job)
    _settings(model, job)  # refused also where a checkpoint is there
    folder = build.checkpoint(model.spec.name, job.framework)
    checkpoint = store.read_or_warn(Checkpoint, folder / MANIFEST)
    if checkpoint is None or not _is_asked_for(checkpoint, model, job):
        return None
    for name, expected in (
        (checkpoint.weights, checkpoint.weights_sha256),
        (checkpoint.predictions, checkpoint.predictions_sha256),
    ):
        path = folder / name
        if not path.is_file() or store.sha256(path) != expected:
            say(f"{path} is not what its manifest says; made anew")
            return None
    return checkpoint


def train(build: Store, job: Job) -> Checkpoint:
    """The checkpoint `job` asks for; trains, or adopts --weights, when it is not there yet.

    A checkpoint that this replaces is kept beside it under another name.
    """
    checkpoint = ready(build, job)
    if checkpoint is not None:
        return checkpoint
    if job.weights is not None and not job.weights.exists():
        raise BadOption(f"--weights {job.weights}: no such file")
    return make(build, job, _adopt if job.weights else _fit)


def make(build: Store, job: Job, how: How) -> Checkpoint:
    """A checkpoint of the weights that `how` comes by, evaluated on the test split."""
    model = _model(job)
    framework = registry.load("frameworks", job.framework)
    dataset = registry.load("datasets", model.spec.dataset)
    data = _data(build, job)
    model = sources.fitted(model, dataset.classes(data))
    test = dataset.load(data, "test", model.spec.preprocessing)
    if len(test) == 0:
        raise BadData(f"{data}: its test split has no pictures")
    home = build.home(model.spec.name, job.framework)
    new = how(model, job, home, data)
    final = build.checkpoint(model.spec.name, job.framework)
    with store.atomic(final) as folder:
        folder.mkdir()
        (folder / framework.WEIGHTS).write_bytes(new.path.read_bytes())
        checkpoint = replace(_evaluated(model, job, folder, new, test), data=str(data) if data else None)
        store.write(folder / MANIFEST, checkpoint)
        _show(model, checkpoint, folder, home / "tensorboard" / new.key[:12], test)
        _keep(final)
    store.remove(new.path.parent)
    known = "pictures never trained on" if checkpoint.origin == "trained" else "test pictures"
    say(f"{model.spec.name}: {checkpoint.accuracy:.2%} top-1 on {checkpoint.samples} {known}")
    return checkpoint


def renewal(checkpoint: Checkpoint) -> How | None:
    """How a checkpoint is made anew whose data are not what they were, with a line that says so; None where they are.

    All of the data are read, which only `inv train` does: for other commands a path is the data. Weights stay where
    what they were trained on is as it was, or is not known here.
    """
    if checkpoint.data is None or not Path(checkpoint.data).exists():
        return None
    data, facts = Path(checkpoint.data), checkpoint.facts
    dataset = registry.load("datasets", checkpoint.spec.dataset)
    spec = replace(checkpoint.spec, labels=dataset.classes(data))
    splits = {name: dataset.load(data, name, spec.preprocessing) for name in SPLITS}
    trained = checkpoint.origin == "trained"
    if trained and _key(facts["source"], spec, facts["settings"], splits) != checkpoint.key:
        say(f"the pictures in {data} changed since {spec.name} was trained; training it again")
        return _fit
    if splits["test"].sha256 != checkpoint.dataset_sha256 or spec != checkpoint.spec:
        say(f"the test pictures in {data} changed since {spec.name} was evaluated; evaluating it again")
        return partial(_same, checkpoint)
    return None


def group(job: Job) -> Group:
    """The devices that the command line asks for, or that another launcher has brought together.

    Raises:
        UnknownName, BadOption: there can be no such group.
    """
    if min(job.devices, job.num_nodes) < 1:
        raise BadOption("--devices and --num-nodes must be more than 0")
    asked = (job.devices, job.num_nodes, job.node_rank, job.main_address)
    if job.member:
        return Group(*asked[:3])
    joined: Group | None = registry.load("frameworks", job.framework).joined(job.devices)
    if joined is not None:
        if asked[1:] != (1, 0, None):
            raise BadOption(
                "another launcher says which machines there are: leave --num-nodes, --node-rank and --main-address out"
            )
        return joined
    if not 0 <= job.node_rank < job.num_nodes:
        raise BadOption(f"--node-rank {job.node_rank}: from 0 to --num-nodes - 1, which is {job.num_nodes - 1}")
    host, _, port = (job.main_address or "").partition(":")
    if (job.num_nodes > 1) != bool(host) or (port and not (port.isdecimal() and 0 < int(port) < 1 << 16)):
        raise BadOption(
            f"--num-nodes {job.num_nodes} with --main-address {job.main_address or '(none)'}: several machines, and "
            f"only they, meet at HOST or HOST:PORT of the one with --node-rank 0"
        )
    if job.weights and job.devices * job.num_nodes > 1:
        raise BadOption("--weights takes the place of training: leave --devices and --num-nodes out")
    return Group(*asked[:3], job.main_address or "")


def take_part(build: Store, job: Job) -> None:
    """This process's share of a training that another finishes; it writes to build/ only as process 0 of its group.

    Raises:
        PipelineError: as `train`.
    """
    model = _model(job)
    _settings(model, job)
    data = _data(build, job)
    model = sources.fitted(model, registry.load("datasets", model.spec.dataset).classes(data))
    _trained(model, job, build.home(model.spec.name, job.framework), data)


def model_of(checkpoint: Checkpoint, job: Job) -> sources.Model:
    """The model folder behind a checkpoint, with the checkpoint's labels."""
    return sources.Model(_model(job).folder, checkpoint.spec)


def test_split(checkpoint: Checkpoint, name: str = "test") -> Split:
    """A split of the data a checkpoint belongs to.

    Raises:
        BadData: the data is gone.
        Broken: its content is another than it was.
    """
    data = Path(checkpoint.data) if checkpoint.data else None
    dataset = registry.load("datasets", checkpoint.spec.dataset)
    split: Split = dataset.load(data, name, checkpoint.spec.preprocessing)
    if name == "test" and split.sha256 != checkpoint.dataset_sha256:
        raise Broken(
            f"the test pictures in {data} changed since {checkpoint.spec.name} was trained; "
            f"inv train{checkpoint.options} takes them in"
        )
    return split


# -- what was asked for, and what is there -----------------------------------------------------------------------------


def _model(job: Job) -> sources.Model:
    if job.framework not in registry.names("frameworks"):
        registry.load("frameworks", job.framework)  # raises with the known names
    model = sources.find(job.model)
    model.file(job.framework)  # raises where it is not written in this framework
    dataset = registry.load("datasets", model.spec.dataset)
    if dataset.EMBEDDED and job.data is not None:
        raise BadOption(f"{model.spec.name} is trained on {model.spec.dataset}, which is built in: leave --data out")
    if job.data is not None and not job.data.exists():
        raise BadData(f"--data {job.data}: no such file or folder")
    return model


def _is_asked_for(checkpoint: Checkpoint, model: sources.Model, job: Job) -> bool:
    """Whether a checkpoint fits the code as it is now and every choice that the command makes."""
    if checkpoint.facts.get("source") != model.source(job.framework):
        return False
    if job.data is not None and str(job.data.resolve()) != checkpoint.data:
        return False
    if job.weights is not None:
        known = checkpoint.facts.get("source_sha256")
        return job.weights.is_file() and known == store.sha256(job.weights)
    asked = {"epochs": job.epochs, "batch_size": job.batch_size, "lr": job.lr, "seed": job.seed}
    asked = {name: value for name, value in asked.items() if value is not None}
    settings = checkpoint.facts.get("settings", {})
    return all(settings.get(name) == value for name, value in asked.items())


def _data(build: Store, job: Job) -> Path | None:
    """--data, or the path that was given when this model was last trained."""
    if job.data is not None:
        return job.data.resolve()
    model = _model(job)
    if registry.load("datasets", model.spec.dataset).EMBEDDED:
        return None
    for framework in dict.fromkeys([job.framework, *model.frameworks]):
        last = store.read_or_warn(Checkpoint, build.checkpoint(model.spec.name, framework) / MANIFEST)
        if last is not None and last.data:
            return Path(last.data)
    return None


def _settings(model: sources.Model, job: Job) -> Settings:
    """The command's choices over the model's defaults.

    Raises:
        BadOption: a number that cannot be.
    """
    default = model.spec.training

    def choose(asked: Any, otherwise: Any) -> Any:
        return otherwise if asked is None else asked

    settings = Settings(
        epochs=choose(job.epochs, default.epochs),
        batch_size=choose(job.batch_size, default.batch_size),
        lr=choose(job.lr, default.lr),
        seed=choose(job.seed, 0),
        accelerator=job.accelerator,
        resume=job.resume,
        group=group(job),
    )
    if settings.epochs < 1 or settings.batch_size < 1 or not 0 < settings.lr < math.inf:
        raise BadOption("--epochs, --batch-size and --lr must be more than 0")
    if not 0 <= settings.seed < 1 << 32:
        raise BadOption(f"--seed {settings.seed}: from 0 to {(1 << 32) - 1}")
    if job.weights and (job.epochs, job.batch_size, job.lr, job.seed) != (None,) * 4:
        raise BadOption("--weights takes the place of training: leave --epochs, --batch-size, --lr and --seed out")
    if settings.accelerator not in ("auto", "cpu", "cuda"):
        raise BadOption(f"--accelerator {settings.accelerator!r}: one of auto, cpu, cuda")
    if settings.batch_size % settings.group.size:
        raise BadOption(
            f"--batch-size {settings.batch_size} is that of all {settings.group.size} devices together: it must be a "
            f"multiple of {settings.group.size}"
        )
    return settings


def _chosen(settings: Settings) -> dict[str, Any]:
    """The settings that decide what comes out. How many processes there are does not, but for rounding."""
    how = ("resume", "accelerator", "group")
    return {name: value for name, value in to_json(settings).items() if name not in how}


def _key(source: str, spec: ModelSpec, chosen: Mapping[str, Any], splits: Mapping[str, Split]) -> str:
    """Hash of all that a training depends on."""
    return store.digest([source, to_json(spec), chosen, [splits[name].sha256 for name in ("train", "validation")]])


# -- making it ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class New:
    """Weights that are to become a checkpoint.

    Attributes:
        path: alone in a folder that goes when the checkpoint is there.
        origin, facts, key: the checkpoint's.
    """

    path: Path
    origin: str
    facts: dict[str, Any]
    key: str


How = Callable[[sources.Model, Job, Path, Path | None], New]
"""Makes weights of a model for a job, in the model's home in build/ from the dataset at a path."""


def _fit(model: sources.Model, job: Job, home: Path, data: Path | None) -> New:
    """Weights from training."""
    facts, key = _trained(model, job, home, data)
    return New(home / "training" / registry.load("frameworks", job.framework).WEIGHTS, "trained", facts, key)


def _trained(model: sources.Model, job: Job, home: Path, data: Path | None) -> tuple[dict[str, Any], str]:
    """Trains, or takes part in it; see `Framework.train`. Facts and key."""
    framework = registry.load("frameworks", job.framework)
    dataset = registry.load("datasets", model.spec.dataset)
    splits = {name: dataset.load(data, name, model.spec.preprocessing) for name in ("train", "validation")}
    settings = _settings(model, job)
    key = _key(model.source(job.framework), model.spec, _chosen(settings), splits)
    if not job.member and settings.group.rank is None:
        of = settings.group
        part = replace(job, data=data, member=True, devices=of.devices, num_nodes=of.nodes, node_rank=of.node_rank)
        request = json.dumps(plain(Store(home.parent), part))
        command = (sys.executable, "-m", "pipeline.stages._train_process", request)
        settings = replace(settings, group=replace(settings.group, command=command))
    if not job.member and not settings.group.follows:
        by = f", {settings.group.size} devices" if settings.group.size > 1 else ""
        pictures = f"{len(splits['train'])} pictures of {model.spec.dataset}"
        say(f"training {model.spec.name} ({job.framework}) on {pictures}{by}")
    facts = framework.train(model, splits, settings, home, key)
    return facts | {"settings": _chosen(settings), "train_sha256": splits["train"].sha256}, key


def _adopt(model: sources.Model, job: Job, home: Path, data: Path | None) -> New:
    """Takes a user's weights in; see `Framework.adopt`."""
    assert job.weights is not None  # that is why this is called
    framework = registry.load("frameworks", job.framework)
    source = store.sha256(job.weights)
    path = home / f"{store.TEMPORARY}adopted" / framework.WEIGHTS
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        framework.adopt(model, job.weights, path)
    except BaseException:
        store.remove(path.parent)
        raise
    key = store.digest([model.source(job.framework), source])
    return New(path, str(job.weights.resolve()), {"source_sha256": source}, key)


def _same(checkpoint: Checkpoint, _: sources.Model, __: Job, home: Path, ___: Path | None) -> New:
    """The weights of a checkpoint that is there."""
    path = home / f"{store.TEMPORARY}kept" / checkpoint.weights
    path.parent.mkdir(exist_ok=True)
    shutil.copy(Store(home.parent).checkpoint(checkpoint.spec.name, checkpoint.framework) / checkpoint.weights, path)
    return New(path, checkpoint.origin, dict(checkpoint.facts), checkpoint.key)


def _evaluated(model: sources.Model, job: Job, folder: Path, new: New, test: Split) -> Checkpoint:
    """Runs the weights in `folder` over the test split and writes every sample's outputs beside them."""
    import numpy as np

    framework = registry.load("frameworks", job.framework)
    outputs = framework.predict(model, folder / framework.WEIGHTS, test, job.accelerator)
    np.savez(folder / PREDICTIONS, output_0=outputs, labels=test.labels)
    return Checkpoint(
        spec=model.spec,
        framework=job.framework,
        weights=framework.WEIGHTS,
        weights_sha256=store.sha256(folder / framework.WEIGHTS),
        origin=new.origin,
        facts={**new.facts, "source": model.source(job.framework), "model": model.word},
        data=None,
        dataset_sha256=test.sha256,
        samples=len(test),
        accuracy=float((stats.top1(outputs) == test.labels).mean()),
        predictions=PREDICTIONS,
        predictions_sha256=store.sha256(folder / PREDICTIONS),
        key=new.key,
        tools=registry.versions(framework.TOOLS),
    )


def _show(model: sources.Model, checkpoint: Checkpoint, folder: Path, run: Path, test: Split) -> None:
    """Gives TensorBoard what there is to see of finished weights, which are in `folder`."""
    import numpy as np

    from pipeline.system.tensorboard import PROJECTED, Events

    framework = registry.load("frameworks", checkpoint.framework)
    weights, names, facts = folder / checkpoint.weights, checkpoint.spec.labels, checkpoint.facts
    with np.load(folder / checkpoint.predictions) as kept:
        outputs = kept["output_0"]
    step = facts.get("steps", 0)
    with registry.extra(framework.EXTRA), Events(run, step) as events:
        events.scalars({"accuracy/test": checkpoint.accuracy}, step)
        events.hyperparameters(_hyperparameters(checkpoint), f"{checkpoint.framework}-{checkpoint.key[:12]}")
        events.mistakes(outputs, test.labels, names, test.read, step)
        images = test.images(range(min(PROJECTED, len(test))))
        answers = stats.top1(outputs)[: len(images)]
        columns = {
            "label": [names[i] for i in test.labels[: len(images)]],
            "answer": [names[i] if i >= 0 else "none" for i in answers],
            "right": ["yes" if right else "no" for right in answers == test.labels[: len(images)]],
        }
        events.projector(framework.features(model, weights, images), columns, list(images))
        try:
            events.graph(framework.graph(model, weights))
        except BadModel as error:
            say(f"TensorBoard shows no graph: {error}")


def _hyperparameters(checkpoint: Checkpoint) -> dict[str, bool | float | str]:
    training = checkpoint.spec.training
    chosen: dict[str, bool | float | str] = {
        "model": checkpoint.spec.name,
        "framework": checkpoint.framework,
        "weight_decay": training.weight_decay,
        "label_smoothing": training.label_smoothing,
        "augment": ",".join(training.augment) or "none",
        "origin": "trained" if checkpoint.origin == "trained" else Path(checkpoint.origin).name,
    }
    facts = {name: checkpoint.facts[name] for name in ("device", "devices", "nodes") if name in checkpoint.facts}
    return chosen | facts | dict(checkpoint.facts.get("settings", {}))


def _keep(final: Path) -> None:
    """Puts a checkpoint that is about to be replaced aside, under the beginning of its weights' hash."""
    try:
        old = store.read(Checkpoint, final / MANIFEST)
    except Broken:
        return
    if old is None:
        return
    aside = final.with_name(f"checkpoint-{old.weights_sha256[:8]}")
    if not aside.exists():
        final.rename(aside)
        say(f"the checkpoint that was there is kept; --weights {aside / old.weights} takes it back")
