"""How a run stands, on paper: the facts of `tui.facts` as text for a person."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from tui.console import count, duration, say, say_table
from tui.facts import OUTCOMES


def say_facts(facts: Mapping[str, Any]) -> None:
    """Print everything that `status` knows of a run."""
    run, trees, turns, calls = facts["run"], facts["trees"], facts["turns"], facts["calls"]
    pairs = sum(facts["pairs"].values())
    reason = f" ({run['reason']})" if run["reason"] else ""
    say(f"run {run['id']}\n{run['name']!r}, seed {run['seed']}: {run['state']}{reason}")
    failed = f", {trees['failed']} failed" if trees["failed"] else ""
    say(f"trees   {trees['done']} of {trees['planned']} done, {trees['growing']} growing{failed}")
    planned = f" of {turns['planned']}" if turns["planned"] else ""
    say(f"turns   {turns['stored']}{planned}; {facts['nodes']} messages, {pairs} pairs")
    say(f"calls   {calls['answered']} answered, {calls['failed']} failed; {_tokens(calls)}")
    say(f"engine  {engine_in_words(facts['engine'])}")
    _say_roles(facts["roles"])
    _say_models(facts["models"])
    _say_judges(facts["judges"])
    _say_drift(facts["drift"])
    _say_failures(facts)


def say_runs(runs: list[dict[str, Any]]) -> None:
    """Print all runs of a store, one a line."""
    rows = [
        (
            r["id"][:8],
            r["name"],
            r["seed"],
            r["kind"],
            r["state"],
            r["reason"],
            f"{duration(time.time() - r['updated_at'])} ago",
        )
        for r in runs
    ]
    say_table(("run", "name", "seed", "kind", "state", "", "last change"), rows, right=("seed",))


def engine_in_words(engine: Mapping[str, Any] | None) -> str:
    """Who is at work, and when they were last heard of."""
    if engine is None:
        return "none at work"
    who = f"pid {engine['pid']} on {engine['host']}"
    heard = f"last heard of {duration(engine['heartbeat_age_s'])} ago"
    return f"{who}, {heard}" if engine["alive"] else f"none at work; {who} died without a word, {heard}"


def _tokens(calls: Mapping[str, Any]) -> str:
    cached = f" ({count(calls['tokens_cached'])} from a cache)" if calls["tokens_cached"] else ""
    return f"{count(calls['tokens_in'])} tokens read{cached}, {count(calls['tokens_out'])} written"


def _say_roles(roles: list[dict[str, Any]]) -> None:
    if not roles:
        return
    say("")
    rows = [
        (
            row["role"],
            row["model"],
            row["calls"],
            count(row["tokens_in"]),
            count(row["tokens_cached"]),
            count(row["tokens_out"]),
            duration(row["seconds"]),
            duration(row["seconds"] / max(row["calls"], 1)),
            row["failed_attempts"],
        )
        for row in roles
    ]
    headings = ("role", "model", "calls", "read", "cached", "written", "time", "a call", "retries")
    say_table(headings, rows, right=headings[2:])


MODEL_HEADINGS = (
    "model",
    "permits",
    "in use",
    "queued",
    "read",
    "reused",
    "written",
    "a second",
    "a batch",
    "first token",
    "95 %",
)


def model_row(row: Mapping[str, Any]) -> tuple[object, ...]:
    """A model's figures under `MODEL_HEADINGS`; the queue is that before the permits and the backend's own."""
    fill, median, slow = row["batch_fill"], row["first_token_median_s"], row["first_token_p95_s"]
    return (
        row["model"],
        row["permits"],
        row["held"],
        row["queued"] if row["waiting"] is None else f"{row['queued']} + {row['waiting']}",
        count(row["prompt_read"]),
        count(row["prompt_reused"]),
        count(row["tokens_out"]),
        count(row["tokens_out_per_s"]),
        None if fill is None else f"{fill:.1f}",
        None if median is None else f"{median:.2f} s",
        None if slow is None else f"{slow:.2f} s",
    )


def _say_models(models: list[dict[str, Any]]) -> None:
    if models:
        say("")
        say_table(MODEL_HEADINGS, [model_row(row) for row in models], right=MODEL_HEADINGS[1:])


def _say_judges(judges: list[dict[str, Any]]) -> None:
    if not judges:
        return
    say("")
    headings = ("judge", "kind", "turns", "incomplete", *OUTCOMES, "pairs")
    say_table(headings, [tuple(row[heading] for heading in headings) for row in judges], right=headings[2:])
    for row in judges:
        told = [f"{name} won {share_in_words(share)}" for name, share in row["win_rates"].items()]
        told += [f"hinted replies won {share_in_words(row['hinted'])}"] if row["hinted"]["of"] else []
        told += [f"shown first was picked {share_in_words(row['first_shown'])}"] if row["first_shown"]["of"] else []
        told += [f"judged again changed {share_in_words(row['flips'])}"] if row["flips"]["of"] else []
        told += [f"agrees with {name} {agreement_in_words(found)}" for name, found in row["agreement"].items()]
        say("".join(f"\n{row['judge']}: {line}" for line in told).lstrip("\n"))


def share_in_words(share: Mapping[str, Any]) -> str:
    """A share with what it is of, and its 95 % interval."""
    if not share["of"]:
        return "0 of 0"
    low, high = share["interval"]
    return f"{share['count']} of {share['of']} ({share['value']:.0%}, {low:.0%} to {high:.0%})"


def agreement_in_words(found: Mapping[str, Any]) -> str:
    """How far two judges agree, beyond chance, and over how much."""
    if not found["pairs"]:
        return "on nothing yet: no two replies were compared by both"
    of = f"on {found['agreed']} of {found['pairs']} pairs in {found['turns']} turns"
    if found["kappa"] is None:
        return f"{of}; kappa is not defined: each always said the same"
    low, high = found["interval"]
    return f"{of}, kappa {found['kappa']:.2f} ({low:.2f} to {high:.2f})"


def _say_drift(drift: Mapping[str, Any]) -> None:
    if drift["rerolled"] or drift["drifting"]:
        left = ", ".join(f"{number} {kind}" for kind, number in sorted(drift["drifting"].items())) or "none"
        say(f"\ndrift: {drift['rerolled']} of {drift['messages']} messages re-rolled; left in the end: {left}")


def _say_failures(facts: Mapping[str, Any]) -> None:
    if failures := facts["failures"]:
        say("")
        headings = ("kind", "role", "calls", "unresolved", "example")
        rows = [tuple(row[heading] for heading in headings) for row in failures]
        say_table(("failed calls", *headings[1:]), rows, right=("calls", "unresolved"))
    if failed := facts["failed_trees"]:
        say("")
        causes = [(row["kind"], row["trees"], row["message"]) for row in failed]
        say_table(("failed trees", "number", "cause"), causes, right=("number",))
    if any(row["unresolved"] for row in facts["failures"]) or facts["failed_trees"]:
        say(f"ask again: espalier resume {facts['run']['id'][:8]} --retry-failed")
