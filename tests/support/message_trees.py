"""Message trees made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from train.data import MessagePair, MessageTree, TreeMessage

Said = tuple[int, Any, str]
"""Parent, speaker, text."""


def tree_of(
    *said: Said, targets: Sequence[int] = (), pairs: Sequence[tuple[int, int]] = (), **more: Any
) -> MessageTree:
    """A tree of these messages, parents first."""
    messages = tuple(TreeMessage(parent, who, text, f"n{i}") for i, (parent, who, text) in enumerate(said))
    compared = tuple(MessagePair(*pair) for pair in pairs)
    given = {"profile_id": "p", "personality_id": "q", "side": "train", "system": "", **more}
    return MessageTree("tree", "run", messages=messages, targets=tuple(targets), pairs=compared, **given)
