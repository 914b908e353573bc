"""The base of every params model: unknown keys forbidden, no silent conversion, immutable."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class Params(BaseModel):
    """A frozen group of params. ``strict``: a string where a number belongs is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    def resolved(self) -> dict[str, Any]:
        """All values, defaults included, as JSON: what a manifest records and a digest covers."""
        return self.model_dump(mode="json")
