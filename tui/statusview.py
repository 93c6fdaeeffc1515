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
    reason = f" ({run['reason']})" if run["reason"] else ""
    say(f"run {run['id']}\n{run['name']!r}, seed {run['seed']}: {run['state']}{reason}")
    failed = f", {trees['failed']} failed" if trees["failed"] else ""
    say(f"trees   {trees['done']} of {trees['planned']} done, {trees['growing']} growing{failed}")
    say(f"turns   {turns['stored']} of {turns['planned']}; {facts['nodes']} messages, {facts['pairs']} pairs")
    say(f"calls   {calls['answered']} answered, {calls['failed']} failed; {_tokens(calls)}")
    say(f"engine  {engine_in_words(facts['engine'])}")
    _say_roles(facts["roles"])
    _say_judges(facts["judges"])
    _say_failures(facts)


def say_runs(runs: list[dict[str, Any]]) -> None:
    """Print all runs of a store, one a line."""
    rows = [
        (r["id"][:8], r["name"], r["seed"], r["kind"], r["state"], r["reason"], f"{duration(time.time() - r['updated_at'])} ago")
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
        )
        for row in roles
    ]
    headings = ("role", "model", "calls", "read", "cached", "written", "time", "a call")
    say_table(headings, rows, right=headings[2:])


def _say_judges(judges: list[dict[str, Any]]) -> None:
    if not judges:
        return
    say("")
    headings = ("judge", "kind", "judgements", "incomplete", *OUTCOMES, "pairs")
    rows = [
        (row["judge"], row["kind"], row["judgements"], row["incomplete"], *(row[o] for o in OUTCOMES), row["pairs"])
        for row in judges
    ]
    say_table(headings, rows, right=headings[2:])


def _say_failures(facts: Mapping[str, Any]) -> None:
    if facts["failures"]:
        say("")
        rows = [(row["kind"], row["role"], row["calls"], row["unresolved"], row["example"]) for row in facts["failures"]]
        say_table(("failed calls", "role", "number", "unresolved", "for instance"), rows, right=("number", "unresolved"))
    if facts["failed_trees"]:
        say("")
        rows = [(row["kind"], row["trees"], row["message"]) for row in facts["failed_trees"]]
        say_table(("failed trees", "number", "cause"), rows, right=("number",))
        say(f"ask them again: espalier resume {facts['run']['id'][:8]} --retry-failed")
