"""The training loop that all frameworks share: learning rate schedule, augmentation names, precision."""

from __future__ import annotations

from itertools import pairwise

import pytest

from pipeline.errors import BadData, BadOption
from pipeline.frameworks import _training_loop


def test_the_learning_rate_rises_over_a_tenth_of_the_steps_and_then_falls_to_zero() -> None:
    rates = [_training_loop.learning_rate(step, 100) for step in range(101)]
    assert rates[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert rates[10] == 1 and rates[55] == pytest.approx(0.5) and rates[100] == pytest.approx(0)
    assert all(later < earlier for earlier, later in pairwise(rates[10:]))
    assert [_training_loop.learning_rate(step, 1) for step in (0, 1)] == [1, 1], "one step is the warm-up"


@pytest.mark.parametrize("batch_size", [1, 2, 3, 32])
@pytest.mark.parametrize("samples", [1, 2, 3, 4, 31, 32, 33, 64, 65, 129])
def test_batches_cover_an_epoch_and_a_last_batch_of_one_joins_the_one_before_it(samples: int, batch_size: int) -> None:
    order = list(range(samples))
    batches = [order[batch] for batch in _training_loop.batches(samples, batch_size)]
    assert [index for batch in batches for index in batch] == order
    sizes = [len(batch) for batch in batches]
    assert all(size == batch_size for size in sizes[:-1])
    assert sizes[-1] <= batch_size + 1
    assert (1 in sizes) == (1 in (samples, batch_size))


def test_augmentations_are_flip_and_shifts_by_a_number_of_pixels() -> None:
    assert [_training_loop.max_shift(name) for name in ("flip", "shift1", "shift12")] == [None, 1, 12]
    for name in ("flop", "shift", "shift-1", "shift1.5", "2"):
        with pytest.raises(BadOption, match="unknown augmentation"):
            _training_loop.max_shift(name)


def test_bfloat16_is_used_only_on_gpus_that_support_it() -> None:
    capabilities = (None, (7, 0), (7, 5), (8, 0), (9, 0), (10, 0))
    found = [_training_loop.precision(capability) for capability in capabilities]
    assert found == ["float32"] * 3 + ["bfloat16"] * 3


def test_a_process_with_different_data_or_code_is_reported_by_rank() -> None:
    _training_loop.check_same_key("key", "key", 1)
    with pytest.raises(BadData, match="process 1 "):
        _training_loop.check_same_key("key", "another", 1)
