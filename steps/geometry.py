"""Measure how a frozen backbone's features lie on the sphere; nothing is trained.

    python -m steps.geometry --protocol params/protocols/geometry.yaml --backbone .../backbone \\
        --data results/data/shapes --out .../geometry/geometry.json
"""

from __future__ import annotations

import time

import torch
from torch import Tensor

from steps.artifacts import read_manifest, write_scores
from steps.artifacts.publish import check_places
from steps.command import run_step, task_parser
from steps.core.finite import check_rows
from steps.data.loader import EvaluationViews, dataset_facts, evaluation_batches
from steps.data.views import normalise
from steps.engine.devices import claim_gpu
from steps.engine.watch import effective_rank
from steps.evaluation.geometry import Pairs, alignment, uniformity
from steps.models.backbones import image_size, load_backbone, normalisation
from steps.models.features import frozen_features
from steps.params.load import load
from steps.params.protocols import Geometry


@torch.inference_mode()
def main(arguments: list[str] | None = None) -> None:
    started = time.monotonic()
    options = task_parser(__doc__, data="a prepared dataset").parse_args(arguments)
    check_places(options, "geometry", record=True)
    protocol = load(options.protocol, Geometry)
    facts = dataset_facts(options.data)
    seed = read_manifest(options.backbone, "pretrain").seed or 0
    backbone = load_backbone(options.backbone)
    mean, std = normalisation(options.backbone)
    size = image_size(backbone)
    claim_gpu()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    backbone = backbone.to(device)

    def features(images: Tensor) -> Tensor:
        inputs = normalise(images.to(device), mean, std)
        (rows,) = frozen_features(backbone, inputs, [protocol.pooling]).values()
        check_rows(rows, "features of a batch")
        return rows.float()

    whole = EvaluationViews(options.data, "val", size, protocol.crop_fraction)
    pairs = Pairs(options.data, "val", protocol.view, size, seed)
    of_images = torch.cat([features(x) for x, _ in evaluation_batches(whole, protocol.batch_size)])
    of_views = torch.cat(
        [
            features(x.flatten(0, 1)).unflatten(0, (-1, 2))
            for x, _ in evaluation_batches(pairs, protocol.batch_size)
        ]
    )
    first, second = of_views.unbind(1)
    values = {
        "effective_rank": effective_rank(of_images),
        "alignment": alignment(first, second, protocol.alpha),
        "uniformity": uniformity(of_images, protocol.t),
    }
    write_scores(
        options.out,
        {metric: (value, len(whole)) for metric, value in values.items()},
        task="geometry",
        protocol=options.protocol,
        params=protocol.resolved(),
        inputs={"backbone": options.backbone, "data": options.data},
        dataset=facts.name,
        started=started,
        unit="",
        facts={"width": backbone.num_features},
    )


if __name__ == "__main__":
    run_step(main)
