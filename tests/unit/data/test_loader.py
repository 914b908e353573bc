"""What is loaded depends on the seed and the step, not on devices, workers or where one starts."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from steps.data.loader import TrainingViews, plan_batch, training_batches
from steps.data.text import Captions
from steps.params.text import Vocabulary
from steps.params.views import Blur, Jitter, View
from tests.scenery import Scenery

VIEWS = [
    View(
        area=[0.2, 1.0],
        jitter=Jitter(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, probability=0.8),
        grayscale=0.2,
        blur=Blur(probability=0.5),
        solarize=0.2,
        count=2,
    ),
    View(area=[0.05, 0.4], size=16, rand_augment="rand-m9-mstd0.5-inc1"),
]


def _load(
    views: TrainingViews,
    *,
    start: int = 0,
    stop: int = 9,
    world: int = 1,
    limit: int = 8,
    **more: int,
) -> list[list[Tensor]]:
    """For each step, every view of the global batch, captions if there are, and the labels."""
    parts = []
    for rank in range(world):
        plan = plan_batch(8, limit, rank=rank, world=world, where="")
        workers = more.get("workers", 0)
        loaded = training_batches(views, plan, seed=3, start=start, stop=stop, workers=workers)
        steps: list[list[list[Tensor]]] = [[] for _ in range(start, stop)]
        for index, samples in enumerate(loaded):
            texts = [] if samples.text is None else [samples.text]
            steps[index // plan.accumulation].append([*samples.views, *texts, samples.labels])
        parts.append(steps)
    return [
        [torch.cat(tensors) for tensors in zip(*itertools.chain(*at_step), strict=True)]
        for at_step in zip(*parts, strict=True)
    ]


def _same(ours: list[list[Tensor]], theirs: list[list[Tensor]]) -> bool:
    return len(ours) == len(theirs) and all(
        torch.equal(a, b)
        for step, other in zip(ours, theirs, strict=True)
        for a, b in zip(step, other, strict=True)
    )


def test_independent_of_devices_workers_accumulation_and_start(scenery: Scenery) -> None:
    views = TrainingViews(scenery.images(train=24), VIEWS, 32, seed=3)
    whole = _load(views)
    assert [tuple(view.shape) for view in whole[0]] == [
        (8, 3, 32, 32),
        (8, 3, 32, 32),
        (8, 3, 16, 16),
        (8,),
    ]
    assert _same(_load(views, world=2), whole)
    assert _same(_load(views, limit=2), whole)
    assert _same(_load(views, workers=2), whole)
    assert _same(_load(views, start=4), whole[4:])


def test_epochs_differ_and_cover_the_set(scenery: Scenery) -> None:
    views = TrainingViews(scenery.images(train=24), VIEWS, 32, seed=3)
    steps = _load(views)
    for epoch in range(3):
        labels = torch.cat([step[-1] for step in steps[3 * epoch : 3 * epoch + 3]])
        assert labels.bincount().tolist() == [8, 8, 8]
    assert not torch.equal(steps[0][0], steps[3][0])


def test_loading_leaves_global_generators_alone(scenery: Scenery) -> None:
    views = TrainingViews(scenery.images(train=24), VIEWS, 32, seed=3)
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    _load(views, stop=2)
    assert torch.equal(torch.rand(3), expected)


def test_captions_do_not_depend_on_devices_workers_or_views(scenery: Scenery) -> None:
    data = scenery.images(train=24)
    captions = Captions(data, Vocabulary(size=300), 12, ["a {class}", "{class} there"], 3, "")
    whole = _load(TrainingViews(data, VIEWS, 32, 3, captions))
    assert whole[0][3].shape == (8, 12)
    views = TrainingViews(data, VIEWS[1:], 32, 3, captions)
    fewer = _load(views, world=2, limit=2, workers=2)
    assert all(torch.equal(a[3], b[1]) for a, b in zip(whole, fewer, strict=True))
