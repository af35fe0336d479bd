"""Quantization-aware training: the calibrated graph of a static recipe is trained on with simulated quantization.

Batch normalisation is already folded into the layers: the graph is captured for inference, and pt2e folds it. Each
observer of the calibrated graph becomes a fake quantizer that starts with the observer's range, so training starts at
what calibration alone gives. The network learns to return the float network's outputs; labels are not used. Kim et al.,
"Comparing Kullback-Leibler Divergence and Mean Squared Error Loss in Knowledge Distillation" (2021), found squared
error of the logits better than divergence of the probabilities; here it is also what the parity check measures.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR
from torchao.quantization.pt2e.fake_quantize import FakeQuantize, disable_observer
from torchao.quantization.pt2e.observer import (
    FixedQParamsObserver,
    MovingAverageMinMaxObserver,
    MovingAveragePerChannelMinMaxObserver,
    ObserverBase,
)  # fmt: skip

from pipeline import tasks
from pipeline.datasets import Split
from pipeline.frameworks import QuantizedTraining, Settings, _graphs, _layers, _torch_training, _training_loop
from pipeline.frameworks._normalization import real, tensors
from pipeline.frameworks._process_group import Part
from pipeline.sources import Model
from pipeline.system import store
from pipeline.system.progress import bar, say
from pipeline.system.tensorboard import Events, shown

FROZEN_AFTER = 0.75
"""The share of the steps after which the scales of weights stay as they are, so that weights settle on integers that no
longer move. PyTorch's tutorials of quantization-aware training freeze observers before the end, too."""

DIVERGED_DB = 10.0
"""Training stops when the validation outputs are this much further from the float network's than before training."""


def train(model: Model, data: Mapping[str, Split], settings: Settings, task: QuantizedTraining) -> dict[str, Any]:
    """See `Framework.train_quantized`.

    Everything is float32, on a GPU too: bfloat16 has 8 bits, as many as the integers that are simulated.
    """
    device = _torch_training.device_type(settings.accelerator)
    torch.manual_seed(settings.seed)
    splits = {name: _torch_training.SplitDataset(data[name], name) for name in ("train", "validation")}
    student = simulated(_graphs.calibrated(task.captured, model.spec.input_range, task.images, task.recipe))
    for name, parameter in student.named_parameters():
        parameter.requires_grad_(not name.startswith("normalize."))
    _move(student, device)
    optimizer = torch.optim.Adam([each for each in student.parameters() if each.requires_grad], settings.lr)
    steps = settings.epochs * _training_loop.steps_per_epoch(len(splits["train"]), settings)
    loop = _Loop(
        student=student,
        teacher=_move(_graphs.load(task.captured / _graphs.FLOAT).module(), device),
        optimizer=optimizer,
        schedule=LambdaLR(optimizer, partial(_training_loop.learning_rate, steps=steps)),
        splits=splits,
        settings=settings,
        augment=model.spec.training.augment,
        state=_torch_training.State(task.home / task.recipe.name / "training", task.key),
        device=device,
        classes=tasks.of(model.spec).CLASSES,
    )
    facts, best = loop.run(task.home / "tensorboard" / task.key[:12])
    student.load_state_dict(best)
    _graphs.convert(_move(student, "cpu"), task.images, task.folder)
    name = "cpu" if device == "cpu" else torch.cuda.get_device_name(device)
    return facts | {"steps": facts["epoch"] * steps // settings.epochs, "device": name}


def _move(module: Any, device: str) -> Any:
    """Moves a captured module to a device, with the tensors that its operators create."""
    for node in module.graph.nodes:
        if "device" in node.kwargs:
            node.update_kwarg("device", torch.device(device))
    module.recompile()
    return module.to(device)


def simulated(calibrated: Any) -> Any:
    """Replaces every observer of a calibrated module by a fake quantizer with its range, and makes parameters of the
    weights and biases of layers. A rewritten graph, such as a Keras model's, has them as buffers."""
    for node in calibrated.graph.nodes:
        if node.target in _layers.WEIGHTED:
            for argument in filter(None, node.args[1:3]):
                source = argument.args[0] if argument.op == "call_module" else argument
                if source.op == "get_attr":
                    _make_parameter(calibrated, str(source.target))
    weights = {str(n.target) for n in calibrated.graph.nodes if n.op == "call_module" and n.args[0].op == "get_attr"}
    made: dict[int, FakeQuantize] = {}
    for name, found in list(calibrated.named_modules(remove_duplicate=False)):
        if isinstance(found, ObserverBase):
            if id(found) not in made:  # operators that share a scale share an observer
                made[id(found)] = _fake_quantizer(found, of_weight=name in weights)
            calibrated.set_submodule(name, made[id(found)])
    return calibrated


def _make_parameter(module: Any, target: str) -> None:
    path, _, name = target.rpartition(".")
    owner = module.get_submodule(path)
    tensor = getattr(owner, name)
    if not isinstance(tensor, torch.nn.Parameter):
        delattr(owner, name)
        owner.register_parameter(name, torch.nn.Parameter(tensor.detach().clone()))


def _fake_quantizer(found: Any, of_weight: bool) -> FakeQuantize:
    """A weight's range is its own at every step. An activation's range stays as calibrated or pinned: the range of a
    batch is smaller than that of all images, and following it made networks worse (32.7 dB became 26.5)."""
    scale, zero_point = (value.detach().clone() for value in found.calculate_qparams())
    common = {"dtype": found.dtype, "quant_min": found.quant_min, "quant_max": found.quant_max}
    if isinstance(found, FixedQParamsObserver):
        made = FakeQuantize(
            FixedQParamsObserver, scale=float(scale), zero_point=int(zero_point), qscheme=found.qscheme, **common
        )
        made.disable_observer()
    else:
        common |= {"qscheme": found.qscheme, "eps": float(found.eps)}
        if hasattr(found, "ch_axis"):
            made = FakeQuantize(
                MovingAveragePerChannelMinMaxObserver, averaging_constant=1.0, ch_axis=found.ch_axis, **common
            )
        else:
            made = FakeQuantize(MovingAverageMinMaxObserver, averaging_constant=1.0, **common)
        observer = made.activation_post_process
        observer.min_val.resize_(scale.shape).copy_((found.quant_min - zero_point) * scale)
        observer.max_val.resize_(scale.shape).copy_((found.quant_max - zero_point) * scale)
        if not of_weight:
            made.disable_observer()
    made.scale.resize_(scale.shape).copy_(scale)
    made.zero_point.resize_(scale.shape).copy_(zero_point)
    return made.to(scale.device)


@dataclass(frozen=True)
class _Loop:
    """A training with all of its parts."""

    student: Any
    teacher: Any
    optimizer: torch.optim.Optimizer
    schedule: LambdaLR
    splits: Mapping[str, _torch_training.SplitDataset]
    settings: Settings
    augment: tuple[str, ...]
    state: _torch_training.State
    device: str
    classes: bool

    def run(self, tensorboard: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """Trains from the saved state, or from the start. Returns facts and the state of the best epoch.

        The best epoch has the validation outputs that are closest to the float network's. Epoch 0 is what calibration
        alone gives, so the result is never worse than that.
        """
        facts, best = self._resumed()
        if not facts:
            snr_db, agreement = self.closeness()
            facts = {"epoch": 0, "best_epoch": 0, "snr_db": [snr_db], "losses": [], "seconds": 0.0, "stopped": None}
            best = self._state()
            say(f"calibrated: {_described(snr_db, agreement)}")
        steps = _training_loop.steps_per_epoch(len(self.splits["train"]), self.settings)
        with Events(tensorboard, facts["epoch"] * steps) as events:
            if facts["epoch"] == 0:
                shown("curves", partial(events.scalars, {"snr_db/validation": facts["snr_db"][0]}, 0))
            while facts["epoch"] < self.settings.epochs and facts["stopped"] is None:
                started = time.perf_counter()
                epoch = facts["epoch"]
                loss = self.epoch(epoch)
                snr_db, agreement = self.closeness()
                facts["epoch"] = epoch + 1
                facts["seconds"] += time.perf_counter() - started
                facts["losses"].append(loss)
                facts["snr_db"].append(snr_db)
                facts["stopped"] = self._diverged(facts)
                if facts["stopped"] is None and snr_db >= facts["snr_db"][facts["best_epoch"]]:
                    facts["best_epoch"], best = epoch + 1, self._state()
                self._save(facts, best)
                done = (epoch + 1) * steps
                lr = self.settings.lr * _training_loop.learning_rate(done, self.settings.epochs * steps)
                curves = {"loss/train": loss, "snr_db/validation": snr_db, "lr": lr}
                shown("curves", partial(events.scalars, curves, done))
                shown("weights", partial(events.histograms, self._weights(), done))
                say(f"epoch {epoch + 1}/{self.settings.epochs}: loss {loss:.2e}, {_described(snr_db, agreement)}")
        return facts, best

    def epoch(self, epoch: int) -> float:
        """Trains one epoch and returns the mean loss of its batches: the noise of the outputs relative to the float
        network's. It ends with the first step that is not finite, and is NaN then. Sample order and augmentation depend
        on the seed and the epoch only."""
        seed = _training_loop.epoch_seed(self.settings, epoch)
        draws, order = torch.Generator(self.device).manual_seed(seed), torch.Generator().manual_seed(seed)
        loader = self.splits["train"].shuffled(self.settings.batch_size, Part(), order, pin=self.device == "cuda")
        steps, losses = len(loader), []
        frozen_from = int(FROZEN_AFTER * self.settings.epochs * steps)
        batches = bar(loader, f"epoch {epoch + 1}/{self.settings.epochs}", steps, "batch")
        for step, (images, labels) in enumerate(batches, epoch * steps):
            if step == frozen_from:
                self.student.apply(disable_observer)
            pixels = real(images.to(self.device))
            pixels, _ = _torch_training.augment(
                pixels, labels.to(self.device), self.augment, draws, len(pixels), slice(None)
            )
            pixels = pixels.clone(memory_format=torch.contiguous_format)
            with torch.no_grad():
                wanted = tensors(self.teacher(pixels))
            loss = _noise(tensors(self.student(pixels)), wanted)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            norm = torch.nn.utils.get_total_norm(
                [each.grad for each in self.student.parameters() if each.grad is not None]
            )
            if not torch.isfinite(loss + norm):
                return math.nan  # the weights are still finite; fake quantizers fail on others
            self.optimizer.step()
            self.schedule.step()
            losses.append(loss.detach())
        return float(torch.stack(losses).mean())

    def closeness(self) -> tuple[float, float | None]:
        """The signal-to-noise ratio of the validation outputs against the float network's, in dB, of the worst output,
        and the share of samples with its top-1; None without classes. Observers do not see these images."""
        signals, noises, same = defaultdict[int, float](float), defaultdict[int, float](float), 0.0
        with torch.no_grad(), _observers_paused(self.student):
            for images, _ in self.splits["validation"].loader(512):
                pixels = real(images.to(self.device)).clone(memory_format=torch.contiguous_format)
                pairs = zip(tensors(self.teacher(pixels)), tensors(self.student(pixels)), strict=True)
                for place, (wanted, found) in enumerate(pairs):
                    signals[place] += float(wanted.double().square().sum())
                    noises[place] += float((found.double() - wanted).square().sum())
                    same += float((found.argmax(1) == wanted.argmax(1)).sum()) if self.classes else 0.0
        agreement = same / len(self.splits["validation"]) if self.classes else None
        if not all(math.isfinite(noise) for noise in noises.values()):
            return -999.0, agreement
        worst = min(max(signals[place], 1e-30) / max(noises[place], 1e-30) for place in signals)
        return 10 * math.log10(worst), agreement

    def _diverged(self, facts: Mapping[str, Any]) -> str | None:
        """The reason to stop after the last epoch."""
        epoch, loss, (start, *_), last = facts["epoch"], facts["losses"][-1], facts["snr_db"], facts["snr_db"][-1]
        kept = f"the state of epoch {facts['best_epoch']}" if facts["best_epoch"] else "the calibrated graph"
        advice = f"{kept} is kept; try a smaller --lr than {self.settings.lr:g}"
        if not math.isfinite(loss):
            facts["losses"][-1] = None
            return f"stopped in epoch {epoch}: the loss is {loss}; {advice}"
        if last < start - DIVERGED_DB:
            return f"stopped in epoch {epoch}: {last:.1f} dB, and calibration alone gives {start:.1f} dB; {advice}"
        return None

    def _weights(self) -> dict[str, Any]:
        """The trained tensors under the names of `Framework.unpack`."""
        found = {}
        for name, parameter in self.student.named_parameters():
            if parameter.requires_grad:
                layer, _, leaf = name.removeprefix("net.").rpartition(".")
                found[f"{layer.replace('.', '_')}.{leaf}"] = parameter.detach().cpu().numpy()
        return found

    def _state(self) -> dict[str, torch.Tensor]:
        return {name: value.detach().cpu().clone() for name, value in self.student.state_dict().items()}

    def _save(self, facts: Mapping[str, Any], best: Mapping[str, torch.Tensor]) -> None:
        saved = {name: part.state_dict() for name, part in self._parts.items()}
        saved |= {"best": dict(best), "facts": dict(facts), "key": self.state.key}
        _torch_training.save(self.state.folder / STATE, saved)

    def _resumed(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """Restores the saved state of this training; empty without one."""
        saved = None
        if self.settings.resume:
            saved = _torch_training.saved_state(self.state.folder / STATE, self.state.key)
        if saved is None:
            store.remove(self.state.folder)
            self.state.folder.mkdir(parents=True)
            return {}, {}
        for name, part in self._parts.items():
            part.load_state_dict(saved[name])
        say(f"resuming after epoch {saved['facts']['epoch']} of {self.settings.epochs}")
        return dict(saved["facts"]), saved["best"]

    @property
    def _parts(self) -> dict[str, Any]:
        return {"student": self.student, "optimizer": self.optimizer, "schedule": self.schedule}


def _noise(outputs: tuple[torch.Tensor, ...], wanted: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """The noise of the outputs relative to the float network's: the mean over the outputs."""
    each = [(a - b).square().sum() / b.square().sum() for a, b in zip(outputs, wanted, strict=True)]
    return torch.stack(each).mean()


STATE = "state.ckpt"


@contextmanager
def _observers_paused(module: Any) -> Iterator[None]:
    """Keeps the scales of all fake quantizers as they are."""
    seeing = [each for each in module.modules() if isinstance(each, FakeQuantize) and each.observer_enabled[0]]
    for each in seeing:
        each.disable_observer()
    try:
        yield
    finally:
        for each in seeing:
            each.enable_observer()


def _described(snr_db: float, agreement: float | None) -> str:
    top1 = "" if agreement is None else f" and {agreement:.2%} top-1 agreement"
    return f"validation outputs {snr_db:.1f} dB{top1} with the float model"
