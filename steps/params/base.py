"""The base of every params model: known keys, finite numbers, nothing converted silently."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class Params(BaseModel):
    """A frozen group of params. A string where a number belongs is an error, and so is infinity."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    def resolved(self) -> dict[str, Any]:
        """All values, defaults included, as JSON: what a manifest records and a digest covers."""
        return self.model_dump(mode="json")
