"""facebookresearch/moco-v3: projectors are the heads of the encoders."""

from steps.models.official.naming import Naming

RULES = (
    (r"^base_encoder\.head\.", "pair.encoder.projector."),
    (r"^base_encoder\.", "pair.encoder.backbone."),
    (r"^momentum_encoder\.head\.", "pair.momentum_encoder.projector."),
    (r"^momentum_encoder\.", "pair.momentum_encoder.backbone."),
    (r"^predictor\.", "pair.predictor."),
)
NAMING = Naming(RULES)
