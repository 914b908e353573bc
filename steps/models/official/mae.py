"""facebookresearch/mae: encoder and decoder stand side by side."""

from steps.models.official.naming import Naming

NAMING = Naming(
    (
        (r"^decoder_(embed|pos_embed|blocks|norm|pred)\b", r"decoder.\1"),
        (r"^mask_token$", "decoder.mask_token"),
        (r"^(?!decoder\.)", "backbone."),
    )
)
