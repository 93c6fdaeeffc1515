"""Attention over packed trees: each token reads its own path and nothing else. Imports torch and transformers.

Registered with transformers as one attention function; a model that was prepared with it reads packed rows when it is
given `tree_plan`, and plain rows otherwise. There are three implementations. *Families*, on a CPU (see
`train.family_attention`): torch's own kernels for what siblings share and for each of them. *Blocks*, wherever those
kernels do not fit and there is no compiler for others: a block of query rows reads the spans of keys before it,
unmasked, and itself causally; its scores are made again in the backward pass, so memory grows with the number of
tokens. *Flex*, on CUDA: FlexAttention with a block mask made of three numbers a token, compiled once per shape, which
`padded_length` keeps few.

Invariant: all give what the model's own attention gives to the flattened path of each token, and neither ever makes
a mask or a copy of keys as large as the square of the sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

import torch
from transformers import AttentionInterface, PreTrainedConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from train.family_attention import Family, FamilyAttention, families_of, fits
from train.packing import Branch, PackedSequence, Span, merged

NAME = "espalier_tree"
"""What the attention is registered as. No mask function has this name, so that models make no mask of their own."""
BLOCK_ROWS = 64
"""Query tokens of a block at most: more waste scores above the diagonal, fewer give slower products."""
SHORTEST_PADDED = 512


@dataclass(frozen=True)
class Block:
    """Query rows that are read together: all of them read `keys`, and within each run a row reads those up to it."""

    rows: Span
    keys: tuple[Span, ...]
    runs: tuple[int, ...]
    """Lengths in tokens; they fill `rows`."""


@dataclass(eq=False)
class TreePlan:
    """How the tokens of one packed row attend, for all layers. What is made of it on a device is kept here."""

    branches: tuple[Branch, ...]
    length: int
    enter: torch.Tensor
    leave: torch.Tensor
    positions: torch.Tensor
    masks: dict[Any, Any] = field(default_factory=dict)

    @cached_property
    def families(self) -> tuple[Family, ...]:
        return families_of(self.branches)

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        return tuple(blocks_of(self.branches, BLOCK_ROWS))


def plan_of(sequence: PackedSequence, *, length: int | None = None, device: torch.device | str = "cpu") -> TreePlan:
    """The plan of a packed sequence, padded to `length` tokens by tokens that read themselves alone."""
    padding = (length or len(sequence)) - len(sequence)
    first = int(sequence.leave.max())
    alone = torch.arange(first, first + padding)
    return TreePlan(
        branches=tuple(sequence.branches),
        length=len(sequence) + padding,
        enter=torch.cat([torch.from_numpy(sequence.enter), alone]).to(device),
        leave=torch.cat([torch.from_numpy(sequence.leave), alone + 1]).to(device),
        positions=torch.cat([torch.from_numpy(sequence.positions), torch.zeros_like(alone)]).to(device),
    )


def blocks_of(branches: Iterable[Branch], rows: int) -> list[Block]:
    """Long branches in blocks of at most `rows` tokens; short ones that read the same prefix share a block."""
    found: list[Block] = []
    for branch in branches:
        last = found[-1] if found else None
        if last is not None and _joins(last, branch, rows):
            rows_now = Span(last.rows.start, branch.span.end)
            found[-1] = Block(rows_now, last.keys, (*last.runs, len(branch.span)))
            continue
        for start in range(branch.span.start, branch.span.end, rows):
            before = (Span(branch.span.start, start),) if start > branch.span.start else ()
            own = Span(start, min(start + rows, branch.span.end))
            found.append(Block(own, merged((*branch.prefix, *before)), (len(own),)))
    return found


def padded_length(tokens: int) -> int:
    """The length that a row of so many tokens is padded to for compiled kernels: four lengths an octave."""
    step = max(128, 1 << max(0, (tokens - 1).bit_length() - 3))
    return max(SHORTEST_PADDED, -(-tokens // step) * step)


def uses_flex(device: torch.device | str) -> bool:
    """Whether rows on this device go through FlexAttention: CUDA with a compiler for kernels."""
    return torch.device(device).type == "cuda" and _has_triton()


def prepare(model: Any) -> None:
    """Let a model's layers attend through here. `obstacle` says beforehand whether that can be right.

    The model gets configurations of its own: what is set for it must not be set for another made of the same.
    """
    AttentionInterface.register(NAME, tree_attention_forward)
    copies: dict[int, Any] = {}
    for module in model.modules():
        if isinstance(config := vars(module).get("config"), PreTrainedConfig):
            module.config = deepcopy(config, copies)
    model.set_attn_implementation(NAME)


def obstacle(config: Any, longest: int) -> str | None:
    """Why a model of this configuration cannot read packed trees whose longest path has so many tokens.

    None if nothing in the configuration speaks against it.
    """
    text = config.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or _kinds_without_list(text))
    unknown = sorted(kinds - {"full_attention", "sliding_attention", "chunked_attention"})
    if unknown:
        return f"it has layers of {', '.join(unknown)}, whose state runs along the row and not along the tree"
    for kind, name in (("sliding_attention", "sliding_window"), ("chunked_attention", "attention_chunk_size")):
        window = getattr(text, name, None)
        if kind in kinds and window is not None and longest > window:
            return f"its layers of {kind} see {window} tokens, and the longest path has {longest}"
    dropout = getattr(text, "attention_dropout", 0.0)
    if dropout:
        return f"it drops attention weights at random (attention_dropout = {dropout})"
    return _rope_obstacle(text, longest)


def tree_attention_forward(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    softcap: float | None = None,
    tree_plan: TreePlan | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention as transformers calls it: (1, heads, tokens, size) in, (1, tokens, heads, size) out.

    Raises ValueError for what only the model's own attention knows, and for padded batches without a plan.
    """
    unknown = [name for name in ("s_aux", "position_bias") if kwargs.get(name) is not None]
    if unknown or query.shape[0] != 1:
        raise ValueError(f"tree attention takes one row and knows no {', '.join(unknown) or 'batch'}")
    if tree_plan is None:
        plain = sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, softcap=softcap)
        return plain[0], None
    # Where products are in bfloat16 over weights of float32, rotary embeddings leave queries and keys in float32.
    query, key = query.to(value.dtype), key.to(value.dtype)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if uses_flex(query.device):
        return _flex(query, key, value, tree_plan, scale, softcap), None
    if softcap is None and fits(query, key, value, tree_plan.families):
        # In float32 whatever the weights are: the kernels' sums are, and joining parts that were rounded loses more.
        read = FamilyAttention.apply(query.float(), key.float(), value.float(), tree_plan.families, scale)
        return read.to(value.dtype), None
    return _BlockAttention.apply(query, key, value, tree_plan, scale, softcap), None


class _BlockAttention(torch.autograd.Function):  # type: ignore[misc]
    """Attention block by block. Only queries (scaled), keys and values are kept for the backward pass.

    Rows of a block stand token after token with the query heads of one key head side by side, so that grouped
    heads (GQA) are one product a key head, and keys are never repeated.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        plan: TreePlan,
        scale: float,
        softcap: float | None,
    ) -> torch.Tensor:
        heads, length = query.shape[1:3]
        group = heads // key.shape[1]
        with torch.autocast(query.device.type, enabled=False):
            q, k, v = _by_key_head(query * scale, group), key[0].contiguous(), value[0].contiguous()
            ctx.save_for_backward(q, k, v)
            ctx.plan, ctx.scale, ctx.softcap, ctx.group = plan, scale, softcap, group
            out = query.new_zeros(length, k.shape[0], group, v.shape[-1])
            for block in plan.blocks:
                weights, _ = _weights(ctx, block, q, k)
                read = torch.bmm(weights, _gathered(v, block).float())
                out[block.rows.start : block.rows.end] = _by_token(read, group)
        return out.view(1, length, heads, -1)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q, k, v = ctx.saved_tensors
        group = ctx.group
        with torch.autocast(q.device.type, enabled=False):
            grad = _by_key_head(grads[0].transpose(1, 2), group)
            dq = torch.zeros_like(q, dtype=torch.float32)
            dk, dv = torch.zeros_like(k, dtype=torch.float32), torch.zeros_like(v, dtype=torch.float32)
            for block in ctx.plan.blocks:
                rows = slice(block.rows.start * group, block.rows.end * group)
                weights, slope = _weights(ctx, block, q, k)
                up = grad[:, rows].float()
                _scatter(dv, block, torch.bmm(weights.transpose(1, 2), up))
                through = torch.bmm(up, _gathered(v, block).float().transpose(1, 2))
                through = torch._softmax_backward_data(through, weights, -1, torch.float32)
                through = through if slope is None else through.mul_(slope)
                dq[:, rows] = torch.bmm(through, _gathered(k, block).float()).mul_(ctx.scale)
                _scatter(dk, block, torch.bmm(through.transpose(1, 2), q[:, rows].float()))
        tokens = q.shape[1] // group
        dq = dq.view(k.shape[0], tokens, group, -1).transpose(1, 2).reshape(1, -1, tokens, q.shape[-1])
        return dq.to(q.dtype), dk.to(k.dtype)[None], dv.to(v.dtype)[None], None, None, None


def _weights(ctx: Any, block: Block, q: torch.Tensor, k: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Attention weights (key heads, rows x group, keys) in float32, and the slope of the soft cap if there is one."""
    rows = q[:, block.rows.start * ctx.group : block.rows.end * ctx.group]
    scores = torch.bmm(rows.float(), _gathered(k, block).float().transpose(1, 2))
    slope = None
    if ctx.softcap is not None:
        scores = scores.div_(ctx.softcap).tanh_()
        slope = 1 - scores**2
        scores = scores * ctx.softcap
    own = scores.view(len(scores), len(block.rows), ctx.group, -1)[..., -len(block.rows) :]
    own += _own_mask(ctx.plan, block.runs, scores.device)
    return torch.softmax(scores, -1), slope


def _own_mask(plan: TreePlan, runs: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """(rows, 1, rows): 0 where a row of the block reads another of it, -inf elsewhere."""
    if (runs, device) not in plan.masks:
        ones = [torch.ones(run, run, dtype=torch.bool, device=device) for run in runs]
        reads = torch.block_diag(*ones).tril().bool()
        plan.masks[runs, device] = torch.zeros(reads.shape, device=device).masked_fill_(~reads, -torch.inf)[:, None]
    found: torch.Tensor = plan.masks[runs, device]
    return found


def _gathered(states: torch.Tensor, block: Block) -> torch.Tensor:
    """The keys or values that a block reads, its own at the end; a view where they stand in one piece."""
    spans = merged((*block.keys, block.rows))
    parts = [states[:, span.start : span.end] for span in spans]
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def _scatter(sums: torch.Tensor, block: Block, grads: torch.Tensor) -> None:
    """Add gradients in the order of `_gathered` where they belong."""
    start = 0
    for span in merged((*block.keys, block.rows)):
        sums[:, span.start : span.end] += grads[:, start : start + len(span)]
        start += len(span)


def _by_key_head(states: torch.Tensor, group: int) -> torch.Tensor:
    """(1, heads, tokens, size) as (key heads, tokens x group, size)."""
    _, heads, tokens, size = states.shape
    return states.reshape(heads // group, group, tokens, size).transpose(1, 2).reshape(heads // group, -1, size)


def _by_token(read: torch.Tensor, group: int) -> torch.Tensor:
    """(key heads, rows x group, size) as (rows, key heads, group, size)."""
    return read.view(len(read), -1, group, read.shape[-1]).transpose(0, 1)


def _joins(block: Block, branch: Branch, rows: int) -> bool:
    """Whether a branch may be read in the block before it: siblings, whole and side by side, and not too many."""
    return (
        bool(branch.prefix)
        and block.keys == merged(branch.prefix)
        and block.rows.end == branch.span.start
        and len(block.rows) + len(branch.span) <= rows
    )


def _flex(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, plan: TreePlan, scale: float, softcap: float | None
) -> torch.Tensor:
    if query.device not in plan.masks:
        plan.masks[query.device] = _block_mask(plan, query.device)
    out = _compiled_flex()(
        query,
        key,
        value,
        score_mod=None if softcap is None else _capped(softcap),
        block_mask=plan.masks[query.device],
        scale=scale,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    result: torch.Tensor = out.transpose(1, 2).contiguous()
    return result


def _block_mask(plan: TreePlan, device: torch.device) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    enter, leave, positions = (each.to(device) for each in (plan.enter, plan.leave, plan.positions))

    def on_path(_batch: Any, _head: Any, q: Any, k: Any) -> Any:
        return (enter[k] <= enter[q]) & (enter[q] < leave[k]) & (positions[k] <= positions[q])

    return _compiled_mask_maker(create_block_mask)(on_path, None, None, plan.length, plan.length, device=device)


@cache
def _compiled_mask_maker(make: Callable[..., Any]) -> Callable[..., Any]:
    compiled: Callable[..., Any] = torch.compile(make, dynamic=False)
    return compiled


@cache
def _compiled_flex() -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    compiled: Callable[..., Any] = torch.compile(flex_attention, dynamic=False)
    return compiled


@cache
def _capped(softcap: float) -> Callable[..., Any]:
    """One function a cap, so that kernels are compiled once."""

    def capped(score: Any, _batch: Any, _head: Any, _q: Any, _k: Any) -> Any:
        return softcap * torch.tanh(score / softcap)

    return capped


def _has_triton() -> bool:
    from torch.utils._triton import has_triton

    return bool(has_triton())


def _kinds_without_list(text: Any) -> list[str]:
    """Layer types of a configuration that lists none: Mistral's slide if it names a window."""
    return ["full_attention"] if getattr(text, "sliding_window", None) is None else ["sliding_attention"]


def _rope_obstacle(text: Any, longest: int) -> str | None:
    """Rotary embeddings that depend on how long the whole row is give short paths other angles when packed."""
    given: dict[str, Any] = getattr(text, "rope_parameters", None) or {}
    for rope in (given, *(each for each in given.values() if isinstance(each, dict))):
        trained = int(rope.get("original_max_position_embeddings") or getattr(text, "max_position_embeddings", 0) or 0)
        if rope.get("rope_type") in ("dynamic", "longrope") and longest > trained:
            return f"its rotary embedding changes beyond {trained} tokens, and the longest path has {longest}"
    return None
