"""Small tokenizers of transformers, made on the spot: a token a byte, or a token a word. Need the training extra."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_tokenizer(
    template: str | None,
    specials: Sequence[str],
    *,
    bos: str | None = None,
    eos: str | None = None,
    plain: Sequence[str] = (),
    adds_bos: bool = False,
) -> Any:
    """A token for each byte, and the special ones; `plain` are added tokens that control nothing."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    model = models.BPE(vocab={letter: index for index, letter in enumerate(alphabet)}, merges=[])
    made = Tokenizer(model)
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    return _wrapped(made, template, specials, bos, eos, plain, adds_bos)


def word_tokenizer(words: Sequence[str], template: str, specials: Sequence[str], *, eos: str) -> Any:
    """A token for each of these words, numbered from 0; then the special ones. Spaces and newlines are words too."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    made = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token=words[0]))
    made.pre_tokenizer = pre_tokenizers.Split(Regex(r"\s|[^\s]+"), "isolated")
    made.decoder = decoders.Fuse()
    return _wrapped(made, template, specials, None, eos, (), False)


def piece_tokenizer(template: str, specials: Sequence[str], *, bos: str, eos: str, prefix: str) -> Any:
    """A token a letter, with spaces as SentencePiece has them; `prefix` says where a text gets one in front."""
    from string import ascii_letters, punctuation

    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = dict.fromkeys(f"▁\n{ascii_letters}{punctuation}")
    words = [*letters, "▁h", "▁g", "\n\n"]
    merges = [(word[0], word[1]) for word in words[len(letters) :]]
    vocabulary = {word: index for index, word in enumerate(words)}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="?"))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prefix, split=False)
    made.decoder = decoders.Metaspace(prepend_scheme=prefix)
    return _wrapped(made, template, specials, bos, eos, (), adds_bos=True)


def _wrapped(
    made: Any,
    template: str | None,
    specials: Sequence[str],
    bos: str | None,
    eos: str | None,
    plain: Sequence[str],
    adds_bos: bool,
) -> Any:
    from tokenizers import AddedToken
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    made.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in specials])
    made.add_tokens([AddedToken(text, special=False, normalized=False) for text in plain])
    if adds_bos:
        assert bos is not None
        made.post_processor = TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, made.token_to_id(bos))])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, bos_token=bos, eos_token=eos)
    tokenizer.chat_template = template
    return tokenizer
