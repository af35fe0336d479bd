"""Tests, as the rooms they are of."""

import pytest

pytest.register_assert_rewrite("tests.boards", "tests.cli", "tests.edge_bench.calls")  # an assert there says what was
