"""Kill a run at random instants, resume it, and compare it with one that nobody disturbed.

- kill -9 of scripted runs: the resumed trees equal the unbroken ones byte for byte, no committed call is asked again,
  `verify` finds nothing;
- the same with the embedded model, exact (equal bytes) and fast (committed answers kept, equal shape);
- Ctrl-C: the calls in flight are kept, the exit status is 130, and the resumed trees are equal;
- the model's own process killed under load: its calls are asked again and the run ends complete;
- rounds killed in each of their steps, the process of the step with them or not: trees, adapters and figures are equal.

Several kills may hit one run: it is resumed and killed until it ends by itself.

    python benchmarks/torture.py [--quick] [--seed N]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

import psutil
from common import Bar, finish, say

SCRIPTED = """
name = "torture"
turns = 4
[models.m]
kind = "scripted"
latency_s = 0.004
[personas]
count = 12
[responders.plain]
[responders.warm]
hint = true
[limits]
trees_in_flight = 6
"""
EMBEDDED = """
name = "torture"
turns = 2
[models.m]
kind = "llama"
exact = {exact}
[personas]
count = 2
[user]
rerolls = 0
sampling = {{ max_tokens = 16, temperature = 0.9 }}
[inducer]
sampling = {{ max_tokens = 24, temperature = 0.0 }}
[responders.plain]
sampling = {{ max_tokens = 16 }}
[responders.warm]
hint = true
sampling = {{ max_tokens = 16 }}
[limits]
trees_in_flight = 2
"""


@dataclass(frozen=True)
class Case:
    """A folder with a configuration, and the store in it."""

    folder: Path

    @property
    def store(self) -> Path:
        return self.folder / "espalier.db"

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "tui.main", *arguments]

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        environment = {**os.environ, "ESPALIER_STORE": str(self.store)}
        return subprocess.Popen(
            self.command(*arguments),
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def finish(self, *arguments: str) -> str:
        """Run a command to its end; raise with what it printed if it fails."""
        process = self.start(*arguments)
        output, _ = process.communicate()
        if process.returncode != 0:
            raise AssertionError(f"espalier {' '.join(arguments)} ended with {process.returncode}:\n{output}")
        return output

    def calls(self) -> dict[str, str]:
        """The stored answers by call id."""
        if not self.store.exists():
            return {}
        connection = sqlite3.connect(self.store)
        try:
            return dict(connection.execute("SELECT id, answer FROM calls"))
        except sqlite3.OperationalError:
            return {}
        finally:
            connection.close()

    def asked(self) -> list[int]:
        """How many calls each engine that left in good order had asked."""
        connection = sqlite3.connect(self.store)
        rows = connection.execute("SELECT data FROM events WHERE kind = 'engine.left' ORDER BY seq").fetchall()
        connection.close()
        return [json.loads(row[0])["asked"] for row in rows]

    def canonical(self) -> str:
        return self.finish("trees", "--json", "--canonical")

    def shape(self) -> list[Any]:
        """The tree without its words."""
        connection = sqlite3.connect(self.store)
        rows = connection.execute(
            "SELECT turn, speaker, role, replica FROM nodes ORDER BY tree_id, 1, 2, 3, 4"
        ).fetchall()
        connection.close()
        return rows


def new_case(folder: Path, configuration: str) -> Case:
    folder.mkdir(parents=True)
    (folder / "run.toml").write_text(configuration, encoding="utf-8")
    return Case(folder)


def wait_for(condition: Callable[[], bool], what: str, process: subprocess.Popen[str], seconds: float = 120) -> bool:
    """Wait until a condition holds; False if the process ends first."""
    until = time.monotonic() + seconds
    while not condition():
        if process.poll() is not None:
            return False
        if time.monotonic() > until:
            raise AssertionError(f"{what} did not happen within {seconds:g} s")
        time.sleep(0.01)
    return True


def more_calls(case: Case, than: int) -> Callable[[], bool]:
    """The condition that a case has stored more calls than these."""
    return lambda: len(case.calls()) > than


def killed_runs(
    folder: Path, configuration: str, kills: int, draw: random.Random, how: signal.Signals, equal: str
) -> dict[str, Any]:
    """Kill until there were this many kills; every run is resumed to its end and compared."""
    reference = new_case(folder / "unbroken", configuration)
    began = time.monotonic()
    reference.finish("run", "run.toml")
    whole_s = max(time.monotonic() - began - 1.5, 0.5)
    wanted = reference.canonical() if equal == "bytes" else reference.shape()
    total = len(reference.calls())
    done = runs = lost = 0
    while done < kills:
        case = new_case(folder / f"run{runs}", configuration)
        runs += 1
        hits, kept = break_until_done(case, kills - done, whole_s, draw, how)
        done += hits
        found = case.canonical() if equal == "bytes" else case.shape()
        assert found == wanted, f"{case.folder}: the resumed trees differ from the unbroken ones"
        after = case.calls()
        assert all(after.get(call) == text for call, text in kept.items()), f"{case.folder}: a committed answer changed"
        assert case.asked()[-1] == len(after) - len(kept), f"{case.folder}: a committed call was asked again"
        case.finish("verify")
        lost += abs(len(after) - total) if equal == "bytes" else 0
        say(f"  {done}/{kills} kills, {runs} runs, {len(kept)}/{len(after)} calls kept at the last one")
    assert lost == 0, "a resumed run made other calls than the unbroken one"
    return {"kills": done, "runs": runs, "calls_of_a_run": total}


def break_until_done(
    case: Case, most: int, whole_s: float, draw: random.Random, how: signal.Signals
) -> tuple[int, dict[str, str]]:
    """Start, kill, resume, kill ... at most so often, then let it end; returns the kills and what the last one left."""
    hits, kept = 0, {}
    arguments = ["run", "run.toml"]
    for _ in range(min(most, draw.randint(1, 8))):
        process = case.start(*arguments)
        before = len(kept)
        wait_for(more_calls(case, before), "a first call", process)
        try:
            output, _ = process.communicate(timeout=draw.uniform(0, 0.6 * whole_s))
        except subprocess.TimeoutExpired:
            process.send_signal(how)
            output, _ = process.communicate()
            if how == signal.SIGINT and process.returncode == 130:
                assert "espalier resume" in output, f"it does not say how to resume:\n{output}"
            hits += process.returncode != 0
        kept = case.calls()
        if process.returncode == 0:
            break
        arguments = ["run", "run.toml"] if not kept else ["resume"]
    if arguments == ["resume"] or hits:
        kept = case.calls()
    if finished(case):
        # It ended by itself: what was there before its last engine began cannot be told, so nothing is claimed of it.
        asked = case.asked()[-1]
        order = list(case.calls().items())
        return hits, dict(order[: len(order) - asked])
    case.finish("resume")
    return hits, kept


def finished(case: Case) -> bool:
    connection = sqlite3.connect(case.store)
    state = connection.execute("SELECT state FROM runs").fetchone()[0]
    connection.close()
    return bool(state == "finished")


def model_killed(folder: Path, kills: int) -> dict[str, Any]:
    """Kill the process that holds the model while calls are with it."""
    case = new_case(folder, EMBEDDED.format(exact="false").replace("count = 2", "count = 4"))
    process = case.start("run", "run.toml")
    hits = 0
    for _ in range(kills):
        before = len(case.calls())
        if not wait_for(more_calls(case, before + 2), "further calls", process):
            break
        workers = [p for p in psutil.Process(process.pid).children() if "llama_worker" in " ".join(p.cmdline())]
        for worker in workers:
            worker.kill()
            hits += 1
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert finished(case), output
    connection = sqlite3.connect(case.store)
    retried = connection.execute("SELECT count(*) FROM calls WHERE attempts LIKE '%died%'").fetchone()[0]
    failed = connection.execute("SELECT count(*) FROM failures").fetchone()[0]
    connection.close()
    assert failed == 0, f"{failed} calls failed"
    case.finish("verify")
    return {"kills": hits, "calls_asked_again": retried}


def rounds_killed(folder: Path, rounds: int) -> dict[str, Any]:
    """Kill rounds in each step, once the step has done some of its work; every second time its own process too."""
    from tests.support.rounds_folder import rounds_folder
    from tests.support.tiny_base import tiny_base

    base = tiny_base(folder / "base")
    cases = [Case(folder / name) for name in ("unbroken", "killed")]
    for case in cases:
        file = rounds_folder(case.folder, base, latency_s=0.05)
        file.write_text(file.read_text().replace("rounds = 2", f"rounds = {rounds}"), encoding="utf-8")
    reference, case = cases
    reference.finish("rounds", "rounds.toml")
    kills = 0
    for round_, kind in [(0, "benchmark"), *((r, kind) for r in range(1, rounds + 1) for kind in ROUND)]:
        process = case.start("rounds", "rounds.toml")
        if not wait_for(partial(in_step, case, round_, kind), f"round {round_}, {kind}", process):
            raise AssertionError(f"it ended before round {round_}, {kind}:\n{process.communicate()[0]}")
        child = pid_of_step(case, round_, kind)
        process.kill()
        if kills % 2 and psutil.pid_exists(child):
            os.kill(child, signal.SIGKILL)
        process.communicate()
        kills += 1
        say(f"  killed in round {round_}, {kind}{'' if kills % 2 else ', with its process'}")
    case.finish("rounds", "rounds.toml")
    assert came_to(case) == came_to(reference), "rounds that were killed came to something else"
    case.finish("verify")
    return {"kills": kills, "rounds": rounds}


ROUND = ("simulate", "lint", "sft", "dpo", "benchmark")
"""The steps of a round."""
_WORK = {
    "lint": "SELECT 1",
    "sft": "SELECT count(*) FROM training_points WHERE training_id = (SELECT made FROM step)",
    "dpo": "SELECT count(*) FROM training_points WHERE training_id = (SELECT made FROM step)",
    "simulate": "SELECT count(*) > 3 FROM uses WHERE run_id = (SELECT made FROM step)",
    "benchmark": "SELECT count(*) > 3 FROM uses WHERE run_id = "
    "(SELECT job_id FROM locks WHERE pid = (SELECT pid FROM step))",
}
"""What tells that a step has done some of its work."""


def in_step(case: Case, round_: int, kind: str) -> bool:
    """Whether a step is at work and has done some of it."""
    rows = case_rows(case, _step(round_, kind) + _WORK[kind])
    return bool(rows and rows[0][0]) and pid_of_step(case, round_, kind) != 0


def pid_of_step(case: Case, round_: int, kind: str) -> int:
    rows = case_rows(case, _step(round_, kind) + "SELECT pid FROM step")
    return int(rows[0][0] or 0) if rows else 0


def _step(round_: int, kind: str) -> str:
    return f"WITH step AS (SELECT * FROM round_steps WHERE round = {round_} AND kind = '{kind}' AND state = 'running') "


def case_rows(case: Case, sql: str) -> list[Any]:
    """Rows of a store that may not be there yet."""
    if not case.store.exists():
        return []
    connection = sqlite3.connect(case.store)
    try:
        return connection.execute(sql).fetchall()
    except sqlite3.OperationalError:
        return []
    finally:
        connection.close()


def came_to(case: Case) -> dict[str, list[Any]]:
    """Trees, judgements, adapters and the figures of every step, without times."""
    queries = {
        "calls": "SELECT id, answer FROM calls ORDER BY id",
        "nodes": "SELECT id, digest FROM nodes ORDER BY id",
        "scores": "SELECT judgement_id, node_id, value FROM scores ORDER BY 1, 2",
        "adapters": "SELECT id, training_id FROM adapters ORDER BY id",
        "steps": "SELECT round, kind, words, state, made, figures FROM round_steps ORDER BY round, place",
    }
    return {name: case_rows(case, sql) for name, sql in queries.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few of each")
    parser.add_argument("--seed", type=int, default=1, help="of the instants")
    args = parser.parse_args()
    draw = random.Random(args.seed)
    scripted, embedded, interrupts = (6, 1, 2) if args.quick else (200, 10, 10)
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        say("kill -9, scripted")
        figures["kill"] = killed_runs(folder / "kill", SCRIPTED, scripted, draw, signal.SIGKILL, "bytes")
        say("Ctrl-C, scripted")
        figures["interrupt"] = killed_runs(folder / "interrupt", SCRIPTED, interrupts, draw, signal.SIGINT, "bytes")
        say("kill -9, embedded, exact")
        exact = EMBEDDED.format(exact="true")
        figures["exact"] = killed_runs(folder / "exact", exact, embedded, draw, signal.SIGKILL, "bytes")
        say("kill -9, embedded, fast")
        fast = EMBEDDED.format(exact="false")
        figures["fast"] = killed_runs(folder / "fast", fast, embedded, draw, signal.SIGKILL, "shape")
        say("the model's process killed")
        figures["model"] = model_killed(folder / "model", 1 if args.quick else 3)
        say("rounds, killed in each step")
        (folder / "rounds").mkdir()
        figures["rounds"] = rounds_killed(folder / "rounds", 1 if args.quick else 2)
    kills = figures["kill"]["kills"] + figures["exact"]["kills"] + figures["fast"]["kills"]
    return finish(
        "torture", figures, [Bar("kills survived without a difference", kills, at_least=scripted + 2 * embedded)]
    )


if __name__ == "__main__":
    sys.exit(main())
