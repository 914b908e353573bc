"""Haochen-Wang409/DropPos: encoder, position decoder and pixel decoder stand side by side."""

from steps.models.official.naming import Naming

NAMING = Naming(
    (
        (r"^decoder_(embed|blocks|norm|pred)\b", r"decoder.\1"),
        (r"^aux_decoder_(embed|pos_embed|blocks|norm|pred)\b", r"pixel_decoder.\1"),
        (r"^mask_token$", "pixel_decoder.mask_token"),
        (r"^mask_pos_token$", "position_token"),
        (r"^(?!decoder\.|pixel_decoder\.|position_token$)", "backbone."),
    )
)
