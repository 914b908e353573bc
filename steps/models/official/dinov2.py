"""facebookresearch/dinov2: backbone and heads of student and teacher, or a backbone alone."""

from steps.models.official.naming import Naming

_BACKBONE = r"^((?:(?:student|teacher)\.backbone\.)?"

NAMING = Naming(
    (
        (r"^dino_loss\.center$", "class_center.value"),
        (r"^ibot_patch_loss\.center$", "patch_center.value"),
        (_BACKBONE + r")register_tokens$", r"\1reg_token"),
        (_BACKBONE + r"blocks\.\d+\.mlp\.)w12\.", r"\1fc1."),
        (_BACKBONE + r"blocks\.\d+\.mlp\.)w3\.", r"\1fc2."),
    )
)
