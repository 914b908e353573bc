"""Measure how well attention overlaps with objects, and draw it.

    python -m steps.layout --protocol params/protocols/layout.yaml --backbone .../backbone \\
        --data results/data/shapes_scenes --out .../layout/layout.json --pictures .../layout/layout

The picture is ``layout.png``, one row per image: the image, the attention of the best head, its
mask, and the principal components of the patch tokens as colours.
"""

from __future__ import annotations

from steps.artifacts.decisions import of_values
from steps.command import run_step
from steps.data.annotations import need_masks, objects
from steps.data.loader import EvaluationViews, dataset_facts
from steps.diagnosis.layout import draw
from steps.evaluation.frozen import FrozenBackbone
from steps.evaluation.layout import AttentionMaps, look_at, overlaps, share_inside
from steps.evaluation.task import TaskStep
from steps.params.protocols import Layout


def main(arguments: list[str] | None = None) -> None:
    step = TaskStep(
        "layout",
        __doc__,
        Layout,
        arguments,
        data="a prepared set with masks",
        pictures="a folder for pictures",
    )
    protocol, data = step.protocol, step.options.data
    need_masks(data, "layout")
    dataset_facts(data)
    where = f"{step.options.protocol}: image_size"
    backbone = FrozenBackbone.load_transformer(
        *(step.options.backbone, protocol.image_size, where),
        task="layout",
        reads="class token to look from",
        class_token=True,
    )
    size = backbone.size
    views = EvaluationViews(data, "val", size, protocol.crop_fraction)
    masks = objects(data, "val")
    backbone = backbone.to(step.device)
    seen: AttentionMaps = look_at(backbone, views, masks, protocol.batch_size)
    indices = overlaps(seen, protocol.mass)
    head = int(indices.mean(dim=0).argmax())
    values = {
        "jaccard": indices[:, head],
        "jaccard_any": indices.max(dim=1).values,
        "inside": share_inside(seen.attention[:, head], seen.objects),
        "area": seen.objects.float().mean(dim=(1, 2)),
    }
    with step.pictures() as draft:
        draft.facts.update(head=head, size=size)
        picture = draw(backbone, seen, head, protocol)
        (draft.path / "layout.png").write_bytes(picture)
    step.write(
        {name: (100.0 * value.mean().item(), len(indices)) for name, value in values.items()},
        facts={"head": head, "size": size},
        decisions=of_values(
            seen.ids, {name: (100.0 * value).tolist() for name, value in values.items()}
        ),
    )


if __name__ == "__main__":
    run_step(main)
