"""Random token trees, and tiny models with random weights of each family."""

from __future__ import annotations

import random
from typing import Any

from train.token_tree import PairOf, Segment, TokenTree

VOCABULARY = 97


def random_tree(
    seed: int, segments: int = 14, siblings: int = 3, longest: int = 12, vocabulary: int = VOCABULARY
) -> TokenTree:
    """A tree of any shape: replies and contexts in turns, siblings that go on or not; the first reply is the better."""
    rng = random.Random(seed)
    found = [_segment(rng, -1, False, longest, vocabulary)]
    while len(found) < segments:
        parent = rng.randrange(len(found)) if rng.random() < 0.5 else len(found) - 1
        reply = not found[parent].reply
        for _ in range(rng.randint(1, siblings) if reply else 1):
            found.append(_segment(rng, parent, reply, longest, vocabulary))
    under: dict[int, list[int]] = {}
    for index, segment in enumerate(found):
        if segment.reply:
            under.setdefault(segment.parent, []).append(index)
    return TokenTree(
        id=f"tree-{seed}",
        persona="nobody",
        segments=tuple(found),
        targets=tuple(replies[0] for replies in under.values()),
        pairs=tuple(PairOf(replies[0], other) for replies in under.values() for other in replies[1:]),
    )


def _segment(rng: random.Random, parent: int, reply: bool, longest: int, vocabulary: int) -> Segment:
    tokens = tuple(rng.randrange(2, vocabulary) for _ in range(rng.randint(1, longest)))
    return Segment(parent=parent, tokens=tokens, reply=reply, node="")


FAMILIES = ("llama", "qwen2", "qwen3", "mistral", "olmo2", "gemma2", "gemma3_text")


def tiny_model(family: str, seed: int = 0, **changes: Any) -> Any:
    """A model of three layers whose weights are large enough for attention to matter. Needs torch and transformers."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    given: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 512,
        "tie_word_embeddings": False,
        "sliding_window": None if family in ("llama", "mistral", "olmo2") else 256,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 1,
    }
    generator = torch.Generator().manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **given | changes))
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(0, 0.2, generator=generator)
    return model.eval()
