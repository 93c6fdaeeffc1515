"""Which preference loss a training minimises, with its constants, as a value.

Invariant: it knows no torch, so that what is planned, listed or checked needs none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PreferenceLoss = Literal["sigmoid", "robust", "ipo", "sigmoid_norm"]


@dataclass(frozen=True)
class DpoForm:
    """Which preference loss, and its constants."""

    loss: PreferenceLoss = "sigmoid"
    beta: float = 0.1
    label_smoothing: float = 0.0
    sft_weight: float = 0.0
    """Of the mean negative log-likelihood of the chosen tokens, added to the loss."""
