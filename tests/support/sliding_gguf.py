"""A small random model most of whose layers look back over a short window only, as a GGUF.

Needs the package `gguf`. Every byte is a token of its own, and messages are in ChatML, since it has no template.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from gguf import GGUFWriter, LlamaFileType

_LAYERS, _WIDTH, _HEADS, _KV_HEADS, _HEAD, _INNER = 6, 64, 4, 2, 16, 128
_PRINTED = [*range(33, 127), *range(161, 173), *range(174, 256)]


def sliding_gguf(directory: Path, window: int) -> Path:
    """Gemma 3's form, in which five of six layers see the last `window` tokens."""
    path = directory / f"sliding-{window}.gguf"
    writer = GGUFWriter(path, "gemma3")
    _describe(writer, window)
    tokens = _vocabulary(writer)
    dice = np.random.default_rng(0)

    def drawn(name: str, *shape: int) -> None:
        writer.add_tensor(f"{name}.weight", dice.normal(0, 0.3, shape).astype(np.float32))

    def ones(name: str, length: int) -> None:
        writer.add_tensor(f"{name}.weight", np.ones(length, np.float32))

    drawn("token_embd", tokens, _WIDTH)
    ones("output_norm", _WIDTH)
    for layer in range(_LAYERS):
        block = f"blk.{layer}."
        for norm in ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm"):
            ones(block + norm, _WIDTH)
        for norm in ("attn_q_norm", "attn_k_norm"):
            ones(block + norm, _HEAD)
        drawn(block + "attn_q", _HEADS * _HEAD, _WIDTH)
        drawn(block + "attn_k", _KV_HEADS * _HEAD, _WIDTH)
        drawn(block + "attn_v", _KV_HEADS * _HEAD, _WIDTH)
        drawn(block + "attn_output", _WIDTH, _HEADS * _HEAD)
        drawn(block + "ffn_gate", _INNER, _WIDTH)
        drawn(block + "ffn_up", _INNER, _WIDTH)
        drawn(block + "ffn_down", _WIDTH, _INNER)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _describe(writer: GGUFWriter, window: int) -> None:
    writer.add_file_type(LlamaFileType.ALL_F32)
    writer.add_context_length(4096)
    writer.add_embedding_length(_WIDTH)
    writer.add_block_count(_LAYERS)
    writer.add_feed_forward_length(_INNER)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(_KV_HEADS)
    writer.add_key_length(_HEAD)
    writer.add_value_length(_HEAD)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10000.0)
    writer.add_sliding_window(window)


def _vocabulary(writer: GGUFWriter) -> int:
    """Bytes by the characters that stand for them, and ChatML's two marks; returns how many tokens that is."""
    others = [byte for byte in range(256) if byte not in _PRINTED]
    characters = [*map(chr, _PRINTED), *(chr(256 + place) for place in range(len(others)))]
    tokens = [*characters, "<|im_start|>", "<|im_end|>", "zz"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * len(characters) + [3, 3, 1])
    writer.add_token_merges(["z z"])
    writer.add_bos_token_id(len(characters))
    writer.add_eos_token_id(len(characters) + 1)
    writer.add_add_bos_token(False)
    return len(tokens)
