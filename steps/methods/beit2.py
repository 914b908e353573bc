"""BEiT v2: masked image modeling with vector-quantized visual tokenizers (arXiv:2208.06366).

BEiT with tokens that were distilled from a teacher (``steps.tokenizers.vqkd``), and patch
aggregation: a shallow head sees the class token of the last block L but the patches of an early
block e, so that what is missing in those has to come through the class token:

    s    = head([h^L_class ; h^e_patches])                                   (equation 5)
    loss = -mean_p log softmax(W norm(h^L_p))[token_p] - mean_p log softmax(W norm(s_p))[token_p]

over hidden patches p. Masks hide exactly as many patches in every sample.

Published: ViT-B, ImageNet-1K at batch 2048, lr 1.5e-3: fine-tune 85.0 % after 300 epochs, 85.5 %
after 1600; ViT-L 86.6 % and 87.3 % (section 3.2). Held to microsoft/unilm by the golden cases
``beit2``, ``beit2_unshared`` and ``beit_masking``.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from timm.models.beit import Beit, Block
from torch import Tensor, nn

from steps.core.schedules import Progress
from steps.methods.losses import token_prediction
from steps.methods.method import (
    Batch,
    Draws,
    Losses,
    Method,
    MethodContext,
    besides_backbone,
    check_fit,
)
from steps.models import drop_path
from steps.models.beit import cut_normal, initialise, initialise_backbone, shrink_branches
from steps.models.masks import block_generator, mean_hidden, sample_blocks
from steps.models.tokens import embed, encode, relative_bias
from steps.params.methods.beit2 import BEiT2Params, PatchAggregation


class Aggregation(nn.Module):
    """The shallow head: blocks as the backbone's, and a norm and output layer where its own."""

    def __init__(self, params: PatchAggregation, backbone: Beit, vocab_size: int) -> None:
        super().__init__()
        pattern, dim = backbone.blocks[0], backbone.embed_dim
        norm = partial(nn.LayerNorm, eps=backbone.norm.eps)
        self.blocks = nn.ModuleList(
            Block(
                dim,
                pattern.attn.num_heads,
                qkv_bias=True,
                mlp_ratio=pattern.mlp.fc1.out_features / dim,
                init_values=pattern.init_values,
                norm_layer=norm,
                window_size=pattern.attn.window_size,
            )
            for _ in range(params.layers)
        )
        self.norm: nn.Module | None = None
        self.lm_head: nn.Module | None = None
        if not params.shared_output:
            self.norm, self.lm_head = norm(dim), nn.Linear(dim, vocab_size)

    def forward(self, tokens_BND: Tensor, bias: Tensor | None, keep: Tensor | None) -> Tensor:
        """Through the blocks; ``bias`` is what the backbone's blocks share."""
        with drop_path.dropping(self, keep):
            for block in self.blocks:
                tokens_BND = block(tokens_BND, shared_rel_pos_bias=bias)
        return tokens_BND


class BEiT2(Method):
    """Masked image modelling over a teacher's tokens, with patch aggregation."""

    exact_masks = True
    """True if single patches fill up masks whose blocks hide too few."""

    def __init__(self, params: BEiT2Params, backbone: Beit, context: MethodContext) -> None:
        super().__init__()
        assert context.tokenizer is not None
        head, depth = params.aggregation, len(backbone.blocks)
        check_fit(params, backbone.patch_embed.num_patches, depth)
        self.params = params
        self.masks = block_generator(
            params.masks, backbone.patch_embed.grid_size, exact=self.exact_masks
        )
        self.tokenizer = context.tokenizer
        self.backbone = backbone
        self.mask_token = nn.Parameter(torch.zeros(1, 1, backbone.embed_dim))
        self.lm_head = nn.Linear(backbone.embed_dim, self.tokenizer.vocab_size)
        self.aggregation = Aggregation(head, backbone, self.tokenizer.vocab_size)
        initialise_backbone(backbone, params.backbone.init_std)
        initialise(self.lm_head, params.backbone.init_std)
        cut_normal(self.mask_token, params.backbone.init_std)
        # As in the reference, the head's blocks keep the framework's initialisation.
        shrink_branches(self.aggregation.blocks, first=head.early_layers)
        if self.aggregation.lm_head is not None:
            initialise(self.aggregation.lm_head, params.backbone.init_std)
        # One ramp of drop path: the head goes on where its early layers end.
        points = max(depth, head.early_layers + head.layers)
        drop_path.install(backbone, params.drop_path, points=points)
        drop_path.install(
            self.aggregation, params.drop_path, first=head.early_layers, points=points
        )

    def sample(self, batch: int, generator: torch.Generator) -> Draws:
        """Masks, the number of hidden patches, and drop path of backbone and head."""
        mask = sample_blocks(self.masks, batch, generator)
        draws = {"mask": mask, "hidden": mean_hidden(mask)}
        if self.params.drop_path:
            draws["keep"] = drop_path.sample(self.backbone, batch, generator)
            draws["keep_head"] = drop_path.sample(self.aggregation, batch, generator)
        return draws

    def forward(self, batch: Batch, draws: Draws, progress: Progress) -> Losses:
        images, token_images = batch.views
        mask, hidden = draws["mask"], draws["hidden"]
        # Tokens of hidden patches only: the others have no loss.
        labels = self.tokenizer.tokens(token_images)[mask]
        last, aggregated = self.features(images, mask, draws.get("keep"), draws.get("keep_head"))
        loss_1, accuracy_1 = token_prediction(self.lm_head(last[:, 1:][mask]), labels, hidden)
        # Shared where the head has no output of its own, as in the reference by default.
        lm_head = self.aggregation.lm_head or self.lm_head
        loss_2, accuracy_2 = token_prediction(lm_head(aggregated[:, 1:][mask]), labels, hidden)
        return {
            "loss": loss_1 + loss_2,
            "loss_last": loss_1.detach(),
            "loss_aggregated": loss_2.detach(),
            "token_accuracy": accuracy_1,
            "token_accuracy_aggregated": accuracy_2,
        }

    def features(
        self,
        images: Tensor,
        mask_BN: Tensor,
        keep: Tensor | None = None,
        keep_head: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Normed states of the last block and of the head, each (B, 1 + N, D)."""
        vit, early_layers = self.backbone, self.params.aggregation.early_layers
        tokens = embed(vit, images, mask_BN, self.mask_token)
        early = encode(vit, tokens, keep, stop=early_layers)
        last = encode(vit, early, keep, start=early_layers)
        # Early patches beside the late class token, which alone can bring what they lack.
        both = torch.cat([last[:, :1], early[:, 1:]], dim=1)
        aggregated = self.aggregation(both, relative_bias(vit), keep_head)
        norm = self.aggregation.norm or vit.norm
        return vit.norm(last), norm(aggregated)

    def chance(self, batch: int) -> dict[str, float]:
        """2 log V, of V visual tokens: both losses predict them."""
        return {"loss": 2 * math.log(self.tokenizer.vocab_size)}

    def export_backbone(self) -> Beit:
        """The encoder; the head is thrown away."""
        return self.backbone

    def heads(self) -> dict[str, Tensor]:
        """The mask token, the head and the output layers, for pictures."""
        return besides_backbone(self)
