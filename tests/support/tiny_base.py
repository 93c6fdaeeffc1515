"""A base model of a few thousand weights as a folder in the hub's form: random weights, a token a byte. Needs torch."""

from __future__ import annotations

from pathlib import Path

from tests.support.tokenizers import CHATML, byte_tokenizer


def tiny_base(folder: Path, seed: int = 0, template: str | None = CHATML, eos: str | None = "<|im_end|>") -> Path:
    """Write the model; the same seed gives the same files."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    specials = ["<|im_start|>", "<|im_end|>"] if template is not None or eos else []
    tokenizer = byte_tokenizer(template, specials, eos=eos)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(seed)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
