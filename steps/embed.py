"""Write the features of any images to one Parquet file, with a contact sheet of neighbours.

    python -m steps.embed --backbone .../backbone --images photos --out embeddings.parquet \\
        --neighbours 8
    python -m steps.embed --backbone timm:vit_small_patch16_224.dino --images photos/ \\
        --out embeddings.parquet --on-bad skip

The file has a row for each image: name, class_token, mean_token, in the order of the names.
"""

from __future__ import annotations

import argparse
import logging
import os
from contextlib import ExitStack
from pathlib import Path

import torch

from steps.artifacts.publish import draft_of, put, sweep, sync
from steps.command import UserError, place, run_step
from steps.command.machine import writing
from steps.data.names import escaped
from steps.engine.devices import claim_gpu
from steps.evaluation import neighbours as near
from steps.evaluation.embeddings import (
    add_inputs,
    images_at,
    is_embeddings,
    read_embedder,
    write_embeddings,
)
from steps.params.base import Count, Size, Whole
from steps.params.load import option

log = logging.getLogger(__name__)


def main() -> None:
    about, _, example = __doc__.partition("\n")
    parser = argparse.ArgumentParser(
        description=about, epilog=example, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_inputs(parser)
    parser.add_argument("--out", type=place, required=True, help="the Parquet file to write")
    parser.add_argument("--size", type=option(Size), help="pixels a side; the backbone's own")
    parser.add_argument("--batch-size", type=option(Count), default=64, help="images at a time")
    parser.add_argument("--workers", type=option(Whole), help="processes that decode; one per core")
    parser.add_argument(
        "--on-bad", choices=["fail", "skip"], default="fail", help="what a damaged image does"
    )
    parser.add_argument(
        "--neighbours", type=option(Count), help="draw queries with so many nearest images each"
    )
    parser.add_argument(
        "--queries", type=option(Count), default=near.QUERIES, help="of the sheet, evenly spaced"
    )
    arguments = parser.parse_args()
    places = outputs(arguments.out, sheet=arguments.neighbours is not None)
    items = images_at(arguments.images)
    claim_gpu()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    embedder = read_embedder(arguments.backbone, arguments.size, device)
    workers = arguments.workers
    if workers is None:
        workers = min(len(os.sched_getaffinity(0)), -(-len(items) // arguments.batch_size))
    with writing(arguments.out), ExitStack() as opened:
        drafts = [opened.enter_context(draft_of(path)) for path in places]
        kept = write_embeddings(
            drafts[0],
            embedder,
            items,
            batch_size=arguments.batch_size,
            workers=workers,
            on_bad=arguments.on_bad,
            where=arguments.images,
        )
        if arguments.neighbours is not None:
            shown = [items[index] for index in kept]
            names = [item.id for item in shown]
            found = near.find_neighbours(drafts[0], names, arguments.neighbours, arguments.queries)
            pictures = near.thumbnails(shown, found)
            drafts[1].write_bytes(near.draw(found, pictures))
            title = f"{arguments.out.stem}: nearest images"
            drafts[2].write_text(near.page(found, pictures, names, title), encoding="utf-8")
            log.info("%s", near.duplicates_said(found))
            for cosine, one, other in found.duplicates:
                log.info("%.4f  %s  %s", cosine, escaped(names[one]), escaped(names[other]))
        for draft in drafts:
            sync(draft)
        for draft, path in reversed([*zip(drafts, places, strict=True)]):
            put(draft, path)
    print(f"{arguments.out}: {len(kept)} images")


def outputs(out: Path, sheet: bool) -> list[Path]:
    """Files to write: the embeddings, and beside them the sheet as PNG and HTML.

    Raises:
        UserError: the name is not that of a Parquet file, or something else stands at one.
    """
    if out.suffix != ".parquet":
        raise UserError(f"--out {out}", "not the name of a Parquet file", allowed="NAME.parquet")
    stem = f"{out.stem}.neighbours"
    places = [out, *(out.with_name(f"{stem}.{kind}") for kind in ("png", "html") if sheet)]
    taken = [path for path in places if os.path.lexists(path)]
    if taken and not (out.is_file() and is_embeddings(out)):
        raise UserError(
            str(taken[0]),
            "stands there already",
            allowed="nothing, or embeddings that this command wrote",
            remedy="give another --out, or remove it if it is of no use",
        )
    for path in places:
        sweep(path)
    return places


if __name__ == "__main__":
    run_step(main)
