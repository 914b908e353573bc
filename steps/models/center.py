"""A teacher kept from collapse: its logits centred, or balanced by Sinkhorn-Knopp."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from steps.core.distributed import mean_over_processes, sum_over_processes

# --- Sinkhorn-Knopp: teacher scores balanced over the batch in place of a centre


@torch.no_grad()
def sinkhorn_knopp(logits_NK: Tensor, temperature: float, iterations: int) -> Tensor:
    """Assign rows to prototypes so that each prototype gets an equal share of all rows.

    Q = exp(logits / temperature)^T, divided by its sum; then by turns its rows (prototypes) are
    scaled to sum to 1 / K and its columns (samples) to 1 / N (SwAV, arXiv:2006.09882, equation 5;
    DINOv2, arXiv:2304.07193, section 4). K x N is the size over all processes, each of which may
    have another number of rows, even none.

    Args:
        logits_NK: this process's, (N, K). No maximum is subtracted, as in DINOv2's reference.
        temperature: of the teacher.
        iterations: turns.

    Returns:
        (N, K) float32; rows sum to 1 where there was a turn.
    """
    shares_KN = (logits_NK.float() / temperature).exp().T
    prototypes = shares_KN.shape[0]
    samples = sum_over_processes(shares_KN.new_tensor(shares_KN.shape[1]))
    shares_KN = shares_KN / sum_over_processes(shares_KN.sum())
    for _ in range(iterations):
        shares_KN = shares_KN / sum_over_processes(shares_KN.sum(dim=1, keepdim=True)) / prototypes
        # All scores of a sample are here: only sums over samples need a message.
        shares_KN = shares_KN / shares_KN.sum(dim=0, keepdim=True) / samples
    return (shares_KN * samples).T


# --- The running mean of a teacher's logits, which keeps one prototype from winning everywhere


class Center(nn.Module):
    """c <- m c + (1 - m) mean(logits) (DINO, arXiv:2104.14294, equation 4).

    ``accumulate`` collects the logits of each micro-batch, ``update`` moves the centre once per
    step by the mean over the global batch, so that it does not depend on how the batch was cut.
    """

    value: Tensor
    """In the shape given, the last axis K, the others 1."""
    _sum: Tensor
    _rows: Tensor

    def __init__(self, *shape: int, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("value", torch.zeros(shape))
        # Empty between steps, so no checkpoint needs them.
        self.register_buffer("_sum", torch.zeros(shape[-1]), persistent=False)
        self.register_buffer("_rows", torch.zeros(()), persistent=False)

    @torch.no_grad()
    def accumulate(self, logits: Tensor) -> None:
        """Collect logits (N, K)."""
        self._sum += logits.float().sum(dim=0)
        self._rows += len(logits)

    @torch.no_grad()
    def update(self) -> None:
        """Update by what was collected, here and in all other processes."""
        # Processes have equally many rows, so their means weigh the same.
        mean = mean_over_processes(self._sum / self._rows)
        self.value.mul_(self.momentum).add_(mean, alpha=1 - self.momentum)
        self._sum.zero_()
        self._rows.zero_()


class LazyCenter(nn.Module):
    """A centre that takes a batch's mean in when it is used next (DINOv2, arXiv:2304.07193).

    What is subtracted is the same as with ``Center``: ``used`` holds all batches before. What is
    called ``value`` lacks the last of them, as in the checkpoints of the reference.

    Args:
        shape: of the centre, the last axis K.
        momentum: m.
        equal_processes: the mean of the processes' means, as the reference takes it, however
            many rows each has; otherwise every row weighs the same.
    """

    value: Tensor
    _waiting: Tensor
    _filled: Tensor
    _sum: Tensor
    _rows: Tensor

    def __init__(self, *shape: int, momentum: float, equal_processes: bool = False) -> None:
        super().__init__()
        self.momentum = momentum
        self.equal_processes = equal_processes
        self.register_buffer("value", torch.zeros(shape))
        self.register_buffer("_waiting", torch.zeros(shape[-1]))
        self.register_buffer("_filled", torch.zeros((), dtype=torch.bool))
        self.register_buffer("_sum", torch.zeros(shape[-1]), persistent=False)
        self.register_buffer("_rows", torch.zeros(()), persistent=False)

    @property
    def used(self) -> Tensor:
        """Centre that this step subtracts from logits, in the shape of ``value``."""
        folded = self.value * self.momentum + self._waiting * (1 - self.momentum)
        return torch.where(self._filled, folded, self.value)

    @torch.no_grad()
    def accumulate(self, logits_NK: Tensor) -> None:
        """Collect logits, of any number of rows."""
        self._sum += logits_NK.float().sum(dim=0)
        self._rows += len(logits_NK)

    @torch.no_grad()
    def update(self) -> None:
        """Fold in the mean that waits; the mean of what all processes collected waits next."""
        self.value.copy_(self.used)
        rows = sum_over_processes(self._rows)
        if self.equal_processes:
            mean = mean_over_processes(self._sum / self._rows.clamp(min=1))
        else:
            mean = sum_over_processes(self._sum) / rows.clamp(min=1)
        self._waiting.copy_(mean)
        # A step without masked patches leaves nothing to fold in.
        self._filled.copy_(rows > 0)
        self._sum.zero_()
        self._rows.zero_()
