"""microsoft/unilm, beit2: as BEiT, and the head that aggregates patches."""

from steps.models.official.beit import BEiTNaming

NAMING = BEiTNaming(
    (
        (r"^cls_pt_layers\.", "aggregation.blocks."),
        (r"^cls_pt_(norm|lm_head)\.", r"aggregation.\1."),
        (r"^(?!mask_token|lm_head\b|aggregation\.)", "backbone."),
    )
)
