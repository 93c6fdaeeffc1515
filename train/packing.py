"""Token trees as packed sequences: every shared prefix once, siblings side by side.

A packed sequence is one row of tokens that holds one or more trees. Its tokens are grouped into branches: runs of
segments of which each is the parent of the next, always going on into the largest subtree, so that few branches cover
a tree and the tokens a branch reads before itself are few contiguous spans, whatever the shape. A token's position
is its depth. `enter` and `leave` number the segments in depth-first order: token k is on the path of token q if
`enter[k] <= enter[q] < leave[k]` and `positions[k] <= positions[q]`.

Invariant: a token reads exactly the tokens before it on its own path, in order of depth; every target and pair of
the given trees is in exactly one sequence, and no sequence is longer than the limit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from train.token_tree import PairOf, Segment, TokenTree
from trees.errors import SetupError

Objective = Literal["sft", "dpo"]
_WHOLE: dict[Objective, str] = {"sft": "conversation", "dpo": "pair with its context"}
"""What a row holds whole."""
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Span:
    """Tokens `start` up to but without `end` of a packed sequence."""

    start: int
    end: int

    def __len__(self) -> int:
        return self.end - self.start


def merged(spans: Sequence[Span]) -> tuple[Span, ...]:
    """Spans that touch, as one."""
    found: list[Span] = []
    for span in spans:
        if found and found[-1].end == span.start:
            found[-1] = Span(found[-1].start, span.end)
        else:
            found.append(span)
    return tuple(found)


@dataclass(frozen=True)
class Branch:
    """A contiguous run of tokens in which each reads all before it, and what stands before the first of them."""

    span: Span
    prefix: tuple[Span, ...]
    """In order of depth."""


@dataclass(frozen=True, eq=False)
class PackedSequence:
    """One row of tokens. All arrays are of int64 unless they say otherwise."""

    trees: tuple[TokenTree, ...]
    """What is packed, as cut: their targets and pairs are trained here."""
    tokens: Ints
    """Length T."""
    positions: Ints
    """Length T: the number of tokens before a token on its path."""
    enter: Ints
    leave: Ints
    """Length T: depth-first numbers of a token's segment, and one past the last number below it."""
    branches: tuple[Branch, ...]
    replies: tuple[tuple[int, int], ...]
    """Tree and segment of the R replies that are predicted: all targets and both sides of all pairs, each once."""
    reply_lengths: Ints
    """Length R, in tokens."""
    predicted_at: Ints
    """Length N: where the logits of each predicted token stand, reply after reply."""
    predicted: Ints
    """Length N: the tokens that are predicted there."""
    targets: Ints
    """Indices of `replies`."""
    pairs: Ints
    """Shape (P, 2): chosen and rejected, as indices of `replies`."""
    weights: NDArray[np.float64]
    """Length P."""

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def target_tokens(self) -> int:
        return int(self.reply_lengths[self.targets].sum())


def pack(trees: Iterable[TokenTree], objective: Objective, limit: int) -> list[PackedSequence]:
    """Pack what the objective needs of these trees into as few sequences as first-fit finds, longest first.

    Trees longer than `limit` tokens are cut, small ones share a sequence. The same trees in the same order give
    the same sequences. Raises SetupError for a target or pair that is over the limit by itself: `tokenise.within`
    leaves those out.
    """
    pieces = [piece for tree in trees for piece in cut(tree, objective, limit)]
    bins: list[list[TokenTree]] = []
    room: list[int] = []
    for piece in sorted(pieces, key=lambda each: -each.token_count):
        index = next((i for i, left in enumerate(room) if left >= piece.token_count), len(bins))
        if index == len(bins):
            bins.append([])
            room.append(limit)
        bins[index].append(piece)
        room[index] -= piece.token_count
    return [lay_out(each) for each in bins]


def cut(tree: TokenTree, objective: Objective, limit: int) -> list[TokenTree]:
    """What the objective needs of a tree, in pieces of at most `limit` tokens.

    A piece holds whole pairs and targets with everything before them; what several pieces need stands in each, and
    is trained in one. Segments that no target or pair needs are left out. Raises SetupError as `pack` does.
    """
    pieces: list[TokenTree] = []
    held: set[int] = set()
    units: list[PairOf | int] = []
    tokens = 0
    for unit in _units(tree, objective):
        needs = _needs(tree, unit)
        more = sum(len(tree.segments[each].tokens) for each in needs - held)
        if units and tokens + more > limit:
            pieces.append(_piece(tree, held, units))
            held, units, tokens = set(), [], 0
            more = sum(len(tree.segments[each].tokens) for each in needs)
        if more > limit:
            raise SetupError(
                f"tree {tree.id} has a {_WHOLE[objective]} of {more} tokens, which is over the limit of {limit} a row",
                hint=f"Set tokens_per_row to {more} or more, or leave it out.",
            )
        held |= needs
        units.append(unit)
        tokens += more
    return [*pieces, _piece(tree, held, units)] if units else []


def separate(trees: Iterable[TokenTree], objective: Objective) -> list[PackedSequence]:
    """One sequence a pair or target, nothing shared: for models that can only read plain rows."""
    return [lay_out([_piece(tree, _needs(tree, unit), [unit])]) for tree in trees for unit in _units(tree, objective)]


def lay_out(trees: Sequence[TokenTree]) -> PackedSequence:
    """These trees, whole, as one sequence."""
    layouts: list[_Layout] = []
    start = numbered = 0
    for tree in trees:
        layouts.append(_Layout(tree, start, numbered))
        start += tree.token_count
        numbered += len(tree.segments)
    tokens = np.zeros(start, np.int64)
    positions, enter, leave = np.zeros_like(tokens), np.zeros_like(tokens), np.zeros_like(tokens)
    for layout in layouts:
        for index, segment in enumerate(layout.tree.segments):
            span, depth = layout.spans[index], layout.tree.depths[index]
            here = slice(span.start, span.end)
            tokens[here] = segment.tokens
            positions[here] = np.arange(depth, depth + len(segment.tokens))
            enter[here], leave[here] = layout.numbers[index]
    replies = [(at, index) for at, tree in enumerate(trees) for index in _trained(tree)]
    place = {reply: at for at, reply in enumerate(replies)}
    return PackedSequence(
        trees=tuple(trees),
        tokens=tokens,
        positions=positions,
        enter=enter,
        leave=leave,
        branches=tuple(branch for layout in layouts for branch in layout.branches),
        replies=tuple(replies),
        reply_lengths=_ints([len(trees[at].segments[index].tokens) for at, index in replies]),
        predicted_at=_ints([where for at, index in replies for where in layouts[at].predicts(index)]),
        predicted=_ints([token for at, index in replies for token in trees[at].segments[index].tokens]),
        targets=_ints([place[at, index] for at, tree in enumerate(trees) for index in tree.targets]),
        pairs=_ints(
            [(place[at, p.chosen], place[at, p.rejected]) for at, tree in enumerate(trees) for p in tree.pairs]
        ).reshape(-1, 2),
        weights=np.array([pair.weight for tree in trees for pair in tree.pairs], np.float64),
    )


class _Layout:
    """Where the segments of one tree stand in a sequence, and how they hang together there."""

    def __init__(self, tree: TokenTree, start: int, numbered: int) -> None:
        self.tree = tree
        self._children = _children(tree)
        self._below = _below(tree, [len(segment.tokens) for segment in tree.segments])
        self.numbers = self._numbers(numbered)
        self.spans: dict[int, Span] = {}
        self.branches: list[Branch] = []
        self._place(start)

    def predicts(self, index: int) -> list[int]:
        """Where the logits of a reply's tokens stand: its parent's last token, then its own but the last."""
        parent, own = self.spans[self.tree.segments[index].parent], self.spans[index]
        return [parent.end - 1, *range(own.start, own.end - 1)]

    def _numbers(self, first: int) -> list[tuple[int, int]]:
        sizes = _below(self.tree, [1] * len(self.tree.segments))
        order = {index: first + at for at, index in enumerate(_depth_first(self.tree))}
        return [(order[index], order[index] + size) for index, size in enumerate(sizes)]

    def _place(self, start: int) -> None:
        """Branch after branch; siblings stand side by side, and what grows from a branch comes after it."""
        roots = [index for index, segment in enumerate(self.tree.segments) if segment.parent < 0]
        waiting: deque[tuple[int, tuple[Span, ...]]] = deque((root, ()) for root in roots)
        while waiting:
            index, prefix = waiting.popleft()
            first = start
            for each, others in self._downwards(index):
                self.spans[each] = Span(start, start + len(self.tree.segments[each].tokens))
                start = self.spans[each].end
                waiting.extend((other, (*prefix, Span(first, start))) for other in others)
            self.branches.append(Branch(Span(first, start), prefix))

    def _downwards(self, index: int) -> Iterator[tuple[int, list[int]]]:
        """The segments of the branch that begins here, each with the children that begin branches of their own."""
        while True:
            children = self._children[index]
            if not children:
                yield index, []
                return
            largest = max(children, key=lambda child: (self._below[child], -child))
            yield index, [child for child in children if child != largest]
            index = largest


def _units(tree: TokenTree, objective: Objective) -> list[PairOf | int]:
    """The targets or pairs, those whose replies are near each other in the tree one after the other."""
    order = {index: at for at, index in enumerate(_depth_first(tree))}
    if objective == "sft":
        return [*sorted(tree.targets, key=lambda target: order[target])]
    return [*sorted(tree.pairs, key=lambda pair: (order[tree.segments[pair.chosen].parent], order[pair.rejected]))]


def _needs(tree: TokenTree, unit: PairOf | int) -> set[int]:
    if isinstance(unit, PairOf):
        return {*tree.path(unit.chosen), unit.rejected}
    return set(tree.path(unit))


def _piece(tree: TokenTree, held: set[int], units: list[PairOf | int]) -> TokenTree:
    """The segments that are held, as a tree of their own."""
    kept = sorted(held)
    new = {old: at for at, old in enumerate(kept)} | {-1: -1}
    segments: list[Segment] = [replace(tree.segments[i], parent=new[tree.segments[i].parent]) for i in kept]
    pairs = [u for u in units if isinstance(u, PairOf)]
    return TokenTree(
        id=tree.id,
        persona=tree.persona,
        segments=tuple(segments),
        targets=tuple(new[unit] for unit in units if isinstance(unit, int)),
        pairs=tuple(replace(p, chosen=new[p.chosen], rejected=new[p.rejected]) for p in pairs),
    )


def _trained(tree: TokenTree) -> list[int]:
    return sorted({*tree.targets, *(side for pair in tree.pairs for side in (pair.chosen, pair.rejected))})


def _children(tree: TokenTree) -> list[list[int]]:
    found: list[list[int]] = [[] for _ in tree.segments]
    for index, segment in enumerate(tree.segments):
        if segment.parent >= 0:
            found[segment.parent].append(index)
    return found


def _below(tree: TokenTree, sizes: list[int]) -> list[int]:
    """For each segment the sum of the sizes in its subtree, its own included."""
    sums = list(sizes)
    for index in range(len(sums) - 1, -1, -1):
        parent = tree.segments[index].parent
        if parent >= 0:
            sums[parent] += sums[index]
    return sums


def _depth_first(tree: TokenTree) -> list[int]:
    children = _children(tree)
    stack = [index for index, segment in enumerate(tree.segments) if segment.parent < 0][::-1]
    found: list[int] = []
    while stack:
        index = stack.pop()
        found.append(index)
        stack.extend(reversed(children[index]))
    return found


def _ints(values: Sequence[int] | Sequence[tuple[int, int]]) -> Ints:
    return np.array(values, np.int64)
