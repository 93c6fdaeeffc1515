"""What has been read, as a radix tree of token prefixes over the sequences of one native cache.

A node is a run of tokens that follows its parent's; the path from the root to a node is a prefix that need not be
read again. A node is hot (its cells are in the native cache), or cold (they were copied to host memory, which costs
a hundredth of reading the tokens again). Attention visits every used cell for every token, so few idle cells are
kept hot. A branch at work grows a running leaf.

A sequence id marks a whole path, and only the hot ends of the tree have one: what they stand on is marked by theirs.

Invariants: the ancestors of a hot node are hot; under a running leaf nothing is moved, dropped or cut; a hot node
with no hot child has a sequence id, and no other node has one; that id marks, at positions 0 to end - 1, the cells
of the tokens on its path and no others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

WORTH_RESTORING = 16
"""Fewer tokens than this are read again rather than kept in, or fetched from, host memory."""


class Cells(Protocol):
    """What the tree asks of a native context."""

    def copy(self, source: int, target: int, start: int, end: int) -> None: ...

    def cut(self, sequence: int, start: int) -> bool: ...

    def save(self, sequence: int, start: int, end: int) -> list[bytearray]: ...

    def restore(self, sequence: int, saved: Sequence[bytearray]) -> bool: ...

    def clear(self) -> None: ...


@dataclass(eq=False, slots=True)
class Node:
    """A run of tokens after those of its parent."""

    parent: Node | None
    start: int
    """The position of its first token."""
    tokens: list[int] = field(default_factory=list)
    children: list[Node] = field(default_factory=list)
    hot: bool = True
    sequence: int | None = None
    saved: list[bytearray] = field(default_factory=list)
    """Its cells, while it is cold."""
    running: bool = False
    used: int = 0
    """The tick of last use."""

    @property
    def end(self) -> int:
        """The position after its last token."""
        return self.start + len(self.tokens)

    @property
    def host_bytes(self) -> int:
        return sum(map(len, self.saved))


class PrefixTree:
    """The tree, and the decision what stays hot."""

    def __init__(self, cells: Cells, *, capacity: int, sequences: int, host_bytes: int) -> None:
        """`capacity`: cells of the native cache; `sequences`: ids it may use, from 0, one more than may run;
        `host_bytes`: most memory that cold nodes may take."""
        self._cells = cells
        self._capacity = capacity
        self._host_limit = host_bytes
        self._sequences = sequences
        self._tick = 0
        self._reset()

    def _reset(self) -> None:
        self._root = Node(None, 0)
        self._hot: set[Node] = set()
        self._cold: set[Node] = set()
        self._pinned: frozenset[Node] = frozenset()
        self._free = list(reversed(range(self._sequences)))
        self.hot_cells = 0
        self.host_bytes = 0

    @property
    def room(self) -> int:
        """Cells that are free."""
        return self._capacity - self.hot_cells

    def clear(self) -> None:
        """Forget everything. Nothing may be running."""
        self._cells.clear()
        self._reset()

    # Coming and going

    def known(self, tokens: list[int], limit: int) -> int:
        """How many of the first `limit` tokens need not be read."""
        return sum(length for _, length in _match(self._root, tokens, limit))

    def enter(self, tokens: list[int], limit: int) -> Node:
        """A running leaf after the longest known prefix of at most `limit` tokens."""
        self._tick += 1
        path = _match(self._root, tokens, limit)
        self._pinned = frozenset(node for node, _ in path)
        parent = self._warm(path)
        leaf = Node(parent, parent.end, sequence=self._sequence_after(parent), running=True)
        self._pinned = frozenset()
        parent.children.append(leaf)
        self._hot.add(leaf)
        for node in _upwards(leaf):
            node.used = self._tick
        return leaf

    def grow(self, leaf: Node, tokens: list[int]) -> None:
        """These tokens were just decoded after the leaf's own."""
        leaf.tokens.extend(tokens)
        self.hot_cells += len(tokens)

    def leave(self, leaf: Node, *, keep: bool = True) -> None:
        """The branch is done with its leaf; what it read stays for others unless it is not to be kept."""
        self._tick += 1
        leaf.running, leaf.used = False, self._tick
        if not leaf.tokens or not keep:
            self._forget(leaf)

    # What stays hot

    def make_room(self, cells: int) -> bool:
        """Free so many cells. False if what runs leaves too few."""
        while self.room < cells:
            if not self.evict():
                return False
        return True

    def trim(self, idle: int) -> None:
        """Keep at most so many cells hot beside those that running branches stand on."""
        most = self.needed() + idle
        while self.hot_cells > most:
            if not self.evict():
                return

    def needed(self) -> int:
        """Cells that running branches stand on."""
        stood_on = {node for leaf in self._hot if leaf.running for node in _upwards(leaf)}
        return sum(len(node.tokens) for node in stood_on)

    def evict(self) -> bool:
        """Move the hot end that was not used for longest to host memory. False if all are in use."""
        ends = [node for node in self._hot if node.sequence is not None and not node.running]
        idle = [node for node in ends if node not in self._pinned]
        if not idle:
            return False
        node = min(idle, key=lambda node: (node.used, node.start))
        if len(node.tokens) < WORTH_RESTORING and not node.children:
            self._forget(node)
            return True
        assert node.sequence is not None
        node.saved = self._cells.save(node.sequence, node.start, node.end)
        self.host_bytes += node.host_bytes
        self._cool(node)
        self._cold.add(node)
        self._bound_host()
        return True

    def _cool(self, node: Node) -> None:
        """Take a hot end's cells away; its sequence id goes to its parent if that is now an end."""
        sequence, node.sequence, node.hot = node.sequence, None, False
        self._hot.discard(node)
        self.hot_cells -= len(node.tokens)
        assert node.parent is not None
        assert sequence is not None
        self._hand_up(sequence, node.parent)

    def _hand_up(self, sequence: int, parent: Node) -> None:
        """An id whose end is gone marks the parent's path from now on, if that is an end now."""
        if parent.parent is not None and not any(child.hot for child in parent.children):
            self._cells.cut(sequence, parent.end)
            parent.sequence = sequence
        else:
            self._cells.cut(sequence, 0)
            self._free.append(sequence)

    def _bound_host(self) -> None:
        while self.host_bytes > self._host_limit:
            free = [node for node in self._cold if not node.children and node not in self._pinned]
            if not free:
                return
            self._forget(min(free, key=lambda node: node.used))

    def _forget(self, node: Node) -> None:
        """Drop a hot end or a cold node, with all that stands under it, which is cold."""
        assert node.parent is not None
        if node.hot:
            self._cool(node)
        node.parent.children.remove(node)
        for each in _subtree(node):
            self._cold.discard(each)
            self.host_bytes -= each.host_bytes
            each.saved = []

    # What becomes hot again

    def _warm(self, path: list[tuple[Node, int]]) -> Node:
        """Bring a path into the cache as far as that is worth it and there is room; returns its last node."""
        last, left = self._root, sum(length for _, length in path)
        for node, length in path:
            if not node.hot and (left < WORTH_RESTORING or not self._restore(node)):
                return last
            left -= length
            # A running leaf goes on growing, so what follows must not hang below it.
            last = self._split(node, length) if node.running or length < len(node.tokens) else node
        return last

    def _restore(self, node: Node) -> bool:
        assert node.parent is not None
        if not self.make_room(len(node.tokens)):
            return False
        sequence = self._sequence_after(node.parent)
        if not self._cells.restore(sequence, node.saved):
            self._hand_up(sequence, node.parent)
            self._forget(node)
            return False
        self.host_bytes -= node.host_bytes
        self._cold.discard(node)
        self._hot.add(node)
        node.saved, node.hot, node.sequence = [], True, sequence
        self.hot_cells += len(node.tokens)
        return True

    def _sequence_after(self, parent: Node) -> int:
        """An id that marks the path down to a hot node, for a child of it: the node's own if it has one."""
        while parent.sequence is None and not self._free:
            if not self.evict():
                raise RuntimeError("every sequence id is under a running branch")
        if parent.sequence is not None:
            sequence, parent.sequence = parent.sequence, None
            return sequence
        sequence = self._free.pop()
        if parent.parent is not None:
            self._cells.copy(_marking(parent), sequence, 0, parent.end)
        return sequence

    def _split(self, node: Node, length: int) -> Node:
        """Cut a hot node in two; returns the upper part, which holds `length` tokens."""
        assert node.parent is not None
        upper = Node(node.parent, node.start, node.tokens[:length], [node], used=self._tick)
        node.parent.children.remove(node)
        node.parent.children.append(upper)
        node.parent, node.start, node.tokens = upper, upper.end, node.tokens[length:]
        self._hot.add(upper)
        self._pinned |= {upper}
        return upper


def _match(node: Node, tokens: list[int], limit: int) -> list[tuple[Node, int]]:
    """The path along which most of `tokens` is known, each node with how many of its tokens are shared.

    Branches that ran side by side may have read the same few tokens, so more than one child can begin alike.
    """
    best: list[tuple[Node, int]] = []
    known = 0
    for child in node.children:
        length = common_prefix(child.tokens, tokens, child.start, limit)
        if not length:
            continue
        path = [(child, length)]
        if length == len(child.tokens):
            path += _match(child, tokens, limit)
        total = sum(shared for _, shared in path)
        if total > known:
            best, known = path, total
    return best


def common_prefix(run: list[int], tokens: list[int], start: int, limit: int) -> int:
    """How many tokens of a run stand in `tokens` from `start` on, below `limit`; by slices, not by tokens."""
    high = min(len(run), len(tokens) - start, limit - start)
    if high <= 0 or run[0] != tokens[start]:
        return 0
    if run[:high] == tokens[start : start + high]:
        return high
    low = 0
    while high - low > 1:
        middle = (low + high) // 2
        if run[low:middle] == tokens[start + low : start + middle]:
            low = middle
        else:
            high = middle
    return low


def _upwards(node: Node) -> Iterator[Node]:
    """The node and its ancestors, without the root."""
    while node.parent is not None:
        yield node
        node = node.parent


def _subtree(node: Node) -> list[Node]:
    found = [node]
    for each in found:
        found.extend(each.children)
    return found


def _marking(node: Node) -> int:
    """A sequence id that marks a hot node's path: that of a hot end under it."""
    while node.sequence is None:
        node = next(child for child in node.children if child.hot)
    return node.sequence
