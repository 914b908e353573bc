"""A pretraining artifact as the method that made it: backbone and heads together."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file

from steps.artifacts import Manifest, read_manifest, verify
from steps.command import UserError
from steps.methods import Method, MethodContext, build_method
from steps.methods.build import backbone_for
from steps.models.backbones import HEADS, WEIGHTS, create_backbone, normalisation, with_channels
from steps.params.backbone import Backbone
from steps.params.recipe import Recipe
from steps.params.sets import RGB
from steps.tokenizers import load_tokenizer


def restore(artifact: Path, tokenizer: Path | None = None) -> Method:
    """The trained method, on the CPU, in eval mode.

    Args:
        artifact: of a method whose exported backbone is the one that it trains.
        tokenizer: whose tokens it was trained to predict, if it was.

    Raises:
        UserError: the artifact is none of a pretraining, or has no heads beside its backbone, or
            was trained with another tokenizer.
    """
    manifest = verify(artifact, "pretrain")
    if not (artifact / HEADS).is_file():
        raise UserError(
            str(artifact),
            f"method {manifest.facts['method']} keeps no {HEADS}, so there is nothing to draw",
        )
    if "recipe" not in manifest.params:
        raise UserError(
            str(artifact),
            "imported from an official file, whose heads are not restored",
            allowed="an artifact that steps.pretrain made",
        )
    _check_tokenizer(artifact, manifest, tokenizer)
    recipe = Recipe.model_validate(manifest.params["recipe"])
    backbone = Backbone.model_validate(manifest.params["backbone"])
    channels = manifest.facts.get("channels", RGB[0])
    vit = create_backbone(with_channels(backbone_for(recipe.method, backbone), channels))
    around = MethodContext(views=1)
    if tokenizer is not None:
        mean, std = normalisation(artifact)
        around = MethodContext(views=1, tokenizer=load_tokenizer(tokenizer, mean=mean, std=std))
    method = build_method(recipe.method, vit, around)
    weights = {f"backbone.{name}": w for name, w in load_file(artifact / WEIGHTS).items()}
    method.load_state_dict({**weights, **load_file(artifact / HEADS)})
    return method.eval()


def _check_tokenizer(artifact: Path, manifest: Manifest, tokenizer: Path | None) -> None:
    """The tokenizer is the one that stood behind the training, or none stood there."""
    wanted = manifest.inputs.get("tokenizer")
    found = None if tokenizer is None else read_manifest(tokenizer, "tokenizer").digest
    if wanted != found:
        raise UserError(
            "--tokenizer" if tokenizer is None else str(tokenizer),
            "missing" if found is None else f"is {found[:12]}",
            allowed="none" if wanted is None else f"the tokenizer {wanted[:12]} of {artifact}",
        )
