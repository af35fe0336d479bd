"""Frameworks are imported once, before the tests: what others' code warns of while it is imported is not ours."""

from __future__ import annotations

import warnings

import pytest

from pipeline.worker import _import_order


@pytest.fixture(scope="session", autouse=True)
def imported() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _import_order()
        import lightning_fabric  # noqa: F401
        import litert_torch.quantize.pt2e_quantizer  # noqa: F401
        import torchao.quantization.pt2e.quantize_pt2e  # noqa: F401
