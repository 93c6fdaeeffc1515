"""Message trees as token trees, and what a limit on their length would cost.

Each message tree is read by a `TemplateReader`, path by path, into segments that hold every shared prefix once. Where
the template writes a turn's history in another way than it asked for the reply, the history becomes a branch of its
own beside the reply: so every reply is trained under exactly the tokens that it would be asked with.

Invariant: the tokens from the root to a reply's parent are the prompt of that reply, and no other; a reply is one
segment; nothing is cut off: what cannot be read, or is longer than a limit, is left out whole and counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from agents.models.protocol import Message
from train.data import MessagePair, MessageTree
from train.templates import TemplateReader, TemplateRefused, joined
from train.token_tree import PairOf, Segment, TokenTree


@dataclass(frozen=True, slots=True)
class Refused:
    """Conversations of a tree that the template takes in no form."""

    tree: str
    targets: int
    pairs: int
    reason: str
    """Of the first; quotes the text."""


@dataclass(frozen=True, slots=True)
class Tokenised:
    """What a data set is in tokens."""

    trees: tuple[TokenTree, ...]
    """In the order of the message trees."""
    refused: tuple[Refused, ...]
    joined: int
    """Conversations in which messages of one speaker were joined."""


@dataclass(frozen=True, slots=True)
class Bin:
    """Lengths from `low` to below `high`, in tokens."""

    low: int
    high: int
    count: int


@dataclass(frozen=True, slots=True)
class Lengths:
    """How long things are, in tokens."""

    conversations: tuple[int, ...]
    """To the end of each reply that is trained or compared: what a model's context has to hold."""
    replies: tuple[int, ...]
    trees: tuple[int, ...]
    """Of each tree with shared prefixes once."""
    flat: int
    """What the same rows would be without sharing."""


@dataclass(frozen=True, slots=True)
class LimitCost:
    """What leaving out all targets and pairs longer than a limit would lose."""

    limit: int
    trees: int
    """Trees of which nothing would be left."""
    targets: int
    pairs: int


def tokenise(trees: Iterable[MessageTree], reader: TemplateReader) -> Tokenised:
    """Read every tree; replies whose conversation the template refuses are left out, with the reason."""
    found: list[TokenTree] = []
    refused: list[Refused] = []
    strung = 0
    for tree in trees:
        read = _read(tree, reader)
        if read.lost is not None:
            refused.append(read.lost)
        if not read.targets and not read.pairs:
            continue
        try:
            found.append(_grown(tree, read))
        except TemplateRefused as error:
            refused.append(Refused(tree.id, len(read.targets), len(read.pairs), error.message))
        else:
            strung += _has_runs(tree) and reader.wants_turns_in_order
    return Tokenised(tuple(found), tuple(refused), strung)


def token_tree(tree: MessageTree, reader: TemplateReader) -> TokenTree:
    """One tree in tokens, whole. Raises TemplateRefused."""
    read = _read(tree, reader)
    if read.lost is not None:
        raise TemplateRefused(read.lost.reason)
    return _grown(tree, read)


@dataclass(frozen=True, slots=True)
class _Read:
    """What of a tree could be read."""

    contexts: Mapping[int, tuple[int, ...]]
    """Prompts by the message that a reply answers."""
    replies: Mapping[int, tuple[int, ...]]
    targets: tuple[int, ...]
    pairs: tuple[MessagePair, ...]
    lost: Refused | None


def _read(tree: MessageTree, reader: TemplateReader) -> _Read:
    contexts: dict[int, tuple[int, ...]] = {}
    replies: dict[int, tuple[int, ...]] = {}
    reasons: list[str] = []
    for index in sorted(_trained(tree.targets, tree.pairs)):
        above = tree.messages[index].parent
        try:
            messages = _heard(tree, above, reader)
            if above not in contexts:
                contexts[above] = reader.context(messages)
            replies[index] = reader.reply(messages, contexts[above], tree.messages[index].text)
        except TemplateRefused as error:
            reasons.append(error.message)
    targets = tuple(i for i in tree.targets if i in replies)
    pairs = tuple(pair for pair in tree.pairs if pair.chosen in replies and pair.rejected in replies)
    lost = None
    if reasons:
        lost = Refused(tree.id, len(tree.targets) - len(targets), len(tree.pairs) - len(pairs), reasons[0])
    return _Read(contexts, replies, targets, pairs, lost)


def _grown(tree: MessageTree, read: _Read) -> TokenTree:
    replies_to: dict[int, list[int]] = {}
    for index in sorted(_trained(read.targets, read.pairs)):
        replies_to.setdefault(tree.messages[index].parent, []).append(index)
    growing = _Growing()
    contexts: dict[int, _Piece] = {}
    replies: dict[int, _Piece] = {}
    for above, below in sorted(replies_to.items()):
        anchor = _anchor(tree, above, contexts, replies)
        node = tree.messages[above].node if above >= 0 else ""
        contexts[above] = growing.context(anchor, read.contexts[above], node)
        for index in below:
            replies[index] = growing.reply(contexts[above], read.replies[index], tree.messages[index].node)
    places = growing.ordered()
    index_of = {reply: places[id(piece)] for reply, piece in replies.items()}
    return TokenTree(
        id=tree.id,
        persona=tree.persona,
        segments=growing.segments(),
        targets=tuple(index_of[target] for target in read.targets),
        pairs=tuple(PairOf(index_of[pair.chosen], index_of[pair.rejected], pair.weight) for pair in read.pairs),
    )


def _heard(tree: MessageTree, index: int, reader: TemplateReader) -> list[Message]:
    """The messages of a path."""
    system = [Message("system", tree.system)] if tree.system else []
    messages = [*system, *(Message(m.speaker, m.text) for m in tree.path(index))]
    if not reader.wants_turns_in_order:
        return messages
    if messages and messages[-1].role == "assistant":
        raise TemplateRefused(f"a reply follows the reply {messages[-1].content!r}, and the chat template wants turns")
    return joined(messages)


def _has_runs(tree: MessageTree) -> bool:
    return any(m.parent >= 0 and tree.messages[m.parent].speaker == m.speaker for m in tree.messages)


def _anchor(
    tree: MessageTree, index: int, contexts: Mapping[int, _Piece], replies: Mapping[int, _Piece]
) -> _Piece | None:
    """The piece of the nearest message above that has one: where a context most likely goes on from."""
    while index >= 0:
        piece = replies.get(index) or contexts.get(index)
        if piece is not None:
            return piece
        index = tree.messages[index].parent
    return None


@dataclass(eq=False, slots=True)
class _Piece:
    """A segment while its tree grows."""

    parent: _Piece | None
    tokens: tuple[int, ...]
    reply: bool
    node: str
    children: list[_Piece] = field(default_factory=list)

    def chain(self) -> list[_Piece]:
        """From the root to this."""
        found: list[_Piece] = []
        at: _Piece | None = self
        while at is not None:
            found.append(at)
            at = at.parent
        return found[::-1]


class _Growing:
    """A token tree under construction."""

    def __init__(self) -> None:
        self._root: _Piece | None = None

    def context(self, anchor: _Piece | None, tokens: tuple[int, ...], node: str) -> _Piece:
        """The piece at which a prompt ends. What it shares with the path to the anchor is not kept again."""
        start, at = anchor or self._root, 0
        last: _Piece | None = None
        for piece in start.chain() if start is not None else ():
            same = _shared(piece.tokens, tokens[at:])
            if same == len(piece.tokens):
                last, at = piece, at + same
                continue
            # A reply is predicted whole, so history that differs inside one branches off before it.
            if same and not piece.reply:
                last, at = self._cut(piece, same), at + same
            break
        if last is not None and at == len(tokens):
            return last
        if last is None and self._root is not None:
            raise TemplateRefused("the chat template begins two turns of one conversation in different ways")
        return self._add(_Piece(last, tokens[at:], False, node))

    def reply(self, context: _Piece, tokens: tuple[int, ...], node: str) -> _Piece:
        return self._add(_Piece(context, tokens, True, node))

    def _add(self, piece: _Piece) -> _Piece:
        if piece.parent is None:
            self._root = piece
        else:
            piece.parent.children.append(piece)
        return piece

    def _cut(self, piece: _Piece, length: int) -> _Piece:
        """Put the first tokens of a context into a piece above it, which is returned."""
        head = _Piece(piece.parent, piece.tokens[:length], False, "", [piece])
        if piece.parent is None:
            self._root = head
        else:
            siblings = piece.parent.children
            siblings[siblings.index(piece)] = head
        piece.parent, piece.tokens = head, piece.tokens[length:]
        return head

    def _walk(self) -> Iterator[_Piece]:
        waiting = [self._root] if self._root is not None else []
        while waiting:
            piece = waiting.pop()
            yield piece
            waiting += reversed(piece.children)

    def ordered(self) -> dict[int, int]:
        """The place of each piece in `segments`, by its identity."""
        return {id(piece): place for place, piece in enumerate(self._walk())}

    def segments(self) -> tuple[Segment, ...]:
        places = self.ordered()
        return tuple(
            Segment(-1 if p.parent is None else places[id(p.parent)], p.tokens, p.reply, p.node) for p in self._walk()
        )


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two sequences begin alike with."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


# Lengths


def lengths(trees: Iterable[TokenTree]) -> Lengths:
    """How long conversations, replies and trees are."""
    conversations: list[int] = []
    replies: list[int] = []
    sizes: list[int] = []
    flat = 0
    for tree in trees:
        trained = sorted(_trained(tree.targets, tree.pairs))
        conversations += [_end(tree, i) for i in trained]
        replies += [len(tree.segments[i].tokens) for i in trained]
        sizes.append(tree.token_count)
        flat += tree.flattened_count
    return Lengths(tuple(conversations), tuple(replies), tuple(sizes), flat)


def histogram(values: Sequence[int]) -> tuple[Bin, ...]:
    """Counts in bins that double, from the smallest value's to the largest's."""
    if not values:
        return ()
    counts = Counter(value.bit_length() for value in values)
    return tuple(Bin(1 << b >> 1, 1 << b, counts[b]) for b in range(min(counts), max(counts) + 1))


def within(tree: TokenTree, limit: int) -> TokenTree | None:
    """The tree without what takes more than `limit` tokens; None if nothing to train is left.

    A target takes its conversation, a pair both of its replies after what is before them: they are read in one row.
    """
    targets = [i for i in tree.targets if _end(tree, i) <= limit]
    pairs = [pair for pair in tree.pairs if _end(tree, pair.chosen) + _tokens(tree, pair.rejected) <= limit]
    trained = _trained(targets, pairs)
    if not trained:
        return None
    kept = sorted({index for reply in trained for index in tree.path(reply)})
    new = {old: place for place, old in enumerate(kept)} | {-1: -1}
    segments = ((i, tree.segments[i]) for i in kept)
    return TokenTree(
        id=tree.id,
        persona=tree.persona,
        segments=tuple(replace(s, parent=new[s.parent], reply=i in trained) for i, s in segments),
        targets=tuple(new[i] for i in targets),
        pairs=tuple(PairOf(new[pair.chosen], new[pair.rejected], pair.weight) for pair in pairs),
    )


def cost_of(trees: Iterable[TokenTree], limit: int) -> LimitCost:
    """What a limit in tokens would lose. It takes nothing away: `within` does."""
    lost_trees = lost_targets = lost_pairs = 0
    for tree in trees:
        left = within(tree, limit)
        lost_trees += left is None
        lost_targets += len(tree.targets) - (len(left.targets) if left else 0)
        lost_pairs += len(tree.pairs) - (len(left.pairs) if left else 0)
    return LimitCost(limit, lost_trees, lost_targets, lost_pairs)


def _end(tree: TokenTree, index: int) -> int:
    """Tokens from the root to the end of a segment."""
    return tree.depths[index] + _tokens(tree, index)


def _tokens(tree: TokenTree, index: int) -> int:
    return len(tree.segments[index].tokens)


def _trained(targets: Iterable[int], pairs: Iterable[PairOf | MessagePair]) -> set[int]:
    return {*targets, *(i for pair in pairs for i in (pair.chosen, pair.rejected))}
