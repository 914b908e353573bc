"""Every random number comes from a seed and a place, so that there is no state to save."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derive(seed: int, *place: int | str) -> int:
    """A 63-bit seed for a place (an epoch, a step, a sample), independent between places."""
    text = "/".join(str(part) for part in (seed, *place))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 1


def generator(seed: int, *place: int | str) -> torch.Generator:
    """A CPU generator for a place."""
    return torch.Generator().manual_seed(derive(seed, *place))


@contextmanager
def seeded(seed: int, *place: int | str) -> Iterator[None]:
    """Seed torch's global generator for a place, and restore its state afterwards.

    For initialisers of torch and timm, which only draw from the global generator.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, *place))
        yield
