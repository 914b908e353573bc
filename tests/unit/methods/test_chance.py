"""``chance`` is the loss of a network that says the same of every image, under a name it logs."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from steps.methods.clip import CLIP, image_text_sigmoid, image_text_softmax
from steps.methods.dilemma import DILEMMA
from steps.methods.dino import DINO
from steps.methods.dinov2 import DINOv2
from steps.methods.losses import all_pairs, binary_entropy, momentum_contrast, self_distillation
from steps.methods.mae import MAE
from steps.methods.mocov3 import MoCoV3
from steps.methods.simclr import SimCLR, nt_xent
from tests.scenery import Scenery
from tests.unit.engine.one_step import BATCH, method_of, one_step

N, K, TAU = 6, 10, 0.2
SAME = F.normalize(torch.ones(N, 4), dim=1)
LOGITS = torch.randn(N, K, generator=torch.Generator().manual_seed(0))


def _chance(method: type, batch: int = N, **fields: Any) -> dict[str, float]:
    nested = {
        name: SimpleNamespace(**value) if isinstance(value, dict) else value
        for name, value in fields.items()
    }
    found: dict[str, float] = method.chance(SimpleNamespace(**nested), batch)  # type: ignore[attr-defined]
    return found


def test_dino() -> None:
    loss, _ = self_distillation(
        [torch.zeros(N, K)] * 4,
        [LOGITS, LOGITS],
        center=torch.zeros(1, K),
        student_temp=0.1,
        teacher_temp=0.04,
    )
    found = _chance(DINO, params={"head": SimpleNamespace(out_dim=K)})
    assert found == {"loss": pytest.approx(float(loss))} == {"loss": pytest.approx(math.log(K))}


@pytest.mark.parametrize("views", [2, 5])
def test_dinov2(views: int) -> None:
    local, teacher = views - 2, LOGITS.softmax(dim=1)
    zeros = torch.zeros(N, K)
    counted = 2 + 2 * local if local else 3
    found = _chance(DINOv2, views=views, params={"head": SimpleNamespace(out_dim=K)})
    across = 2 * all_pairs([zeros], [teacher], 0.1) / counted
    assert found["dino_global"] == pytest.approx(float(across))
    if local:
        within = all_pairs([zeros] * local, [teacher, teacher], 0.1) / counted
        assert found["dino_local"] == pytest.approx(float(within))
    else:
        assert list(found) == ["dino_global"]


def test_simclr() -> None:
    loss, _ = nt_xent(SAME, SAME, TAU)
    assert _chance(SimCLR) == {"loss": pytest.approx(float(loss))}
    assert float(loss) == pytest.approx(2 * math.log(11))  # 11 other views of 6 images


def test_mocov3_and_dilemma() -> None:
    loss = 2 * float(momentum_contrast(SAME, SAME, TAU))
    params = {"temperature": TAU, "misplaced": 0.25}
    assert _chance(MoCoV3, params=params) == {"loss": pytest.approx(loss)}
    # -log(1/4) / 4 - 3 log(3/4) / 4
    entropy = pytest.approx(0.5623351)
    assert _chance(DILEMMA, params=params, detector=object()) == {
        "contrastive": pytest.approx(loss),
        "detection1": entropy,
        "detection2": entropy,
    }


def test_clip_and_siglip() -> None:
    scale = torch.tensor(5.0)
    loss = image_text_softmax(SAME, SAME, SAME, SAME, scale, 0)
    assert _chance(CLIP, logit_bias=None) == {"loss": pytest.approx(float(loss))}
    # Every logit is the one whose sigmoid is the share of right pairs.
    best = torch.tensor(math.log(1 / (N - 1))) - scale
    loss = image_text_sigmoid(SAME, SAME, scale, best, 0)
    found = _chance(CLIP, logit_bias=object())
    assert found == {"loss": pytest.approx(float(loss), rel=1e-5)}


def test_entropy_of_a_coin() -> None:
    assert binary_entropy(0.5) == pytest.approx(math.log(2))
    assert binary_entropy(1.0) == 0


def test_a_reconstruction_has_none() -> None:
    assert MAE.chance(SimpleNamespace(), 8) == {}  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["supervised", "simclr", "dino", "ibot", "dinov2", "dilemma", "mp3", "droppos"]
)
def test_names_are_those_that_are_logged(name: str, scenery: Scenery) -> None:
    method = method_of(name, scenery)
    logged = json.loads(one_step(name, method, scenery, BATCH).metrics.splitlines()[-1])
    chance = method.chance(BATCH)
    assert chance
    assert set(chance) <= set(logged)
