"""facebookresearch/dino: a wrapper around backbone and head for each network."""

from steps.models.official.naming import Naming

NAMING = Naming(((r"^dino_loss\.center$", "center.value"),))
