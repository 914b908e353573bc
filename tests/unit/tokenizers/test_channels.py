"""Tokenizers of images of other than three channels."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pydantic import TypeAdapter

from steps.artifacts import publish
from steps.command import UserError
from steps.core.schedules import Progress
from steps.diagnosis import codebook
from steps.diagnosis.sheet import Denormaliser
from steps.methods import Batch
from steps.models.backbones import create_backbone, with_channels
from steps.models.teacher import Renormalise, Teacher, pixels_of
from steps.params.backbone import Backbone
from steps.params.tokenizers import TokenizerParams
from steps.tokenizers import build_training, load_tokenizer, save_tokenizer
from tests.scenery import BACKBONE, TOKENIZERS

FOUR = pixels_of(4)


@pytest.mark.parametrize("name", ["dalle", "vqkd"])
def test_four_channels_are_trained_saved_and_drawn(name: str, tmp_path: Path) -> None:
    params = TypeAdapter(TokenizerParams).validate_python(TOKENIZERS[name]["tokenizer"])
    torch.manual_seed(0)
    vit = create_backbone(with_channels(Backbone(**BACKBONE), 4))
    training = build_training(params, Teacher(vit, {}, Renormalise(FOUR, FOUR)), 4)
    batch = Batch([torch.rand(8, 4, 32, 32)], torch.empty(8))
    draws = training.sample(8, torch.Generator().manual_seed(0))
    if name == "vqkd":
        training.start([(batch, draws)])
    losses = training(batch, draws, Progress(0, 10, 100))
    losses["loss"].backward()
    assert losses["loss"].isfinite()
    tokenizer = training.trained().eval()
    tokens = tokenizer.tokens(batch.views[0])
    assert tokens.shape == (8, 16)
    with publish(tmp_path / name, node="tokenizer", params={}, inputs={}) as draft:
        save_tokenizer(tokenizer, params, draft.path, 4)
    mean, std = [0.5] * 4, [0.25] * 4
    loaded = load_tokenizer(tmp_path / name, mean=mean, std=std)
    assert torch.equal(loaded.tokens((batch.views[0] - 0.5) / 0.25), tokens)
    with pytest.raises(UserError, match="for images of 4 channels, and these have 3"):
        load_tokenizer(tmp_path / name, mean=mean[:3], std=std[:3])
    if tokenizer.decodes:
        assert tokenizer.decode(tokens).shape == (8, 4, 32, 32)
    drawn = codebook.draw(tokenizer, [batch.views[0]], Denormaliser(*FOUR, rgb=False))
    assert "codes.png" in drawn.pictures
    assert "channels_shown" in drawn.facts
