"""The training loop for PyTorch, on Lightning Fabric: the same loop serves a CPU, a GPU and many of either."""

from __future__ import annotations

import contextlib
import io
import logging
import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler
from torch.utils.data import Dataset as TorchDataset

from pipeline import store
from pipeline.core import Training
from pipeline.datasets import Split
from pipeline.errors import BadData, BadOption, Broken, StageFailed
from pipeline.events import Events
from pipeline.frameworks import Group, Settings, _ddp
from pipeline.frameworks._ddp import Part
from pipeline.progress import bar, say

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from numpy.typing import NDArray

IN_MEMORY = 1 << 30
"""Splits of up to this many bytes of pixels are decoded once and kept (by all processes of a machine together); larger
ones by workers, in every epoch."""

Batch = tuple[torch.Tensor, torch.Tensor]


class Pictures(TorchDataset[Batch]):
    """A split as batches of (uint8 (n, channels, height, width), int64 (n,)).

    Args:
        what: its name, for a progress bar; None shows none.
        sharers: processes on this machine that each have their own copy.
    """

    def __init__(self, split: Split, what: str | None, sharers: int = 1) -> None:
        self.split = split
        self.labels = torch.from_numpy(split.labels.copy())
        size = split.read(0).nbytes * len(split) * sharers
        self.pixels = _decoded(split, what) if size <= IN_MEMORY else None
        self.workers = 0 if self.pixels is not None else max(1, min(8, (os.cpu_count() or 1) // sharers))

    def __len__(self) -> int:
        return len(self.split)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """A whole batch at once: what the loader asks for where a dataset has it."""
        kept = self.pixels
        images = torch.from_numpy(self.split.images(indices)) if kept is None else kept[list(indices)]
        return images.permute(0, 3, 1, 2), self.labels[list(indices)]

    def loader(self, batch_size: int, part: Part = Part()) -> DataLoader[Batch]:  # noqa: B008  # frozen
        """Batches in order; of several processes, each has every so many-th picture."""
        mine = range(part.rank, len(self), part.world)
        return DataLoader(self, batch_size, sampler=mine, num_workers=self.workers, collate_fn=_as_it_is)

    def shuffled(self, batch_size: int, part: Part, order: torch.Generator, pin: bool) -> DataLoader[Batch]:
        """A part of each batch; the batches are the same whatever the number of processes."""
        batches = BatchSampler(RandomSampler(self, generator=order), batch_size, drop_last=False)
        return DataLoader(
            self,
            batch_sampler=_Parts(batches, part),
            generator=order,
            num_workers=self.workers,
            collate_fn=_as_it_is,
            pin_memory=pin,
        )


class _Parts:
    """A process's part of each of these batches of indices."""

    def __init__(self, batches: BatchSampler, part: Part) -> None:
        self.batches, self.part = batches, part

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.batches:
            yield batch[self.part.of(len(batch))]

    def __len__(self) -> int:
        return len(self.batches)


def _as_it_is(batch: Any) -> Any:
    return batch


def _decoded(split: Split, what: str | None) -> torch.Tensor:
    """All pictures of a split, uint8 (N, height, width, channels), decoded on all cores (PIL works without the GIL)."""
    import numpy as np

    pixels = np.empty((len(split), *split.read(0).shape), np.uint8)

    def decode(i: int) -> None:
        pixels[i] = split.read(i)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        reading = pool.map(decode, range(len(split)))
        for _ in bar(reading, f"reading {what}", len(split), "picture") if what else reading:
            pass
    return torch.from_numpy(pixels)


def accelerator(word: str, devices: int = 1) -> str:
    """ "cuda" or "cpu", for --accelerator and --devices.

    Raises:
        BadOption: a GPU is asked for and there is none, or more than there are.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if word == "cuda" and not gpus:
        raise BadOption("--accelerator cuda: PyTorch sees no GPU here; use cpu, or auto, which takes one where it is")
    if word == "cpu" or not gpus:
        return "cpu"
    if devices > gpus:
        raise BadOption(
            f"--devices {devices}: PyTorch sees {gpus} GPU{'s' * (gpus > 1)} here; or use --accelerator cpu"
        )
    return "cuda"


def fabric(word: str, group: Group) -> Fabric:
    """Lightning Fabric on GPUs in bfloat16, or on the CPU in float32, as one of the group's processes.

    Raises:
        BadOption: as `accelerator`.
    """
    from lightning_fabric import Fabric
    from lightning_fabric.strategies import DDPStrategy

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # every process says that it is there
    where = accelerator(word, group.devices)
    if where == "cpu" and group.size > 1 and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(_ddp.threads(group))
    return Fabric(
        accelerator=where,
        # Buffers are the statistics of batch normalisation, which are alike in all processes.
        strategy=DDPStrategy(forward_sync_buffers=False) if group.size > 1 else "auto",
        devices=group.devices,
        num_nodes=group.nodes,
        precision="bf16-mixed" if where == "cuda" else "32-true",
    )


def fit(
    network: nn.Module, training: Training, data: Mapping[str, Split], settings: Settings, home: Path, key: str
) -> dict[str, Any]:
    """Trains `network` (raw pixels to logits) and leaves the best epoch's state as home/training/best.ckpt.

    After every epoch the whole state is kept, so an interrupted training goes on with the next epoch. Order and
    augmentation of an epoch depend on seed and epoch alone: interrupted or not, by one process or by many, each step
    sees the same pictures. Of many processes the first alone writes and speaks.

    Raises:
        StageFailed: the loss is no number any more.
        BadData: another machine of the group has other data, code or settings than the first.

    Returns:
        Facts: epochs, every epoch's loss, best epoch, its validation accuracy, seconds, samples a second, device, and
        how many devices and machines there were.
    """
    group = settings.group
    engine = fabric(settings.accelerator, group)
    engine.launch()
    first = engine.is_global_zero
    _agree(key, engine)
    engine.seed_everything(settings.seed, verbose=False)
    folder = home / "training"
    trainset = Pictures(data["train"], "train" if first else None, group.devices)
    validation = Pictures(data["validation"], "validation" if first else None, group.devices)
    loop = _loop(engine, network, training, settings, trainset)
    facts: dict[str, Any] = {"epoch": 0, "best_epoch": 0, "best_accuracy": -1.0, "seconds": 0.0, "losses": []}
    state = {"network": loop.network, "optimizer": loop.optimizer, "schedule": loop.schedule}
    if _resumed(folder, key if settings.resume else None, state, facts, engine) and first:
        say(f"resuming after epoch {facts['epoch']} of {settings.epochs}")
    run = home / "tensorboard" / key[:12]
    with Events(run, facts["epoch"] * loop.steps) if first else contextlib.nullcontext() as events:
        for epoch in range(facts["epoch"], settings.epochs):
            started = time.perf_counter()
            loss = loop.epoch(epoch)
            reached = accuracy(loop.network, validation, engine)
            facts["epoch"] = epoch + 1
            facts["seconds"] += time.perf_counter() - started
            facts["losses"].append(loss)
            if not math.isfinite(loss):
                raise StageFailed(f"the loss is {loss} in epoch {epoch + 1}: try a smaller --lr than {settings.lr:g}")
            best = reached >= facts["best_accuracy"]  # of equals the later: its learning rate was lower
            if best:
                facts |= {"best_epoch": epoch + 1, "best_accuracy": reached}
            if events is None:
                continue
            done = (epoch + 1) * loop.steps
            rate = loop.schedule.get_last_lr()[0]
            events.scalars({"loss/train": loss, "accuracy/validation": reached, "lr": rate}, done)
            events.histograms(_weights_of(loop.network), done)
            if best:
                _save(folder / "best.ckpt", state_dict(loop.network))
            _save(folder / "state.ckpt", {k: v.state_dict() for k, v in state.items()} | {"facts": facts, "key": key})
            say(f"epoch {epoch + 1}/{settings.epochs}: loss {loss:.4f}, validation accuracy {reached:.4f}")
    speed = settings.epochs * len(trainset) / facts["seconds"]
    return facts | {
        "steps": settings.epochs * loop.steps, "samples_per_second": round(speed, 1),
        "device": _device(engine), "devices": group.devices, "nodes": group.nodes,
    }  # fmt: skip


@dataclass(frozen=True)
class _Loop:
    """What an epoch needs, as Fabric set it up."""

    engine: Fabric
    network: nn.Module
    optimizer: Any
    schedule: Any
    trainset: Pictures
    settings: Settings
    training: Training

    @property
    def steps(self) -> int:
        return math.ceil(len(self.trainset) / self.settings.batch_size)

    def epoch(self, epoch: int) -> float:
        """Trains through the split once; the mean loss of its batches."""
        engine, size = self.engine, self.settings.batch_size
        part = Part(engine.global_rank, engine.world_size)
        seed = self.settings.seed * 1_000_003 + epoch
        torch.manual_seed(seed + part.rank)  # of dropout
        order, draws = torch.Generator().manual_seed(seed), torch.Generator(engine.device).manual_seed(seed)
        batches: Iterable[Batch] = engine.setup_dataloaders(
            self.trainset.shuffled(size, part, order, engine.device.type == "cuda"), use_distributed_sampler=False
        )
        if engine.is_global_zero:
            batches = bar(batches, f"epoch {epoch + 1}/{self.settings.epochs}", self.steps, "batch")
        loss_function = nn.CrossEntropyLoss(label_smoothing=self.training.label_smoothing)
        self.network.train()
        total = torch.zeros((), device=engine.device)
        for step, (images, labels) in enumerate(batches):
            count = min(size, len(self.trainset) - step * size)
            seen = augmented(images.float(), self.training.augment, draws, count, part.of(count))
            with engine.autocast():
                logits = self.network(seen.contiguous(memory_format=torch.channels_last))
                loss = loss_function(logits, labels) * part.weight(count)
            self.optimizer.zero_grad(set_to_none=True)
            engine.backward(loss)
            self.optimizer.step()
            self.schedule.step()
            total += loss.detach()
        return float(engine.all_reduce(total, reduce_op="mean")) / self.steps


def _loop(engine: Fabric, network: nn.Module, training: Training, settings: Settings, trainset: Pictures) -> _Loop:
    """The network on its device and in its group, with its optimizer and learning rates."""
    if settings.group.size > 1:
        network = _ddp.synchronized(network, gpu=engine.device.type == "cuda")
    steps = settings.epochs * math.ceil(len(trainset) / settings.batch_size)
    optimizer = torch.optim.AdamW(network.parameters(), settings.lr, weight_decay=training.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _cosine(steps))
    network, optimizer = engine.setup(_channels_last(network), optimizer)
    return _Loop(engine, network, optimizer, schedule, trainset, settings, training)


def accuracy(network: nn.Module, pictures: Pictures, engine: Fabric) -> float:
    """Share of pictures whose largest logit is their label's; each process looks at its part."""
    network.eval()
    right = torch.zeros((), dtype=torch.int64, device=engine.device)
    with torch.no_grad():
        for images, labels in pictures.loader(512, Part(engine.global_rank, engine.world_size)):
            logits = network(images.to(engine.device).float().contiguous(memory_format=torch.channels_last))
            right += (logits.argmax(1) == labels.to(engine.device)).sum()
    return int(engine.all_reduce(right, reduce_op="sum")) / len(pictures)


def augmented(
    images: torch.Tensor, names: Sequence[str], draws: torch.Generator, whole: int, part: slice
) -> torch.Tensor:
    """Float images (n, channels, height, width), each flipped and shifted at random as `names` say.

    Args:
        draws: on the images' device.
        whole, part: the images are this part of a batch of so many, for all of which is drawn.
    """
    count, _, height, width = images.shape
    device = images.device
    for name in names:
        if name == "flip":
            flip = (torch.rand(whole, generator=draws, device=device) < 0.5)[part]
            images = torch.where(flip[:, None, None, None], images.flip(3), images)
        elif name.startswith("shift"):
            reach = int(name.removeprefix("shift"))
            padded = nn.functional.pad(images, (reach,) * 4, mode="reflect")
            dy, dx = (
                torch.randint(0, 2 * reach + 1, (whole, 1, 1), generator=draws, device=device)[part] for _ in range(2)
            )
            rows = dy + torch.arange(height, device=device)[None, :, None]
            columns = dx + torch.arange(width, device=device)[None, None, :]
            which = torch.arange(count, device=device)[:, None, None]
            images = padded.permute(0, 2, 3, 1)[which, rows, columns].permute(0, 3, 1, 2)
        else:
            raise BadOption(f"unknown augmentation {name!r} (known: flip, shift1, shift4 …)")
    return images


def state_dict(network: nn.Module) -> dict[str, torch.Tensor]:
    """The state of a network that Fabric wrapped, under the network's own names."""
    return dict(network.state_dict())


def _channels_last(network: nn.Module) -> nn.Module:
    moved: nn.Module = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs
    return moved


def _cosine(steps: int) -> Any:
    """Learning rate as a share of its peak: up over a tenth of the steps, down to nothing on a cosine."""
    warmup = max(1, steps // 10)

    def share(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

    return share


def _save(path: Path, state: Mapping[str, Any]) -> None:
    whole = io.BytesIO()  # PyTorch's own writing to a path does not say that a disk is full
    torch.save(dict(state), whole)
    with store.atomic(path) as temporary:
        temporary.write_bytes(whole.getbuffer())


def _resumed(folder: Path, key: str | None, state: Mapping[str, Any], facts: dict[str, Any], engine: Fabric) -> bool:
    """Puts the kept state of the same training into `state` and `facts`, in all processes; False where there is none,
    and the folder is empty then."""
    kept = _kept(folder, key) if engine.is_global_zero else None
    kept = engine.broadcast(kept)
    if kept is None:
        if engine.is_global_zero:
            store.remove(folder)
        return False
    for name, part in state.items():
        part.load_state_dict(kept[name])
    facts.update(kept["facts"])
    return True


def _kept(folder: Path, key: str | None) -> dict[str, Any] | None:
    """The state of a training of this key that was interrupted."""
    path = folder / "state.ckpt"
    if key is None or not path.is_file() or not (folder / "best.ckpt").is_file():
        return None
    try:
        kept: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise Broken(f"{path} cannot be read ({error}); train afresh with --no-resume") from error
    return kept if kept["key"] == key else None


def _agree(key: str, engine: Fabric) -> None:
    """
    Raises:
        BadData: the first process trains something else than this one.
    """
    if engine.broadcast(key) != key:
        raise BadData(
            f"process {engine.global_rank} has other data, code or settings than process 0: every machine of a "
            f"training needs the same"
        )


def _weights_of(network: Any) -> dict[str, NDArray[Any]]:
    """What is trained of a network that Fabric wrapped, named as `Framework.unpack` does: twins lie together."""
    found = {}
    for name, parameter in network.module.named_parameters():
        layer, _, leaf = name.removeprefix("net.").rpartition(".")
        if parameter.requires_grad:
            found[f"{layer.replace('.', '_')}.{leaf}"] = parameter.detach().float().cpu().numpy()
    return found


def _device(engine: Fabric) -> str:
    return torch.cuda.get_device_name() if engine.device.type == "cuda" else "cpu"
