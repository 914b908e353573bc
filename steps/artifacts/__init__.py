"""Artifacts: folders that are whole or absent, and the metric records measured on them."""

from steps.artifacts.identity import identify
from steps.artifacts.manifest import Manifest, read_manifest, verify
from steps.artifacts.publish import Draft, publish
from steps.artifacts.records import Record, read_records, write_records, write_scores

__all__ = [
    "Draft",
    "Manifest",
    "Record",
    "identify",
    "publish",
    "read_manifest",
    "read_records",
    "verify",
    "write_records",
    "write_scores",
]
