"""Measure whether attention shows where objects are, and draw it.

    python -m steps.layout --protocol params/protocols/layout.yaml --backbone .../backbone \\
        --data results/data/shapes_scenes --out .../layout/layout.json --pictures .../layout/layout

The picture is ``layout.png``, a row an image: itself, the attention of the best head, its mask,
and the main directions of the patch tokens as colours.
"""

from __future__ import annotations

import time

import torch

from steps.artifacts import publish, read_manifest, write_scores
from steps.artifacts.decisions import of_values
from steps.artifacts.publish import check_places
from steps.command import run_step, task_parser
from steps.data.annotations import need_masks, objects
from steps.data.loader import EvaluationViews, dataset_facts
from steps.diagnosis.layout import draw
from steps.engine.devices import claim_gpu
from steps.evaluation.frozen import FrozenBackbone
from steps.evaluation.layout import AttentionMaps, look_at, overlaps, share_inside
from steps.params.load import load
from steps.params.protocols import Layout


def main() -> None:
    started = time.monotonic()
    arguments = task_parser(
        __doc__, data="a prepared set with masks", pictures="a folder"
    ).parse_args()
    check_places(arguments, "layout", record=True, decisions=True)
    protocol = load(arguments.protocol, Layout)
    need_masks(arguments.data, "layout")
    facts = dataset_facts(arguments.data)
    where = f"{arguments.protocol}: image_size"
    backbone = FrozenBackbone.load_transformer(
        *(arguments.backbone, protocol.image_size, where),
        task="layout",
        reads="class token to look from",
    )
    size = backbone.size
    views = EvaluationViews(arguments.data, "val", size, protocol.crop_fraction)
    masks = objects(arguments.data, "val")
    claim_gpu()
    backbone = backbone.to("cuda" if torch.cuda.is_available() else "cpu")
    seen: AttentionMaps = look_at(backbone, views, masks, protocol.batch_size)
    indices = overlaps(seen, protocol.mass)
    head = int(indices.mean(dim=0).argmax())
    values = {
        "jaccard": indices[:, head],
        "jaccard_any": indices.max(dim=1).values,
        "inside": share_inside(seen.attention[:, head], seen.objects),
        "area": seen.objects.float().mean(dim=(1, 2)),
    }
    inputs = {"backbone": arguments.backbone, "data": arguments.data}
    with publish(
        arguments.pictures,
        node="layout",
        params=protocol.resolved(),
        inputs=inputs,
        seed=read_manifest(arguments.backbone, "pretrain").seed,
    ) as draft:
        draft.facts.update(head=head, size=size)
        picture = draw(backbone, seen, head, protocol)
        (draft.path / "layout.png").write_bytes(picture)
    write_scores(
        arguments.out,
        {name: (100.0 * value.mean().item(), len(indices)) for name, value in values.items()},
        task="layout",
        protocol=arguments.protocol,
        params=protocol.resolved(),
        inputs=inputs,
        dataset=facts.name,
        started=started,
        facts={"head": head, "size": size},
        decisions=of_values(
            seen.ids, {name: (100.0 * value).tolist() for name, value in values.items()}
        ),
    )


if __name__ == "__main__":
    run_step(main)
