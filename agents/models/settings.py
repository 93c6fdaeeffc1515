"""What every model entry of a configuration has, whatever its backend: how it may be asked.

All of it is operational: it may change while a run goes on, and no id depends on it. A model's identity comes from
the loaded model (`agents.models.protocol.ModelIdentity`), not from its entry.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class ModelSettings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    permits: int = Field(8, ge=1, le=4096, description="Calls that may be with this model at once.")
    deadline_s: float = Field(180.0, gt=0, description="Longest wait for one attempt of a call, in seconds.")
    attempts: int = Field(4, ge=1, le=20, description="How often a call is tried in all before it counts as failed.")
    input_price: float | None = Field(
        None, ge=0, description="Price of a million prompt tokens; leave out if it costs nothing or is unknown."
    )
    output_price: float | None = Field(None, ge=0, description="Price of a million answer tokens.")
