"""Log-probabilities of replies under the reference model, computed once and kept. Imports torch.

The reference is the model as its training begins: the base alone, or the base with the adapter that the training goes
on from, before a step is made. No second model is ever held. What a tree's replies are worth under it depends on the
tree's tokens and the weights alone, so it is kept in a folder, one file a tree, under the digest of both.

Invariant: a file that is found holds what computing it again would give.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from train.packing import PackedSequence
from train.reply_logps import reply_sums
from trees.ids import digest_of

ReadLogps = Callable[[PackedSequence], torch.Tensor]
"""Log-probabilities of a sequence's predicted tokens under the model at hand."""


def reference_sums(
    sequences: Sequence[PackedSequence], read: ReadLogps, weights: str, folder: Path | None = None
) -> list[torch.Tensor]:
    """Per sequence log q of each of its replies, (R,) in float32 on the CPU.

    `weights` names the reference: base, adapter and number format. With a folder, trees that are known are not
    computed again.
    """
    return [_sums(sequence, read, weights, folder) for sequence in sequences]


def _sums(sequence: PackedSequence, read: ReadLogps, weights: str, folder: Path | None) -> torch.Tensor:
    files = [_file(sequence, at, weights, folder) for at in range(len(sequence.trees))]
    if folder is not None and all(file is not None and file.exists() for file in files):
        known = [np.load(file) for file in files if file is not None]
        return torch.from_numpy(np.concatenate(known))
    with torch.no_grad():
        logps = read(sequence)
        sums = reply_sums(logps, torch.from_numpy(sequence.reply_lengths).to(logps.device)).cpu()
    owners = np.array([tree for tree, _ in sequence.replies])
    for at, file in enumerate(files):
        if file is not None:
            _keep(file, sums.numpy()[owners == at])
    return sums


def _file(sequence: PackedSequence, at: int, weights: str, folder: Path | None) -> Path | None:
    if folder is None:
        return None
    replies = [segment for tree, segment in sequence.replies if tree == at]
    return folder / f"{digest_of('reference', sequence.trees[at].digest, replies, weights)}.npy"


def _keep(file: Path, sums: np.ndarray[tuple[int], np.dtype[np.float32]]) -> None:
    """Under its name only when it is whole."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_suffix(f".{os.getpid()}.npy")
    np.save(draft, sums)
    draft.replace(file)
