"""facebookresearch/mae and microsoft/unilm, beit: a backbone, a norm of the mean, a classifier."""

from steps.models.official.beit import BEiTNaming

NAMING = BEiTNaming(((r"^fc_norm\.", "norm."), (r"^(?!head\.)", "backbone.")))
