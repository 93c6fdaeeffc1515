"""What is trained on: stored trees, chosen by judge, margin, turn, person and model, as values.

A data set is a list of message trees. Each holds the messages that its targets and pairs need and nothing else: a
target is the winning reply of a turn in the history really played, once (see `trees.pairs`), a pair a win under one
user message. Rows of a person's own files may be mixed in (`train.own_rows`). Whoever only trains SFT or DPO takes
`DataSet.only`. Contexts stand under a `deploy` prompt; hints, ledgers and reasoning never enter.

Invariant: every turn, verdict and row that was looked at is a target, a pair, or counted with the reason why not;
nothing touches a held-out profile or personality, or one that says the same (whoever selects has brought the blocks
up to date); all trees of a person, and of people who share a profile, lie on one side of the split; the same store,
selection and files give the same digest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import fsum
from pathlib import Path
from typing import Any, Literal, TypeVar

from agents.prompts import Prompt
from train.export import TrainingContexts
from train.own_rows import Conversation, Owner, OwnRow, ReadRows, read_rows, rows_by_conversation
from trees.errors import EspalierError, NotFound, SetupError
from trees.ids import digest_of, text_digest
from trees.pairs import BadFilter, Dropped, Filter, Pair, Place, Target, make_filter, weigh_turns, weigh_verdicts
from trees.store import Store
from trees.tree import ConversationTree
from trees.values import Speaker, Unit, winner

Side = Literal["train", "evaluation"]
Fit = Literal["sft", "dpo"]
Lineage = Literal["store", "unknown"]
PairChoice = Literal["all", "best"]
Weights = Literal["none", "margin"]
T = TypeVar("T", Target, Pair)


class HeldOut(EspalierError):
    """Somebody who is kept for measuring was asked for as training data."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Selection:
    """What of a store is wanted. Everything but the judge has a default that leaves nothing out."""

    runs: tuple[str, ...] | None = None
    """Whole run ids; None is all of them, () none (only rows of files)."""
    judge: str | None = None
    """Name or beginning of an id; the only judge's if left out."""
    min_margin: float | None = None
    """In `unit`."""
    unit: Unit | None = None
    """What the margin is meant in; a judge with another is refused. None is the judge's own."""
    turns: tuple[int, int] | None = None
    """First and last, from 1."""
    people: tuple[str, ...] = ()
    """Ids of profiles and personalities, or their beginnings; () is everybody."""
    models: tuple[str, ...] = ()
    """Names, or beginnings of ids, of models; every reply trained on is one of theirs. () is all."""
    pairs: PairChoice = "all"
    """All pairs of a turn, or its best reply against each it beats."""
    weights: Weights = "none"
    """What a pair weighs in the loss: all the same, or its margin over the mean margin."""
    evaluation: float = 0.1
    """Share of the people who are kept for evaluation; at least one of two or more, unless 0."""
    seed: int = 0
    """Draws the evaluation people, and the rows that are taken of files."""
    deploy: str | None = None
    """The prompt version of all contexts, by the beginning of its id; None is each run's own, "" no system message."""
    earlier: tuple[str, ...] = ()
    """Whole ids of further runs, of which only so much is taken as `earlier_share` says: what was learnt before."""
    earlier_share: float = 0.5
    """Of all targets, and of all pairs, that are trained on: how many may come from the earlier runs; 1 takes all."""


@dataclass(frozen=True, slots=True)
class OwnFile:
    """A JSONL file to be mixed in."""

    path: Path
    share: float
    """Of all targets (or pairs) that are trained on, above 0 and up to 1; the rest is the store's and other files'."""


@dataclass(frozen=True, slots=True)
class TreeMessage:
    """A message and where it stands."""

    parent: int
    """Index of the message before it; -1 for an opening."""
    speaker: Speaker
    text: str
    node: str
    """The store's node id; "" for a row of a file."""


@dataclass(frozen=True, slots=True)
class MessagePair:
    """Indices of two replies under one message."""

    chosen: int
    rejected: int
    weight: float = 1.0
    """In the loss; the mean over the pairs that are trained on is 1."""


@dataclass(frozen=True, slots=True)
class MessageTree:
    """One conversation that is trained on, from one opening."""

    id: str
    source: str
    """The run, or the file."""
    profile_id: str | None
    personality_id: str | None
    side: Side
    system: str
    """What stands before the first message; "" if nothing."""
    messages: tuple[TreeMessage, ...]
    """Parents before children."""
    targets: tuple[int, ...]
    pairs: tuple[MessagePair, ...]
    from_file: bool = False

    @property
    def persona(self) -> str:
        """The persona's key; the tree's own id where there is no persona."""
        return f"{self.profile_id}:{self.personality_id}" if self.profile_id and self.personality_id else self.id

    @property
    def digest(self) -> str:
        """Of everything that training sees of it."""
        said = [(m.parent, m.speaker, text_digest(m.text)) for m in self.messages]
        compared = [_compared(pair) for pair in self.pairs]
        return digest_of("message tree", self.side, self.system, said, list(self.targets), compared)

    def path(self, index: int) -> list[TreeMessage]:
        """The conversation that ends at a message."""
        found: list[TreeMessage] = []
        while index >= 0:
            found.append(self.messages[index])
            index = self.messages[index].parent
        return found[::-1]


@dataclass(frozen=True)
class DataSet:
    """What a training would read."""

    trees: tuple[MessageTree, ...]
    selection: Selection
    judge_id: str
    judge: str
    unit: Unit | None
    dropped: Mapping[str, Mapping[str, int]]
    """By "targets" (turns), "pairs" (verdicts) and "rows" (of files): number by reason."""
    lineage: Lineage
    """`unknown` if any row is of nobody knows where."""
    notes: tuple[str, ...] = ()
    """What a person should know about it, in sentences."""
    files: tuple[OwnFile, ...] = field(default=())

    @cached_property
    def digest(self) -> str:
        """Of all trees in their order: what a training's identity names."""
        return digest_of("data", [tree.digest for tree in self.trees])

    @property
    def targets(self) -> int:
        return sum(len(tree.targets) for tree in self.trees)

    @property
    def pairs(self) -> int:
        return sum(len(tree.pairs) for tree in self.trees)

    @property
    def weighted(self) -> bool:
        """Whether some pairs weigh more than others."""
        return any(pair.weight != 1.0 for tree in self.trees for pair in tree.pairs)

    @property
    def people(self) -> tuple[tuple[str, str], ...]:
        """Profile and personality of everybody whose words are in it: what a benchmark must not measure on."""
        known = ((tree.profile_id, tree.personality_id) for tree in self.trees)
        return tuple(sorted({(a, b) for a, b in known if a is not None and b is not None}))

    def side(self, side: Side) -> tuple[MessageTree, ...]:
        """The trees of one side of the split."""
        return tuple(tree for tree in self.trees if tree.side == side)

    def only(self, fit: Fit) -> DataSet:
        """The same for SFT (targets) or for DPO (pairs) alone; trees and messages that it does not need go."""
        cut = (_only(tree, fit) for tree in self.trees)
        return replace(self, trees=tuple(tree for tree in cut if tree is not None))


def select(store: Store, selection: Selection, files: Sequence[OwnFile] = ()) -> DataSet:
    """What a selection finds. Raises NotFound or BadFilter (judge, unit), HeldOut, or SetupError (a file)."""
    wanted = None if selection.runs == () else _filter(store, selection)
    system = _system(store, selection.deploy)
    dropped: dict[str, Counter[str]] = {"targets": Counter(), "pairs": Counter(), "rows": Counter()}
    trees = [] if wanted is None else _stored_trees(store, selection, wanted, system, dropped)
    trees = _within_share(trees, selection, dropped)
    read = [read_rows(store, file.path) for file in files]
    measured = _measured(trees, read, selection)
    wanted_rows = _Shares(files, trees, measured, selection.seed)
    own = [_own_trees(file, rows, wanted_rows, system, dropped["rows"]) for file, rows in zip(files, read, strict=True)]
    everything = [*trees, *(tree for found in own for tree in found.trees)]
    return DataSet(
        trees=_weighted(_split(everything, selection, measured), selection.weights),
        selection=selection,
        judge_id="" if wanted is None else wanted.judge_id,
        judge="" if wanted is None else wanted.judge,
        unit=None if wanted is None else wanted.unit,
        dropped={what: dict(sorted(counts.items())) for what, counts in dropped.items()},
        lineage="unknown" if any(found.unknown for found in own) else "store",
        notes=tuple(note for found in own for note in found.notes),
        files=tuple(files),
    )


def stored_selection(kept: Mapping[str, Any]) -> tuple[Selection, tuple[OwnFile, ...]]:
    """A selection as a training's row has it; who is held back to measure stands in its configuration."""
    plain: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in kept.items() if key != "files"
    }
    return Selection(**plain), tuple(OwnFile(Path(path), share) for path, share in kept["files"])


def _filter(store: Store, selection: Selection) -> Filter:
    runs = None if selection.runs is None else (*selection.runs, *selection.earlier)
    found = make_filter(store, runs, selection.judge, selection.min_margin, selection.unit)
    if selection.weights == "margin" and found.unit is None:
        raise BadFilter(
            f"judge {found.judge!r} gives no margins, which weights = 'margin' asks for",
            hint="Leave the weights out, or take a judge that scores.",
        )
    return found


def _system(store: Store, deploy: str | None) -> str | None:
    """What a prompt version says; None where each run's own is meant. Raises NotFound, or SetupError."""
    if not deploy:
        return deploy
    prompt = Prompt(*store.prompt(store.find("prompts", deploy)))
    if prompt.kind != "deploy":
        raise SetupError(
            f"{deploy!r} is a prompt of kind {prompt.kind}, not deploy", hint="List them: espalier prompts list."
        )
    return prompt.render("head")


# From the store


@dataclass(frozen=True, slots=True)
class _Wanted:
    """The selection's filters beyond those of `trees.pairs`, with ids resolved."""

    people: frozenset[str]
    models: frozenset[str]
    turns: tuple[int, int] | None

    def refuses(self, place: Place, tree: ConversationTree, replies: Sequence[str]) -> str | None:
        """Why replies of a turn are not wanted; None if they are."""
        if self.turns is not None and not self.turns[0] <= place.turn <= self.turns[1]:
            return "other_turn"
        if self.people and not self.people & {place.profile_id, place.personality_id}:
            return "other_person"
        if self.models and not {tree[reply].model_id for reply in replies} <= self.models:
            return "other_model"
        return None


def _stored_trees(
    store: Store, selection: Selection, wanted: Filter, system: str | None, dropped: Mapping[str, Counter[str]]
) -> list[MessageTree]:
    filters = _Wanted(_people(store, selection.people), _models(store, selection.models), selection.turns)
    contexts = TrainingContexts(store, system)
    targets = _by_tree(weigh_turns(store, wanted), dropped["targets"])
    pairs = _by_tree(weigh_verdicts(store, wanted), dropped["pairs"])
    found: list[MessageTree] = []
    for tree_id in dict.fromkeys([*targets, *pairs]):
        tree = contexts.tree(tree_id)
        kept = _wanted_targets(targets.get(tree_id, ()), tree, filters, dropped["targets"])
        won = pairs.get(tree_id, ())
        compared = _wanted_pairs(won, tree, filters, selection.pairs, wanted.judge_id, dropped["pairs"])
        found += _trees_of(tree, kept, compared, contexts.head(tree_id), selection.weights)
    return found


def _by_tree(weighed: Iterable[T | Dropped], dropped: Counter[str]) -> dict[str, list[T]]:
    found: dict[str, list[T]] = {}
    for each in weighed:
        if isinstance(each, Dropped):
            dropped[each.reason] += 1
        else:
            found.setdefault(each.place.tree_id, []).append(each)
    return found


def _wanted_targets(
    targets: Sequence[Target], tree: ConversationTree, wanted: _Wanted, dropped: Counter[str]
) -> list[Target]:
    kept = []
    for target in targets:
        reason = wanted.refuses(target.place, tree, [target.node_id])
        if reason is None:
            kept.append(target)
        else:
            dropped[reason] += 1
    return kept


def _wanted_pairs(
    pairs: Sequence[Pair],
    tree: ConversationTree,
    wanted: _Wanted,
    choice: PairChoice,
    judge_id: str,
    dropped: Counter[str],
) -> list[Pair]:
    kept = []
    for pair in pairs:
        reason = wanted.refuses(pair.place, tree, [pair.chosen_id, pair.rejected_id])
        if reason is None and choice == "best" and pair.chosen_id != _best(tree, pair.place.user_id, judge_id):
            reason = "not_best"
        if reason is None:
            kept.append(pair)
        else:
            dropped[reason] += 1
    return kept


def _best(tree: ConversationTree, user_id: str, judge_id: str) -> str | None:
    replies = [reply.id for reply in tree.children(user_id)]
    judgement = tree.judgement_of(user_id, judge_id, *replies)
    return None if judgement is None else winner(judgement)


def _trees_of(
    tree: ConversationTree, targets: Sequence[Target], pairs: Sequence[Pair], system: str, weights: Weights
) -> Iterator[MessageTree]:
    """A tree for each opening that anything is trained under."""
    replies = [t.node_id for t in targets] + [r for p in pairs for r in (p.chosen_id, p.rejected_id)]
    needed = {node.id: tree.path(reply)[0].id for reply in replies for node in tree.path(reply)}
    place = (targets[0] if targets else pairs[0]).place if replies else None
    for root in tree.roots():
        nodes = [node for node in tree if needed.get(node.id) == root.id]
        if place is None or not nodes:
            continue
        index = {node.id: i for i, node in enumerate(nodes)}
        yield MessageTree(
            id=tree.id if root == tree.roots()[0] else f"{tree.id}.{root.id}",
            source=place.run_id,
            profile_id=place.profile_id,
            personality_id=place.personality_id,
            side="train",
            system=system,
            messages=tuple(
                TreeMessage(index.get(node.parent_id or "", -1), node.speaker, node.text, node.id) for node in nodes
            ),
            targets=tuple(index[t.node_id] for t in targets if t.node_id in index),
            pairs=tuple(
                MessagePair(index[p.chosen_id], index[p.rejected_id], _raw_weight(p, weights))
                for p in pairs
                if p.chosen_id in index
            ),
        )


def _people(store: Store, wanted: Sequence[str]) -> frozenset[str]:
    """Whole ids of halves. Raises HeldOut, or NotFound."""
    found = set()
    for prefix in wanted:
        half = _half(store, prefix)
        split = store.rows("SELECT split FROM pool WHERE id = ?", (half,))[0][0]
        if split != "train":
            why = "is held out" if split == "held_out" else "says the same as somebody held out"
            raise HeldOut(
                f"{prefix!r} {why}: nobody who has it is trained on",
                hint="Leave it out; `espalier personas list` tells the splits.",
            )
        found.add(half)
    return frozenset(found)


def _half(store: Store, prefix: str) -> str:
    """The whole id of a profile, or else of a personality. Raises NotFound."""
    try:
        return store.find("profiles", prefix)
    except NotFound as error:
        try:
            return store.find("personalities", prefix)
        except NotFound:
            raise error from None


def _models(store: Store, wanted: Sequence[str]) -> frozenset[str]:
    """Whole ids of models. Raises SetupError for one that the store does not know."""
    known: list[tuple[str, str]] = store.rows("SELECT id, label FROM models ORDER BY label, id")
    found: set[str] = set()
    for name in wanted:
        matching = {i for i, label in known if label == name} or {i for i, _ in known if i.startswith(name.lower())}
        if not matching:
            raise SetupError(
                f"no model {name!r} spoke in this store",
                hint=f"Models there: {', '.join(sorted({label for _, label in known})) or 'none'}.",
            )
        found |= matching
    return frozenset(found)


# A share of earlier runs


def _within_share(
    trees: Sequence[MessageTree], selection: Selection, dropped: Mapping[str, Counter[str]]
) -> list[MessageTree]:
    """The trees, with as much of the earlier runs as their share allows, drawn by the seed."""
    earlier = set(selection.earlier)
    new = [tree for tree in trees if tree.source not in earlier]
    old = [tree for tree in trees if tree.source in earlier]
    replies = [tree.messages[i].node for tree in old for i in tree.targets]
    couples = [_couple(tree, pair) for tree in old for pair in tree.pairs]
    kept_replies = _share_of(replies, sum(len(tree.targets) for tree in new), selection, dropped["targets"])
    kept_couples = _share_of(couples, sum(len(tree.pairs) for tree in new), selection, dropped["pairs"])
    found = []
    for tree in trees:
        if tree.source not in earlier:
            found.append(tree)
            continue
        targets = [i for i in tree.targets if tree.messages[i].node in kept_replies]
        pairs = [pair for pair in tree.pairs if _couple(tree, pair) in kept_couples]
        if targets or pairs:
            found.append(trimmed(tree, targets, pairs))
    return found


def _couple(tree: MessageTree, pair: MessagePair) -> str:
    return f"{tree.messages[pair.chosen].node}:{tree.messages[pair.rejected].node}"


def _share_of(keys: Sequence[str], others: int, selection: Selection, dropped: Counter[str]) -> frozenset[str]:
    share = selection.earlier_share
    wanted = len(keys) if share == 1 else round(others * share / (1 - share))
    kept = sorted(keys, key=lambda key: digest_of("earlier", selection.seed, key))[:wanted]
    if len(kept) < len(keys):
        dropped["beyond_share"] += len(keys) - len(kept)
    return frozenset(kept)


# From files


@dataclass(frozen=True, slots=True)
class _Own:
    """What a file gave."""

    trees: tuple[MessageTree, ...]
    unknown: bool
    notes: tuple[str, ...]


def _own_trees(file: OwnFile, read: ReadRows, shares: _Shares, deploy: str | None, dropped: Counter[str]) -> _Own:
    rows = shares.drawn(file, read.rows)
    dropped.update(read.dropped)
    if len(read.rows) > len(rows):
        dropped["beyond_share"] += len(read.rows) - len(rows)
    trees = [
        _own_tree(file, read.digest, owner, conversation, deploy)
        for owner, conversations in rows_by_conversation(rows)
        for conversation in conversations
    ]
    unknown = not all(row.stored for row in rows)
    return _Own(tuple(trees), unknown, tuple(_file_notes(file, read.rows, rows, unknown, read.dropped)))


def _own_tree(file: OwnFile, digest: str, owner: Owner, conversation: Conversation, deploy: str | None) -> MessageTree:
    (system, profile, personality), (messages, targets, pairs) = owner, conversation
    return MessageTree(
        id=digest_of("own tree", digest, *owner, messages[0][2]),
        source=file.path.name,
        profile_id=profile,
        personality_id=personality,
        side="train",
        system=system if deploy is None else deploy,
        messages=tuple(TreeMessage(parent, speaker, text, "") for parent, speaker, text in messages),
        targets=tuple(targets),
        pairs=tuple(MessagePair(*pair) for pair in pairs),
        from_file=True,
    )


class _Shares:
    """How much of each file is mixed in: with what is stored the files make up one whole, on either side of the split.

    Of a total of t a file has `share` t, and what is stored has the rest: t = stored / (1 - the sum of the shares).
    """

    def __init__(
        self, files: Sequence[OwnFile], stored: Sequence[MessageTree], measured: frozenset[str], seed: int
    ) -> None:
        """`measured` are the profiles that are held back to measure. Raises SetupError for shares that cannot be."""
        self._stored, self._measured, self._seed = stored, measured, seed
        self._rest = 1 - sum(file.share for file in files)
        for file in files:
            if not 0 < file.share <= 1:
                raise SetupError(f"the share of {file.path} is {file.share:g}", hint="Give one above 0, and 1 at most.")
        if stored and files and self._rest < 1e-9:
            shares = " and ".join(f"{file.share:g}" for file in files)
            raise SetupError(
                f"files with a share of {shares} of all leave nothing for the conversations of the store",
                hint="Give shares that come to less than 1, or leave the store's runs out.",
            )

    def drawn(self, file: OwnFile, rows: Sequence[OwnRow]) -> list[OwnRow]:
        """As many of a file's rows of each kind as its share asks for, drawn by the seed, in the file's order."""
        if not self._stored:
            return list(rows)
        kept: list[OwnRow] = []
        for fit in ("sft", "dpo"):
            for measures in (False, True):
                own = [row for row in rows if row.fit == fit and (row.profile_id in self._measured) is measures]
                kept += self._some(own, round(file.share * self._stored_amount(fit, measures) / self._rest))
        return sorted(kept, key=lambda row: row.line)

    def _stored_amount(self, fit: Fit, measures: bool) -> int:
        trees = [tree for tree in self._stored if (_group(tree) in self._measured) is measures]
        return sum(len(tree.targets if fit == "sft" else tree.pairs) for tree in trees)

    def _some(self, rows: Sequence[OwnRow], wanted: int) -> list[OwnRow]:
        """Rows with so many targets or pairs in all, or as few less as can be had."""
        found: list[OwnRow] = []
        for row in sorted(rows, key=lambda row: digest_of("draw", self._seed, row.digest, row.line)):
            amount = len(row.targets) if row.fit == "sft" else 1
            if amount <= wanted:
                found.append(row)
                wanted -= amount
        return found


def _file_notes(
    file: OwnFile, rows: Sequence[OwnRow], drawn: Sequence[OwnRow], unknown: bool, dropped: Mapping[str, int]
) -> Iterator[str]:
    yield f"{len(drawn)} of {len(rows)} rows of {file.path.name} are mixed in, for a share of {file.share:g}"
    if dropped.get("held_out"):
        yield (
            f"{dropped['held_out']} rows of {file.path.name} were refused: they hold words of held-out conversations "
            "or people"
        )
    if unknown:
        yield (
            f"{file.path.name} has rows that this store did not write: what is trained on them has the lineage "
            "`unknown`, since nobody can tell whose words they are"
        )


# The split


def _measured(stored: Sequence[MessageTree], files: Sequence[ReadRows], selection: Selection) -> frozenset[str]:
    """Who evaluates: profiles, or what else stays together, of what is stored and of rows whose person is known.

    Rows of files by nobody known are trained on, unless there is nothing else: then their conversations are split.
    """
    known = {row.profile_id for read in files for row in read.rows if row.profile_id is not None}
    return _held_back({*known, *map(_group, stored)}, selection)


def _held_back(groups: Iterable[str], selection: Selection) -> frozenset[str]:
    """Drawn by the seed, whatever the order."""
    ordered = sorted(set(groups), key=lambda group: digest_of("evaluation", selection.seed, group))
    wanted = round(len(ordered) * selection.evaluation)
    if selection.evaluation > 0 and len(ordered) > 1:
        wanted = min(max(wanted, 1), len(ordered) - 1)
    return frozenset(ordered[:wanted])


def _split(trees: Sequence[MessageTree], selection: Selection, measured: frozenset[str]) -> tuple[MessageTree, ...]:
    """People who share a profile stay together."""
    only_files = all(tree.from_file and tree.profile_id is None for tree in trees)
    kept_out = _held_back((tree.id for tree in trees), selection) if only_files else measured
    return tuple(
        replace(tree, side="evaluation" if (tree.id if only_files else _group(tree)) in kept_out else "train")
        for tree in trees
    )


def _group(tree: MessageTree) -> str:
    """What stays together: a profile; without one a person's whole run of chats, or a file."""
    return tree.profile_id or tree.source


# Weights


def _raw_weight(pair: Pair, weights: Weights) -> float:
    """Before `_weighted`. Raises SetupError for a win without a margin, or with none above 0."""
    if weights == "none":
        return 1.0
    if pair.margin is None or not pair.margin > 0:
        raise SetupError(
            f"a pair of turn {pair.place.turn} of tree {pair.place.tree_id[:8]} has the margin {pair.margin}, and "
            f"weights = 'margin' needs one above 0 of every win of judge {pair.judge!r}",
            hint="Leave the weights out, or take a judge that scores.",
        )
    return pair.margin


def _weighted(trees: Sequence[MessageTree], weights: Weights) -> tuple[MessageTree, ...]:
    """Margins over the mean margin of the pairs that are trained on; who only measures is weighed on the same scale.

    Rows of files have no margin and weigh 1, as much as the mean pair.
    """
    raw = [pair.weight for tree in trees if tree.side == "train" and not tree.from_file for pair in tree.pairs]
    if weights == "none" or not raw:
        return tuple(trees)
    mean = fsum(raw) / len(raw)
    return tuple(tree if tree.from_file else _scaled(tree, mean) for tree in trees)


def _scaled(tree: MessageTree, mean: float) -> MessageTree:
    return replace(tree, pairs=tuple(replace(pair, weight=pair.weight / mean) for pair in tree.pairs))


def _compared(pair: MessagePair) -> tuple[int, int] | tuple[int, int, float]:
    """A pair as it is digested: pairs that all weigh the same are named as they always were."""
    return (pair.chosen, pair.rejected) if pair.weight == 1.0 else (pair.chosen, pair.rejected, pair.weight)


# Trimming


def _only(tree: MessageTree, fit: Fit) -> MessageTree | None:
    targets = tree.targets if fit == "sft" else ()
    pairs = tree.pairs if fit == "dpo" else ()
    return trimmed(tree, targets, pairs) if targets or pairs else None


def trimmed(tree: MessageTree, targets: Sequence[int], pairs: Sequence[MessagePair]) -> MessageTree:
    """A tree with these targets and pairs, and only the messages that they need."""
    replies = [*targets, *(i for pair in pairs for i in (pair.chosen, pair.rejected))]
    needed: set[int] = set()
    for reply in replies:
        at = reply
        while at >= 0 and at not in needed:
            needed.add(at)
            at = tree.messages[at].parent
    new = {old: i for i, old in enumerate(sorted(needed))}
    new[-1] = -1
    messages = [tree.messages[old] for old in sorted(needed)]
    return replace(
        tree,
        messages=tuple(replace(message, parent=new[message.parent]) for message in messages),
        targets=tuple(new[target] for target in targets),
        pairs=tuple(replace(pair, chosen=new[pair.chosen], rejected=new[pair.rejected]) for pair in pairs),
    )
