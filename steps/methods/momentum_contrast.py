"""What MoCo v3 (arXiv:2104.02057) and DILEMMA (arXiv:2204.04788) share: the pair of encoders, how
the average moves, and the symmetric loss."""

from __future__ import annotations

from torch import Tensor

from steps.engine.schedules import Progress, cosine
from steps.methods.losses import momentum_contrast
from steps.methods.method import Batch, Encoded, JointMethod
from steps.models.backbones import BackboneModel
from steps.models.features import global_feature
from steps.models.momentum_encoder import MomentumPair
from steps.params.methods.contrast import MomentumContrast as Params


class MomentumContrast(JointMethod):
    """Queries of an encoder that learns, keys of its moving average.

    Args:
        params: of the method.
        backbone: prepared; the pair takes it over.
    """

    def __init__(self, params: Params, backbone: BackboneModel) -> None:
        super().__init__()
        self.contrast = params
        self.pair = MomentumPair(backbone, params.projector, params.predictor)

    def before_step(self, progress: Progress) -> None:
        """Move the momentum encoder, ahead of the keys of the same step: it averages the weights
        from before this step's update, as in the references.
        """
        self.pair.move(self.momentum(progress))

    def symmetric(self, encoded: Encoded) -> Tensor:
        """L(q1, k2) + L(q2, k1), of features (B, D) of the encoder (q1, q2) and of its average
        (k1, k2).
        """
        q1, q2 = self.pair.queries(encoded["q1"]), self.pair.queries(encoded["q2"])
        k1, k2 = self.pair.keys(encoded["k1"]), self.pair.keys(encoded["k2"])
        tau = self.contrast.temperature
        return momentum_contrast(q1, k2, tau) + momentum_contrast(q2, k1, tau)

    def momentum(self, progress: Progress) -> float:
        """Of the moving average: a cosine over all steps (MoCo v3, section 3)."""
        return cosine(progress, self.contrast.momentum, self.contrast.momentum_end)

    def after_step(self, progress: Progress) -> dict[str, float]:
        return {"momentum": self.momentum(progress)}

    def embeddings(self, batch: Batch) -> Tensor:
        """Features (B, D) of the first view, by the encoder that learns."""
        return global_feature(self.pair.encoder.backbone, batch.views[0])

    def exported(self) -> BackboneModel:
        """The backbone that learns, not its average (as the references probe it)."""
        return self.pair.encoder.backbone
