"""Writes a training's TensorBoard event files from numpy arrays, for every framework.

TensorBoard's own package writes them and loads no framework, so a training in one framework need not import the other.
All frameworks use the same tags, so that their runs can be compared:

    loss/train, accuracy/validation, lr              scalars, one per epoch; accuracy/test at the end
    weights/<tensor>                                 histograms, one per epoch
    mistakes/<sample>: <label> predicted as <…>      misclassified test images, the most confident first
    projector                                        features before the last layer, with labels and thumbnails
    graph, hyperparameters
"""

from __future__ import annotations

import io
import math
import sys
import time
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import stats
from pipeline.errors import DiskFull, PipelineError, described
from pipeline.system import store
from pipeline.system.progress import say

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BUCKETS = 30
MISTAKES = 24
"""The number of misclassified images to show."""
PROJECTED = 1000
"""The number of samples in the projector."""
THUMBNAIL = 32
"""Width and height of a thumbnail in pixels. The projector accepts sprites of up to 8192 × 8192."""
CARD = 128
"""Smaller images are enlarged to this width or height in pixels: TensorBoard shows 8×8 as a dot."""


class Events:
    """The event file of one run, open for writing. A run is a folder.

    Args:
        step: the step after which the training resumes. Later steps that an interrupted run wrote do not count. At 0
            the run starts from scratch.
    """

    def __init__(self, folder: Path, step: int = 0) -> None:
        without_tensorflow()
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        if step == 0:
            store.remove(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self._event = Event
        self._writer = EventFileWriter(str(folder))
        self._folder = folder
        if step:
            self._writer.add_event(Event(step=step + 1, session_log=SessionLog(status=SessionLog.START)))

    def __enter__(self) -> Events:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Writes one point of each of these curves."""
        from tensorboard.plugins.scalar.summary_v2 import scalar_pb

        for tag, value in values.items():
            self._add(scalar_pb(tag, value), step)

    def histograms(self, tensors: Mapping[str, NDArray[Any]], step: int) -> None:
        """Writes the distribution of each tensor's finite values."""
        import numpy as np
        from tensorboard.plugins.histogram.metadata import create_summary_metadata

        for name, values in tensors.items():
            # Not TensorBoard's histogram_pb, which takes 30 times the tensor's memory.
            counts, edges = np.histogram(values[np.isfinite(values)].astype(np.float64), BUCKETS)
            table = np.stack([edges[:-1], edges[1:], counts], axis=1)
            self._tensor(f"weights/{name}", table, create_summary_metadata(None, None), step)

    def graph(self, definition: bytes) -> None:
        """Writes the network, a serialized GraphDef."""
        self._writer.add_event(self._event(graph_def=definition))

    def hyperparameters(self, values: Mapping[str, bool | float | str], run: str) -> None:
        """Writes the hyperparameters and marks the training as finished. Its metrics are the scalars of this run."""
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2
        from tensorboard.plugins.hparams.summary_v2 import hparams_pb

        self._add(hparams_pb(dict(values), trial_id=run), 0)
        end = plugin_data_pb2.SessionEndInfo(status=api_pb2.STATUS_SUCCESS, end_time_secs=time.time())
        ended = metadata.create_summary_metadata(plugin_data_pb2.HParamsPluginData(session_end_info=end))
        value = Summary.Value(tag=metadata.SESSION_END_INFO_TAG, metadata=ended, tensor=metadata.NULL_TENSOR)
        self._add(Summary(value=[value]), 0)

    def mistakes(
        self,
        outputs: NDArray[np.float32],
        labels: NDArray[np.int64],
        names: Sequence[str],
        image: Callable[[int], NDArray[np.uint8]],
        step: int,
    ) -> None:
        """Writes the most confident wrong predictions.

        Args:
            outputs: (N, classes) logits.
            labels: (N,), index into `names`.
            image: returns the i-th sample, uint8 (height, width, channels).
        """
        import numpy as np
        from tensorboard.plugins.image.metadata import create_summary_metadata

        predictions, confidence = stats.top1(outputs), _softmax(outputs).max(1)
        wrong = np.flatnonzero((predictions != labels) & (predictions >= 0))  # -1: outputs that are not finite
        for i in wrong[np.argsort(-confidence[wrong], kind="stable")][:MISTAKES]:
            label, prediction = names[labels[i]], names[predictions[i]]
            pixels = _enlarged(image(int(i)))
            metadata = create_summary_metadata(
                None, f"label {label}, predicted as {prediction} with {confidence[i]:.0%} confidence"
            )
            height, width = pixels.shape[:2]
            content = np.array([str(width).encode(), str(height).encode(), _png(pixels)], dtype=object)
            self._tensor(f"mistakes/{i:05}: {label} predicted as {prediction}", content, metadata, step)

    def pictures(self, pictures: Mapping[str, NDArray[np.uint8]], step: int) -> None:
        """Writes images (height, width, channels) under their tags."""
        import numpy as np
        from tensorboard.plugins.image.metadata import create_summary_metadata

        for tag, pixels in pictures.items():
            height, width = pixels.shape[:2]
            content = np.array([str(width).encode(), str(height).encode(), _png(pixels)], dtype=object)
            self._tensor(
                tag, content, create_summary_metadata(None, "the model's on the left, the truth on the right"), step
            )

    def projector(
        self, features: NDArray[np.float32], columns: Mapping[str, Sequence[str]], images: Sequence[NDArray[np.uint8]]
    ) -> None:
        """Writes features (N, D) as points, each with its values in these columns and its image (height, width,
        channels)."""
        import numpy as np
        from google.protobuf import text_format
        from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

        np.savetxt(self._folder / "features.tsv", features, fmt="%.5g", delimiter="\t")
        rows = ["\t".join(columns), *("\t".join(map(_plain, row)) for row in zip(*columns.values(), strict=True))]
        (self._folder / "samples.tsv").write_text("\n".join(rows) + "\n")
        (self._folder / "samples.png").write_bytes(_png(_sprite(images)))
        config = ProjectorConfig()
        embedding = config.embeddings.add(
            tensor_name="features before the last layer", tensor_path="features.tsv", metadata_path="samples.tsv"
        )
        embedding.sprite.image_path = "samples.png"
        embedding.sprite.single_image_dim.extend([THUMBNAIL, THUMBNAIL])
        store.write_text(self._folder / "projector_config.pbtxt", text_format.MessageToString(config))

    def _tensor(self, tag: str, value: NDArray[Any], metadata: Any, step: int) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.util.tensor_util import make_tensor_proto

        tensor = make_tensor_proto(value)
        self._add(Summary(value=[Summary.Value(tag=tag, metadata=metadata, tensor=tensor)]), step)

    def _add(self, summary: Any, step: int) -> None:
        self._writer.add_event(self._event(summary=summary, step=step, wall_time=time.time()))


def shown(part: str, write: Callable[[], None]) -> bool:
    """Writes a part of a run. If that fails, prints a line and returns False: a training does not depend on it.

    Raises:
        DiskFull: the disk is full.
    """
    try:
        write()
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        if isinstance(error, DiskFull) or (isinstance(error, OSError) and store.is_full(error)):
            raise
        say(f"warning: TensorBoard shows no {part}: {error if isinstance(error, PipelineError) else described(error)}")
        return False
    return True


# -- reading -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tag:
    """One tag of a run.

    Attributes:
        plugin: the plug-in of TensorBoard that shows it.
        points: (seconds since the start of the run, value); the values of all but scalars are 0.
    """

    name: str
    plugin: str
    points: tuple[tuple[float, float], ...]


def tags(folder: Path) -> dict[str, Tag]:
    """The tags of the run in a folder, by name. The graph's tag is TensorBoard's own."""
    without_tensorflow()
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    from tensorboard.util.tensor_util import make_ndarray

    found: dict[str, Tag] = {}
    began: float | None = None
    for path in sorted(folder.glob("events.*")):
        for event in EventFileLoader(str(path)).Load():
            began = event.wall_time if began is None else began
            values = list(event.summary.value)
            for value in values:
                plugin = value.metadata.plugin_data.plugin_name or found[value.tag].plugin
                number = float(make_ndarray(value.tensor)) if plugin == "scalars" else 0.0
                before = found[value.tag].points if value.tag in found else ()
                found[value.tag] = Tag(value.tag, plugin, (*before, (event.wall_time - began, number)))
    return found


def graph_nodes(folder: Path) -> list[str]:
    """The names of the nodes of the graph in a run's folder; none if it has no graph."""
    without_tensorflow()
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    from tensorboard.compat.proto.graph_pb2 import GraphDef

    for path in sorted(folder.glob("events.*")):
        for event in EventFileLoader(str(path)).Load():
            if event.graph_def:
                return [node.name for node in GraphDef.FromString(event.graph_def).node]
    return []


def without_tensorflow() -> None:
    """Keeps TensorBoard from importing an installed TensorFlow, which takes 5 s and prints many lines. TensorBoard does
    not import it if a module of this name exists."""
    sys.modules.setdefault("tensorboard.compat.notf", types.ModuleType("notf"))


def _plain(text: str) -> str:
    """A value for a tab-separated table, without tabs: the name of a class folder may contain one."""
    return " ".join(text.split())


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    import numpy as np

    with np.errstate(invalid="ignore"):  # outputs may be NaN or infinite
        powers = np.exp(logits - logits.max(1, keepdims=True))
    shares: NDArray[np.float32] = powers / powers.sum(1, keepdims=True)
    return shares


def _enlarged(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A small image, enlarged by repeating every pixel."""
    times = max(1, CARD // max(pixels.shape[:2]))
    return pixels.repeat(times, 0).repeat(times, 1)


def _sprite(images: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Thumbnails arranged in a square, in RGB."""
    import numpy as np
    from PIL import Image

    across = math.ceil(math.sqrt(len(images)))
    sheet = np.zeros((across * THUMBNAIL, across * THUMBNAIL, 3), np.uint8)
    for i, pixels in enumerate(images):
        row, column = (place * THUMBNAIL for place in divmod(i, across))
        image = _image(pixels).convert("RGB").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
        sheet[row : row + THUMBNAIL, column : column + THUMBNAIL] = np.asarray(image)
    return sheet


def _png(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    _image(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _image(pixels: NDArray[np.uint8]) -> Any:
    from PIL import Image

    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
