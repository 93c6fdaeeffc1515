"""What a step of a training takes of memory, as values and in words; and what to lower where it is too much.

Invariant: nothing here knows torch; `train.trial` fills the values, from a model or from a configuration alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from train.config import TrainingConfig

FRAMEWORK = 600 * 2**20
"""Bytes that torch and transformers take by themselves."""
_SIGNS = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory")


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes of a step over a row of so many tokens."""

    tokens: int
    """Of the longest row."""
    weights: int
    training: int
    """Gradients and the optimiser's moments of what is trained."""
    activations: int
    """Of the longest row."""
    logits: int

    @property
    def total(self) -> int:
        return self.weights + self.step + FRAMEWORK

    @property
    def step(self) -> int:
        """What a step takes beside the weights."""
        return self.training + self.activations + self.logits

    def as_dict(self) -> dict[str, int]:
        return {**asdict(self), "total": self.total}

    def words(self) -> str:
        """As part of a sentence."""
        parts = {
            "weights": self.weights,
            "gradients and moments": self.training,
            f"activations of {self.tokens} tokens": self.activations,
            "logits": self.logits,
        }
        return f"about {in_bytes(self.total)}: " + ", ".join(f"{name} {in_bytes(n)}" for name, n in parts.items())


def memory_from(values: Mapping[str, int]) -> MemoryEstimate:
    """What `as_dict` gave."""
    return MemoryEstimate(**{name: value for name, value in values.items() if name != "total"})


def in_bytes(number: int) -> str:
    """Megabytes below a gigabyte, gigabytes from there on."""
    return f"{number / 1e6:.3g} MB" if number < 1e9 else f"{number / 1e9:.3g} GB"


def what_to_lower(config: TrainingConfig) -> str:
    """What would take less, with the values that stand now; what is low already is not named."""
    return f"{', '.join(_lower(config))}, or take a smaller base."


def _lower(config: TrainingConfig) -> Iterator[str]:
    rank = "" if config.lora is None else f" or lora.rank (now {config.lora.rank})"
    yield f"Lower tokens_per_row (now {config.tokens_per_row}){rank}"
    if not config.machine.gradient_checkpointing:
        yield "set machine.gradient_checkpointing = true"
    if config.lora is None:
        yield "train an adapter and not all weights (leave out lora = false)"
    if config.dtype == "float32" and config.quantised == "no" and config.lora is not None:
        yield "set dtype = 'bfloat16'"
    if config.quantised == "no" and config.lora is not None and config.machine.device in ("auto", "cuda"):
        yield "set quantised = 'nf4' on a GPU"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on whichever device."""
    return isinstance(error, MemoryError) or any(sign in str(error).lower() for sign in _SIGNS)
