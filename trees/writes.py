"""Values as SQL writes. Each function returns the statements that keep one value; nothing is executed here.

A write is a statement and its parameters. Whoever executes a list of them does so in one transaction, so what one
function returns is kept whole or not at all. All text passes `escape`; JSON columns hold canonical JSON, which is
ASCII and needs none (but for NUL, which canonical JSON escapes too).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence

from trees.ids import canonical_json, digest_of
from trees.personas import Personality, Profile
from trees.situations import Situation
from trees.text import escape, search_form
from trees.values import Call, CallFailure, Continued, Judgement, Ledger, ModelFigures, Node, RunState, Turn, Use

Write = tuple[str, tuple[object, ...]]


def _insert(table: str, columns: str, *, on_conflict: str = "") -> str:
    marks = ", ".join("?" * len(columns.split(",")))
    return f"INSERT INTO {table} ({columns}) VALUES ({marks}){on_conflict}"


_KEEP_FIRST = " ON CONFLICT DO NOTHING"
_CALL = _insert(
    "calls",
    "id, kind, model_id, request, messages_digest, prompt_digest, answer, tokens_in, tokens_cached, tokens_out, "
    "first_token_s, seconds, attempts, at",
    # Of two engines that asked the same, the first one's answer is everybody's: the row that stands is returned.
    on_conflict=" ON CONFLICT (id) DO UPDATE SET id = id RETURNING answer",
)
_USE = _insert(
    "uses",
    "call_id, run_id, tree_id, node_id, role, purpose, prompt_id, tail, epoch",
    on_conflict=_KEEP_FIRST,
)
_NODE = _insert(
    "nodes",
    "id, tree_id, parent_id, turn, speaker, role, replica, origin, text, digest, reasoning, call_id, answer, "
    "model_id, hinted, drift, rerolls, operation_id, at",
)
_WORDS = "INSERT INTO node_words (rowid, words) SELECT rowid, ? FROM nodes WHERE id = ?"
_LEDGER = _insert("ledgers", "node_id, facts, sees_persona, call_id, dropped, failure", on_conflict=_KEEP_FIRST)
_JUDGEMENT = _insert("judgements", "id, node_id, judge_id, repeat, covers, complete, cause, at")
_PRESENTATION = _insert("presentations", "judgement_id, number, shown, call_id, raw, probabilities, label")
_SCORE = _insert("scores", "judgement_id, node_id, unit, value")
_VERDICT = _insert("verdicts", "judgement_id, first_id, second_id, outcome, margin, unit")
_CONTINUED = _insert("continued", "node_id, policy, reason", on_conflict=_KEEP_FIRST)
_TREE_GREW = "UPDATE trees SET turns = max(turns, ?), nodes = nodes + ?, updated_at = ? WHERE id = ?"


def keep_profile(profile: Profile, *, source: str, split: str = "train") -> list[Write]:
    sql = _insert("profiles", "id, text, facts, pronouns, split, source, added_at", on_conflict=_KEEP_FIRST)
    facts = canonical_json(list(profile.facts))
    return [(sql, (profile.id, escape(profile.text), facts, profile.pronouns, split, escape(source), time.time()))]


def keep_personality(personality: Personality, *, source: str, split: str = "train") -> list[Write]:
    sql = _insert("personalities", "id, text, traits, pronouns, split, source, added_at", on_conflict=_KEEP_FIRST)
    traits = canonical_json(list(personality.traits))
    values = (
        personality.id,
        escape(personality.text),
        traits,
        personality.pronouns,
        split,
        escape(source),
        time.time(),
    )
    return [(sql, values)]


def keep_prompt(prompt_id: str, role: str, text: str, note: str | None = None) -> list[Write]:
    sql = _insert("prompts", "id, role, text, note, added_at", on_conflict=_KEEP_FIRST)
    return [(sql, (prompt_id, role, escape(text), escape(note) if note else None, time.time()))]


def keep_model(model_id: str, label: str, identity: Mapping[str, object]) -> list[Write]:
    sql = _insert("models", "id, backend, label, identity", on_conflict=_KEEP_FIRST)
    return [(sql, (model_id, identity["backend"], label, canonical_json(dict(identity))))]


def keep_judge(judge_id: str, name: str, kind: str, spec: Mapping[str, object]) -> list[Write]:
    sql = _insert("judges", "id, name, kind, spec", on_conflict=_KEEP_FIRST)
    return [(sql, (judge_id, name, kind, canonical_json(dict(spec))))]


def keep_run(
    run_id: str, kind: str, name: str, seed: int, identity: Mapping[str, object], operation: Mapping[str, object]
) -> list[Write]:
    sql = _insert(
        "runs",
        "id, kind, name, seed, identity, operation, state, created_at, updated_at",
        on_conflict=_KEEP_FIRST,
    )
    now = time.time()
    frozen, current = canonical_json(dict(identity)), canonical_json(dict(operation))
    return [(sql, (run_id, kind, escape(name), seed, frozen, current, "new", now, now))]


def keep_revision(run_id: str, revision: int, prompts: Mapping[str, str], asked_by: str) -> list[Write]:
    sql = _insert("revisions", "run_id, revision, prompts, asked_by, at", on_conflict=_KEEP_FIRST)
    return [(sql, (run_id, revision, canonical_json(dict(prompts)), asked_by, time.time()))]


def keep_tree(
    tree_id: str,
    run_id: str,
    position: int,
    profile_id: str | None,
    personality_id: str | None,
    *,
    title: str,
    revision: int = 0,
    situation: Situation | None = None,
) -> list[Write]:
    columns = "id, run_id, position, profile_id, personality_id, revision, state, title, updated_at, situation"
    sql = _insert("trees", columns, on_conflict=_KEEP_FIRST)
    at = time.time()
    told = situation.as_json() if situation is not None else None
    values = (tree_id, run_id, position, profile_id, personality_id, revision, "growing", escape(title), at, told)
    return [(sql, values)]


def pin_revision(tree_id: str, revision: int) -> list[Write]:
    """Play a tree that has no message yet under a later revision of its run's prompts."""
    return [("UPDATE trees SET revision = ? WHERE id = ? AND nodes = 0", (revision, tree_id))]


def set_run_state(run_id: str, state: RunState, reason: str | None = None) -> list[Write]:
    sql = "UPDATE runs SET state = ?, reason = ?, updated_at = ? WHERE id = ?"
    return [(sql, (state, escape(reason) if reason else None, time.time(), run_id))]


def set_operation_fields(run_id: str, operation: Mapping[str, object]) -> list[Write]:
    """Replace the half of a run's configuration that may change at any time."""
    sql = "UPDATE runs SET operation = ?, updated_at = ? WHERE id = ?"
    return [(sql, (canonical_json(dict(operation)), time.time(), run_id))]


def finish_tree(tree_id: str) -> list[Write]:
    return [("UPDATE trees SET state = 'done', cause = NULL, updated_at = ? WHERE id = ?", (time.time(), tree_id))]


def fail_tree(tree_id: str, turn: int, kind: str, message: str) -> list[Write]:
    cause = canonical_json({"turn": turn, "kind": kind, "message": message})
    sql = "UPDATE trees SET state = 'failed', cause = ?, updated_at = ? WHERE id = ?"
    return [(sql, (cause, time.time(), tree_id))]


def reopen_tree(tree_id: str) -> list[Write]:
    return [("UPDATE trees SET state = 'growing', cause = NULL, updated_at = ? WHERE id = ?", (time.time(), tree_id))]


def keep_call(call: Call, use: Use) -> list[Write]:
    """A call's answer and why it was asked. An answer that is stored already stays as it is."""
    return [*keep_answer(call), *keep_use(use)]


def keep_answer(call: Call) -> list[Write]:
    """A call with its answer; whoever keeps it keeps in the same transaction why it was asked."""
    row = (
        call.id,
        call.kind,
        call.model_id,
        canonical_json(dict(call.request)),
        call.messages_digest,
        call.prompt_digest,
        canonical_json(dict(call.answer)),
        call.tokens_in,
        call.tokens_cached,
        call.tokens_out,
        call.first_token_s,
        call.seconds,
        canonical_json([dict(a) for a in call.attempts]) if call.attempts else None,
        time.time(),
    )
    return [(_CALL, row)]


def keep_use(use: Use) -> list[Write]:
    tail = canonical_json(dict(use.tail))
    ids = (use.call_id, use.run_id, use.tree_id, use.node_id, use.role, use.purpose, use.prompt_id)
    return [(_USE, (*ids, tail, use.epoch))]


def keep_failure(failure: CallFailure) -> list[Write]:
    columns = "run_id, tree_id, node_id, role, purpose, call_id, kind, message, attempts, at"
    place = (failure.run_id, failure.tree_id, failure.node_id, failure.role, failure.purpose, failure.call_id)
    attempts = canonical_json([dict(a) for a in failure.attempts])
    row = (*place, failure.kind, escape(failure.message), attempts, time.time())
    return [(_insert("failures", columns), row)]


def resolve_failures(call_id: str) -> list[Write]:
    """Note that a call which had failed was answered after all."""
    return [("UPDATE failures SET resolved_at = ? WHERE call_id = ? AND resolved_at IS NULL", (time.time(), call_id))]


_BY_HAND = """
(
    failures.purpose GLOB 'speak.[a-z]*' OR failures.purpose GLOB 'respond.[a-z]*.[0-9]*'
    OR EXISTS (SELECT 1 FROM nodes here WHERE here.id = failures.node_id AND here.operation_id IS NOT NULL)
)
"""
"""Whether a message was failed to be had for an operation: its purpose names it, or it stands under what one grew.

A purpose is `speak.REPLICA` or `respond.REPLICA`, where the replica of an operation begins with its kind; what the run
itself asks for is `speak.0` and `respond`, and both may go on with the number of a further try.
"""
_CAME_AFTER_ALL = f"""
UPDATE failures SET resolved_at = ? WHERE run_id = ? AND resolved_at IS NULL AND (
    EXISTS (
        SELECT 1 FROM nodes n WHERE n.parent_id = failures.node_id AND n.role = failures.role AND n.at >= failures.at
        AND (n.operation_id IS NULL OR {_BY_HAND})
    ) OR EXISTS (
        SELECT 1 FROM nodes n WHERE n.tree_id = failures.tree_id AND failures.node_id = failures.tree_id
        AND n.parent_id IS NULL AND n.role = failures.role AND n.at >= failures.at
        AND (n.operation_id IS NULL OR {_BY_HAND})
    ) OR failures.role = 'inducer' AND EXISTS (
        SELECT 1 FROM nodes n JOIN ledgers l ON l.node_id = n.id WHERE n.id = failures.node_id AND n.at >= failures.at
    ) OR EXISTS (
        SELECT 1 FROM judgements j JOIN judges g ON g.id = j.judge_id WHERE j.node_id = failures.node_id
        AND failures.role = 'judge.' || g.name AND j.complete AND j.at >= failures.at
    )
)
"""


def settle_failures(run_id: str) -> list[Write]:
    """Note which failures of a run something came after: the message, the ledger or the judgement asked for there.

    Whoever asks again at a place may do it by another call, so that an answer to the same call is not all that counts.
    A message that an operation grew does not stand in for one that the run owes.
    """
    return [(_CAME_AFTER_ALL, (time.time(), run_id))]


def keep_turn(turn: Turn) -> list[Write]:
    """All of a turn, and the tree's counts."""
    nodes = [*([turn.user] if turn.new_user else []), *turn.replies]
    writes = [write for node in nodes for write in _keep_node(node)]
    if turn.ledger is not None:
        writes += _keep_ledger(turn.ledger)
    for judgement in turn.judgements:
        writes += keep_judgement(judgement)
    writes += [keep_continued(mark) for mark in turn.continued]
    writes.append((_TREE_GREW, (turn.user.turn, len(nodes), time.time(), turn.user.tree_id)))
    return writes


def _keep_node(node: Node) -> list[Write]:
    row = (
        node.id,
        node.tree_id,
        node.parent_id,
        node.turn,
        node.speaker,
        node.role,
        node.replica,
        node.origin,
        escape(node.text),
        node.digest,
        None if node.reasoning is None else escape(node.reasoning),
        node.call_id,
        node.answer,
        node.model_id,
        int(node.hinted),
        node.drift,
        node.rerolls,
        node.operation_id,
        time.time(),
    )
    return [(_NODE, row), (_WORDS, (search_form(node.text), node.id))]


def _keep_ledger(ledger: Ledger) -> list[Write]:
    facts = canonical_json(list(ledger.facts))
    failure = None if ledger.failure is None else escape(ledger.failure)
    return [(_LEDGER, (ledger.node_id, facts, int(ledger.sees_persona), ledger.call_id, ledger.dropped, failure))]


def keep_continued(mark: Continued) -> Write:
    """That a conversation went on from a node. A mark that stands already stays as it is."""
    return (_CONTINUED, (mark.node_id, mark.policy, mark.reason))


def keep_judgement(judgement: Judgement) -> list[Write]:
    """A judgement with its presentations, scores and verdicts."""
    head = (
        judgement.id,
        judgement.node_id,
        judgement.judge_id,
        judgement.repeat,
        canonical_json(list(judgement.covers)),
        int(judgement.complete),
        None if judgement.cause is None else escape(judgement.cause),
        time.time(),
    )
    writes: list[Write] = [(_JUDGEMENT, head)]
    for number, shown in enumerate(judgement.presentations):
        order, odds = canonical_json(list(shown.order)), canonical_json(dict(shown.probabilities))
        label = None if shown.label is None else escape(shown.label)
        row = (judgement.id, number, order, shown.call_id, escape(shown.raw), odds, label)
        writes.append((_PRESENTATION, row))
    for score in judgement.scores:
        writes.append((_SCORE, (judgement.id, score.node_id, score.unit, score.value)))
    for v in judgement.verdicts:
        writes.append((_VERDICT, (judgement.id, v.first_id, v.second_id, v.outcome, v.margin, v.unit)))
    return writes


def keep_operation(
    run_id: str, tree_id: str, node_id: str, kind: str, number: int, args: Mapping[str, object], asked_by: str
) -> tuple[str, list[Write]]:
    """The id of something a person did at a node, and its row."""
    operation = digest_of("operation", run_id, node_id, kind, number)
    sql = _insert("operations", "id, tree_id, node_id, kind, number, args, asked_by, at")
    row = (operation, tree_id, node_id, kind, number, canonical_json(dict(args)), escape(asked_by), time.time())
    return operation, [(sql, row)]


def keep_benchmark(benchmark_id: str, name: str, judge: str, turns: int, at: float) -> list[Write]:
    """What several models are measured with."""
    sql = _insert("benchmarks", "id, name, judge, turns, at", on_conflict=_KEEP_FIRST)
    return [(sql, (benchmark_id, escape(name), escape(judge), turns, at))]


def keep_benchmark_run(benchmark_id: str, run_id: str, model: str, how: str, lineage: str) -> list[Write]:
    """That a run measures a model."""
    sql = _insert("benchmark_runs", "benchmark_id, run_id, model, how, lineage", on_conflict=_KEEP_FIRST)
    return [(sql, (benchmark_id, run_id, escape(model), how, lineage))]


def keep_event(job_id: str, kind: str, data: Mapping[str, object]) -> list[Write]:
    sql = _insert("events", "job_id, kind, data, at")
    return [(sql, (job_id, kind, canonical_json(dict(data)), time.time()))]


def keep_figures(run_id: str, figures: ModelFigures) -> list[Write]:
    names = ModelFigures.__slots__
    # A clock that was set back may give a moment twice: that is no reason to stop a run.
    sql = _insert("model_figures", f"run_id, {', '.join(names)}", on_conflict=_KEEP_FIRST)
    values = (getattr(figures, name) for name in names)
    return [(sql, (run_id, *(escape(value) if isinstance(value, str) else value for value in values)))]


def merge_words() -> list[Write]:
    """Make the full-text index one piece again: looking up a word then takes as long in a large store as in a small."""
    return [("INSERT INTO node_words (node_words) VALUES ('optimize')", ())]


def delete_run(run_id: str) -> list[Write]:
    """Everything of a run; calls, prompts, models and judges that another run still uses stay."""
    trees = "SELECT id FROM trees WHERE run_id = ?"
    nodes = f"SELECT id FROM nodes WHERE tree_id IN ({trees})"
    statements = (
        f"INSERT INTO node_words (node_words, rowid, words) "
        f"SELECT 'delete', rowid, search_form(text) FROM nodes WHERE tree_id IN ({trees})",
        f"DELETE FROM judgements WHERE node_id IN ({nodes})",
        f"UPDATE nodes SET parent_id = NULL WHERE tree_id IN ({trees})",
        f"DELETE FROM nodes WHERE tree_id IN ({trees})",
        "DELETE FROM trees WHERE run_id = ?",
        "DELETE FROM runs WHERE id = ?",
        "DELETE FROM locks WHERE job_id = ?",
        "DELETE FROM commands WHERE job_id = ?",
        "DELETE FROM events WHERE job_id = ?",
    )
    return [*((sql, (run_id,)) for sql in statements), *prune_shared()]


def prune_shared() -> list[Write]:
    """Calls that nothing uses, and with the last run and growing the judges and models.

    A run that has not played yet needs its models and judges too, and no row ties them to it.
    """
    statements = (
        "DELETE FROM calls WHERE NOT EXISTS (SELECT 1 FROM uses WHERE uses.call_id = calls.id) "
        "AND NOT EXISTS (SELECT 1 FROM growing_uses WHERE growing_uses.call_id = calls.id)",
        "DELETE FROM judges WHERE NOT EXISTS (SELECT 1 FROM runs)",
        "DELETE FROM models WHERE NOT EXISTS (SELECT 1 FROM runs) AND NOT EXISTS (SELECT 1 FROM growings)",
    )
    return [(sql, ()) for sql in statements]


def prune_figures() -> list[Write]:
    """What models were doing in runs that nobody is at work on."""
    return [("DELETE FROM model_figures WHERE run_id NOT IN (SELECT job_id FROM locks)", ())]


def in_one(lists: Iterable[Sequence[Write]]) -> list[Write]:
    """Several lists of writes as one, to be kept together."""
    return [write for writes in lists for write in writes]
