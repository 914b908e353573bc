"""KoLeo against its formula, and over two processes against one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from steps.methods.losses import koleo
from tests.golden.ranks import on_ranks


def _koleo_and_gradient(features: Tensor) -> tuple[Tensor, Tensor]:
    features.requires_grad_(True)
    loss = koleo(features)
    loss.backward()
    assert features.grad is not None
    return loss.detach(), features.grad


def test_koleo_by_hand() -> None:
    # On the unit circle at 0, 60 and 180 degrees: nearest are 60, 0 and 60, at 1, 1 and sqrt(3).
    angles = torch.tensor([0.0, torch.pi / 3, torch.pi])
    features = 2 * torch.stack([angles.cos(), angles.sin()], dim=1)
    assert koleo(features).item() == pytest.approx(-torch.tensor(3.0).sqrt().log().item() / 3)


def test_koleo_over_processes() -> None:
    features = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    loss, gradient = _koleo_and_gradient(features.clone())
    parts = on_ranks(_koleo_and_gradient, [(features[:3],), (features[3:],)])
    torch.testing.assert_close(torch.stack([part[0] for part in parts]).mean(), loss)
    # DDP takes the mean over processes.
    torch.testing.assert_close(torch.cat([part[1] for part in parts]) / 2, gradient)
