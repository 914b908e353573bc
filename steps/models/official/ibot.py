"""bytedance/ibot: the names of facebookresearch/dino, two centres, a mask token in the student."""

from steps.models.official.naming import Naming

NAMING = Naming(
    (
        (r"^ibot_loss\.center$", "center.value"),
        (r"^ibot_loss\.center2$", "patch_center.value"),
        (r"^student\.backbone\.masked_embed$", "mask_token"),
        (r"\.last_layer2\.", ".patch_layer."),
        (r"\.gamma_([12])$", r".ls\1.gamma"),
    )
)
