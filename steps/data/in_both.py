"""Images that stand in both splits: what val measures is then partly learnt by heart."""

from __future__ import annotations

import logging
from array import array
from pathlib import Path
from typing import Any

import numpy as np

from steps.command import UserError
from steps.data.names import escaped
from steps.data.shards import Images

_NAMED = 100
"""Pairs that the facts name, at most."""
_log = logging.getLogger(__name__)


class InBoth:
    """Finds the images of val that are also in train, by the digests of their pixels.

    A digest has 64 bits: among the 1.3 million and 50,000 images of ImageNet-1k, two that differ
    share one with a probability of 4e-9. It takes 8 bytes per image.
    """

    def __init__(self) -> None:
        self._digests = {split: array("Q") for split in ("train", "val")}

    def add(self, split: str, digest: int) -> None:
        """The next image of a split, in the order of its rows."""
        self._digests[split].append(digest)

    def pairs(self) -> list[tuple[int, int]]:
        """Rows of train and of val that hold one image, by the row of val; of several in train the
        first."""
        train, val = (np.frombuffer(self._digests[s], np.uint64) for s in ("train", "val"))
        if not len(train) or not len(val):
            return []
        values, first = np.unique(train, return_index=True)
        indices = np.searchsorted(values, val).clip(max=len(values) - 1)
        rows = np.flatnonzero(values[indices] == val)
        return [(int(first[indices[row]]), int(row)) for row in rows]

    def enforce(self, where: str, out: Path, most: int | None) -> dict[str, Any]:
        """Name them.

        Args:
            where: the dataset's params file.
            out: folder with the written splits.
            most: how many there may be; None: any number.

        Returns:
            Facts: ``in_both``, the count and the first pairs of names; empty where there are none.

        Raises:
            UserError: there are more.
        """
        pairs = self.pairs()
        if not pairs:
            return {}
        train, val = (Images(out, split).ids for split in ("train", "val"))
        named = [{"train": train[a], "val": val[b]} for a, b in pairs[:_NAMED]]
        shown = escaped("; ".join(f"val {p['val']} is train {p['train']}" for p in named[:3]))
        shown += "; …" if len(pairs) > 3 else ""
        if most is not None and len(pairs) > most:
            raise UserError(
                where,
                f"{len(pairs)} images of val are also in train, pixel for pixel: {shown}",
                allowed=f"max_in_both: {most}",
                remedy="take them out of one split, or raise max_in_both knowing that scores on "
                "them are of images seen in training",
            )
        _log.warning(
            "%d of %d images of val are also in train, pixel for pixel: %s",
            len(pairs),
            len(val),
            shown,
        )
        return {"in_both": {"images": len(pairs), "first": named}}
