"""Reading what was played and working on it: from `trees` and `show` to `branch`, `judge` and `export`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.command_line import Espalier, as_json
from trees.store import Store


def first_tree(espalier: Espalier) -> dict[str, Any]:
    """The canonical document of the first tree."""
    row = as_json(espalier("trees", "--json"))[0]
    document: dict[str, Any] = as_json(espalier("show", row["id"], "--json", "--canonical"))
    return document


def node_of(tree: dict[str, Any], speaker: str, turn: int = 1) -> str:
    found: str = next(n["id"] for n in tree["nodes"] if n["speaker"] == speaker and n["turn"] == turn)
    return found


def test_trees_lists_one_line_a_tree(espalier: Espalier, played: str) -> None:
    output = espalier("trees", played[:6]).stdout
    assert output.count(" done ") == 2
    assert "espalier show" in output


def test_show_draws_the_persona_the_turns_and_the_legend(espalier: Espalier, played: str) -> None:
    tree = first_tree(espalier)
    output = espalier("show", tree["id"][:8]).stdout
    assert output.startswith(f"tree {tree['id']}")
    for part in (
        "profile ",
        "personality ",
        "turn 1  user",
        "revealed: ",
        "responder.warm  s  hinted",
        "★ winner",
    ):
        assert part in output
    assert espalier("show", node_of(tree, "assistant")).stdout == output


@pytest.mark.parametrize("how", ["option", "environment"])
def test_show_in_ascii(espalier: Espalier, played: str, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = first_tree(espalier)
    if how == "environment":
        monkeypatch.setenv("NO_COLOR", "1")
    output = espalier("show", tree["id"], *(["--ascii"] if how == "option" else [])).stdout
    assert "|- " in output
    assert "* winner" in output
    assert not set("★○├└│▶") & set(output)


def test_the_canonical_document_says_nothing_of_how_or_when(espalier: Espalier, played: str) -> None:
    text = espalier("trees", played, "--json", "--canonical").stdout
    assert '"seconds"' not in text
    assert '"at"' not in text
    assert "tokens_in" not in text
    tree = json.loads(text)["trees"][0]
    assert {len(tree[key]) for key in ("ledgers", "judgements", "continued")} == {2}
    assert len(tree["nodes"]) == 6


def test_the_full_document_has_the_calls(espalier: Espalier, played: str) -> None:
    tree = as_json(espalier("show", first_tree(espalier)["id"], "--json"))
    assert {call["role"] for call in tree["calls"]} >= {
        "user",
        "inducer",
        "responder.plain",
        "judge.likelihood",
    }
    assert tree["profile_text"]


def test_canonical_is_a_form_of_json(espalier: Espalier, played: str) -> None:
    assert "give --json too" in espalier("trees", "--canonical", exit_code=2).output


def test_an_id_that_names_nothing_is_told(espalier: Espalier, played: str) -> None:
    assert "no tree begins with 'zz'" in espalier("show", "zz", exit_code=2).stderr
    assert "no judge 'strict'" in espalier("show", first_tree(espalier)["id"], "--judge", "strict", exit_code=2).stderr


def test_a_store_that_is_not_there_is_told(espalier: Espalier) -> None:
    for words in (["trees"], ["status"], ["show", "1"], ["verify"], ["stop", "1"], ["store", "prune"]):
        assert "there is no store at espalier.db" in espalier(*words, exit_code=3).stderr


def test_the_prompts_of_a_message(espalier: Espalier, played: str) -> None:
    tree = first_tree(espalier)
    prompts = as_json(espalier("show", tree["id"], "--prompt", node_of(tree, "user"), "--json"))
    assert {prompt["role"] for prompt in prompts} == {"user", "inducer", "judge.likelihood"}
    output = espalier("show", tree["id"], "--prompt", node_of(tree, "assistant")).stdout
    assert "== responder." in output
    assert "[system]" in output


def test_search_finds_messages_and_their_nodes(espalier: Espalier, played: str) -> None:
    text = first_tree(espalier)["nodes"][0]["text"]
    word = max(text.replace(".", " ").split(), key=len)
    hits = as_json(espalier("search", word, "--json"))
    assert any(hit["text"] == text for hit in hits)
    assert hits[0]["node_id"][:8] in espalier("search", word).stdout
    assert "no message holds" in espalier("search", "xylophonist").stdout
    assert "nothing to search for" in espalier("search", "!!", exit_code=2).output


def test_a_reroll_gives_as_many_siblings_as_asked(espalier: Espalier, played: str) -> None:
    reply = node_of(first_tree(espalier), "assistant")
    result = as_json(espalier("branch", reply, "--reroll", "2", "--json"))
    assert len(result["nodes"]) == 2
    with Store.read(Path("espalier.db")) as store:
        assert store.rows("SELECT count(*) FROM operations") == [(1,)]
    espalier("verify")


def test_an_edit_is_drawn_and_its_text_is_no_markup(espalier: Espalier, played: str) -> None:
    reply = node_of(first_tree(espalier), "assistant", 2)
    output = espalier("branch", reply, "--edit", "[bold]Mine[/bold] \x1b[31m").stdout
    assert "by a person" in output
    assert "[bold]Mine[/bold] <ESC>[31m" in output


def test_an_extension_plays_on(espalier: Espalier, played: str) -> None:
    reply = node_of(first_tree(espalier), "assistant", 2)
    output = espalier("branch", reply, "--extend", "2").stdout
    assert "turn 3  user" in output
    assert "turn 4  user" in output


def test_branch_takes_one_thing_at_a_time(espalier: Espalier, played: str) -> None:
    reply = node_of(first_tree(espalier), "assistant")
    assert "one of" in espalier("branch", reply, exit_code=2).output
    assert "one of" in espalier("branch", reply, "--reroll", "1", "--extend", "1", exit_code=2).output
    user = node_of(first_tree(espalier), "user")
    assert "extended from a reply" in espalier("branch", user, "--extend", "1", exit_code=1).stderr


def test_a_judge_of_another_file_judges_stored_trees(espalier: Espalier, played: str, folder: Path) -> None:
    text = (folder / "run.toml").read_text(encoding="utf-8")
    (folder / "judges.toml").write_text(text + '\n[judges.letters]\nkind = "choice"\n', encoding="utf-8")
    assert "judged 4 turns" in espalier("judge", played, "--judge", "letters", "--config", "judges.toml").stdout
    judges = as_json(espalier("status", played, "--json"))["judges"]
    assert {judge["judge"] for judge in judges} == {"likelihood", "letters"}
    assert (
        "has no judge 'strict'"
        in espalier("judge", played, "--judge", "strict", "--config", "judges.toml", exit_code=3).stderr
    )
    assert "no judge 'strict'" in espalier("judge", played, "--judge", "strict", exit_code=1).stderr


def test_judging_again_keeps_what_was_judged_before(espalier: Espalier, played: str) -> None:
    assert "judged 0 turns" in espalier("judge", played, "--judge", "likelihood").stdout
    assert "judged 4 turns" in espalier("judge", played, "--judge", "likelihood", "--again").stdout
    assert len(first_tree(espalier)["judgements"]) == 4


def test_verify_is_clean_and_finds_what_is_changed(espalier: Espalier, played: str) -> None:
    assert "is sound" in espalier("verify").stdout
    with Store.open(Path("espalier.db")) as store:
        store.apply([("UPDATE nodes SET text = 'other' WHERE turn = 1 AND speaker = 'user'", ())])
    assert "digest" in espalier("verify", exit_code=1).stdout
    assert as_json(espalier("verify", "--no-prompts", "--json", exit_code=1))["findings"]


def test_export_writes_rows_and_counts_what_it_leaves_out(espalier: Espalier, played: str, folder: Path) -> None:
    done = as_json(espalier("export", "dpo", "pairs.jsonl", "--judge", "likelihood", "--json"))
    assert len((folder / "pairs.jsonl").read_text(encoding="utf-8").splitlines()) == done["rows"]
    assert "exists already" in espalier("export", "dpo", "pairs.jsonl", exit_code=3).stderr
    output = espalier("export", "sft", "pairs.jsonl", "--force", "--run", played[:8], "--min-margin", "99").stdout
    assert "0 rows written" in output
    assert "below_margin" in output or "no_winner" in output
