"""Packing: which tokens stand where, who reads whom, and that nothing is lost or trained twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.token_trees import random_tree
from train.packing import Objective, PackedSequence, cut, lay_out, pack, separate
from train.token_tree import PairOf, Segment, TokenTree
from trees.errors import SetupError

SEEDS = st.integers(0, 10_000)
OBJECTIVES = st.sampled_from(["sft", "dpo"])
EXAMPLES = settings(max_examples=60, deadline=None)


def trained(tree: TokenTree, objective: Objective) -> Counter[tuple[tuple[int, ...], ...]]:
    """What is trained, as rows of tokens."""
    if objective == "sft":
        return Counter((tree.row(target),) for target in tree.targets)
    return Counter((tree.row(pair.chosen), tree.row(pair.rejected)) for pair in tree.pairs)


def read_by(sequence: PackedSequence) -> Iterator[tuple[int, list[int]]]:
    """Each token and those it reads, itself included, as the branches say."""
    for branch in sequence.branches:
        before = [at for span in branch.prefix for at in range(span.start, span.end)]
        for at in range(branch.span.start, branch.span.end):
            before = [*before, at]
            yield at, before


@EXAMPLES
@given(st.lists(SEEDS, min_size=1, max_size=4), OBJECTIVES, st.integers(150, 600))
def test_every_pair_and_target_is_trained_once_in_its_own_context(
    seeds: list[int], objective: Objective, limit: int
) -> None:
    trees = [random_tree(seed) for seed in seeds]
    packed = pack(trees, objective, limit)
    assert all(len(sequence) <= limit for sequence in packed)
    found = sum((trained(piece, objective) for s in packed for piece in s.trees), Counter())
    assert found == sum((trained(tree, objective) for tree in trees), Counter())
    alone = sum((trained(piece, objective) for s in separate(trees, objective) for piece in s.trees), Counter())
    assert alone == found


@EXAMPLES
@given(st.lists(SEEDS, min_size=1, max_size=3))
def test_a_token_reads_its_own_path_in_order_of_depth(seeds: list[int]) -> None:
    sequence = lay_out([random_tree(seed) for seed in seeds])
    assert sorted(at for at, _ in read_by(sequence)) == list(range(len(sequence)))
    for at, read in read_by(sequence):
        assert list(sequence.positions[read]) == list(range(len(read))), "depths from the root, none left out"
        by_numbers = [
            k
            for k in range(len(sequence))
            if sequence.enter[k] <= sequence.enter[at] < sequence.leave[k]
            and sequence.positions[k] <= sequence.positions[at]
        ]
        assert sorted(read) == by_numbers, "the numbers for compiled kernels say the same"


@EXAMPLES
@given(SEEDS)
def test_a_reply_is_predicted_from_the_token_before_it(seed: int) -> None:
    sequence = lay_out([random_tree(seed)])
    reads = dict(read_by(sequence))
    start = 0
    for (tree, segment), length in zip(sequence.replies, sequence.reply_lengths, strict=True):
        row = sequence.trees[tree].row(segment)
        for step in range(length):
            seen = tuple(sequence.tokens[reads[int(sequence.predicted_at[start + step])]])
            assert (*seen, sequence.predicted[start + step]) == row[: len(row) - length + step + 1]
        start += length
    assert start == len(sequence.predicted)


def test_a_long_conversation_is_one_branch_and_its_siblings_stand_side_by_side() -> None:
    segments = [Segment(-1, (1,) * 40, False, "")]
    pairs = []
    for _ in range(3):
        parent = len(segments) - 1
        segments += [Segment(parent, (2,) * 60, True, "") for _ in range(3)]
        pairs += [PairOf(parent + 3, parent + 1), PairOf(parent + 3, parent + 2)]
        segments.append(Segment(parent + 3, (1,) * 40, False, ""))
    sequence = lay_out(cut(TokenTree("t", "p", tuple(segments), (), tuple(pairs)), "dpo", 10_000))
    spine, *leaves = sequence.branches
    assert len(spine.span) == 300
    assert all(branch.prefix == (replace(spine.span, end=branch.prefix[0].end),) for branch in leaves)
    assert [leaf.span.start for leaf in leaves[1:]] == [leaf.span.end for leaf in leaves[:-1]]


def test_what_no_pair_needs_is_left_out() -> None:
    tree = TokenTree(
        "t", "p", (Segment(-1, (1,), False, ""), *(Segment(0, (2 + i,), True, "") for i in range(4))), (1,), ()
    )
    (piece,) = cut(replace(tree, pairs=(PairOf(4, 2),)), "dpo", 100)
    assert [segment.tokens for segment in piece.segments] == [(1,), (4 - 1,), (5,)]
    assert piece.targets == ()
    assert cut(tree, "dpo", 100) == []


def test_a_path_over_the_limit_is_an_error_with_its_length() -> None:
    tree = TokenTree("t", "p", (Segment(-1, (1,) * 90, False, ""), Segment(0, (2,) * 20, True, "")), (1,), ())
    with pytest.raises(SetupError, match="110 tokens"):
        pack([tree], "sft", 100)


def test_the_same_trees_give_the_same_sequences() -> None:
    trees = [random_tree(seed) for seed in range(6)]
    first, second = ([s.tokens.tobytes() for s in pack(trees, "dpo", 400)] for _ in range(2))
    assert first == second
    assert len(first) < len(trees), "small trees share a sequence"


@pytest.mark.parametrize(
    ("segments", "targets", "pairs", "words"),
    [
        ((), (), (), "no segments"),
        ((Segment(0, (1,), False, ""),), (), (), "not before it"),
        ((Segment(-1, (), False, ""),), (), (), "no tokens"),
        ((Segment(-1, (1,), True, ""),), (), (), "nothing before it"),
        ((Segment(-1, (1,), False, ""),), (0,), (), "no reply segment"),
        ((Segment(-1, (1,), False, ""), Segment(0, (1,), True, "")), (1, 1), (), "twice"),
        ((Segment(-1, (1,), False, ""), Segment(0, (1,), True, "")), (), (PairOf(1, 1),), "with itself"),
        (
            (Segment(-1, (1,), False, ""), Segment(0, (1,), True, ""), Segment(1, (1,), True, "")),
            (),
            (PairOf(1, 2),),
            "different parents",
        ),
    ],
)
def test_what_is_no_tree_is_refused(
    segments: tuple[Segment, ...], targets: tuple[int, ...], pairs: tuple[PairOf, ...], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        TokenTree("t", "p", segments, targets, pairs)
