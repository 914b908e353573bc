"""Random numbers from a seed and a key, so that there is no state to save or restore."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derive(seed: int, *place: int | str) -> int:
    """63-bit seed for a key (such as an epoch, a step, a sample), independent between keys."""
    text = "/".join(str(part) for part in (seed, *place))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 1


def generator(seed: int, *place: int | str) -> torch.Generator:
    """CPU generator for a key."""
    return torch.Generator().manual_seed(derive(seed, *place))


@contextmanager
def seeded(seed: int, *place: int | str) -> Iterator[None]:
    """Seed torch's global generator for a key, and restore it afterwards.

    Initialisers of torch and timm draw only from the global generator.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, *place))
        yield
