"""Train: a model and a dataset become a checkpoint. Its accuracy is the reference for every later figure."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from pipeline import datasets, registry, sources, stats, tasks
from pipeline.core import Audio, Checkpoint, ModelSpec, Preprocessing, Tokens, to_json
from pipeline.datasets import SPLITS, Split, _audio, _images, _text
from pipeline.errors import (
    BadData,
    BadModel,
    BadOption,
    BadWeights,
    Broken,
    MissingExtra,
    PipelineError,
    StageFailed,
    described,
)
from pipeline.frameworks import Group, Settings
from pipeline.stages.plan import Job, Plan
from pipeline.system import store
from pipeline.system.progress import say
from pipeline.system.store import Store

MANIFEST = "checkpoint.json"
PREDICTIONS = "predictions.npz"
DRAWN = 16
"""Test images that TensorBoard shows with what the model has found in them."""
OWN_FAILURES = (BadModel, BadWeights, MissingExtra, StageFailed)
"""Failures of one framework, which do not stop the others of a plan. Other errors concern all of them."""


def train(build: Store, plan: Plan) -> list[Checkpoint]:
    """The checkpoint of every framework in the plan, trained (or imported from --weights) where it is missing or where
    the content of the data has changed.

    Returns:
        One checkpoint per framework; none for a framework whose training another machine finishes.
    """
    return list(checkpoints(build, plan))


def checkpoints(build: Store, plan: Plan) -> Iterator[Checkpoint]:
    """As `train`, but yields each checkpoint as soon as it exists. A framework that fails does not stop the others.

    Raises:
        StageFailed: a framework failed. Where there are several, all were tried, and a line was printed for each.
    """
    failed: dict[str, PipelineError] = {}
    for job in plan.jobs:
        try:
            checkpoint = _followed_or_made(build, job)
        except OWN_FAILURES as error:
            if len(plan.jobs) == 1:
                raise
            failed[job.framework.name] = error
            say(f"{job.framework.name}: failed: {error}")
            continue
        if checkpoint is not None:
            yield checkpoint
    if failed:
        reasons = "; ".join(f"{framework}: {error}" for framework, error in failed.items())
        raise StageFailed(f"{len(failed)} of {len(plan.jobs)} frameworks failed: {reasons}")


@contextmanager
def contained(model: str, framework: str, doing: str) -> Iterator[None]:
    """Turns whatever a model's code or a library raises into a failure of this framework, in one line.

    Raises:
        StageFailed: the block raised something unexpected, or ended the process by sys.exit().
    """
    try:
        yield
    except PipelineError:
        raise
    except (Exception, SystemExit) as error:
        if isinstance(error, OSError) and store.is_full(error):
            raise
        raise StageFailed(f"{model} ({framework}): {doing} failed: {described(error)}") from error


def _followed_or_made(build: Store, job: Job) -> Checkpoint | None:
    own = group(job)
    if own.follows:
        take_part(build, job)
        if own.rank is None:
            host = own.address.partition(":")[0] or "machine 0"
            say(f"took part as machine {own.node_rank} of {own.nodes}; the checkpoint is on {host}")
        return None
    checkpoint = ready(build, job)
    how = renewal(job, checkpoint) if checkpoint else None
    if checkpoint is not None and how is None:
        return checkpoint
    with store.lock(build, f"training of {job.model.spec.name}"):
        return make(build, job, how) if how else ensure(build, job)


def ready(build: Store, job: Job) -> Checkpoint | None:
    """The existing checkpoint, if it is what `job` asks for and its files are intact. Loads no framework.

    Raises:
        BadOption: an option is invalid.
    """
    settings(job)  # an invalid option is an error even if a checkpoint exists
    folder = build.checkpoint(job.model.spec.name, job.framework.name)
    checkpoint = store.read_or_warn(Checkpoint, folder / MANIFEST)
    if checkpoint is None or not _is_asked_for(checkpoint, job):
        return None
    for name, expected in (
        (checkpoint.weights, checkpoint.weights_sha256),
        (checkpoint.predictions, checkpoint.predictions_sha256),
    ):
        path = folder / name
        if not path.is_file() or store.sha256(path) != expected:
            say(f"{path} does not match its manifest: training again")
            return None
    return checkpoint


def ensure(build: Store, job: Job) -> Checkpoint:
    """The checkpoint of a job: the existing one, else trained or imported from --weights.

    A checkpoint that this replaces is kept beside it under another name.
    """
    checkpoint = ready(build, job)
    if checkpoint is not None:
        return checkpoint
    if job.weights is not None and not job.weights.exists():
        raise BadOption(f"--weights {job.weights}: no such file")
    return make(build, job, _import if job.weights else _fit)


def make(build: Store, job: Job, how: How) -> Checkpoint:
    """A checkpoint of the weights that `how` makes, evaluated on the test split."""
    dataset, framework = job.dataset.module, job.framework.module
    data = data_of(build, job)
    names = dataset.classes(data)
    model = sources.fitted(job.model, names)
    if not job.model.spec.labels and (note := datasets.order_note(names)):
        say(note)
    test = datasets.load(dataset, data, "test", model.spec, model.folder)
    if len(test) == 0:
        raise BadData(f"{data}: its test split has no samples")
    home = build.home(model.spec.name, job.framework.name)
    new = how(model, job, home, data)
    if "train_sha256" not in new.facts:  # calibration samples are taken from this split
        training = datasets.load(dataset, data, "train", model.spec, model.folder)
        new = replace(new, facts={**new.facts, "train_sha256": training.sha256})
    final = build.checkpoint(model.spec.name, job.framework.name)
    with store.atomic(final) as folder:
        folder.mkdir()
        (folder / framework.WEIGHTS).write_bytes(new.path.read_bytes())
        kept = f" (its weights are {new.path}, which --weights imports)" if new.origin == "trained" else ""
        with contained(model.spec.name, job.framework.name, f"evaluating the network{kept}"):
            checkpoint = replace(_evaluated(model, job, folder, new, test), data=str(data) if data else None)
        store.write(folder / MANIFEST, checkpoint)
        _set_aside(final)
    store.remove(new.path.parent)
    _write_tensorboard(model, job, checkpoint, final, home / "tensorboard" / new.key[:12], test)
    known = "held-out samples" if checkpoint.origin == "trained" else "test samples"
    metric = tasks.of(model.spec).TITLE
    say(f"{model.spec.name}: {checkpoint.accuracy:.2%} {metric} on {checkpoint.samples} {known}")
    return checkpoint


def renewal(job: Job, checkpoint: Checkpoint) -> How | None:
    """How to renew a checkpoint if its data have changed, which is also printed; None if they have not.

    This reads all of the data, which only `inv train` does: other commands compare the path. Weights are kept where
    their training data are unchanged or unknown.
    """
    facts, dataset, made_with = checkpoint.facts, job.dataset.module, _made_with(job)
    if dataset.EMBEDDED and facts.get("made_with") == made_with:
        return None
    if not dataset.EMBEDDED and (checkpoint.data is None or not Path(checkpoint.data).exists()):
        return None
    data = Path(checkpoint.data) if checkpoint.data else None
    labels = sources.fitted(job.model, dataset.classes(data)).spec.labels
    spec = replace(checkpoint.spec, labels=labels)
    splits = {name: datasets.load(dataset, data, name, spec, job.model.folder) for name in SPLITS}
    trained = checkpoint.origin == "trained"
    images = f"images in {data}" if data else f"images of {spec.dataset}"
    before = facts.get("made_with", {})
    newer = [name for name, version in made_with.items() if before.get(name) != version]
    what = f"the {images}" if not newer else f"the {images}, or what they were used with ({', '.join(newer)}),"
    if trained and _key(facts["source"], spec, facts["settings"], splits, made_with) != checkpoint.key:
        say(f"{what} changed since {spec.name} was trained: training it again")
        return _fit
    same = splits["train"].sha256 == facts.get("train_sha256") and splits["test"].sha256 == checkpoint.dataset_sha256
    if not same or spec != checkpoint.spec:
        say(f"{what} changed since {spec.name} was evaluated: evaluating it again")
        return partial(_same, checkpoint)
    return None


def _made_with(job: Job) -> dict[str, str]:
    """What decides weights and accuracy besides the model, the settings and the files of the dataset: the versions of
    the tools that train, and what decodes images or sounds."""
    preprocessing = job.model.spec.preprocessing
    decoder = ""
    if isinstance(preprocessing, Preprocessing):
        decoder = _images.identity()
    elif isinstance(preprocessing, Audio):
        decoder = _audio.identity()
    elif isinstance(preprocessing, Tokens):
        decoder = _text.identity()
    return {**registry.versions(tuple(job.framework.module.PACKAGES)), "decoder": decoder}


def group(job: Job) -> Group:
    """The devices that train: those of the command line, or those that another launcher has set up.

    Raises:
        BadOption: the options describe no valid group.
    """
    options = job.training
    if min(options.devices, options.num_nodes) < 1:
        raise BadOption("--devices and --num-nodes must be at least 1")
    asked = (options.devices, options.num_nodes, options.node_rank, options.main_address)
    if options.member:
        return Group(*asked[:3])
    joined: Group | None = job.framework.module.joined(options.devices)
    if joined is not None:
        if asked[1:] != (1, 0, None):
            raise BadOption("another launcher sets the machines: omit --num-nodes, --node-rank and --main-address")
        return joined
    if not 0 <= options.node_rank < options.num_nodes:
        raise BadOption(
            f"--node-rank {options.node_rank}: must be from 0 to --num-nodes - 1, which is {options.num_nodes - 1}"
        )
    host, _, port = (options.main_address or "").partition(":")
    if (options.num_nodes > 1) != bool(host) or (port and not (port.isdecimal() and 0 < int(port) < 1 << 16)):
        raise BadOption(
            f"--num-nodes {options.num_nodes} with --main-address {options.main_address or '(none)'}: training on "
            "several machines needs --main-address HOST or HOST:PORT of machine 0, and on one machine it is omitted"
        )
    if job.weights and options.devices * options.num_nodes > 1:
        raise BadOption("--weights replaces training: omit --devices and --num-nodes")
    return Group(*asked[:3], options.main_address or "")


def take_part(build: Store, job: Job) -> None:
    """This process's share of a training that another process finishes; only process 0 of the group writes to build/.

    Raises:
        PipelineError: as `train`.
    """
    data = data_of(build, job)
    model = sources.fitted(job.model, job.dataset.module.classes(data))
    _trained(model, job, build.home(model.spec.name, job.framework.name), data)


def model_of(checkpoint: Checkpoint, job: Job) -> sources.Model:
    """The model with the checkpoint's labels."""
    return sources.Model(job.model.folder, checkpoint.spec)


def split_of(checkpoint: Checkpoint, job: Job, name: str = "test") -> Split:
    """A split of the data that a checkpoint belongs to.

    Raises:
        BadData: the data are gone.
        Broken: the test split's content has changed.
    """
    data = Path(checkpoint.data) if checkpoint.data else None
    split = datasets.load(job.dataset.module, data, name, checkpoint.spec, job.model.folder)
    known = {"test": checkpoint.dataset_sha256, "train": checkpoint.facts.get("train_sha256")}.get(name)
    if known not in (None, split.sha256):
        raise Broken(
            f"the {name} images in {data or checkpoint.spec.dataset}, or the code that decodes them, changed since "
            f"{checkpoint.spec.name} was trained; inv train{checkpoint.options} uses the new ones"
        )
    return split


# -- what the job asks for ---------------------------------------------------------------------------------------------


def _is_asked_for(checkpoint: Checkpoint, job: Job) -> bool:
    """Whether a checkpoint fits the model's current code and every choice of the job."""
    if checkpoint.facts.get("source") != job.model.source(job.framework.name):
        return False
    if job.model.spec.labels not in ((), checkpoint.spec.labels):
        return False
    if job.data is not None and str(job.data.resolve()) != checkpoint.data:
        return False
    if job.weights is not None:
        known = checkpoint.facts.get("source_sha256")
        return job.weights.is_file() and known == store.sha256(job.weights)
    options = job.training
    asked = {"epochs": options.epochs, "batch_size": options.batch_size, "lr": options.lr, "seed": options.seed}
    used = checkpoint.facts.get("settings", {})
    return all(used.get(name) == value for name, value in asked.items() if value is not None)


def data_of(build: Store, job: Job) -> Path | None:
    """--data, or the path that this model was last trained with."""
    if job.data is not None:
        return job.data.resolve()
    if job.dataset.module.EMBEDDED:
        return None
    for framework in dict.fromkeys([job.framework.name, *job.model.frameworks]):
        last = store.read_or_warn(Checkpoint, build.checkpoint(job.model.spec.name, framework) / MANIFEST)
        if last is not None and last.data:
            return Path(last.data)
    return None


def settings(job: Job) -> Settings:
    """The job's options, with the model's defaults for those not given.

    Raises:
        BadOption: a value is out of range.
    """
    options, default = job.training, job.model.spec.training

    def choose(asked: Any, otherwise: Any) -> Any:
        return otherwise if asked is None else asked

    chosen = Settings(
        epochs=choose(options.epochs, default.epochs),
        batch_size=choose(options.batch_size, default.batch_size),
        lr=choose(options.lr, default.lr),
        seed=choose(options.seed, 0),
        accelerator=options.accelerator,
        resume=options.resume,
        group=group(job),
    )
    if chosen.epochs < 1 or chosen.batch_size < 1 or not 0 < chosen.lr < math.inf:
        raise BadOption("--epochs, --batch-size and --lr must be above 0")
    if not 0 <= chosen.seed < 1 << 32:
        raise BadOption(f"--seed {chosen.seed}: must be from 0 to {(1 << 32) - 1}")
    if job.weights and (options.epochs, options.batch_size, options.lr, options.seed) != (None,) * 4:
        raise BadOption("--weights replaces training: omit --epochs, --batch-size, --lr and --seed")
    if chosen.accelerator not in ("auto", "cpu", "cuda"):
        raise BadOption(f"--accelerator {chosen.accelerator!r}: must be auto, cpu or cuda")
    if chosen.batch_size % chosen.group.size:
        raise BadOption(
            f"--batch-size {chosen.batch_size} is the total of {chosen.group.size} devices: it must be a multiple of "
            f"{chosen.group.size}"
        )
    return chosen


def decisive(chosen: Settings) -> dict[str, Any]:
    """The settings that decide the weights. The number of processes changes rounding only."""
    how = ("resume", "accelerator", "group")
    return {name: value for name, value in to_json(chosen).items() if name not in how}


def _key(
    source: str, spec: ModelSpec, chosen: Mapping[str, Any], splits: Mapping[str, Split], made_with: Mapping[str, str]
) -> str:
    """Cache key of a training."""
    images = [splits[name].sha256 for name in ("train", "validation")]
    return store.digest([source, to_json(spec), chosen, images, made_with])


# -- training ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class New:
    """Weights for a new checkpoint.

    Attributes:
        path: in a folder of its own, which is removed once the checkpoint exists.
        origin, facts, key: the checkpoint's.
    """

    path: Path
    origin: str
    facts: dict[str, Any]
    key: str


How = Callable[[sources.Model, Job, Path, Path | None], New]
"""Makes weights of a model for a job, in the model's folder in build/, from the dataset at a path."""


def _fit(model: sources.Model, job: Job, home: Path, data: Path | None) -> New:
    """Weights from training."""
    facts, key = _trained(model, job, home, data)
    return New(home / "training" / job.framework.module.WEIGHTS, "trained", facts, key)


def _trained(model: sources.Model, job: Job, home: Path, data: Path | None) -> tuple[dict[str, Any], str]:
    """Trains, or takes part in it; see `Framework.train`. Returns facts and cache key."""
    load = partial(datasets.load, job.dataset.module, data, spec=model.spec, folder=model.folder)
    splits = {name: load(name) for name in ("train", "validation")}
    require_images(splits, str(data or model.spec.dataset))
    chosen = settings(job)
    key = _key(model.source(job.framework.name), model.spec, decisive(chosen), splits, _made_with(job))
    member = job.training.member
    if not member and chosen.group.rank is None:
        chosen = replace(chosen, group=replace(chosen.group, command=_command(job, data, home, chosen.group)))
    if not member and not chosen.group.follows:
        by = f", {chosen.group.size} devices" if chosen.group.size > 1 else ""
        images = f"{len(splits['train'])} samples of {model.spec.dataset}"
        say(f"training {model.spec.name} ({job.framework.name}) on {images}{by}")
        seen = {content for split in splits.values() for content in split.contents}
        test = load("test").contents
        leaked = sum(content in seen for content in test)
        if leaked:
            say(f"{leaked} of {len(test)} test samples also train or validate the model: accuracy will be too high")
    # A process of a group records what it raises: see _train_process.
    with nullcontext() if member else contained(model.spec.name, job.framework.name, "training"):
        facts = job.framework.module.train(model, splits, chosen, home, key)
    return facts | {"settings": decisive(chosen), "train_sha256": splits["train"].sha256}, key


def require_images(splits: Mapping[str, Split], data: str) -> None:
    """
    Raises:
        BadData: a split has too few images for training.
    """
    for name, least in (("train", 2), ("validation", 1)):
        if len(splits[name]) < least:
            count = f"{len(splits[name])} image{'' if len(splits[name]) == 1 else 's'}"
            raise BadData(f"the {name} split of {data} has {count}: training needs at least {least}")


def _command(job: Job, data: Path | None, home: Path, of: Group) -> tuple[str, ...]:
    """The command of a process that takes part in the training."""
    options = replace(job.training, member=True, devices=of.devices, num_nodes=of.nodes, node_rank=of.node_rank)
    request = {"build": str(home.parent), "job": replace(job, data=data, training=options).to_json()}
    return sys.executable, "-m", "pipeline.stages._train_process", json.dumps(request)


def _import(model: sources.Model, job: Job, home: Path, data: Path | None) -> New:
    """The user's weights; see `Framework.adopt`."""
    assert job.weights is not None  # this function is used only with --weights
    framework = job.framework.module
    source = store.sha256(job.weights)
    path = home / f"{store.TEMPORARY}adopted" / framework.WEIGHTS
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with contained(model.spec.name, job.framework.name, "importing weights"):
            framework.adopt(model, job.weights, path)
    except BaseException:
        store.remove(path.parent)
        raise
    key = store.digest([model.source(job.framework.name), source])
    return New(path, str(job.weights.resolve()), {"source_sha256": source}, key)


def _same(checkpoint: Checkpoint, _: sources.Model, __: Job, home: Path, ___: Path | None) -> New:
    """The weights of the existing checkpoint."""
    path = home / f"{store.TEMPORARY}kept" / checkpoint.weights
    path.parent.mkdir(exist_ok=True)
    shutil.copy(Store(home.parent).checkpoint(checkpoint.spec.name, checkpoint.framework) / checkpoint.weights, path)
    facts = {name: value for name, value in checkpoint.facts.items() if name != "train_sha256"}
    return New(path, checkpoint.origin, facts, checkpoint.key)


def _evaluated(model: sources.Model, job: Job, folder: Path, new: New, test: Split) -> Checkpoint:
    """Runs the weights in `folder` over the test split and writes every sample's outputs beside them."""
    import numpy as np

    from pipeline.results import predictions

    framework = job.framework.module
    outputs = framework.predict(model, folder / framework.WEIGHTS, test, job.training.accelerator)
    wrong = int(np.any([~np.isfinite(each).reshape(len(each), -1).all(1) for each in outputs], axis=0).sum())
    if wrong:
        say(f"warning: {job.framework.name} returns NaN or infinite outputs for {wrong} of {len(test)} test samples")
    np.savez(folder / PREDICTIONS, labels=test.labels, **predictions.arrays(outputs))
    facts = {"source": model.source(job.framework.name), "model": model.word, "made_with": _made_with(job)}
    return Checkpoint(
        spec=model.spec,
        framework=job.framework.name,
        weights=framework.WEIGHTS,
        weights_sha256=store.sha256(folder / framework.WEIGHTS),
        origin=new.origin,
        facts={**new.facts, **facts},
        data=None,
        dataset_sha256=test.sha256,
        samples=len(test),
        accuracy=float(tasks.of(model.spec).scores(outputs, test.labels).mean()),
        predictions=PREDICTIONS,
        predictions_sha256=store.sha256(folder / PREDICTIONS),
        key=new.key,
        tools=registry.versions(framework.TOOLS),
    )


def _write_tensorboard(
    model: sources.Model, job: Job, checkpoint: Checkpoint, folder: Path, run: Path, test: Split
) -> None:
    """Writes what TensorBoard shows of the finished weights in `folder`. A part that fails does not stop the others."""
    import numpy as np

    from pipeline.report import overlay
    from pipeline.results import predictions as stored
    from pipeline.system.tensorboard import PROJECTED, Events, shown

    framework = job.framework.module
    weights, names, facts = folder / checkpoint.weights, checkpoint.spec.labels, checkpoint.facts
    with np.load(folder / checkpoint.predictions) as kept:
        all_outputs = stored.of(kept)
    outputs = all_outputs[0]
    step = facts.get("steps", 0)
    some = range(min(PROJECTED, len(test)))

    def summary(events: Events) -> None:
        events.scalars({"accuracy/test": checkpoint.accuracy}, step)
        events.hyperparameters(_hyperparameters(checkpoint), f"{checkpoint.framework}-{checkpoint.key[:12]}")

    def projector(events: Events) -> None:
        images, predicted, truth = test.inputs(some), stats.top1(outputs)[: len(some)], test.labels[: len(some)]
        columns = {
            "label": [names[i] for i in truth],
            "prediction": [names[i] if i >= 0 else "none" for i in predicted],
            "correct": ["yes" if correct else "no" for correct in predicted == truth],
        }
        events.projector(framework.features(model, weights, images), columns, list(images))

    parts: dict[str, Callable[[Events], None]] = {
        "accuracy and hyperparameters": summary,
        "graph": lambda events: events.graph(framework.graph(model, weights)),
    }
    if model.spec.image and tasks.of(model.spec).CLASSES:
        parts |= {
            "mistakes": lambda events: events.mistakes(outputs, test.labels, names, test.read, step),
            "features": projector,
        }

    def predictions(events: Events) -> None:
        found = {}
        for i in range(min(DRAWN, len(test))):
            drawn = overlay.of(checkpoint.spec, test.read(i), [each[i] for each in all_outputs], test.labels[i])
            if drawn is not None:
                found[f"predictions/{i:03}"] = drawn
        events.pictures(found, step)

    if model.spec.image and not tasks.of(model.spec).CLASSES:
        parts["predictions"] = predictions

    def write() -> None:
        with registry.extra(framework.EXTRA), Events(run, step) as events:
            for part, of_part in parts.items():
                shown(part, partial(of_part, events))

    shown("evaluation", write)


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


def _set_aside(final: Path) -> None:
    """Copies a checkpoint that is about to be replaced: the copy's name has the first digits of its weights' hash."""
    try:
        old = store.read(Checkpoint, final / MANIFEST)
    except Broken:
        return
    if old is None:
        return
    aside = final.with_name(f"checkpoint-{old.weights_sha256[:8]}")
    if not aside.exists():
        with store.atomic(aside) as folder:
            shutil.copytree(final, folder)
        say(f"kept the old checkpoint: --weights {aside / old.weights} restores it")
