"""Every random number comes from a seed and a place: no state to save, none to restore."""

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
    """Start torch's global generator from a place, and give it back as it was.

    For initialisers of torch and timm, which draw from the global generator and take no other.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, *place))
        yield
