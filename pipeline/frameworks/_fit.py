"""The training loop for PyTorch, on Lightning Fabric: the same loop serves a CPU, a GPU and several GPUs."""

from __future__ import annotations

import contextlib
import math
import os
import sys
import time
import types
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from pipeline import store
from pipeline.core import Training
from pipeline.datasets import Split
from pipeline.errors import BadOption, Broken, StageFailed
from pipeline.frameworks import Settings
from pipeline.progress import bar, say

if TYPE_CHECKING:
    from lightning_fabric import Fabric

IN_MEMORY = 1 << 30
"""Splits of up to this many bytes of pixels are decoded once and kept; larger ones by workers, in every epoch."""

Batch = tuple[torch.Tensor, torch.Tensor]


class Pictures(TorchDataset[Batch]):
    """A split as batches of (uint8 (n, channels, height, width), int64 (n,))."""

    def __init__(self, split: Split, what: str) -> None:
        self.split = split
        self.labels = torch.from_numpy(split.labels.copy())
        size = split.read(0).nbytes * len(split)
        self.pixels = _decoded(split, what) if size <= IN_MEMORY else None

    def __len__(self) -> int:
        return len(self.split)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """A whole batch at once: what the loader asks for where a dataset has it."""
        kept = self.pixels
        images = torch.from_numpy(self.split.images(indices)) if kept is None else kept[list(indices)]
        return images.permute(0, 3, 1, 2), self.labels[list(indices)]

    def loader(self, batch_size: int, generator: torch.Generator | None = None, pin: bool = False) -> DataLoader[Batch]:
        """Batches in order, or shuffled by `generator`."""
        return DataLoader(
            self,
            batch_size,
            shuffle=generator is not None,
            generator=generator,
            num_workers=0 if self.pixels is not None else min(8, os.cpu_count() or 1),
            collate_fn=_as_it_is,
            pin_memory=pin,
        )


def _as_it_is(batch: Any) -> Any:
    return batch


def _decoded(split: Split, what: str) -> torch.Tensor:
    """All pictures of a split, uint8 (N, height, width, channels), decoded on all cores (PIL works without the GIL)."""
    import numpy as np

    pixels = np.empty((len(split), *split.read(0).shape), np.uint8)

    def decode(i: int) -> None:
        pixels[i] = split.read(i)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in bar(pool.map(decode, range(len(split))), f"reading {what}", len(split), "picture"):
            pass
    return torch.from_numpy(pixels)


def fabric(accelerator: str) -> Fabric:
    """Lightning Fabric on a GPU in bfloat16, or on the CPU in float32.

    Raises:
        BadOption: "cuda" is asked for and there is none.
    """
    from lightning_fabric import Fabric

    gpu = torch.cuda.is_available()
    if accelerator == "cuda" and not gpu:
        raise BadOption("--accelerator cuda: PyTorch sees no GPU here; use cpu, or auto, which takes one where it is")
    on_gpu = gpu and accelerator != "cpu"
    return Fabric(accelerator="cuda" if on_gpu else "cpu", devices=1, precision="bf16-mixed" if on_gpu else "32-true")


def fit(
    network: nn.Module, training: Training, data: Mapping[str, Split], settings: Settings, home: Path, key: str
) -> dict[str, Any]:
    """Trains `network` (raw pixels to logits) and leaves the best epoch's state as home/training/best.ckpt.

    After every epoch the whole state is kept, so an interrupted training goes on with the next epoch. Order and
    augmentation of an epoch depend on seed and epoch alone: interrupted or not, the result is the same.

    Raises:
        StageFailed: the loss is no number any more.

    Returns:
        Facts: epochs, best epoch, its validation accuracy, seconds, samples a second, device.
    """
    engine = fabric(settings.accelerator)
    engine.seed_everything(settings.seed, verbose=False)
    folder = home / "training"
    trainset, validation = Pictures(data["train"], "train"), Pictures(data["validation"], "validation")
    steps = math.ceil(len(trainset) / settings.batch_size)
    optimizer = torch.optim.AdamW(network.parameters(), settings.lr, weight_decay=training.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _cosine(settings.epochs * steps))
    network, optimizer = engine.setup(_channels_last(network), optimizer)
    loss_function = nn.CrossEntropyLoss(label_smoothing=training.label_smoothing)
    facts: dict[str, Any] = {"epoch": 0, "best_epoch": 0, "best_accuracy": -1.0, "seconds": 0.0}
    state = {"network": network, "optimizer": optimizer, "schedule": schedule, "facts": facts}
    if settings.resume and _resume(folder, key, state, engine):
        say(f"resuming after epoch {facts['epoch']} of {settings.epochs}")
    else:
        store.remove(folder)
    pin = engine.device.type == "cuda"
    with _scalars(home / "tensorboard" / key[:12], facts["epoch"] * steps) as scalars:
        for epoch in range(facts["epoch"], settings.epochs):
            started = time.perf_counter()
            shuffle = torch.Generator().manual_seed(settings.seed * 1_000_003 + epoch)
            torch.manual_seed(settings.seed * 1_000_003 + epoch)
            batches = engine.setup_dataloaders(trainset.loader(settings.batch_size, shuffle, pin))
            network.train()
            total = torch.zeros((), device=engine.device)
            for images, labels in bar(batches, f"epoch {epoch + 1}/{settings.epochs}", steps, "batch"):
                seen = augmented(images.float(), training.augment).contiguous(memory_format=torch.channels_last)
                with engine.autocast():
                    loss = loss_function(network(seen), labels)
                optimizer.zero_grad(set_to_none=True)
                engine.backward(loss)
                optimizer.step()
                schedule.step()
                total += loss.detach()
            reached = accuracy(network, validation, engine)
            facts["epoch"] = epoch + 1
            facts["seconds"] += time.perf_counter() - started
            mean_loss = float(total) / steps
            if not math.isfinite(mean_loss):
                raise StageFailed(
                    f"the loss is {mean_loss} in epoch {epoch + 1}: try a smaller --lr than {settings.lr:g}"
                )
            for name, value in (("loss/train", mean_loss), ("accuracy/validation", reached)):
                scalars.add_scalar(name, value, (epoch + 1) * steps)
            scalars.add_scalar("lr", schedule.get_last_lr()[0], (epoch + 1) * steps)
            if reached >= facts["best_accuracy"]:  # of equals the later: its learning rate was lower
                facts |= {"best_epoch": epoch + 1, "best_accuracy": reached}
                _save(engine, folder / "best.ckpt", state_dict(network))
            _save(engine, folder / "state.ckpt", state | {"key": key})
            say(f"epoch {epoch + 1}/{settings.epochs}: loss {mean_loss:.4f}, validation accuracy {reached:.4f}")
    rate = settings.epochs * len(trainset) / facts["seconds"]
    return facts | {"samples_per_second": round(rate, 1), "device": _device(engine)}


def accuracy(network: nn.Module, pictures: Pictures, engine: Fabric) -> float:
    """Share of pictures whose largest logit is their label's."""
    network.eval()
    right = 0
    with torch.no_grad():
        for images, labels in pictures.loader(512):
            logits = network(images.to(engine.device).float().contiguous(memory_format=torch.channels_last))
            right += int((logits.argmax(1).cpu() == labels).sum())
    return right / len(pictures)


def augmented(images: torch.Tensor, names: Sequence[str]) -> torch.Tensor:
    """A batch of float images (n, channels, height, width), each flipped and shifted at random as `names` say."""
    count, _, height, width = images.shape
    for name in names:
        if name == "flip":
            flip = torch.rand(count, device=images.device) < 0.5
            images = torch.where(flip[:, None, None, None], images.flip(3), images)
        elif name.startswith("shift"):
            reach = int(name.removeprefix("shift"))
            padded = nn.functional.pad(images, (reach,) * 4, mode="reflect")
            dy, dx = (torch.randint(0, 2 * reach + 1, (count, 1, 1), device=images.device) for _ in range(2))
            rows = dy + torch.arange(height, device=images.device)[None, :, None]
            columns = dx + torch.arange(width, device=images.device)[None, None, :]
            which = torch.arange(count, device=images.device)[:, None, None]
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


def _save(engine: Fabric, path: Path, state: Mapping[str, Any]) -> None:
    with store.atomic(path) as temporary:
        engine.save(temporary, dict(state))


def _resume(folder: Path, key: str, state: dict[str, Any], engine: Fabric) -> bool:
    """Puts the kept state of the same training into `state`; False where there is none."""
    path = folder / "state.ckpt"
    if not path.is_file() or not (folder / "best.ckpt").is_file():
        return False
    try:
        kept = torch.load(path, map_location=engine.device, weights_only=True)
    except Exception as error:
        raise Broken(f"{path} cannot be read ({error}); train afresh with --no-resume") from error
    if kept["key"] != key:
        return False
    state["network"].load_state_dict(kept["network"])
    state["optimizer"].load_state_dict(kept["optimizer"])
    state["schedule"].load_state_dict(kept["schedule"])
    state["facts"].update(kept["facts"])
    return True


@contextlib.contextmanager
def _scalars(folder: Path, step: int) -> Iterator[Any]:
    """TensorBoard's writer; what an interrupted run wrote after `step` is not shown."""
    # TensorBoard loads TensorFlow where it is installed, 5 s and many lines, unless a module of this name exists.
    sys.modules.setdefault("tensorboard.compat.notf", types.ModuleType("notf"))
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder), purge_step=step + 1 if step else None) as writer:
        yield writer


def _device(engine: Fabric) -> str:
    return torch.cuda.get_device_name() if engine.device.type == "cuda" else "cpu"
