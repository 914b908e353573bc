"""Prepare a dataset: read or draw its images, check every one, write Arrow files.

The artifact holds ``train.arrow`` and ``val.arrow`` (see :mod:`steps.data.shards`) and, for
detection, ``train.json`` and ``val.json`` in COCO's instances format. Facts: dataset, kind,
classes, splits (counts), mean and std of the training pixels in 0 to 1, and the problems found;
for detection also whether there are masks, and what was filled in or is odd about annotations.
Where there are any, a split's facts also count the images that were ``turned`` upright,
``composited`` on a ground and the ``first_of_several`` frames, those of val name its
``empty_classes``, and ``in_both`` names images of val that are also in train.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from steps.artifacts import publish
from steps.artifacts.publish import check_places
from steps.command import place, run_step
from steps.data.convert import convert
from steps.data.shards import CHECKSUMS, SPLITS
from steps.data.sources import open_source
from steps.params.dataset import Dataset
from steps.params.load import load


def prepare(params_file: Path, out: Path) -> None:
    """Make the dataset artifact ``out`` from a params file.

    Raises:
        UserError: the params are wrong, data are missing, or more of them are bad than the params
            allow; nothing is written then.
    """
    dataset: Dataset = load(params_file, Dataset)  # type: ignore[arg-type]
    source = open_source(dataset)
    sources = {"dataset": params_file}
    with publish(
        out, node="prepare", params=dataset.resolved(), inputs={}, sources=sources
    ) as draft:
        facts = convert(source, dataset, str(params_file), draft.path)
        draft.facts = {"dataset": params_file.stem, **facts}
        draft.logs.update(f"{split}{CHECKSUMS}" for split in SPLITS)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command ``python -m steps.prepare``."""
    parser = argparse.ArgumentParser(prog="steps.prepare", description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", type=Path, required=True, help="params/datasets/<name>.yaml")
    parser.add_argument("--out", type=place, required=True, help="folder of the artifact")
    options = parser.parse_args(arguments)
    check_places(options, "prepare")
    prepare(options.dataset, options.out)


if __name__ == "__main__":
    run_step(main)
