"""--threads: parsing, and the limit set by the cores of a device."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline import devices
from pipeline.errors import BadOption
from pipeline.stages import _threads
from pipeline.stages.plan import plugins
from pipeline.system import store
from pipeline.system.store import Store

LOCAL = devices.find("local")
CORES = os.cpu_count() or 1


@pytest.mark.parametrize(("text", "numbers"), [("1", (1,)), ("4,1,2,2", (1, 2, 4)), (" 1, 2", (1, 2)), ("all", ())])
def test_numbers_are_sorted_without_duplicates(text: str, numbers: tuple[int, ...]) -> None:
    assert _threads.wanted(text) == numbers


def test_all_means_one_to_all_cores_of_the_device(matrix: Store) -> None:
    assert _threads.on(matrix, LOCAL, plugins("targets", "onnx"), ()) == tuple(range(1, CORES + 1))


def test_more_threads_than_cores_are_refused(matrix: Store) -> None:
    with pytest.raises(BadOption, match=rf"--threads {CORES + 1}: local has {CORES} cores?; --threads all "):
        _threads.on(matrix, LOCAL, plugins("targets", ["coreml", "onnx"]), (1, CORES + 1))


def test_one_thread_needs_no_call_to_the_device(matrix: Store) -> None:
    stopped = devices.find("pi4-emulated")
    assert _threads.on(matrix, stopped, plugins("targets", "onnx"), (1,)) == (1,)


def test_a_device_that_runs_none_of_the_targets_is_named(matrix: Store) -> None:
    with pytest.raises(BadOption, match="local runs none of coreml"):
        _threads.on(matrix, LOCAL, plugins("targets", "coreml"), ())


@pytest.mark.parametrize(("number", "folder"), [(1, "pi4"), (4, "pi4/threads-4")])
def test_measurements_with_several_threads_have_a_folder_named_after_the_number(number: int, folder: str) -> None:
    assert store.threads_folder(Path("pi4"), number) == Path(folder)
    assert store.device_and_threads(Path(folder)) == ("pi4", number)


@pytest.mark.parametrize("folder", ["pi4/threads-two", "pi4/more"])
def test_a_folder_with_another_name_has_no_number_of_threads(folder: str) -> None:
    assert store.device_and_threads(Path(folder)) == ("pi4", 0)
