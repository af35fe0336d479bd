"""Training in PyTorch with Lightning Fabric, on CPUs and GPUs, in one process or several."""

from __future__ import annotations

import io
import logging
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.data import DataLoader, RandomSampler, Sampler
from torch.utils.data import Dataset as TorchDataset

from pipeline import tasks
from pipeline.core import Training
from pipeline.datasets import Split
from pipeline.errors import BadOption, Broken
from pipeline.frameworks import (
    Group,
    Settings,
    _build,
    _normalization,
    _process_group,
    _torch_ddp,
    _torch_losses,
    _torch_trial,
    _training_loop,
)
from pipeline.frameworks._normalization import channels_first, real
from pipeline.frameworks._process_group import Part
from pipeline.sources import Model
from pipeline.system import cpus, store
from pipeline.system.progress import bar, say
from pipeline.tasks import Task

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from numpy.typing import NDArray

    from pipeline.frameworks import Outputs

Batch = tuple[torch.Tensor, torch.Tensor]


class SplitDataset(TorchDataset[Batch]):
    """A split as batches of (inputs (n, …), labels (n, …)); images are uint8 (n, channels, height, width).

    Args:
        what: the split's name for the progress bar; None shows no bar.
        sharers: processes on this machine that each keep their own copy.
    """

    def __init__(self, split: Split, what: str | None, sharers: int = 1) -> None:
        self.split = split
        self.labels = torch.from_numpy(split.labels.copy())
        pixels = _training_loop.decode_all(split, what, sharers)
        self.pixels = None if pixels is None else torch.from_numpy(pixels)
        self.workers = 0 if self.pixels is not None else max(1, min(8, cpus.count() // sharers))

    def __len__(self) -> int:
        return len(self.split)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """A batch; DataLoader prefers this method to one __getitem__ per sample."""
        pixels = self.pixels
        inputs = torch.from_numpy(self.split.inputs(indices)) if pixels is None else pixels[list(indices)]
        return channels_first(inputs), self.labels[list(indices)]

    def loader(self, batch_size: int, part: Part = Part()) -> DataLoader[Batch]:  # noqa: B008  # frozen
        """Batches in order; process r of n gets images r, r + n, r + 2n …"""
        indices = range(part.rank, len(self), part.world)
        batches = [list(indices[batch]) for batch in _training_loop.batches(len(indices), batch_size)]
        return DataLoader(self, batch_sampler=batches, num_workers=self.workers, collate_fn=_identity)

    def shuffled(self, batch_size: int, part: Part, order: torch.Generator, pin: bool) -> DataLoader[Batch]:
        """The process's part of each batch; the batches do not depend on the number of processes."""
        return DataLoader(
            self,
            batch_sampler=_Parts(RandomSampler(self, generator=order), batch_size, part),
            generator=order,
            num_workers=self.workers,
            collate_fn=_identity,
            pin_memory=pin,
        )


class _Parts:
    """A process's part of each batch of indices. Every iteration draws the indices again."""

    def __init__(self, indices: Sampler[int], batch_size: int, part: Part) -> None:
        self.indices, self.part = indices, part
        self.batches = _training_loop.batches(len(indices), batch_size)  # type: ignore[arg-type]  # torch's types

    def __iter__(self) -> Iterator[list[int]]:
        indices = list(self.indices)
        for batch in self.batches:
            yield indices[batch][self.part.of(batch.stop - batch.start)]

    def __len__(self) -> int:
        return len(self.batches)


def _identity(batch: Any) -> Any:
    return batch


def device_type(accelerator: str, devices: int = 1) -> str:
    """ "cuda" or "cpu", for --accelerator and --devices.

    Raises:
        BadOption: fewer GPUs are available than requested.
    """
    with warnings.catch_warnings():  # PyTorch warns of a missing driver if TensorFlow has looked for one before
        warnings.filterwarnings("ignore", "CUDA initialization")
        gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if accelerator == "cuda" and not gpus:
        raise BadOption(
            "--accelerator cuda: PyTorch sees no GPU on this machine; use cpu, or auto, which takes a GPU only if "
            "there is one"
        )
    if accelerator == "cpu" or not gpus:
        return "cpu"
    if devices > gpus:
        raise BadOption(
            f"--devices {devices}: PyTorch sees only {gpus} GPU{'s' * (gpus > 1)}; "
            f"use fewer devices or --accelerator cpu"
        )
    return "cuda"


def precision(device: str) -> str:
    """See `_training_loop.precision`; `device` is "cuda" or "cpu"."""
    return _training_loop.precision(torch.cuda.get_device_capability() if device == "cuda" else None)


def fabric(accelerator: str, group: Group) -> Fabric:
    """Lightning Fabric on GPUs or the CPU, as one of the group's processes.

    Raises:
        BadOption: as `device_type`.
    """
    from lightning_fabric import Fabric
    from lightning_fabric.strategies import DDPStrategy

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # else every process announces itself
    device = device_type(accelerator, group.devices)
    if device == "cpu" and group.size > 1 and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(_process_group.threads(group))
    return Fabric(
        accelerator=device,
        # The only buffers are batch normalisation's statistics, which are the same in all processes.
        strategy=DDPStrategy(forward_sync_buffers=False) if group.size > 1 else "auto",
        devices=group.devices,
        num_nodes=group.nodes,
        precision="bf16-mixed" if precision(device) == "bfloat16" else "32-true",
    )


def fit(
    network: nn.Module, model: Model, data: Mapping[str, Split], settings: Settings, home: Path, key: str
) -> dict[str, Any]:
    """Trains `network` (raw inputs to outputs) and writes the best epoch's state to home/training/best.ckpt.

    The full state is saved after every epoch, so an interrupted training resumes with the next one. An epoch's sample
    order and augmentation depend only on the seed and the epoch: each step sees the same images whether training was
    interrupted or not, in one process or many. Only the first process writes files and prints.

    Raises:
        StageFailed: the loss is NaN or infinite.
        BadData: this process has different data, code or settings from the first.

    Returns:
        The facts of `_training_loop.run_epochs` and `device_facts`.
    """
    group = settings.group
    engine = fabric(settings.accelerator, group)
    engine.launch()
    first = engine.is_global_zero
    _training_loop.check_same_key(key, engine.broadcast(key), engine.global_rank)
    engine.seed_everything(settings.seed, verbose=False)
    if engine.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(engine.device)
    splits = {
        name: SplitDataset(data[name], name if first else None, group.devices) for name in ("train", "validation")
    }
    loop = make_loop(engine, network, model, settings, splits, State(home / "training", key))
    facts = _training_loop.initial_facts() | _resume(loop)
    run = home / "tensorboard" / key[:12] if first else None
    task = tasks.of(model.spec)
    return _training_loop.run_epochs(loop, facts, settings, len(splits["train"]), run, task) | device_facts(engine)


@dataclass(frozen=True)
class State:
    """Where a training saves its state, and the training's cache key."""

    folder: Path
    key: str


@dataclass(frozen=True)
class _Loop:
    """The loop's parts, as Fabric set them up."""

    engine: Fabric
    network: nn.Module
    optimizer: Any
    schedule: Any
    splits: Mapping[str, SplitDataset]
    settings: Settings
    training: Training
    state: State
    memory_format: torch.memory_format
    task: Task
    loss: _torch_losses.Loss

    @property
    def steps(self) -> int:
        return _training_loop.steps_per_epoch(len(self.splits["train"]), self.settings)

    def epoch(self, epoch: int) -> float:
        """See `_training_loop.Loop`."""
        engine = self.engine
        part = Part(engine.global_rank, engine.world_size)
        seed = _training_loop.epoch_seed(self.settings, epoch)
        torch.manual_seed(seed + part.rank)  # for dropout
        draws, batches = torch.Generator(engine.device).manual_seed(seed), self.batches(seed)
        if engine.is_global_zero:
            batches = bar(batches, f"epoch {epoch + 1}/{self.settings.epochs}", self.steps, "batch")
        self.network.train()
        total = torch.zeros((), device=engine.device)
        places = _training_loop.batches(len(self.splits["train"]), self.settings.batch_size)
        for place, (images, truth) in zip(places, batches, strict=True):
            count = place.stop - place.start
            inputs, labels = augment(real(images), truth, self.training.augment, draws, count, part.of(count))
            with engine.autocast():
                outputs = self.network(_torch_trial.arranged(inputs, self.memory_format))
                loss = self.loss(outputs, labels) * part.weight(count)
            self.optimizer.zero_grad(set_to_none=True)
            engine.backward(loss)
            self.optimizer.step()
            self.schedule.step()
            total += loss.detach()
        return float(engine.all_reduce(total, reduce_op="mean")) / self.steps

    def batches(self, seed: int) -> Iterable[Batch]:
        """This process's parts of an epoch's batches, on its device."""
        engine = self.engine
        part, order = Part(engine.global_rank, engine.world_size), torch.Generator().manual_seed(seed)
        loader = self.splits["train"].shuffled(self.settings.batch_size, part, order, pin=engine.device.type == "cuda")
        found: Iterable[Batch] = engine.setup_dataloaders(loader, use_distributed_sampler=False)
        return found

    def accuracy(self) -> float:
        """See `_training_loop.Loop`; each process evaluates its part, or all of a metric that pools all samples."""
        self.network.eval()
        engine, validation = self.engine, self.splits["validation"]
        if self.task.POOLED:
            batches = (outputs for outputs, _ in self._outputs(validation.loader(512)))
            return float(tasks.scores(self.task, batches, validation.split.labels).mean())
        total = torch.zeros((), dtype=torch.float64, device=engine.device)
        for outputs, labels in self._outputs(validation.loader(512, Part(engine.global_rank, engine.world_size))):
            total += float(self.task.scores(outputs, labels.numpy(), validation.split.labels).sum())
        return float(engine.all_reduce(total, reduce_op="sum")) / len(validation)

    def _outputs(self, batches: Iterable[Batch]) -> Iterator[tuple[Outputs, torch.Tensor]]:
        """The network's outputs for batches, with their labels."""
        with torch.no_grad():
            for images, labels in batches:
                inputs = _torch_trial.arranged(real(images.to(self.engine.device)), self.memory_format)
                yield _normalization.joined([self.network(inputs)]), labels

    def weights(self) -> dict[str, NDArray[Any]]:
        """See `_training_loop.Loop`."""
        found = {}
        for name, parameter in self.network.module.named_parameters():  # type: ignore[union-attr]  # Fabric's
            layer, _, leaf = name.removeprefix("net.").rpartition(".")
            if parameter.requires_grad:
                found[f"{layer.replace('.', '_')}.{leaf}"] = parameter.detach().float().cpu().numpy()
        return found

    def save(self, facts: Mapping[str, Any], best: bool) -> None:
        """See `_training_loop.Loop`."""
        if best:
            save(self.state.folder / "best.ckpt", state_dict(self.network))
        states = {name: part.state_dict() for name, part in self.parts.items()}
        save(self.state.folder / "state.ckpt", {**states, "facts": dict(facts), "key": self.state.key})

    @property
    def parts(self) -> dict[str, Any]:
        """The parts of the training state."""
        return {"network": self.network, "optimizer": self.optimizer, "schedule": self.schedule}


def make_loop(
    engine: Fabric, network: nn.Module, model: Model, settings: Settings, splits: Mapping[str, SplitDataset],
    state: State,
) -> _Loop:  # fmt: skip
    """Sets up the network with its optimizer and learning rate schedule, on its device and in its group.

    Raises:
        BadModel: the network cannot be trained.
    """
    loss, training = _torch_losses.of(model.spec, splits["train"].split.labels), model.spec.training
    trial = _trial(engine, network, model, splits["train"], settings, loss)
    if settings.group.size > 1:
        network = _torch_ddp.synchronize_batch_norm(network, gpu=engine.device.type == "cuda")
    steps = settings.epochs * _training_loop.steps_per_epoch(len(splits["train"]), settings)
    optimizer = torch.optim.AdamW(network.parameters(), settings.lr, weight_decay=training.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, partial(_training_loop.learning_rate, steps=steps))
    network, optimizer = engine.setup(network, optimizer)
    return _Loop(
        engine, network, optimizer, schedule, splits, settings, training, state, trial.memory_format,
        tasks.of(model.spec), loss,
    )  # fmt: skip


def _trial(
    engine: Fabric, network: nn.Module, model: Model, split: SplitDataset, settings: Settings,
    loss: _torch_losses.Loss,
) -> _torch_trial.Trial:  # fmt: skip
    """A training step on two images, or on one if that is the batch size. Prints what the user should change."""
    from lightning_fabric.strategies import DDPStrategy

    images, labels = split.__getitems__(range(min(2, settings.batch_size, len(split))))
    network.to(engine.device)
    trial = _torch_trial.attempt(network, images.to(engine.device), labels.to(engine.device), loss, engine.autocast)
    trial = _torch_trial.Trial(*engine.broadcast(vars(trial)).values())  # all processes need the same memory format
    _torch_trial.converted(network, trial.memory_format)
    if trial.unused and isinstance(engine.strategy, DDPStrategy):
        engine.strategy._ddp_kwargs["find_unused_parameters"] = True  # else the processes wait for their gradients
    if engine.is_global_zero:
        _build.warn_of_probabilities(model, "torch", trial.outputs, trial.sigmoid)
        if trial.more_outputs:
            say(f"{model.file('torch')}: the network returns several outputs in training: only the main one is trained")
    return trial


def augment(
    images: torch.Tensor, labels: torch.Tensor, names: Sequence[str], draws: torch.Generator, size: int, part: slice
) -> tuple[torch.Tensor, torch.Tensor]:
    """Flips and shifts float images (n, channels, height, width) at random, as `names` say; masks and boxes move with
    them. Without names, the samples may be of any kind.

    Args:
        labels: see `datasets.Split`.
        draws: a generator on the images' device.
        size, part: the batch's size, and the images' part of it. Random numbers are drawn for the whole batch, so that
            they do not depend on the number of processes.
    """
    if not names:
        return images, labels
    count, _, height, width = images.shape
    if labels.dtype == torch.uint8:  # masks are one more channel
        masked = torch.cat([images, labels[:, None].to(images.dtype)], 1)
        masked, _ = augment(masked, labels[:, 0, 0].long(), names, draws, size, part)
        return masked[:, :-1], masked[:, -1].to(torch.uint8)
    device = images.device
    for name in names:
        shift = _training_loop.max_shift(name)
        if shift is None:
            flip = (torch.rand(size, generator=draws, device=device) < 0.5)[part]
            upright = name == _training_loop.VERTICAL
            images = torch.where(flip[:, None, None, None], images.flip(2 if upright else 3), images)
            if labels.dim() == 3:
                labels = torch.where(flip[:, None, None], _flipped(labels, upright), labels)
        else:
            padded = nn.functional.pad(images, (shift,) * 4, mode="reflect")
            dy, dx = (
                torch.randint(0, 2 * shift + 1, (size, 1, 1), generator=draws, device=device)[part] for _ in range(2)
            )
            rows = dy + torch.arange(height, device=device)[None, :, None]
            columns = dx + torch.arange(width, device=device)[None, None, :]
            which = torch.arange(count, device=device)[:, None, None]
            images = padded.permute(0, 2, 3, 1)[which, rows, columns].permute(0, 3, 1, 2)
            if labels.dim() == 3:
                by = torch.cat([(shift - dy) / height, (shift - dx) / width], 2)
                labels = _moved(labels, by)
    return images, labels


def _flipped(boxes: torch.Tensor, upright: bool) -> torch.Tensor:
    """Boxes (n, most, 6) in images that are flipped left-right, or upside down."""
    first, second = (1, 3) if upright else (2, 4)
    found = boxes.clone()
    found[..., first], found[..., second] = 1 - boxes[..., second], 1 - boxes[..., first]
    return found


def _moved(boxes: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
    """Boxes (n, most, 6) moved down and right by these shares of an image (n, 1, 2). What leaves it is no box."""
    found = boxes.clone()
    found[..., 1:5] = (boxes[..., 1:5] + by.repeat(1, 1, 2)).clamp(0, 1)
    empty = ((found[..., 3] <= found[..., 1]) | (found[..., 4] <= found[..., 2])) & (boxes[..., 0] >= 0)
    found[..., 0] = torch.where(empty, -1.0, found[..., 0])
    return found


def state_dict(network: nn.Module) -> dict[str, torch.Tensor]:
    """The state of a network wrapped by Fabric, under the network's own names."""
    return dict(network.state_dict())


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Writes the state of a training."""
    buffer = io.BytesIO()  # torch.save to a path does not report a full disk
    torch.save(dict(state), buffer)
    with store.atomic(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def _resume(loop: _Loop) -> dict[str, Any]:
    """Restores the saved state of the same training in all processes and returns its facts.

    Without a saved state, empties the folder and returns {}.
    """
    engine, folder = loop.engine, loop.state.folder
    saved = None
    if engine.is_global_zero and loop.settings.resume and (folder / "best.ckpt").is_file():
        saved = saved_state(folder / "state.ckpt", loop.state.key)
    saved = engine.broadcast(saved)
    if saved is None:
        if engine.is_global_zero:
            store.remove(folder)
        return {}
    for name, part in loop.parts.items():
        part.load_state_dict(saved[name])
    return dict(saved["facts"])


def saved_state(path: Path, key: str) -> dict[str, Any] | None:
    """The state of an interrupted training in a file that `save` wrote; None if it has another key."""
    if not path.is_file():
        return None
    try:
        saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise Broken(f"cannot read {path} ({error}); start over with --no-resume") from error
    return saved if saved["key"] == key else None


def device_facts(engine: Fabric) -> dict[str, Any]:
    """Facts: the device, the training precision and, on a GPU, the peak memory of tensors."""
    device = engine.device
    facts: dict[str, Any] = {"device": "cpu", "precision": precision(device.type)}
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device)
        facts |= {"device": torch.cuda.get_device_name(device), "peak_gpu_bytes": peak}
    return facts
