"""The nouns: what stages pass on. Frozen dataclasses, standard library only, to and from versioned JSON.

`from_json` is the inverse of `to_json` for every noun. Reading is strict: a missing or unknown key, a value of another
type, or an unknown schema is an error, because manifests are trusted later.
"""

from __future__ import annotations

import dataclasses
import shlex
import types
import typing
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import PurePosixPath
from typing import Any, Protocol, TypeVar

from pipeline.errors import Broken

SCHEMA = 1
"""The version in every manifest; a change that old readers would misread increments it."""

PIXELS = (0.0, 255.0)
"""The range of an image input: the exported graph takes raw pixels and normalises them itself."""

T = TypeVar("T")


# -- what a model is ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tensor:
    """One input or output of a model, without the batch axis.

    Attributes:
        name: for example "image" or "logits".
        shape: of an image always (height, width, channels), of a series (time, channels), of a vector (values,), of
            tokens (length,); Artifact has what a runtime sees.
        dtype: numpy's name: "int32" of token ids.
        value_range: smallest and largest possible value; None if unbounded. Of an image it is always PIXELS and may
            be omitted; of token ids it is 0 and the largest id.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    value_range: tuple[float, float] | None = None


@dataclass(frozen=True)
class Preprocessing:
    """From an image file to the input tensor. The app does the first three, the graph does the normalisation.

    Attributes:
        color: "RGB" or "L" (grey), in this channel order.
        resize: the shorter side is scaled to this many pixels (bilinear, antialiased).
        crop: then a square of this many pixels is cropped from the centre.
        fit: "crop" as above; or "letterbox": the whole image is scaled into a square of `crop` pixels, and grey
            (value 114) fills the rest on both sides, as Pillow's ImageOps.pad does it. `resize` is then `crop`.
        mean, std: per channel, on the 0–255 scale: the exported graph starts with (x - mean) / std.
    """

    color: str
    resize: int
    crop: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fit: str = "crop"


@dataclass(frozen=True)
class Standardization:
    """From the raw values of a vector or a series to the network: the exported graph starts with (x - mean) / std.

    Attributes:
        mean, std: for each value along the last axis, or one for all of them.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class Audio:
    """From a sound file to the input tensor, a waveform (samples,). The app does it, except for the normalisation.

    All channels are averaged, the waveform is resampled, and cut or filled with zeros at its end.

    Attributes:
        rate: samples per second.
        samples: length of the input.
        mean, std: one value each, of samples from -1 to 1: the exported graph starts with (x - mean) / std.
    """

    rate: int
    samples: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class Tokens:
    """From a text to the input tensor, token ids (length,). The app does all of it.

    The text is lower-cased if asked, and encoded by the tokenizer. The ids after `length` are cut; shorter texts are
    filled with the padding's id at their end.

    Attributes:
        tokenizer: a file in the model folder, in the format of Hugging Face's tokenizers (tokenizer.json).
        length: number of ids.
        padding: the padding's id, which the network must ignore.
        lowercase: whether the app lower-cases the text first, for a tokenizer that does not.
        sha256: of the tokenizer's file; where SPEC has none, it is taken from the file.
    """

    tokenizer: str
    length: int
    padding: int
    lowercase: bool = False
    sha256: str = ""


@dataclass(frozen=True)
class Training:
    """A model's training defaults.

    Attributes:
        lr: peak learning rate: linear warm-up for a tenth of the steps, then a cosine to zero.
        augment: names of augmentations: "flip" (left-right), "flip_vertical", "shift4" (up to 4 pixels, reflected
            edge), "shift1". Masks and boxes move with their image.
    """

    epochs: int
    batch_size: int
    lr: float
    weight_decay: float = 1e-4
    label_smoothing: float = 0.0
    augment: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModelSpec:
    """What a model is, in every framework.

    Attributes:
        task: the plug-in in pipeline/tasks/: what the outputs mean, and the metric.
        labels: class names in the order of the output; a dataset's classes are matched to them by name. Where SPEC has
            none, the dataset sets them, in its own order. Empty for a task without classes.
        preprocessing: of an image `Preprocessing`, of sound `Audio`, of text `Tokens`, of anything else
            `Standardization`.
        dataset: the plug-in in pipeline/datasets/ for training and evaluation.
        options: options of build(spec) (`--model name:width=0.5`) with their defaults.
        float_modules: modules that stay in float in every recipe, such as a front end with a logarithm; patterns as
            those of `Recipe.exceptions`.
    """

    name: str
    task: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    labels: tuple[str, ...]
    preprocessing: Preprocessing | Audio | Standardization | Tokens
    dataset: str
    training: Training
    options: Mapping[str, float] = field(default_factory=dict)
    float_modules: tuple[str, ...] = ()

    @property
    def classes(self) -> int:
        """The number of classes, or of the numbers to predict: the last axis of the last output."""
        return self.outputs[-1].shape[-1]

    @property
    def image(self) -> Preprocessing | None:
        """The preprocessing of an image input; None if the input is no image."""
        return self.preprocessing if isinstance(self.preprocessing, Preprocessing) else None

    @property
    def tokens(self) -> Tokens | None:
        """The preprocessing of a text; None if the input is no text."""
        return self.preprocessing if isinstance(self.preprocessing, Tokens) else None

    @property
    def input_range(self) -> tuple[float, float] | None:
        """The known range of the input; None leaves it to the calibration set. Token ids have no scale."""
        if self.tokens:
            return None
        return PIXELS if self.image else self.inputs[0].value_range


# -- how it is quantized -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recipe:
    """*What* is quantized; the targets implement how. `pipeline.recipes` has the possible values.

    Attributes:
        weights: "float32", "float16", "int8" (symmetric, per output channel), "int4" (symmetric, linear layers only),
            or "palette4" or "palette6" (each weight is one of 16 or 64 values).
        activations: "float32", "float16", "int8" (scales from calibration) or "int8_dynamic" (scales at run time).
        calibration: size of the calibration set, taken from the training split; 0 if none is needed.
        summary: one line of text.
        block: this many weights along the input axis share one scale; None for one scale per output channel.
        exceptions: (pattern, dtype): layers that match the pattern have weights of that dtype; see `recipes.matches`.
            A "float32" layer computes in float32.
        bias_correction: "on", "off" or "auto": whether the biases of a static graph make up for the mean error of each
            layer. "auto" leaves it to the quantizer.
        training: "ptq", or "qat": the network is trained on with simulated quantization first.
    """

    name: str
    weights: str
    activations: str
    calibration: int
    summary: str
    block: int | None = None
    exceptions: tuple[tuple[str, str], ...] = ()
    bias_correction: str = "auto"
    training: str = "ptq"

    @property
    def static(self) -> bool:
        """Whether all targets share one quantized graph."""
        return self.activations == "int8"

    @property
    def quantized(self) -> bool:
        """Whether weights are narrower than float."""
        return not self.weights.startswith("float")


@dataclass(frozen=True)
class Operation:
    """An operator of a captured network, as the exceptions of a recipe see it.

    Attributes:
        name: the layer's path in the model, "features.0.conv"; of an operator without weights, the path of the module
            that computes it.
        operator: its kind: "conv2d", "linear", "add".
        weights: number of its weights.
    """

    name: str
    operator: str
    weights: int


@dataclass(frozen=True)
class Calibration:
    """The calibration set, identified by content."""

    dataset: str
    split: str
    samples: int
    sha256: str


@dataclass(frozen=True)
class BiasCorrection:
    """What bias correction would change or has changed in a static graph.

    Attributes:
        used: whether the biases are corrected: by default, if that helps.
        without_snr_db, with_snr_db: the graph compared with the float model, on calibration samples that the
            correction was not computed from.
    """

    used: bool
    without_snr_db: float
    with_snr_db: float


# -- what the stages make ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Checkpoint:
    """Weights of a spec in one framework, with facts of the training and the accuracy on the host.

    Attributes:
        weights, weights_sha256: the file beside the manifest, and its hash.
        origin: "trained", or the path of the user's file.
        facts: of the training: epochs, seed, accelerator, best epoch, validation accuracy, seconds, …
        data: the absolute path of --data; None for embedded data.
        dataset_sha256: content hash of the evaluation split.
        samples: size of that split.
        accuracy: the framework's float accuracy on that split.
        predictions, predictions_sha256: every sample's float outputs and label (.npz: output_0 …, labels).
        key: cache key.
    """

    spec: ModelSpec
    framework: str
    weights: str
    weights_sha256: str
    origin: str
    facts: Mapping[str, Any]
    data: str | None
    dataset_sha256: str
    samples: int
    accuracy: float
    predictions: str
    predictions_sha256: str
    key: str
    tools: Mapping[str, str]
    schema: int = SCHEMA

    @property
    def options(self) -> str:
        """Its command-line options: " --model M", and " --framework F" where that is not the default."""
        return command_options(str(self.facts.get("model", self.spec.name)), self.framework)


def command_options(model: str, framework: str) -> str:
    """As `Checkpoint.options`, also without a checkpoint. Args: model: the value of --model."""
    return f" --model {shlex.quote(model)}" + ("" if framework == "torch" else f" --framework {framework}")


@dataclass(frozen=True)
class Port:
    """An input or output of an exported file, batch axis included.

    Attributes:
        layout: "NHWC", "NCHW", "image" (Core ML's image type) or None if it is not an image.
        scale, zero_point: real = (stored - zero_point) * scale; None for float.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    layout: str | None = None
    scale: float | None = None
    zero_point: int | None = None


@dataclass(frozen=True)
class Parity:
    """Outputs compared with those of a reference, over all samples and all outputs.

    An exported file is compared with the graph it was made from, the quantized graph with the float model, and the
    captured graph with the framework.

    Attributes:
        against: "float model", "quantized graph" or "framework".
        samples: number of samples compared.
        snr_db: 10 log10(sum(reference²) / sum(error²)) of the worst output; 999 if equal.
        cosine: cosine similarity of the worst output.
        max_error: largest absolute difference.
        max_steps: the same in steps of the output's quantization; None for a float output.
        top1_agreement: share of samples with the same largest output; None if the outputs are no classes.
        equal: share of samples whose outputs are all equal bit for bit.
    """

    against: str
    samples: int
    snr_db: float
    cosine: float
    max_error: float
    max_steps: float | None
    top1_agreement: float | None
    equal: float


@dataclass(frozen=True)
class FloatLayer:
    """A layer of a quantized file that stays in float.

    Attributes:
        name: the layer's path in the model, or its name in the file.
        operator: for example "aten.conv_transpose2d" or "CONV_2D".
        multiply_adds: its multiply-adds per inference.
    """

    name: str
    operator: str
    multiply_adds: int
    reason: str


@dataclass(frozen=True)
class Coverage:
    """How much of a quantized file is quantized, in the way its recipe asks for.

    Attributes:
        weights: share of the weights that are quantized, by their bytes in float32.
        multiply_adds: share of the multiply-adds whose operands are quantized.
        float_layers: the layers that stay in float, largest first.
    """

    weights: float
    multiply_adds: float
    float_layers: tuple[FloatLayer, ...]

    LEAST = 0.9
    """A file with a smaller share of quantized multiply-adds is marked in every table."""

    @property
    def low(self) -> bool:
        """Whether so little is quantized that the recipe's name misleads."""
        return self.multiply_adds < self.LEAST


@dataclass(frozen=True)
class LayerGroup:
    """Layers of a model that are left in float together.

    Attributes:
        name: a module's path in the model, or a node's name; as a pattern of an exception it covers the whole group.
        layers: number of its layers with weights.
        weights: number of their weights.
        multiply_adds: of these layers, per inference.
    """

    name: str
    layers: int
    weights: int
    multiply_adds: int


@dataclass(frozen=True)
class Noise:
    """What quantizing some tensors adds to the outputs.

    Attributes:
        groups: the tensors stay in float if all of these groups do.
        power: power of the outputs' error, relative to that of the outputs.
    """

    groups: tuple[str, ...]
    power: float


@dataclass(frozen=True)
class Sensitivity:
    """How much noise each group of layers adds in static int8.

    Attributes:
        power: the measured noise with everything quantized, as in `Noise`.
        samples: calibration samples that the noise was measured on.
    """

    groups: tuple[LayerGroup, ...]
    noises: tuple[Noise, ...]
    power: float
    samples: int

    def predicted(self, in_float: Collection[str] = ()) -> float:
        """The noise with these groups in float: the sum of the others'."""
        return sum(noise.power for noise in self.noises if not set(noise.groups) <= set(in_float))

    def share(self, group: str, in_float: Collection[str] = ()) -> float:
        """A group's part of `predicted(in_float)`. The noise of a tensor between several groups is divided among those
        that are not in float yet."""
        return sum(
            noise.power / len(set(noise.groups) - set(in_float))
            for noise in self.noises
            if group in set(noise.groups) - set(in_float)
        )


@dataclass(frozen=True)
class Artifact:
    """One exported file.

    Attributes:
        file: its name beside the manifest (a folder for Core ML).
        quantized_by: "graph" (the pt2e graph that all targets share), the converter's name, or None.
        parity: None if the file cannot run on this machine; `unchecked` has the reason.
        graph_parity: of a static recipe: the quantized graph compared with the float model.
        coverage: what is quantized; None under a float recipe, or if the target cannot tell.
        notes: for the user: what was delegated, what stayed in float.
        spec: the model with its input contract, so that an app needs this manifest only.
    """

    model: str
    framework: str
    recipe: str
    target: str
    file: str
    sha256: str
    size_bytes: int
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    quantized_by: str | None
    calibration: Calibration | None
    parity: Parity | None
    graph_parity: Parity | None
    coverage: Coverage | None
    unchecked: str | None
    notes: tuple[str, ...]
    spec: ModelSpec
    weights_sha256: str
    seconds: float
    key: str
    tools: Mapping[str, str]
    schema: int = SCHEMA


@dataclass(frozen=True)
class Failure:
    """Why a stage did not make its file.

    Attributes:
        status: "failed", or "unsupported" if the converter does not support this model.
        log: path of the converter's log.
    """

    status: str
    reason: str
    log: str
    key: str
    schema: int = SCHEMA


@dataclass(frozen=True)
class Device:
    """Where an artifact runs; a table of devices.toml.

    Attributes:
        kind: the plug-in in pipeline/devices/.
        emulated: its clock is not real, so no latency is shown.
        options: the rest of the table, for the plug-in.
    """

    name: str
    kind: str
    emulated: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Assumption:
    """One thing that Lastmile assumes about a device, and what a probe saw there.

    Attributes:
        name: the same on every device of a kind, such as "flock".
        assumed: what Lastmile assumes, in one sentence.
        seen: what the device answered.
        holds: None if the device cannot show it.
    """

    name: str
    assumed: str
    seen: str
    holds: bool | None


@dataclass(frozen=True)
class Probe:
    """What a probe saw on one device (`inv devices.probe`), to attach to an issue: no serial number, no address.

    Attributes:
        lastmile: the version that probed.
        date: the day, UTC.
        kind: the plug-in in pipeline/devices/.
        model: what the device calls itself, such as "Raspberry Pi 5 Model B Rev 1.0".
        system: the operating system and its version.
        hardware: hash of `DeviceKind.hardware`: two probes of one device have the same.
    """

    lastmile: str
    date: str
    kind: str
    emulated: bool
    model: str
    system: str
    hardware: str
    assumptions: tuple[Assumption, ...]
    schema: int = SCHEMA


@dataclass(frozen=True)
class Accuracy:
    """Accuracy on a device over the evaluation split or a subset of it.

    Attributes:
        samples: their number; a subset is `stats.stratified`.
        metric: the task's, such as "top1".
        value: the metric over these samples, as a fraction.
        reference: the float model's metric over the same samples.
        predictions: file beside the manifest with every sample's outputs (.npz: output_0, …, float32).
    """

    dataset: str
    dataset_sha256: str
    split: str
    samples: int
    metric: str
    value: float
    reference: float
    predictions: str
    predictions_sha256: str


@dataclass(frozen=True)
class Process:
    """What one process measured: a sample of an artifact's latency. Every number is raw.

    Attributes:
        load_ns: from the file to a session that can run, without importing the runtime.
        first_run_ns: the first inference.
        warmup, runs: each [loops, ns]: `loops` inferences took `ns` in all.
        single_runs: ns of inferences that were timed one by one; empty if every entry of `runs` is one inference.
        clock_ns: the part of each of `single_runs` that reading the clock took.
        temperature_c, load_average: at start and end; None without a sensor.
        frequency_hz: at start and end, for each cluster of CPUs; empty if the device does not report it.
        throttled: None if the device does not report it.
        throttling: why the device was slowed at any time during the process: undervoltage, frequency_capped, throttled,
            soft_temperature_limit (a Raspberry Pi's); cooling_device, trip_point, thermal_throttling, cpu_limit;
            thermal_status (Android's).
        peak_rss_bytes: the process's high-water mark; rss_before_load_bytes: its memory before the model was loaded.
        peak_rss_reset: of a phone: whether the high-water mark was reset before the model was loaded; otherwise it may
            be that of the app's start.
        pss_bytes: of a phone: its memory with the model, where pages that processes share count in part.
    """

    started_at: str
    load_ns: int
    first_run_ns: int
    warmup: tuple[tuple[int, int], ...]
    runs: tuple[tuple[int, int], ...]
    single_runs: tuple[int, ...]
    clock_ns: int
    temperature_c: tuple[float | None, float | None]
    frequency_hz: tuple[tuple[int, ...], tuple[int, ...]]
    throttled: bool | None
    load_average: tuple[float | None, float | None]
    peak_rss_bytes: int
    rss_before_load_bytes: int
    throttling: tuple[str, ...] = ()
    peak_rss_reset: bool | None = None
    pss_bytes: int | None = None


@dataclass(frozen=True)
class Measurement:
    """One artifact on one device: raw samples and facts of the device. Aggregates are computed on read.

    Attributes:
        device: facts: name, kind, emulated, board, cpu, cores, os, governor …; of a phone also "states": its state
            "before" and "after" each process, and "samples" of it between the runs.
        runtime: name, version, threads, delegate, cpus (those that the processes were pinned to).
        processes: in the order of the rounds. In each round of a bench, every artifact was measured once.
        method: number of processes and arguments of `edge-bench run`, without paths; empty in older measurements.
    """

    artifact_sha256: str
    model: str
    framework: str
    target: str
    recipe: str
    device: Mapping[str, Any]
    runtime: Mapping[str, Any]
    size_bytes: int
    processes: tuple[Process, ...]
    accuracy: Accuracy
    key: str
    tools: Mapping[str, str]
    method: str = ""
    schema: int = SCHEMA


@dataclass(frozen=True)
class FileMeasurement:
    """A ready file on one device, as it is: pseudo-random inputs, and nothing known of its outputs but their distance
    from those of a reference.

    Attributes:
        file: its name.
        inputs, outputs: what its runtime on this machine says; empty if none runs it.
        device, runtime, processes: see Measurement.
        reference: name and sha256 of the file that it was compared with; None without one.
        parity: each output compared with the reference's, in their order.
    """

    file: str
    sha256: str
    size_bytes: int
    target: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    device: Mapping[str, Any]
    runtime: Mapping[str, Any]
    processes: tuple[Process, ...]
    reference: tuple[str, str] | None
    parity: tuple[Parity, ...]
    key: str
    tools: Mapping[str, str]
    schema: int = SCHEMA


class Timed(Protocol):
    """What a Measurement and a FileMeasurement have in common."""

    @property
    def device(self) -> Mapping[str, Any]: ...

    @property
    def runtime(self) -> Mapping[str, Any]: ...

    @property
    def processes(self) -> tuple[Process, ...]: ...


@dataclass(frozen=True)
class Floor:
    """The latency of an empty model: what one call of a runtime costs on one device (`inv devices.floor`).

    Attributes:
        hardware: see `DeviceKind.hardware`; the floor of other hardware is not used.
        runtime, version: the edge-bench runtime.
        processes: how many processes measured it.
        ns: the median of their medians.
        includes_input_copy: see Cell.
    """

    hardware: str
    runtime: str
    version: str | None
    processes: int
    ns: float
    includes_input_copy: bool | None
    schema: int = SCHEMA


@dataclass(frozen=True)
class Latency:
    """Milliseconds per inference, over the runs of all processes.

    Attributes:
        p50, mean: over the raw runs; of inferences under 1 ms, a run is the average of a loop.
        p90, p99: over inferences that were timed one by one.
        n: number of runs.
        single_runs: number of inferences that p90 and p99 are computed from.
        processes: number of processes, each of which is one sample.
        spread: difference of the slowest and the fastest process's median, as a share of the median process's; None for
            one process.
        clock_ns: cost of reading the clock, which was subtracted for p90 and p99; None if nothing was subtracted.
    """

    p50: float
    p90: float
    p99: float
    mean: float
    n: int
    single_runs: int
    processes: int
    spread: float | None
    clock_ns: int | None


@dataclass(frozen=True)
class Step:
    """One step of framework → host runtime → device, compared with the step before over all evaluation samples.

    The first step, and a step without figures, is compared with nothing.

    Attributes:
        place: "framework", or the device's name.
        runtime: name, version, threads, delegate; None if nothing has run yet.
        accuracy: the metric at this step, as a fraction.
        equal: share of samples whose outputs are all equal bit for bit.
        top1_agreement: share of samples with the same largest output; None if the outputs are no classes.
        max_error: largest absolute difference of any output.
        reason: why there are no figures, with the command that produces them.
    """

    place: str
    runtime: str | None = None
    accuracy: float | None = None
    equal: float | None = None
    top1_agreement: float | None = None
    max_error: float | None = None
    samples: int | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Cell:
    """One row of `inv results`: a model, recipe and target on a device.

    Attributes:
        status: "ok", "unsupported", "failed" or "missing".
        reason: why the status is not "ok".
        device: None for a file that cannot run on this machine.
        instructions: per inference, median over the runs, where an emulated device's clock counts them; with
            percentiles.
        throttled: whether the device slowed its clock during the run; None if it does not report it.
        includes_input_copy: whether the latency includes a copy of the input; None if the device does not report it.
        floor_ms: what an empty model takes on this device with this runtime; None if that was not measured.
        threads: of the runtime.
        cpus: those that the measuring process was pinned to, as a list such as "0-3"; None for all.
        hardware: what tells the measured device from others: a serial number, or this machine's processor.
        shares_name: whether other hardware was measured under the same device name.
        samples: number of samples that the accuracy is computed from.
        drop_points: percentage points lost against the float model; negative is a gain.
        drop_interval: its 95 % interval, paired sample by sample.
        metric: what `accuracy` is: the task's metric, such as "top1".
        figures: further metrics of the task over the same samples, such as "macro_f1".
        lost, gained: samples that only the float model, or only this file, classifies correctly; None without classes.
        margin_points: the margin that the verdict is about.
        verdict: "better", "no worse", "worse" or "cannot tell"; see `stats.verdict`.
        samples_needed: with about how many samples a verdict other than "cannot tell" can be expected.
        agreement: share of samples with the float model's top-1; None without classes.
        parity, graph_parity, coverage: see Artifact.
        steps: framework, host runtime and, if it is another one, the device.
        pss_bytes: see Process; the largest of all processes.
    """

    model: str
    framework: str
    recipe: str
    target: str
    device: str | None
    emulated: bool
    status: str
    reason: str | None = None
    size_bytes: int | None = None
    latency_ms: Latency | None = None
    instructions: int | None = None
    instructions_p90: int | None = None
    instructions_p99: int | None = None
    load_ms: float | None = None
    first_run_ms: float | None = None
    peak_rss_bytes: int | None = None
    metric: str | None = None
    accuracy: float | None = None
    reference_accuracy: float | None = None
    figures: Mapping[str, float] = field(default_factory=dict)
    drop_points: float | None = None
    drop_interval: tuple[float, float] | None = None
    lost: int | None = None
    gained: int | None = None
    margin_points: float | None = None
    verdict: str | None = None
    samples_needed: int | None = None
    agreement: float | None = None
    parity: Parity | None = None
    graph_parity: Parity | None = None
    coverage: Coverage | None = None
    unchecked: str | None = None
    runtime: str | None = None
    threads: int | None = None
    cpus: str | None = None
    hardware: str | None = None
    shares_name: bool = False
    throttled: bool | None = None
    includes_input_copy: bool | None = None
    floor_ms: float | None = None
    steps: tuple[Step, ...] = ()
    samples: int | None = None
    warnings: tuple[str, ...] = ()
    pss_bytes: int | None = None


# -- what is shipped ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BundledFile:
    """A file of a bundle."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class BundledCell:
    """One model file of a bundle. Paths are relative to the bundle's folder.

    Attributes:
        file: path of the model file (a folder for Core ML); artifact.json lies beside it.
        measured_sha256: of the file that was exported and measured. `inv ship` adds metadata to it, which changes the
            hash and no output.
        results: its row of the results for each device that measured it; one without a device if none could run it.
        measurements: paths of the raw measurements, in the order of `results`; empty if none could run it.
        golden: where golden outputs come from: "host", and names of devices.
        tolerance: the largest |difference| from the golden outputs that an app should accept.
    """

    recipe: str
    target: str
    file: str
    measured_sha256: str
    results: tuple[Cell, ...]
    measurements: tuple[str, ...]
    golden: tuple[str, ...]
    tolerance: float


@dataclass(frozen=True)
class LeftOut:
    """What a bundle does not contain, with the reason.

    Attributes:
        what: "int8 on onnx", or the name of a package.
        status: "unsupported", "failed", "missing" or "not asked for".
    """

    what: str
    status: str
    reason: str


@dataclass(frozen=True)
class Golden:
    """What golden/ contains besides the outputs.

    Attributes:
        samples: indices of the inputs in the evaluation split.
        labels: the true class of each, as an index into the model's labels.
        float_top1: the float model's top-1 of each.
        top1: the top-1 of each golden output, by "recipe/target/device".
        tolerances: the largest |difference| from the golden outputs to accept, by "recipe/target".
    """

    samples: tuple[int, ...]
    labels: tuple[int, ...]
    float_top1: tuple[int, ...]
    top1: Mapping[str, tuple[int, ...]]
    tolerances: Mapping[str, float]
    schema: int = SCHEMA


@dataclass(frozen=True)
class Bundle:
    """bundle.json: what a bundle contains. Its schema for other programs is docs/bundle.schema.json.

    Attributes:
        digest: sha256 of bundle.json with 64 zeros in place of this value.
        version: of the model: major.minor.patch.
        previous: the version that this one was compared with; None for the first bundle of a model.
        licence: an SPDX expression; "NOASSERTION" if the licence was not stated.
        dataset_sha256, samples: the evaluation split.
        accuracy: the float model's, on that split.
        tools: versions of the tools that made the files.
        recommended: for each target, the recipe of the fastest file whose accuracy drop is shown to be below the
            margin.
        packages: names of the packages in the bundle.
        files: every other file of the bundle but bundle.sig, by path.
        key: cache key: what the bundle was made from.
    """

    digest: str
    model: str
    version: str
    previous: str | None
    framework: str
    licence: str
    spec: ModelSpec
    weights_sha256: str
    dataset_sha256: str
    samples: int
    accuracy: float
    tools: Mapping[str, str]
    recommended: Mapping[str, str]
    cells: tuple[BundledCell, ...]
    packages: tuple[str, ...]
    left_out: tuple[LeftOut, ...]
    files: Mapping[str, BundledFile]
    key: str
    schema: int = SCHEMA


# -- to and from JSON --------------------------------------------------------------------------------------------------


def to_json(noun: Any) -> Any:
    """Dataclasses become dicts, tuples become lists; other values stay."""
    if dataclasses.is_dataclass(noun) and not isinstance(noun, type):
        return {f.name: to_json(getattr(noun, f.name)) for f in dataclasses.fields(noun)}
    if isinstance(noun, Mapping):
        return {key: to_json(value) for key, value in noun.items()}
    if isinstance(noun, tuple | list):
        return [to_json(value) for value in noun]
    return noun


def from_json(kind: type[T], value: Any, where: str = "") -> T:
    """The noun of type `kind` that `to_json` made `value` from.

    Raises:
        Broken: a key is missing or unknown, a value has another type, or the schema is not this version's; the
            message names the place.
    """
    return typing.cast(T, _read(kind, value, where or kind.__name__))


def safe_file_name(name: str) -> str:
    """`name` itself, if it is a plain file name: manifests must not point out of their folder.

    Raises:
        Broken: it is a path, or empty, or goes up.
    """
    if name != PurePosixPath(name).name or name in ("", ".", ".."):
        raise Broken(f"{name!r} is not a plain file name")
    return name


@cache
def _fields(kind: type) -> dict[str, tuple[Any, bool]]:
    """Name → (type, required) of a dataclass's fields."""
    hints = typing.get_type_hints(kind)
    empty = dataclasses.MISSING
    return {
        f.name: (hints[f.name], f.default is empty and f.default_factory is empty) for f in dataclasses.fields(kind)
    }


def _read(kind: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if dataclasses.is_dataclass(kind):
        return _read_noun(typing.cast(type, kind), value, where)
    if origin is types.UnionType:
        return _read_union(args, value, where)
    if origin is tuple:
        return _read_tuple(args, value, where)
    if origin is Mapping:
        if not isinstance(value, dict):
            raise Broken(f"{where}: expected an object, not {value!r}")
        return {key: _read(args[1], item, f"{where}.{key}") for key, item in value.items()}
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return value  # not as a float: what is read must hash as what was written
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise Broken(f"{where}: expected {kind.__name__}, not {value!r}")
    return value


def _read_union(args: tuple[Any, ...], value: Any, where: str) -> Any:
    """None, or the alternative that has a value's keys: alternatives are told apart by the names of their fields."""
    if value is None and types.NoneType in args:
        return None
    kinds = [kind for kind in args if kind is not types.NoneType]
    fitting = [
        kind for kind in kinds if isinstance(value, dict) and len(kinds) > 1 and set(value) == set(_fields(kind))
    ]
    return _read((fitting or kinds)[0], value, where)


def _read_tuple(args: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise Broken(f"{where}: expected a list, not {value!r}")
    if args[-1] is Ellipsis:
        args = (args[0],) * len(value)
    if len(args) != len(value):
        raise Broken(f"{where}: expected {len(args)} values, not {len(value)}")
    return tuple(_read(kind, item, f"{where}[{i}]") for i, (kind, item) in enumerate(zip(args, value, strict=True)))


def _read_noun(kind: type, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise Broken(f"{where}: expected an object, not {value!r}")
    known = _fields(kind)
    if "schema" in known and value.get("schema") != SCHEMA:
        raise Broken(f"{where}: schema {value.get('schema')!r} is not {SCHEMA}, the one this version reads")
    missing = [name for name, (_, required) in known.items() if required and name not in value]
    unknown = [name for name in value if name not in known]
    if missing or unknown:
        raise Broken(
            f"{where}: "
            + "; ".join(part for part in (missing and f"missing {missing}", unknown and f"unknown {unknown}") if part)
        )
    return kind(**{name: _read(known[name][0], item, f"{where}.{name}") for name, item in value.items()})
