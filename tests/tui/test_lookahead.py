"""`espalier judge RUN --judge lookahead`: over siblings that went on, over siblings that did not, and again."""

from __future__ import annotations

from pathlib import Path

from tests.support.command_line import Espalier, as_json
from trees.pairs import pairs
from trees.store import Store
from trees.verify import verify


def test_it_judges_what_grew_and_gives_pairs(espalier: Espalier, folder: Path) -> None:
    config = folder / "run.toml"
    config.write_text(config.read_text() + '[branching]\npolicy = "all"\n', encoding="utf-8")
    run = as_json(espalier("run", "run.toml", "--json"))["run"]["id"]
    said = as_json(espalier("judge", run, "--judge", "lookahead", "--json"))
    assert (said["turns"], said["looked_ahead"]) == (6, 2), "two openings went on; under the four below nothing grew"
    assert "lookahead judged 0 turns" in espalier("judge", run, "--judge", "lookahead").stdout
    with Store.read(folder / "espalier.db") as store:
        found = list(pairs(store, judge="lookahead"))
        assert {(pair.place.turn, pair.unit) for pair in found} == {(1, "nats")}
        assert verify(store).findings == ()
    other = as_json(espalier("judge", run, "--judge", "near", "--set", "kind=lookahead", "--set", "depth=1", "--json"))
    assert other["judge"] != said["judge"]
    assert "no 'rating'" in espalier("judge", run, "--judge", "x", "--set", "kind=lookahead", "--set", "of=rating",
                                     exit_code=1).output  # fmt: skip


def test_where_one_reply_went_on_it_says_what_it_needs(espalier: Espalier, played: str, folder: Path) -> None:
    said = espalier("judge", played, "--judge", "lookahead").stdout
    assert "went on in 0 turns" in said
    assert "espalier branch NODE --extend 2" in said
    with Store.read(folder / "espalier.db") as store:
        replies = "SELECT id FROM nodes WHERE turn = 1 AND speaker = 'assistant'"
        ended = [row[0] for row in store.rows(f"{replies} AND id NOT IN (SELECT node_id FROM continued)")]
    for node in ended:
        espalier("branch", node, "--extend", "1")
    again = as_json(espalier("judge", played, "--judge", "lookahead", "--json"))
    assert (again["turns"], again["looked_ahead"]) == (4, 2), "two turns have grown, and two are new"


def test_it_is_silent_while_a_run_is_played(espalier: Espalier, folder: Path) -> None:
    config = folder / "run.toml"
    ahead = '[judges.ahead]\nkind = "lookahead"\nof = "likelihood"\ndepth = 1\n[branching]\npolicy = "beam"\n'
    config.write_text(config.read_text() + ahead, encoding="utf-8")
    facts = as_json(espalier("run", "run.toml", "--json"))
    assert [judge["judge"] for judge in facts["judges"]] == ["likelihood"]
    said = as_json(espalier("judge", facts["run"]["id"], "--judge", "ahead", "--json"))
    assert said["looked_ahead"] == 2
