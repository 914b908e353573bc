"""Settings of the property tests."""

from __future__ import annotations

import os

import hypothesis

EXAMPLES = os.environ.get("PRETEXT_FUZZ_EXAMPLES")
"""Random examples of each test, by a user; unset: the same few at every run."""
settings = hypothesis.settings(
    max_examples=int(EXAMPLES or 40),
    derandomize=EXAMPLES is None,
    deadline=None,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)
