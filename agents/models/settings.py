"""What every model entry of a configuration has, whatever its backend: how it may be asked.

All of it is operational: it may change while a run goes on, and no id depends on it. A model's identity comes from
the loaded model (`agents.models.protocol.ModelIdentity`), not from its entry.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from agents.permits import AdaptiveLimit

FIRST_PERMITS = 4
MOST_PERMITS = 64
MOST_BY_HAND = 1_000_000
"""No number that anybody means is larger."""


def number_or_auto(value: object) -> object:
    """Refuse in one sentence what is neither; pydantic would tell twice, once for each."""
    counts = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MOST_BY_HAND
    if counts or value == "auto":
        return value
    raise ValueError(f'give a number from 1 to {MOST_BY_HAND} or "auto", not {value!r}')


ADAPTER_BASE = (
    "Digest, or its beginning, of the base that the adapter was trained on, where these weights are a conversion of "
    "it; left out if they are that base."
)
"""What `adapter_base` of every backend with adapters means."""

NumberOrAuto = Annotated[int | Literal["auto"], BeforeValidator(number_or_auto)]


class ModelSettings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    permits: NumberOrAuto = Field(
        "auto", description='Calls that may be with this model at once: a number, or "auto", which finds it.'
    )
    max_permits: int | None = Field(
        None, ge=1, le=MOST_BY_HAND, description='Most permits that "auto" gives; left out, what suits the backend.'
    )
    deadline_s: float = Field(180.0, gt=0, description="Longest wait for one attempt of a call, in seconds.")
    attempts: int = Field(4, ge=1, le=20, description="How often a call is tried in all before it counts as failed.")
    max_retry_after_s: float = Field(
        300.0, ge=0, description="Longest wait that a server may ask for, in seconds; beyond it a call fails."
    )
    input_price: float | None = Field(
        None, ge=0, description="Price of a million prompt tokens; leave out if it costs nothing or is unknown."
    )
    output_price: float | None = Field(None, ge=0, description="Price of a million answer tokens.")

    def loaded(self) -> dict[str, object]:
        """What this entry loads or asks, apart from how: two entries that are equal in it stand for one model."""
        how = set(ModelSettings.model_fields)
        for name, field in type(self).model_fields.items():
            extra = field.json_schema_extra
            # Where a file lies is operational, since its content is what counts; unread, another path is another file.
            if isinstance(extra, dict) and extra.get("operational") and name != "path":
                how.add(name)
        return self.model_dump(exclude=how)

    def limit(self) -> int | AdaptiveLimit:
        """How many calls may be with the model at once, at first."""
        return self.adaptive_limit() if self.permits == "auto" else self.permits

    def adaptive_limit(self) -> AdaptiveLimit:
        """The limit that finds itself, as it begins with this backend."""
        first, most = self.span()
        return AdaptiveLimit.starting(first, self.max_permits or most)

    def span(self) -> tuple[int, int]:
        """Permits to begin with, and the most that suit this backend."""
        return FIRST_PERMITS, MOST_PERMITS
