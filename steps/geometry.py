"""Measure how the features of a frozen backbone spread on the sphere; nothing is trained.

    python -m steps.geometry --protocol params/protocols/geometry.yaml --backbone .../backbone \\
        --data results/data/shapes --out .../geometry/geometry.json
"""

from __future__ import annotations

import torch
from torch import Tensor

from steps.command import UserError, run_step
from steps.core.finite import check_rows
from steps.data.loader import EvaluationViews, dataset_facts, evaluation_batches
from steps.engine.watch import effective_rank
from steps.evaluation.frozen import FrozenBackbone
from steps.evaluation.geometry import ManyViews, Pairs, alignment, lidar, uniformity
from steps.evaluation.task import TaskStep
from steps.models.features import frozen_features
from steps.params.protocols import Geometry


@torch.inference_mode()
def main(arguments: list[str] | None = None) -> None:
    step = TaskStep(
        "geometry", __doc__, Geometry, arguments, data="a prepared dataset", decides=False
    )
    protocol, data = step.protocol, step.options.data
    dataset_facts(data)
    backbone = FrozenBackbone.load(step.options.backbone).to(step.device)

    def features(images: Tensor) -> Tensor:
        inputs = backbone.inputs(images)
        (rows,) = frozen_features(backbone.model, inputs, [protocol.pooling]).values()
        check_rows(rows, "features of a batch")
        return rows.float()

    whole = EvaluationViews(data, "val", backbone.size, protocol.crop_fraction)
    if len(whole) < 2:
        raise UserError(
            str(data), "one validation image, but geometry compares several", allowed="2 or more"
        )
    pairs = Pairs(data, "val", protocol.view, backbone.size, step.seed)
    of_images = torch.cat([features(x) for x, _ in evaluation_batches(whole, protocol.batch_size)])
    of_views = torch.cat(
        [
            features(x.flatten(0, 1)).unflatten(0, (-1, 2))
            for x, _ in evaluation_batches(pairs, protocol.batch_size)
        ]
    )
    values = {
        "effective_rank": effective_rank(of_images),
        "alignment": alignment(of_views[:, 0], of_views[:, 1], protocol.alpha),
        "uniformity": uniformity(of_images, protocol.t),
    }
    scores = {metric: (value, len(whole)) for metric, value in values.items()}
    if (asked := protocol.lidar) is not None:
        several = ManyViews(data, "val", protocol.view, backbone.size, step.seed, asked)
        batch = max(protocol.batch_size // asked.views, 1)
        of_many = torch.cat(
            [
                features(x.flatten(0, 1)).unflatten(0, (-1, asked.views)).cpu()
                for x, _ in evaluation_batches(several, batch)
            ]
        )
        scores["lidar"] = lidar(of_many, asked.delta), len(several)
    step.write(scores, unit="", facts={"width": backbone.model.num_features})


if __name__ == "__main__":
    run_step(main)
