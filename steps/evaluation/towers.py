"""The two towers of an image-text method, as its artifact keeps them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from steps.artifacts import verify
from steps.command import UserError
from steps.core.finite import check_rows
from steps.data.loader import EvaluationViews, evaluation_batches
from steps.data.text import TOKENIZER, TextTokenizer, read_tokenizer
from steps.evaluation.frozen import FrozenBackbone
from steps.methods import MethodContext
from steps.methods.clip import CLIP
from steps.models.backbones import HEADS
from steps.params.load import validate
from steps.params.methods.clip import CLIPParams


class ImageTextEncoder:
    """Images and sentences to points of one space, as unit vectors.

    Args:
        artifact: a backbone artifact of a method with a text tower.

    Raises:
        UserError: its method has none.
    """

    def __init__(self, artifact: Path) -> None:
        manifest = verify(artifact, "pretrain")
        if not (artifact / TOKENIZER).is_file():
            raise UserError(
                str(artifact),
                f"a backbone of {manifest.facts['method']}, which has no text tower",
                allowed="one that was pretrained with captions, such as clip's",
            )
        recipe = manifest.params["recipe"]
        params = validate(recipe["method"], CLIPParams, str(artifact))
        length = params.text_tower.context_length
        self.tokenizer: TextTokenizer = read_tokenizer(artifact / TOKENIZER, length)
        self.backbone = FrozenBackbone.load(artifact)
        context = MethodContext(vocabulary=self.tokenizer.size)
        method = CLIP(params, self.backbone.model, context)
        found = load_file(artifact / HEADS)
        backbone = {f"backbone.{k}": v for k, v in method.backbone.state_dict().items()}
        method.load_state_dict({**backbone, **found})
        self.method = method.float().eval()

    def to(self, device: str) -> ImageTextEncoder:
        """Move the weights."""
        self.method.to(device)
        return self

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.method.logit_scale.device

    @torch.inference_mode()
    def images(self, views: EvaluationViews, batch_size: int) -> Tensor:
        """All images of a split in order: (N, E) float32, on the CPU."""
        return torch.cat(
            [
                self._unit(self.method.image_features(self.backbone.inputs(images)))
                for images, _ in evaluation_batches(views, batch_size)
            ]
        )

    @torch.inference_mode()
    def sentences(self, sentences: Sequence[str], batch_size: int) -> Tensor:
        """Sentences in order: (N, E) float32, on the CPU."""
        return torch.cat(
            [
                self._unit(
                    self.method.text_features(
                        self.tokenizer(sentences[start : start + batch_size]).to(self.device)
                    )
                )
                for start in range(0, len(sentences), batch_size)
            ]
        )

    def _unit(self, features: Tensor) -> Tensor:
        check_rows(features, "features of a batch")
        return F.normalize(features.float(), dim=1).cpu()
