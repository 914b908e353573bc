"""Replay of openai/DALL-E: the discrete VAE, forward."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from steps.official.names import from_official
from steps.params.tokenizers import DalleDecoder, DalleNetwork, DalleParams
from steps.tokenizers.dalle import DVAE
from tests.golden.case import Case


@torch.no_grad()
def replay(case: Case) -> None:
    """Every stage of encoder and decoder, tokens, reconstructions."""
    model, options, expected = (case.facts[key] for key in ("model", "options", "expected"))
    encoder, decoder = model["encoder"], model["decoder"]
    assert encoder["group_count"] == decoder["group_count"] == 4, "the reference has four groups"
    assert (model["in_chans"], model["output_channels"]) == (3, 3)
    params = DalleParams(
        name="dalle",
        image_size=case["step0/input/images"].shape[-1],
        vocab_size=model["vocab_size"],
        encoder=DalleNetwork(hidden=encoder["n_hid"], blocks_per_group=encoder["n_blk_per_group"]),
        decoder=DalleDecoder(
            input=decoder["n_init"],
            hidden=decoder["n_hid"],
            blocks_per_group=decoder["n_blk_per_group"],
        ),
        logit_laplace_eps=options["logit_laplace_eps"],
    )
    dvae = DVAE(params)
    dvae.load_state_dict(from_official("dalle", case.group("init/")))
    images = case["step0/input/images"]
    pixels = dvae.map_pixels(images)
    case.equal(pixels, "step0/output/pixels")
    logits = _stages(case, dvae.encoder.blocks, pixels, "encoder")
    case.equal(logits, "step0/output/logits")
    case.equal(dvae.logits(images), "step0/output/logits")
    rows, columns = logits.shape[-2:]
    ids = dvae.tokens(images).unflatten(1, (rows, columns))
    case.equal(ids, "step0/output/token_ids")
    one_hot = F.one_hot(ids, model["vocab_size"]).permute(0, 3, 1, 2).float()
    stats = _stages(case, dvae.decoder.blocks, one_hot, "decoder")
    case.equal(stats, "step0/output/decoder_stats")
    reconstruction = dvae.decode(ids.flatten(1), rows)
    case.equal(reconstruction, "step0/output/reconstruction")
    soft = (options["softmax_scale_of_soft_input"] * logits).softmax(dim=1)
    case.equal(dvae.decoder(soft), "step0/output/decoder_stats_soft")
    case.equal(dvae.unmap_pixels(case["step0/input/values_to_unmap"]), "step0/output/unmapped")
    first, second = logits.topk(2, dim=1).values.unbind(dim=1)
    for name, ours in {
        "logit_mean": logits.mean(),
        "logit_std": logits.std(),
        "distinct_tokens": ids.unique().numel(),
        "smallest_argmax_margin": (first - second).min(),
        "reconstruction_mean": reconstruction.mean(),
    }.items():
        # A margin is a small difference of large numbers.
        tolerance = 1e-3 if name == "smallest_argmax_margin" else 1e-5
        case.number(float(ours), expected["components"][name][0], name, tolerance)


def _stages(case: Case, blocks: nn.Sequential, features: Tensor, name: str) -> Tensor:
    for stage, module in blocks.named_children():
        features = module(features)
        if stage != "output":
            case.equal(features, f"step0/output/{name}_{stage}")
    return features


REPLAYS = {"dalle_dvae": replay}
