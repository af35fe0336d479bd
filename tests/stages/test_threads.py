"""--threads: parsing, and the limit set by the cores of a device."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline import devices
from pipeline.errors import BadOption
from pipeline.stages import _threads
from pipeline.stages.plan import plugins
from pipeline.system import cpus, store
from pipeline.system.store import Store

LOCAL = devices.find("local")
CORES = cpus.count()


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


@pytest.mark.parametrize(
    ("text", "numbers"), [("0", (0,)), ("0-3,6", (0, 1, 2, 3, 6)), ("2,1", (1, 2)), ("7,0-1,0", (0, 1, 7))]
)
def test_cpus_are_sorted_without_duplicates(text: str, numbers: tuple[int, ...]) -> None:
    assert _threads.pinned(text) == numbers


@pytest.mark.parametrize("text", ["", "a", "1-", "-1", "3-1", "0,,1", "0-99999", "1.5"])
def test_a_text_that_is_no_list_of_cpus_is_refused(text: str) -> None:
    with pytest.raises(BadOption, match="--cpus"):
        _threads.pinned(text)


def test_pinned_processes_have_at_most_as_many_threads_as_cpus(matrix: Store) -> None:
    assert _threads.on(matrix, LOCAL, plugins("targets", "onnx"), (), pinned=2) == (1, 2)
    with pytest.raises(BadOption, match="--threads 3"):
        _threads.on(matrix, LOCAL, plugins("targets", "onnx"), (1, 3), pinned=2)


@pytest.mark.parametrize(("number", "folder"), [(1, "pi4"), (4, "pi4/threads-4")])
def test_measurements_with_several_threads_have_a_folder_named_after_the_number(number: int, folder: str) -> None:
    assert store.threads_folder(Path("pi4"), number) == Path(folder)
    assert store.device_and_threads(Path(folder)) == ("pi4", number)


@pytest.mark.parametrize("folder", ["pi4/threads-two", "pi4/more"])
def test_a_folder_with_another_name_has_no_number_of_threads(folder: str) -> None:
    assert store.device_and_threads(Path(folder)) == ("pi4", 0)
