"""Backbones that cannot be trained are refused when params are read, in one line."""

from __future__ import annotations

from typing import Any

import pytest

from steps.command import UserError
from steps.params.backbone import Backbone
from steps.params.load import load
from tests.scenery import BACKBONE, Scenery


def _backbone(**model_args: Any) -> dict[str, Any]:
    return {**BACKBONE, "model_args": {**BACKBONE["model_args"], **model_args}}


@pytest.mark.parametrize(
    "key", ["drop_rate", "drop_path_rate", "proj_drop_rate", "patch_drop_rate", "drop_block_rate"]
)
def test_dropout_that_no_seed_sets(key: str, scenery: Scenery) -> None:
    path = scenery.write("backbones/a.yaml", _backbone(**{key: 0.1}))
    with pytest.raises(UserError, match=rf"model_args\.{key} 0\.1 would draw from a generator"):
        load(path, Backbone)
    load(scenery.write("backbones/a.yaml", _backbone(**{key: 0.0})), Backbone)
