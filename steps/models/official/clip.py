"""openai/CLIP: both towers, the image tower's names under ``visual``."""

from steps.models.official.naming import Naming

_TOWERS = (
    (r"^visual\.transformer\.resblocks\.(\d+)\.", r"backbone.blocks.\1."),
    (r"^transformer\.resblocks\.(\d+)\.", r"text.blocks.\1."),
)
_WITHIN_A_BLOCK = (
    (r"attn\.in_proj_", "attn.qkv."),
    (r"attn\.out_proj\.", "attn.proj."),
    (r"ln_1\.", "norm1."),
    (r"ln_2\.", "norm2."),
    (r"mlp\.c_fc\.", "mlp.fc1."),
    (r"mlp\.c_proj\.", "mlp.fc2."),
)

NAMING = Naming(
    rules=(
        *(
            (tower + part, our_tower + our_part)
            for tower, our_tower in _TOWERS
            for part, our_part in _WITHIN_A_BLOCK
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
)
