"""Reads a TensorBoard run folder with TensorBoard's own code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.system.tensorboard import without_tensorflow


class Run:
    """What TensorBoard reads from a run folder."""

    def __init__(self, folder: Path) -> None:
        without_tensorflow()
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        self.folder = folder
        self.events = EventAccumulator(str(folder), size_guidance={"tensors": 0})
        self.events.Reload()

    @property
    def tags(self) -> list[str]:
        return list(self.events.Tags()["tensors"])

    def scalars(self, tag: str) -> list[tuple[int, float]]:
        return [(event.step, float(_array(event.tensor_proto))) for event in self.events.Tensors(tag)]

    def tensor(self, tag: str) -> NDArray[Any]:
        """The tensor's value at the last step."""
        return _array(self.events.Tensors(tag)[-1].tensor_proto)

    def images(self) -> dict[str, tuple[tuple[int, int], str]]:
        """The size and the description of each image, by tag."""
        found = {}
        for tag in self.tags:
            metadata = self.events.SummaryMetadata(tag)
            if metadata.plugin_data.plugin_name == "images":
                width, height, *_ = self.tensor(tag)
                found[tag] = ((int(width), int(height)), metadata.summary_description)
        return found

    def embedding(self) -> Any:
        """The projector's configuration."""
        from google.protobuf import text_format
        from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

        (found,) = text_format.Parse((self.folder / "projector_config.pbtxt").read_text(), ProjectorConfig()).embeddings
        return found

    def hyperparameters(self) -> dict[str, Any]:
        values = self._session("_hparams_/session_start_info").session_start_info.hparams
        return {name: getattr(value, value.WhichOneof("kind")) for name, value in values.items()}

    def ended(self) -> bool:
        from tensorboard.plugins.hparams.api_pb2 import STATUS_SUCCESS

        status = self._session("_hparams_/session_end_info").session_end_info.status
        return bool(status == STATUS_SUCCESS)

    def nodes(self) -> list[str]:
        """Names of the graph's nodes."""
        return [node.name for node in self.events.Graph().node]

    def starts(self) -> list[int]:
        """Steps at which the run was resumed. Older events of later steps do not count."""
        from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

        files = sorted(self.folder.glob("events.*"))
        found = [event for path in files for event in EventFileLoader(str(path)).Load()]
        return [event.step for event in found if event.HasField("session_log")]

    def _session(self, tag: str) -> Any:
        from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

        return HParamsPluginData.FromString(self.events.SummaryMetadata(tag).plugin_data.content)


def _array(proto: Any) -> NDArray[Any]:
    from tensorboard.util.tensor_util import make_ndarray

    return np.asarray(make_ndarray(proto))
