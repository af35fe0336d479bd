"""Distributed training with PyTorch: batch normalisation over all processes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

pytestmark = pytest.mark.usefixtures("imported")


@pytest.fixture
def alone() -> Iterator[None]:
    """A process group of this process only."""
    import torch.distributed as dist

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("options", [{}, {"momentum": None}, {"affine": False}, {"track_running_stats": False}])
def test_synchronized_batch_normalisation_matches_pytorchs(options: dict[str, Any]) -> None:
    import copy

    import torch
    from torch import nn

    from pipeline.frameworks import _torch_ddp

    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3, eps=1e-3, **options))
    ours = _torch_ddp.synchronize_batch_norm(copy.deepcopy(plain), gpu=False)
    assert isinstance(ours[1], _torch_ddp.BatchNorm) and ours.state_dict().keys() == plain.state_dict().keys()
    for _ in range(2):
        images = torch.randn(4, 1, 6, 6) + 3
        wanted, got = plain(images), ours(images)
        torch.testing.assert_close(got, wanted)
        for net, out in ((plain, wanted), (ours, got)):
            net.zero_grad()
            out.pow(3).sum().backward()
        for one, other in zip(plain.parameters(), ours.parameters(), strict=True):
            torch.testing.assert_close(other.grad, one.grad, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(ours.state_dict(), plain.state_dict())
    torch.testing.assert_close(ours.eval()(images), plain.eval()(images))


@pytest.mark.parametrize("gpu", [False, True])
def test_a_batch_normalisation_with_its_own_forward_is_refused(gpu: bool) -> None:
    """The replacement would compute without the activation that timm's BatchNormAct2d applies."""
    from torch import Tensor, nn

    from pipeline.errors import BadModel
    from pipeline.frameworks import _torch_ddp

    class Activated(nn.BatchNorm2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).relu()

    class Renamed(nn.BatchNorm2d):
        pass

    with pytest.raises(BadModel, match=r"\b1\b.*Activated.*--devices 1"):
        _torch_ddp.synchronize_batch_norm(nn.Sequential(nn.Conv2d(1, 3, 3), Activated(3)), gpu)
    assert not isinstance(_torch_ddp.synchronize_batch_norm(nn.Sequential(Renamed(3)), gpu)[0], Renamed)
