"""A training's configuration: one pydantic tree with a sentence and a unit per field.

All but `machine` is identity: with the digests of data and base it names the training, and going on under another is
refused. `machine` is operational: it says how the same values are computed, kept and reported.

Invariant: two configurations of the same identity train the same weights on the same data with the same seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from train.packing import Objective
from train.preference_form import DpoForm, PreferenceLoss
from trees.errors import SetupError
from trees.ids import digest_of


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LoraSettings(Section):
    """Low-rank adapters (arXiv 2106.09685)."""

    rank: int = Field(16, ge=1, description="Rank of the adapters.")
    alpha: float = Field(32.0, gt=0, description="Scale of the adapters, over the rank.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Share of an adapter's inputs that is dropped.")
    targets: str | tuple[str, ...] = Field(
        "all-linear", description="Names of the layers that get adapters, or all-linear for all but the output layer."
    )


class LossSettings(Section):
    """Of preference training; SFT has one loss."""

    kind: PreferenceLoss = Field("sigmoid", description="sigmoid (DPO), robust, ipo or sigmoid_norm.")
    beta: float = Field(0.1, gt=0, description="How much moving away from the reference costs.")
    label_smoothing: float = Field(0.0, ge=0, lt=0.5, description="Share of pairs taken to be labelled wrongly.")
    sft_weight: float = Field(0.0, ge=0, description="Weight of the chosen replies' likelihood, added to the loss.")

    def value(self) -> DpoForm:
        return DpoForm(self.kind, self.beta, self.label_smoothing, self.sft_weight)


class Schedule(Section):
    """When what is done, in optimiser steps and passes over the data."""

    epochs: float = Field(1.0, gt=0, description="Passes over the data.")
    steps: int = Field(0, ge=0, description="Optimiser steps at most; 0 leaves it to `epochs`.")
    learning_rate: float = Field(1e-4, gt=0, description="Highest learning rate.")
    shape: Literal["cosine", "linear", "constant_with_warmup"] = Field("cosine", description="How the rate falls.")
    warmup: float = Field(0.05, ge=0, lt=1, description="Share of the steps in which the rate rises.")
    weight_decay: float = Field(0.0, ge=0, description="Of AdamW.")
    max_grad_norm: float = Field(1.0, gt=0, description="Longer gradients are scaled down to this.")
    rows_per_step: int = Field(4, ge=1, description="Packed rows an optimiser step; pairs or tokens are averaged.")


class Evaluation(Section):
    share: float = Field(0.05, ge=0, lt=1, description="Share of the personas whose trees are held back to measure.")
    every: int = Field(20, ge=1, description="Optimiser steps between two evaluations.")
    patience: int = Field(0, ge=0, description="Stop after so many evaluations without a lower loss; 0 never stops.")


class Machine(Section):
    """Operational: may change when a training is taken up again."""

    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="Where it runs.")
    threads: int = Field(0, ge=0, description="CPU threads; 0 leaves it to torch.")
    gradient_checkpointing: bool = Field(
        False, description="Compute layers again in the backward pass: a third more time, far less memory."
    )
    save_every: int = Field(20, ge=1, description="Optimiser steps between two checkpoints.")
    keep: int = Field(2, ge=2, description="Checkpoints kept; two, so that one is whole while another is written.")
    point_every: int = Field(1, ge=1, description="Optimiser steps between two points.")


class TrainingConfig(Section):
    """One SFT or DPO fit."""

    objective: Objective = Field(description="sft: winning replies are learnt. dpo: pairs are.")
    base: str = Field("embedded", description="The model: embedded, a GGUF file, or a folder in the hub's form.")
    start: str | None = Field(
        None, description="Folder of an adapter to go on from, which is also the reference of a DPO training."
    )
    seed: int = Field(1, ge=0, lt=2**31, description="Of the order of rows, dropout and fresh adapters.")
    tokens_per_row: int = Field(
        4096, ge=16, description="Longest packed row; longer trees are cut, and what is longer by itself is left out."
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="Of the base's weights and the products; weights that are trained stay float32."
    )
    quantised: Literal["no", "nf4"] = Field("no", description="nf4: the base in 4 bits (QLoRA, arXiv 2305.14314).")
    lora: LoraSettings | None = Field(LoraSettings(), description="Adapters; null trains all weights.")
    loss: LossSettings = Field(LossSettings(), description="dpo: which loss.")
    schedule: Schedule = Schedule()
    evaluation: Evaluation = Evaluation()
    machine: Machine = Machine()

    @model_validator(mode="after")
    def _possible(self) -> TrainingConfig:
        if self.lora is None and self.quantised != "no":
            raise ValueError("quantised weights cannot be trained themselves: give lora, or quantised = 'no'")
        if self.lora is None and self.start is not None:
            raise ValueError("start names an adapter, which training all weights has no use for")
        return self

    @property
    def mixed(self) -> bool:
        """Whether products are in bfloat16 over weights of float32.

        Steps of a usual size are smaller than what bfloat16 can tell apart, so weights trained in it would stand still.
        """
        return self.lora is None and self.dtype == "bfloat16"

    def identity(self) -> dict[str, Any]:
        """What is digested: all but `machine`."""
        return self.model_dump(mode="json", exclude={"machine"})

    def digest(self) -> str:
        return digest_of("training configuration", self.identity())


def read_training_config(values: Mapping[str, Any]) -> TrainingConfig:
    """Check a configuration given as plain values. Raises SetupError with every field that is wrong."""
    try:
        return TrainingConfig.model_validate(values)
    except ValidationError as error:
        said = "\n".join(
            f"  {'.'.join(map(str, each['loc'])) or 'training'}: {each['msg']} (given: {each['input']!r:.80})"
            for each in error.errors()
        )
        raise SetupError(f"the training configuration is not usable:\n{said}") from error
