"""Names and axes of the official implementations' parameters under ours: one table."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

Rules = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Naming:
    """Rules (pattern, replacement), tried in order: the first that changes a name is its last.

    ``forms`` are (pattern of an official name, function) for tensors whose axes are not ours;
    ``computed`` are patterns of tensors that our module computes itself.
    """

    rules: Rules
    forms: tuple[tuple[str, Callable[[Tensor], Tensor]], ...] = ()
    computed: tuple[str, ...] = ()

    def our_name(self, official: str) -> str:
        """The name in our module."""
        for pattern, replacement in self.rules:
            renamed = re.sub(pattern, replacement, official)
            if renamed != official:
                return renamed
        return official

    def our_form(self, official: str, tensor: Tensor) -> Tensor:
        """A weight (or its gradient) with the axes that it has in our module."""
        for pattern, change in self.forms:
            if re.search(pattern, official):
                return change(tensor)
        return tensor

    def convert(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A whole state dict, renamed and in our form; gradients may stand in for weights."""
        return {
            self.our_name(name): self.our_form(name, tensor)
            for name, tensor in weights.items()
            if not any(re.search(pattern, name) for pattern in self.computed)
        }


def _with_class_row(table_1ND: Tensor) -> Tensor:
    """(1, N, D) to (1, 1 + N, D): the class token's row is zero."""
    return F.pad(table_1ND, (0, 0, 1, 0))


_BEIT_COMPUTES = (r"relative_position_index$",)

_MOCOV3: Rules = (
    (r"^base_encoder\.head\.", "pair.encoder.projector."),
    (r"^base_encoder\.", "pair.encoder.backbone."),
    (r"^momentum_encoder\.head\.", "pair.momentum_encoder.projector."),
    (r"^momentum_encoder\.", "pair.momentum_encoder.backbone."),
    (r"^predictor\.", "pair.predictor."),
)

_DINOV2_BACKBONE = r"^((?:(?:student|teacher)\.backbone\.)?"

_CLIP_TOWERS: Rules = (
    (r"^visual\.transformer\.resblocks\.(\d+)\.", r"backbone.blocks.\1."),
    (r"^transformer\.resblocks\.(\d+)\.", r"text.blocks.\1."),
)
_CLIP_BLOCK: Rules = (
    (r"attn\.in_proj_", "attn.qkv."),
    (r"attn\.out_proj\.", "attn.proj."),
    (r"ln_1\.", "norm1."),
    (r"ln_2\.", "norm2."),
    (r"mlp\.c_fc\.", "mlp.fc1."),
    (r"mlp\.c_proj\.", "mlp.fc2."),
)

NAMINGS: dict[str, Naming] = {
    # facebookresearch/mae: encoder and decoder stand side by side.
    "mae": Naming(
        (
            (r"^decoder_(embed|pos_embed|blocks|norm|pred)\b", r"decoder.\1"),
            (r"^mask_token$", "decoder.mask_token"),
            (r"^(?!decoder\.)", "backbone."),
        )
    ),
    # openai/CLIP: both towers, the image tower's names under ``visual``.
    "clip": Naming(
        rules=(
            *(
                (tower + part, our_tower + our_part)
                for tower, our_tower in _CLIP_TOWERS
                for part, our_part in _CLIP_BLOCK
            ),
            (r"^visual\.class_embedding$", "backbone.cls_token"),
            (r"^visual\.positional_embedding$", "backbone.pos_embed"),
            (r"^visual\.conv1\.", "backbone.patch_embed.proj."),
            (r"^visual\.ln_pre\.", "backbone.norm_pre."),
            (r"^visual\.ln_post\.", "backbone.norm."),
            (r"^visual\.proj$", "projection.weight"),
            (r"^token_embedding\.", "text.token_embed."),
            (r"^positional_embedding$", "text.pos_embed"),
            (r"^ln_final\.", "text.norm."),
            (r"^text_projection$", "text_projection.weight"),
        ),
        forms=(
            (r"^visual\.class_embedding$", lambda vector: vector.view(1, 1, -1)),
            (r"^visual\.positional_embedding$", lambda table: table.unsqueeze(0)),
            # There features are multiplied from the left.
            (r"^(visual\.proj|text_projection)$", lambda matrix: matrix.T),
        ),
    ),
    # facebookresearch/dino: a wrapper around backbone and head for each network.
    "dino": Naming(((r"^dino_loss\.center$", "center.value"),)),
    # bytedance/ibot: the names of facebookresearch/dino, two centres, a mask token in the student.
    "ibot": Naming(
        (
            (r"^ibot_loss\.center$", "center.value"),
            (r"^ibot_loss\.center2$", "patch_center.value"),
            (r"^student\.backbone\.masked_embed$", "mask_token"),
            (r"\.last_layer2\.", ".patch_layer."),
            (r"\.gamma_([12])$", r".ls\1.gamma"),
        )
    ),
    # microsoft/unilm, beit: the transformer with a mask token and an output layer.
    "beit": Naming(((r"^(?!mask_token|lm_head\b)", "backbone."),), computed=_BEIT_COMPUTES),
    # microsoft/unilm, beit2: as BEiT, and the head that aggregates patches.
    "beit2": Naming(
        (
            (r"^cls_pt_layers\.", "aggregation.blocks."),
            (r"^cls_pt_(norm|lm_head)\.", r"aggregation.\1."),
            (r"^(?!mask_token|lm_head\b|aggregation\.)", "backbone."),
        ),
        computed=_BEIT_COMPUTES,
    ),
    # openai/DALL-E: parameters are called w and b.
    "dalle": Naming(((r"\.w$", ".weight"), (r"\.b$", ".bias"))),
    # microsoft/unilm, beit2: encoder, quantiser and decoder side by side.
    "vqkd": Naming(
        (
            (r"^encode_task_layer\.", "tokenizer.task_layer."),
            (r"^decode_task_layer\.", "task_layer."),
            (r"^encoder\.", "tokenizer.encoder."),
            (r"^quantize\.embedding\.weight$", "tokenizer.codebook.codes"),
            (r"^quantize\.embedding\.initted$", "tokenizer.codebook.started"),
            (r"^quantize\.embedding\.cluster_size$", "tokenizer.codebook.start_sizes"),
            (r"^quantize\.cluster_size$", "tokenizer.codebook.cluster_size"),
        )
    ),
    # Haochen-Wang409/DropPos: encoder, position decoder and pixel decoder stand side by side.
    "droppos": Naming(
        (
            (r"^decoder_(embed|blocks|norm|pred)\b", r"decoder.\1"),
            (r"^aux_decoder_(embed|pos_embed|blocks|norm|pred)\b", r"pixel_decoder.\1"),
            (r"^mask_token$", "pixel_decoder.mask_token"),
            (r"^mask_pos_token$", "position_token"),
            (r"^(?!decoder\.|pixel_decoder\.|position_token$)", "backbone."),
        )
    ),
    # MP3: no official code is published; these are the names of the recorded formula.
    "mp3": Naming(((r"^(?!position_head\.)", "backbone."),)),
    # facebookresearch/dinov2: backbone and heads of student and teacher, or a backbone alone.
    "dinov2": Naming(
        (
            (r"^dino_loss\.center$", "class_center.value"),
            (r"^ibot_patch_loss\.center$", "patch_center.value"),
            (_DINOV2_BACKBONE + r")register_tokens$", r"\1reg_token"),
            (_DINOV2_BACKBONE + r"blocks\.\d+\.mlp\.)w12\.", r"\1fc1."),
            (_DINOV2_BACKBONE + r"blocks\.\d+\.mlp\.)w3\.", r"\1fc2."),
        )
    ),
    # facebookresearch/moco-v3: projectors are the heads of the encoders.
    "mocov3": Naming(_MOCOV3),
    # Separius/DILEMMA: as MoCo v3, with a position table that has no row for the class token.
    "dilemma": Naming(
        (*_MOCOV3, (r"^dilemma_head\.", "detector.")),
        forms=((r"\.pos_embed$", _with_class_row),),
    ),
    # facebookresearch/mae and microsoft/unilm, beit: a backbone, a norm of the mean, a classifier.
    "finetune": Naming(
        ((r"^fc_norm\.", "norm."), (r"^(?!head\.)", "backbone.")), computed=_BEIT_COMPUTES
    ),
}
"""By method."""


def our_name(method: str, official: str) -> str:
    """The name in our module of a parameter of the official implementation.

    Raises:
        KeyError: the method has no official naming here.
    """
    return NAMINGS[method].our_name(official)


def our_form(method: str, official: str, tensor: Tensor) -> Tensor:
    """A tensor of the official implementation with the axes that it has in our module.

    Raises:
        KeyError: the method has no official naming here.
    """
    return NAMINGS[method].our_form(official, tensor)


def from_official(method: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict in the official naming, made to load into our method's module.

    Raises:
        KeyError: the method has no official naming here.
    """
    return NAMINGS[method].convert(weights)
