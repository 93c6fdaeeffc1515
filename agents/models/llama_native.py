"""llama.cpp as four small classes: weights, vocabulary, context and sampler. The only file that imports
llama_cpp.

Native code ends the process on misuse, so what it asks of its caller is kept here or stated where it is
asked: log callbacks outlive the library, a batch never holds more tokens or outputs than it was made for,
positions of a sequence follow one another. This module is loaded in the supervised child alone.

Invariant: no pointer leaves this file, and a pointer that is null was turned into an error.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import llama_cpp.llama_cpp as native
import numpy as np
from numpy.typing import NDArray

from agents.models.protocol import ModelFailure, Sampling

api: Any = native

OUTPUTS = 256
"""Most tokens of a batch whose logits are asked for; bounds the memory that logits take."""
PENALTY_WINDOW = 64
"""Tokens that the penalties look back on, the prompt's end included, as llama.cpp's own programs have it."""
GRAMMAR_FIRST = 512
"""Likeliest tokens of which a greedy answer asks the grammar before it asks of all."""
RANDOM_SEED = 0xFFFFFFFF
"""What llama.cpp reads as "draw a seed"."""

_SEQUENCE_IDS = 256
"""llama.cpp knows no more."""
_WARNING, _ERROR = 3, 4
_CACHE_TYPES = {"f32": 0, "f16": 1}


@api.llama_log_callback  # type: ignore[untyped-decorator]
def _log(level: int, text: bytes, _data: Any) -> None:
    if level in (_WARNING, _ERROR):
        sys.stderr.write(text.decode("utf-8", "replace"))
        sys.stderr.flush()


def start() -> None:
    """Once per process. The callback is a module's attribute because llama.cpp keeps calling it."""
    api.llama_log_set(_log, None)
    api.llama_backend_init()


def offloads() -> bool:
    """Whether this build of llama.cpp can put layers on a GPU."""
    return bool(api.llama_supports_gpu_offload())


class NativeFailure(RuntimeError):
    """llama.cpp gave up in a way after which its state is unknown: the process must end."""


class Weights:
    """A loaded GGUF and, if given, a LoRA adapter for it."""

    def __init__(self, path: str, *, gpu_layers: int, adapter: str | None) -> None:
        params = api.llama_model_default_params()
        params.n_gpu_layers = gpu_layers
        self.pointer = api.llama_model_load_from_file(os.fsencode(path), params)
        if not self.pointer:
            raise ModelFailure("setup", f"llama.cpp cannot load {path!r}: if it is incomplete, download it again")
        if api.llama_model_has_encoder(self.pointer) or not api.llama_model_has_decoder(self.pointer):
            raise ModelFailure("setup", f"{path!r} is not a chat model: it has an encoder or no decoder")
        self.vocab = Vocab(self.pointer)
        self._adapter = self._load_adapter(adapter) if adapter else None

    def _load_adapter(self, path: str) -> Any:
        adapter = api.llama_adapter_lora_init(self.pointer, os.fsencode(path))
        if not adapter:
            raise ModelFailure("setup", f"the adapter {path!r} is not a LoRA in GGUF form for this model")
        return adapter

    @cached_property
    def trained_context(self) -> int:
        return int(api.llama_model_n_ctx_train(self.pointer))

    @cached_property
    def shares_prefixes(self) -> bool:
        """Recurrent state cannot be cut at a token, so such a model reads every prompt from its beginning."""
        return not (api.llama_model_is_recurrent(self.pointer) or api.llama_model_is_hybrid(self.pointer))

    @cached_property
    def window(self) -> int:
        """How many tokens the layers that see least look back; 0 if all of them see everything."""
        return int(api.llama_model_n_swa(self.pointer))

    @cached_property
    def quantisation(self) -> str:
        name = api.llama_ftype_name(api.llama_model_ftype(self.pointer))
        return name.decode("utf-8", "replace") if name else "unknown"

    @cached_property
    def template(self) -> str | None:
        source = api.llama_model_chat_template(self.pointer, None)
        return source.decode("utf-8", "replace") if source else None

    def attach_adapter(self, context: Any) -> None:
        if self._adapter is None:
            return
        adapters = (api.llama_adapter_lora_p_ctypes * 1)(self._adapter)
        if api.llama_set_adapters_lora(context, adapters, 1, (ctypes.c_float * 1)(1.0)) != 0:
            raise ModelFailure("setup", "llama.cpp refuses the adapter for this context")


class Vocab:
    """Text to token ids and back. Only reads the model, so it may be used from any thread."""

    def __init__(self, model: Any) -> None:
        self._pointer = api.llama_model_get_vocab(model)
        self.size = int(api.llama_vocab_n_tokens(self._pointer))
        self.bos = int(api.llama_vocab_bos(self._pointer))
        self.eos = int(api.llama_vocab_eos(self._pointer))
        self.adds_bos = bool(api.llama_vocab_get_add_bos(self._pointer)) and self.bos >= 0
        self._sentencepiece = api.llama_vocab_type(self._pointer) == api.LLAMA_VOCAB_TYPE_SPM

    @property
    def pointer(self) -> Any:
        return self._pointer

    def tokenize(self, text: str, *, special: bool) -> list[int]:
        """Token ids of a text; with `special`, the texts of special tokens become those tokens.

        Lone surrogates cannot be in UTF-8 and are read as U+FFFD, as a server behind HTTP would read them.
        """
        data = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode("utf-8")
        size = len(data) + 2
        buffer = (api.llama_token * size)()
        count = api.llama_tokenize(self._pointer, data, len(data), buffer, size, False, special)
        if count < 0:
            raise ModelFailure("refused", f"llama.cpp cannot tokenise a text of {len(text)} characters")
        return list(buffer[:count])

    def text(self, token: int) -> str:
        """The text by which the vocabulary names a token; empty for a token it does not have."""
        if token < 0:
            return ""
        return str(api.llama_vocab_get_text(self._pointer, token).decode("utf-8", "replace"))

    def piece(self, token: int, *, first: bool) -> bytes:
        """The bytes a token adds to an answer. Control tokens add none; the marks of reasoning are kept."""
        buffer = ctypes.create_string_buffer(256)
        strip = int(first and self._sentencepiece)
        special = token in self._thinking
        count = api.llama_token_to_piece(self._pointer, token, buffer, len(buffer), strip, special)
        if count < 0:
            buffer = ctypes.create_string_buffer(-count)
            count = api.llama_token_to_piece(self._pointer, token, buffer, -count, strip, special)
        return buffer.raw[:count]

    @cached_property
    def _thinking(self) -> frozenset[int]:
        return frozenset(token for token, text in self.specials if text in ("<think>", "</think>"))

    def ends(self, token: int) -> bool:
        return bool(api.llama_vocab_is_eog(self._pointer, token))

    def is_user_defined(self, token: int) -> bool:
        return bool(api.llama_vocab_get_attr(self._pointer, token) & api.LLAMA_TOKEN_ATTR_USER_DEFINED)

    @cached_property
    def specials(self) -> tuple[tuple[int, str], ...]:
        """Tokens that llama.cpp may find by their text before it tokenises the rest."""
        kinds = api.LLAMA_TOKEN_ATTR_CONTROL | api.LLAMA_TOKEN_ATTR_USER_DEFINED | api.LLAMA_TOKEN_ATTR_UNKNOWN
        found = (t for t in range(self.size) if api.llama_vocab_get_attr(self._pointer, t) & kinds)
        return tuple((token, self.text(token)) for token in found)


@dataclass(frozen=True, slots=True)
class ContextOptions:
    """How a context is made."""

    cells: int
    sequences: int
    """Sequence ids for others to use, which run below this number; `ids_of` says how many there may be."""
    batch: int
    """Most tokens that are decoded at once."""
    threads: int
    cache_type: str
    flash_attention: bool
    embeddings: bool = False


def ids_of(weights: Weights) -> int:
    """Most sequences that a context of this model offers: one id is its own, and where there is a window each sequence
    takes two."""
    return (_SEQUENCE_IDS - 1) // (2 if weights.window else 1)


class Context:
    """A KV cache shared by sequences, and the batch that is decoded into it.

    In a model with a sliding window, llama.cpp takes a cell for something else once it lies before the window of the
    one sequence that holds it, and saves only the window that a sequence ends with. A prefix that ends earlier needs
    the rest too. So there every sequence has a twin that holds the same cells, since a cell that two sequences hold is
    left alone, and cells are saved in runs no longer than the window.

    Invariant: what a sequence holds between two calls of these methods, its twin holds as well.
    """

    def __init__(self, weights: Weights, options: ContextOptions) -> None:
        self._scratch = options.sequences
        """The id by which cells are saved and restored."""
        self._twin = options.sequences + 1 if weights.window else 0
        """What is added to an id to name its twin; 0 if there are none."""
        self._longest = weights.window or options.cells
        """Most cells that are saved as one."""
        ids = options.sequences * (2 if weights.window else 1) + 1
        self._pointer = api.llama_init_from_model(weights.pointer, _context_params(options, ids))
        if not self._pointer:
            raise ModelFailure(
                "setup",
                f"llama.cpp cannot make a context of {options.cells} cells: lower `cells` or `context`",
            )
        weights.attach_adapter(self._pointer)
        self._memory = api.llama_get_memory(self._pointer)
        self.capacity = int(api.llama_n_batch(self._pointer))
        """Most tokens one batch takes; llama.cpp lowers it to the number of cells, and aborts on more."""
        self._batch = api.llama_batch_init(self.capacity, 0, 2)
        self._vocabulary = weights.vocab.size
        self._width = int(api.llama_model_n_embd(weights.pointer))
        self.cells = int(api.llama_n_ctx(self._pointer))

    @property
    def pointer(self) -> Any:
        return self._pointer

    def clear_batch(self) -> None:
        self._batch.n_tokens = 0

    def add(self, token: int, position: int, sequence: int, *, output: bool) -> int:
        """Add a token to the batch; its place there is where its output is found after decoding."""
        batch, place = self._batch, self._batch.n_tokens
        if place >= self.capacity:
            raise NativeFailure("the batch is full")
        batch.token[place] = token
        batch.pos[place] = position
        batch.n_seq_id[place] = 2 if self._twin else 1
        batch.seq_id[place][0] = sequence
        batch.seq_id[place][1] = sequence + self._twin
        batch.logits[place] = output
        batch.n_tokens = place + 1
        return int(place)

    def decode(self) -> bool:
        """Decode the batch. False if the cache has no room for it; then nothing has changed."""
        code = api.llama_decode(self._pointer, self._batch)
        if code not in (0, 1):
            raise NativeFailure(f"llama_decode ended with {code}")
        return bool(code == 0)

    def logits(self, place: int) -> NDArray[np.float32]:
        """A view that is valid until the next decode."""
        return self._row(api.llama_get_logits_ith(self._pointer, place), self._vocabulary)

    def embedding(self, place: int) -> NDArray[np.float32]:
        return self._row(api.llama_get_embeddings_ith(self._pointer, place), self._width)

    @staticmethod
    def _row(pointer: Any, length: int) -> NDArray[np.float32]:
        if not pointer:
            raise NativeFailure("llama.cpp has no output where one was asked for")
        row: NDArray[np.float32] = np.ctypeslib.as_array(pointer, (length,))
        return row

    def copy(self, source: int, target: int, start: int, end: int) -> None:
        """Let `target` hold what `source` holds from `start` to before `end`; no cell is duplicated."""
        api.llama_memory_seq_cp(self._memory, source, target, start, end)
        if self._twin:
            api.llama_memory_seq_cp(self._memory, source, target + self._twin, start, end)

    def cut(self, sequence: int, start: int) -> bool:
        """Forget what a sequence holds from `start` on. False if this kind of memory cannot be cut there."""
        if self._twin:
            api.llama_memory_seq_rm(self._memory, sequence + self._twin, start, -1)
        return bool(api.llama_memory_seq_rm(self._memory, sequence, start, -1))

    def save(self, sequence: int, start: int, end: int) -> list[bytearray]:
        """The cells of a sequence from `start` to before `end` as bytes, with their positions."""
        return [
            self._save(sequence, begin, min(begin + self._longest, end)) for begin in range(start, end, self._longest)
        ]

    def _save(self, sequence: int, start: int, end: int) -> bytearray:
        api.llama_memory_seq_cp(self._memory, sequence, self._scratch, start, end)
        saved = bytearray(api.llama_state_seq_get_size(self._pointer, self._scratch))
        if api.llama_state_seq_get_data(self._pointer, _view(saved), len(saved), self._scratch) != len(saved):
            raise NativeFailure("llama.cpp could not copy cells to host memory")
        self._empty_scratch()
        return saved

    def restore(self, sequence: int, saved: Sequence[bytearray]) -> bool:
        """Add to a sequence the cells that `save` copied. False if there is no room for them; some may be there."""
        return all(self._restore(sequence, each) for each in saved)

    def _restore(self, sequence: int, saved: bytearray) -> bool:
        if not api.llama_state_seq_set_data(self._pointer, _view(saved), len(saved), self._scratch):
            return False
        self.copy(self._scratch, sequence, 0, -1)
        self._empty_scratch()
        return True

    def _empty_scratch(self) -> None:
        api.llama_memory_seq_rm(self._memory, self._scratch, -1, -1)

    def clear(self) -> None:
        api.llama_memory_clear(self._memory, False)


def _view(data: bytearray) -> Any:
    return (ctypes.c_uint8 * len(data)).from_buffer(data)


def _context_params(options: ContextOptions, ids: int) -> Any:
    params = api.llama_context_default_params()
    params.n_ctx = options.cells
    params.n_batch = params.n_ubatch = options.batch
    params.n_seq_max = ids
    params.n_outputs_max = options.batch if options.embeddings else max(OUTPUTS, options.sequences)
    params.n_outputs_max_per_seq = 0
    params.n_threads = params.n_threads_batch = options.threads
    params.type_k = params.type_v = _CACHE_TYPES[options.cache_type]
    params.flash_attn_type = int(options.flash_attention)
    params.kv_unified = True
    if options.embeddings:
        params.embeddings = True
        params.pooling_type = api.LLAMA_POOLING_TYPE_NONE
    return params


class Sampler:
    """How the next token of one answer is drawn: penalties, cuts, temperature, then a seeded draw; within a grammar.

    What a `Sampling` leaves at None is off, so unset fields mean the same here as on an OpenAI-compatible
    server.
    """

    def __init__(self, vocab: Vocab, sampling: Sampling, seed: int, grammar: str | None, prompt: Sequence[int]) -> None:
        self._greedy = sampling.temperature <= 0
        self._constraint = None if grammar is None else _grammar(vocab, grammar)
        self._chain = api.llama_sampler_chain_init(api.llama_sampler_chain_default_params())
        self._add_penalties(vocab, sampling, prompt)
        if self._greedy:
            self._add(api.llama_sampler_init_greedy())
            return
        if sampling.top_k is not None:
            self._add(api.llama_sampler_init_top_k(sampling.top_k))
        if sampling.top_p is not None:
            self._add(api.llama_sampler_init_top_p(sampling.top_p, 1))
        if sampling.min_p is not None:
            self._add(api.llama_sampler_init_min_p(sampling.min_p, 1))
        self._add(api.llama_sampler_init_temp(sampling.temperature))
        self._add(api.llama_sampler_init_dist(seed % RANDOM_SEED))

    def _add(self, sampler: Any) -> None:
        api.llama_sampler_chain_add(self._chain, sampler)

    def _add_penalties(self, vocab: Vocab, sampling: Sampling, prompt: Sequence[int]) -> None:
        repeat = 1.0 if sampling.repeat_penalty is None else sampling.repeat_penalty
        frequency, presence = sampling.frequency_penalty or 0.0, sampling.presence_penalty or 0.0
        if (repeat, frequency, presence) == (1.0, 0.0, 0.0):
            return
        penalties = api.llama_sampler_init_penalties(vocab.size, PENALTY_WINDOW, repeat, frequency, presence)
        for token in prompt[-PENALTY_WINDOW:]:
            api.llama_sampler_accept(penalties, token)
        self._add(penalties)

    def draw(self, context: Context, place: int) -> int:
        if self._constraint is None:
            return int(api.llama_sampler_sample(self._chain, context.pointer, place))
        token = self._draw_within(context.logits(place))
        api.llama_sampler_accept(self._constraint, token)
        api.llama_sampler_accept(self._chain, token)
        return token

    def _draw_within(self, logits: NDArray[np.float32]) -> int:
        """A token that the grammar allows.

        Asking the grammar about one token is a thousand times cheaper than about all, so one is drawn freely first;
        if it is refused, one is drawn from those allowed. The two together are a draw from the allowed ones.
        """
        free = self._pick(_Candidates.all(logits))
        if self._allows(free):
            return free
        if self._greedy:
            likeliest = _Candidates.likeliest(logits, GRAMMAR_FIRST)
            likeliest.apply(self._constraint)
            if likeliest.any_left:
                return self._pick(likeliest)
        allowed = _Candidates.all(logits)
        allowed.apply(self._constraint)
        return self._pick(allowed)

    def _pick(self, candidates: _Candidates) -> int:
        candidates.apply(self._chain)
        return candidates.selected

    def _allows(self, token: int) -> bool:
        one = _Candidates(np.array([token]), np.zeros(1, np.float32))
        one.apply(self._constraint)
        return one.any_left

    def free(self) -> None:
        """May be called twice; the object is of no use afterwards."""
        for sampler in (self._chain, self._constraint):
            if sampler is not None:
                api.llama_sampler_free(sampler)
        self._chain = self._constraint = None


class _Candidates:
    """Tokens with their logits, as samplers take and change them."""

    def __init__(self, tokens: NDArray[Any], logits: NDArray[np.float32]) -> None:
        self._data = np.zeros(len(tokens), dtype=[("id", np.int32), ("logit", np.float32), ("p", np.float32)])
        self._data["id"] = tokens
        self._data["logit"] = logits
        pointer = ctypes.cast(self._data.ctypes.data, api.llama_token_data_p)
        self._array = api.llama_token_data_array(pointer, len(tokens), -1, False)

    @classmethod
    def all(cls, logits: NDArray[np.float32]) -> _Candidates:
        return cls(np.arange(len(logits)), logits)

    @classmethod
    def likeliest(cls, logits: NDArray[np.float32], number: int) -> _Candidates:
        kept = np.argpartition(logits, -number)[-number:] if number < len(logits) else np.arange(len(logits))
        return cls(kept, logits[kept])

    def apply(self, sampler: Any) -> None:
        api.llama_sampler_apply(sampler, ctypes.byref(self._array))

    @property
    def any_left(self) -> bool:
        """Whether a grammar left any of them possible."""
        return bool(np.isfinite(self._data["logit"]).any())

    @property
    def selected(self) -> int:
        return int(self._array.data[self._array.selected].id)


def _grammar(vocab: Vocab, grammar: str) -> Any:
    sampler = api.llama_sampler_init_grammar(vocab.pointer, grammar.encode("utf-8"), b"root")
    if not sampler:
        raise ModelFailure("unsupported", "llama.cpp cannot read the grammar made from this JSON schema")
    return sampler


def schema_grammar(schema: str) -> str:
    """The grammar of a JSON schema. Raises ModelFailure("unsupported") where there is no rule for it."""
    from llama_cpp.llama_grammar import json_schema_to_gbnf

    try:
        grammar = str(json_schema_to_gbnf(schema))
    except (AssertionError, AttributeError, LookupError, TypeError, ValueError, RecursionError) as error:
        raise ModelFailure("unsupported", f"this JSON schema cannot be turned into a grammar: {error!r}") from error
    # JSON has no raw control characters in strings; the rule made above forgets that.
    return grammar.replace(r'char ::= [^"\\]', r'char ::= [^"\\\x7F\x00-\x1F]')
