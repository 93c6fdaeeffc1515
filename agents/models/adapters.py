"""Adapters by name: where a model's configuration says `adapter = ...`, what that leads to.

A name is a folder as PEFT saves it, or (beginning of) the digest under which a store knows an adapter, or of the
training that made it. Who opens models hands in an `Adapters`, which knows the store and llama.cpp's own form of LoRA;
without one only folders are known.

Invariant: an adapter of which the base is known is played on that base, or on weights that a person says were made of
it, and on no others.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from agents.models.model_folder import AdapterFolder, read_adapter
from agents.models.protocol import ModelFailure
from agents.models.weights import HUB, Weights, locate


class Adapters(Protocol):
    """Finds adapters. Both methods block, and raise ModelFailure("setup")."""

    def find(self, named: str) -> AdapterFolder:
        """The adapter of this name."""
        ...

    def as_gguf(self, adapter: AdapterFolder, base: Path) -> Path:
        """The same as a LoRA in GGUF form for this GGUF base; made once."""
        ...


class FoldersOnly:
    """Adapters where no store is at hand."""

    def find(self, named: str) -> AdapterFolder:
        return read_adapter(named)

    def as_gguf(self, adapter: AdapterFolder, base: Path) -> Path:
        raise ModelFailure(
            "setup",
            f"the adapter {str(adapter.path)!r} is not in GGUF form: make it so with "
            "`espalier train export --to gguf-lora`",
        )


def lora_for(named: str, base: Weights, adapters: Adapters, made_of: str | None) -> Weights:
    """The LoRA in GGUF form that a name means for a GGUF base, under the digest of the adapter.

    `made_of` is the digest of the weights that the base is said to be a conversion of. Blocks. Raises
    ModelFailure("setup").
    """
    if named.startswith(HUB) or named.lower().endswith(".gguf"):
        return locate(named)
    adapter = adapters.find(named)
    check_base(adapter, base.digest, made_of)
    return Weights(adapters.as_gguf(adapter, base.path), adapter.digest)


def adapter_digest(named: str, adapters: Adapters) -> str:
    """The digest of the adapter that a name means. Blocks. Raises ModelFailure("setup")."""
    if named.startswith(HUB) or named.lower().endswith(".gguf"):
        return locate(named).digest
    return adapters.find(named).digest


def check_base(adapter: AdapterFolder, base: str, made_of: str | None) -> None:
    """Raise ModelFailure("setup") for an adapter of which it is known that it was trained on other weights."""
    if adapter.base is None or adapter.base == base or (made_of and adapter.base.startswith(made_of)):
        return
    raise ModelFailure(
        "setup",
        f"the adapter {adapter.digest} was trained on the base {adapter.base}, and this is {base}: play it on its own "
        f'base, or, if these weights are a conversion of it, say so with adapter_base = "{adapter.base[:12]}"',
    )
