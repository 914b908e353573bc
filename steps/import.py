"""Turn an official file into an artifact that every later step takes.

    python -m steps.import --format mae --checkpoint mae_pretrain_vit_base.pth --out DIR

Files are read as data: one that holds pickled objects is refused and not opened. Names and shapes
must be those of the method's backbone, all of them. The result is a folder that
``timm.create_model("local-dir:DIR", pretrained=True)`` loads, as ``steps.pretrain`` makes it;
``--format dalle`` takes encoder and decoder and gives a tokenizer, as ``steps.tokenizer`` does.
``--format timm --model NAME`` takes a model of timm, downloaded or from a file, and ``--format
transformers`` a Hugging Face folder; neither runs any code of theirs.
An experiment's ``imported: {...}`` comes here with ``--official``, a path below the data root, and
``--backbone``, the params that the file must fit.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

from steps.artifacts import publish
from steps.artifacts.manifest import digest_file
from steps.artifacts.publish import check_places
from steps.command import UserError, place, run_step
from steps.data.sources.source import ENVIRONMENT, data_root
from steps.engine.loop import Outcome
from steps.engine.monitor import METRICS
from steps.models.backbones import save_backbone
from steps.official.formats import FORMATS, NORMALISE
from steps.official.pretrained import Pretrained, read_timm, read_transformers
from steps.official.read import check_size, heads_of, params_name, read_backbone
from steps.params.backbone import Backbone
from steps.params.base import NotNegative, Seed, Size
from steps.params.imported import KINDS, UNKNOWN_KIND
from steps.params.load import load, option
from steps.params.methods import METHODS
from steps.params.names import Label, Name
from steps.params.views import Normalise
from steps.tokenizers import save_tokenizer
from steps.tokenizers.official import official_dalle

DALLE, TIMM, TRANSFORMERS = "dalle", "timm", "transformers"
DALLE_SIDE = 112
"""Images that give the 14 x 14 tokens of BEiT's patches of 16 at 224 px."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--format", choices=[*FORMATS, DALLE, TIMM, TRANSFORMERS], required=True)
    parser.add_argument(
        "--model",
        type=option(Label),
        help="name of a timm model, such as vit_small_patch16_dinov3.lvd1689m; timm downloads it "
        "if no file is given",
    )
    files = parser.add_mutually_exclusive_group()
    files.add_argument(
        "--checkpoint",
        type=Path,
        nargs="+",
        help="the official file; for dalle the encoder's and the decoder's, for transformers the "
        "folder, for timm a file or folder",
    )
    files.add_argument(
        "--official", help="path of the file below the data root ($PRETEXT_DATA, else data)"
    )
    parser.add_argument("--source", help="where to download the file (shown if it is missing)")
    parser.add_argument(
        "--backbone",
        type=Path,
        help="params that it must match; positions are resized to their size",
    )
    parser.add_argument(
        "--network", help="network of a file with two: teacher or student, base or momentum"
    )
    parser.add_argument(
        "--heads", type=option(Size), help="attention heads, if the width does not determine them"
    )
    parser.add_argument(
        "--image-size",
        type=option(Size),
        help="resize positions to this image size, as the method does",
    )
    parser.add_argument(
        "--normalise", choices=list(NORMALISE), help="normalisation of input images"
    )
    parser.add_argument(
        "--name", type=option(Name), help="name in tables; default: <format>_official"
    )
    parser.add_argument(
        "--method", choices=list(KINDS), help="method of timm's or transformers' model, for tables"
    )
    parser.add_argument(
        "--trained-on", type=option(Label), help="dataset of its training, for tables"
    )
    parser.add_argument(
        "--epochs", type=option(NotNegative), default=0.0, help="epochs of its training, for tables"
    )
    parser.add_argument("--seed", type=option(Seed), default=0, help="seed of later steps")
    parser.add_argument("--out", type=place, required=True)
    arguments = parser.parse_args()
    check_places(arguments, "tokenizer" if arguments.format == DALLE else "pretrain")
    if arguments.name is None:
        arguments.name = f"{arguments.format}_official"
    if arguments.official is not None:
        arguments.checkpoint = [_official(arguments)]
    if arguments.format != TIMM and arguments.checkpoint is None:
        raise UserError(
            f"--format {arguments.format}",
            "no file",
            allowed="--checkpoint PATH, or --official and a path below the data root",
        )
    if arguments.format == DALLE:
        import_tokenizer(arguments)
    elif arguments.format in (TIMM, TRANSFORMERS):
        import_pretrained(arguments)
    else:
        import_backbone(arguments)


def import_backbone(arguments: argparse.Namespace) -> None:
    """Read, check and publish a backbone."""
    kind, file_format = arguments.format, FORMATS[arguments.format]
    network = arguments.network or next(iter(file_format.networks))
    if network not in file_format.networks:
        raise UserError(
            f"--network {network}", f"none of {kind}'s", allowed=", ".join(file_format.networks)
        )
    (path,) = _files(arguments, 1)
    named = None if arguments.backbone is None else load(arguments.backbone, Backbone)
    imported = read_backbone(
        path,
        kind,
        network=network,
        heads=arguments.heads or (None if named is None else heads_of(named)),
        image_size=arguments.image_size,
    )
    if named is not None:
        check_size(path, imported.backbone, named, str(arguments.backbone))
        if imported.backbone.image_size != named.image_size and not named.is_resnet:
            imported = read_backbone(
                path, kind, network=network, heads=heads_of(named), image_size=named.image_size
            )
    if imported.left_out:
        logging.info("%s: left out %s", path, ", ".join(imported.left_out))
    normalise = NORMALISE[arguments.normalise or file_format.normalise]
    backbone = imported.backbone
    params = {
        "format": kind,
        "network": network,
        "backbone": backbone.resolved(),
        "normalise": normalise.resolved(),
    }
    with _publishing("pretrain", params, arguments) as draft:
        save_backbone(
            imported.model,
            backbone,
            draft.path,
            mean=normalise.mean,
            std=normalise.std,
            heads=imported.heads,
        )
        (draft.path / METRICS).touch()
        draft.facts.update(
            method=kind,
            recipe=arguments.name,
            kind=METHODS[kind].kind,
            backbone=params_name(backbone) if named is None else arguments.backbone.stem,
            scale=backbone.scale if named is None else named.scale,
            pretrain_dataset=arguments.trained_on or file_format.trained_on,
            left_out=imported.left_out,
            asked=_asked(arguments),
            # What a file does not say of its training is 0.
            **vars(Outcome(arguments.epochs, images_seen=0, flops=0, device_seconds=0)),
        )


def import_pretrained(arguments: argparse.Namespace) -> None:
    """Read, check and publish a backbone of timm or transformers."""
    named = None if arguments.backbone is None else load(arguments.backbone, Backbone)
    path = None if arguments.checkpoint is None else _files(arguments, 1)[0]
    sizes = (named, arguments.image_size, str(arguments.backbone))
    if arguments.format == TIMM:
        found = read_timm(arguments.model, path, *sizes)
    else:
        assert path is not None
        found = read_transformers(path, *sizes)
    normalise = _normalise(found, arguments)
    backbone, weights = found.imported.backbone, found.weights
    params = {
        "format": arguments.format,
        "backbone": backbone.resolved(),
        "normalise": normalise.resolved(),
    }
    method = arguments.method or found.method
    files = {weights.name: weights.digest}
    with _publishing("pretrain", params, arguments, files) as draft:
        save_backbone(
            found.imported.model, backbone, draft.path, mean=normalise.mean, std=normalise.std
        )
        (draft.path / METRICS).touch()
        draft.facts.update(
            method=method or arguments.format,
            recipe=arguments.name,
            kind=UNKNOWN_KIND if method is None else KINDS[method],
            backbone=params_name(backbone) if named is None else arguments.backbone.stem,
            scale=backbone.scale if named is None else named.scale,
            pretrain_dataset=arguments.trained_on or "unknown",
            left_out=found.imported.left_out,
            asked=_asked(arguments) | {"model": arguments.model, "method": arguments.method},
            # A model does not say how it was trained.
            **vars(Outcome(arguments.epochs, images_seen=0, flops=0, device_seconds=0)),
        )


def _normalise(found: Pretrained, arguments: argparse.Namespace) -> Normalise:
    """Normalisation of the images: the option's, else the model's own."""
    own, asked = found.normalise, NORMALISE.get(arguments.normalise or "")
    if asked is not None:
        if own is not None and own != asked:
            logging.warning(
                "%s: its images have the mean %s and deviation %s; --normalise takes %s and %s",
                *(found.weights.source, own.mean, own.std, asked.mean, asked.std),
            )
        return asked
    if own is None:
        raise UserError(
            found.weights.source,
            "no word on the normalisation of its images",
            allowed=", ".join(NORMALISE),
            remedy="give --normalise (normalise: in params), or put transformers' "
            "preprocessor_config.json or timm's config.json with its pretrained_cfg there",
        )
    return own


def import_tokenizer(arguments: argparse.Namespace) -> None:
    """Read, check and publish the tokenizer of DALL-E."""
    encoder, decoder = _files(arguments, 2)
    tokenizer, params = official_dalle(encoder, decoder, arguments.image_size or DALLE_SIDE)
    resolved = {"format": DALLE, "tokenizer": params.resolved()}
    with _publishing("tokenizer", resolved, arguments) as draft:
        save_tokenizer(tokenizer, params, draft.path)
        draft.facts.update(
            tokenizer=arguments.name,
            kind=params.name,
            vocab_size=tokenizer.vocab_size,
            token_pixels=tokenizer.token_pixels,
            pretrain_dataset=arguments.trained_on or "text-image pairs of DALL-E",
            **vars(Outcome(arguments.epochs, images_seen=0, flops=0, device_seconds=0)),
        )


def _asked(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options that decide what a row of this name is, as ``Imported.asked`` has them."""
    return {
        "format": arguments.format,
        "official": arguments.official,
        "network": arguments.network,
        "epochs": arguments.epochs,
        "trained_on": arguments.trained_on,
        "normalise": arguments.normalise,
    }


def _official(arguments: argparse.Namespace) -> Path:
    """The file or folder below the data root."""
    path: Path = data_root() / arguments.official
    if not (path.exists() if arguments.format in (TIMM, TRANSFORMERS) else path.is_file()):
        size = "" if arguments.backbone is None else f", of a {arguments.backbone.stem}"
        source = "" if arguments.source is None else f" (from {arguments.source})"
        raise UserError(
            str(path),
            "no such file",
            allowed={
                TIMM: f"weights of timm's {arguments.model}{size}",
                TRANSFORMERS: f"a folder of transformers{size}",
            }.get(arguments.format, f"the official checkpoint of {arguments.format}{size}"),
            remedy=f"put it there{source}, or point {ENVIRONMENT} at the folder that holds "
            f"{arguments.official}",
        )
    return path


def _files(arguments: argparse.Namespace, count: int) -> list[Path]:
    files: list[Path] = arguments.checkpoint
    if len(files) != count:
        raise UserError(
            "--checkpoint",
            f"{len(files)} files",
            allowed="one file" if count == 1 else "the encoder's file, then the decoder's",
        )
    return files


def _publishing(
    node: str,
    params: dict[str, Any],
    arguments: argparse.Namespace,
    files: dict[str, str] | None = None,
) -> Any:
    """An artifact of the node whose place it takes: later steps ask for no other.

    ``files`` are digests by name; None: of the files of ``--checkpoint``.
    """
    if files is None:
        files = {path.name: digest_file(path) for path in arguments.checkpoint}
    return publish(
        arguments.out,
        node=node,
        params={**params, "official": files},
        inputs={},
        seed=arguments.seed,
    )


if __name__ == "__main__":
    run_step(main)
