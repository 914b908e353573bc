"""Linear classifiers side by side: none is lost, none has an effect on another."""

from __future__ import annotations

import pytest
import torch

from steps.core.schedules import Progress
from steps.evaluation.probes import (
    FeatureSpec,
    Head,
    Probes,
    assemble,
    best,
    build_optimizer,
    grid,
    set_rates,
    train_step,
)
from steps.params.recipe import Schedule

CLS, BOTH = FeatureSpec(1, "cls"), FeatureSpec(2, "cls_mean")
WIDTHS = {CLS: 4, BOTH: 12}


def _trained(heads: list[Head]) -> Probes:
    draw = torch.Generator().manual_seed(0)
    probes = Probes(heads, WIDTHS, classes=3)
    for linear in probes.linears:
        torch.nn.init.zeros_(linear.weight)
    optimizer = build_optimizer(probes, "sgd", 256, momentum=0.9, weight_decay=0.0)
    for step in range(4):
        features = {reads: torch.randn(8, WIDTHS[reads], generator=draw) for reads in (CLS, BOTH)}
        set_rates(optimizer, Progress(step, 2, 4), Schedule(warmup_epochs=0))
        train_step(probes, optimizer, features, torch.arange(8) % 3)
    return probes


def test_a_classifier_is_the_same_alone_and_in_a_grid() -> None:
    heads = [Head(reads, lr) for reads in (CLS, BOTH) for lr in (0.1, 1.0)]
    together = _trained(heads)
    for head, linear in zip(heads, together.linears, strict=True):
        (alone,) = _trained([head]).linears
        torch.testing.assert_close(linear.weight, alone.weight)
        torch.testing.assert_close(linear.bias, alone.bias)


def test_heads_of_rates_that_round_alike_are_kept_apart() -> None:
    heads = grid([1], ["cls"], [1e-7, 2e-7])
    assert len({head.name for head in heads}) == 2
    assert len(Probes(heads, WIDTHS, classes=3).linears) == 2
    with pytest.raises(ValueError, match="alike"):
        Probes([heads[0], heads[0]], WIDTHS, classes=3)


def test_what_is_read_of_blocks_with_registers() -> None:
    earlier, last = torch.randn(2, 5, 4), torch.randn(2, 5, 4)
    mean = last[:, 2:].mean(dim=1)
    found = assemble([earlier, last], 2, FeatureSpec(2, "cls_mean"))
    assert torch.equal(found, torch.cat([earlier[:, 0], last[:, 0], mean], dim=1))
    mixed = assemble([earlier, last], 2, FeatureSpec(1, "cls_mean_interleaved"))
    assert torch.equal(mixed[:, 0::2], last[:, 0])
    assert torch.equal(mixed[:, 1::2], mean)
    with pytest.raises(ValueError, match="one block"):
        assemble([earlier, last], 2, FeatureSpec(2, "cls_mean_interleaved"))


def test_the_rate_stays_within_an_epoch() -> None:
    probes = Probes([Head(CLS, 1.0)], WIDTHS, classes=3)
    optimizer = build_optimizer(probes, "sgd", 256, momentum=0.9, weight_decay=0.0)
    rates = []
    for step in range(6):
        set_rates(optimizer, Progress(step, 3, 6), Schedule(warmup_epochs=0), every="epoch")
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == [1.0, 1.0, 1.0, 0.5, 0.5, 0.5]


def test_the_first_of_the_best_is_chosen() -> None:
    assert best([1, 3, 3, 2]) == 1
