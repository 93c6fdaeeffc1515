"""A person talks with a model, and the store holds a tree of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.calls import Asking
from tests.support.command_line import Espalier, as_json
from trees.store import Store
from trees.values import Node
from tui.talk import Printer

CHAT = ("chat", "s", "--config", "run.toml")


def talked(espalier: Espalier, *lines: str) -> list[dict[str, object]]:
    """The nodes of the tree that these lines make."""
    espalier(*CHAT, stdin="\n".join(lines) + "\n")
    with Store.read(Path("espalier.db")) as store:
        row = store.trees()[-1]
        assert store.run(row.run_id).kind == "human"
        assert (row.state, store.run(row.run_id).state) == ("done", "finished")
    nodes: list[dict[str, object]] = as_json(espalier("show", row.id, "--json", "--canonical"))["nodes"]
    return nodes


def test_what_is_said_is_kept(espalier: Espalier) -> None:
    nodes = talked(espalier, "Hello, I have a boat", "And a dog", "/quit")
    assert [(n["turn"], n["role"], n["origin"]) for n in nodes if n["speaker"] == "user"] == [
        (1, "human", "human"),
        (2, "human", "human"),
    ]
    assert all(n["call"] and n["origin"] == "model" for n in nodes if n["speaker"] == "assistant")
    assert "is sound" in espalier("verify").stdout


def test_retry_gives_a_sibling_and_undo_a_branch(espalier: Espalier) -> None:
    nodes = talked(espalier, "Hello, I have a boat", "/retry", "It leaks", "/undo", "It floats")
    replies = [n for n in nodes if n["speaker"] == "assistant" and n["turn"] == 1]
    second = [n for n in nodes if n["speaker"] == "user" and n["turn"] == 2]
    assert len({n["text"] for n in replies}) == 2
    assert {n["text"] for n in second} == {"It leaks", "It floats"}
    assert len({n["parent"] for n in second}) == 1
    assert "is sound" in espalier("verify").stdout


def test_every_conversation_is_a_tree_of_one_run(espalier: Espalier) -> None:
    talked(espalier, "Hello")
    talked(espalier, "Hello")
    with Store.read(Path("espalier.db")) as store:
        assert len(store.runs()) == 1
        assert [row.position for row in store.trees()] == [0, 1]


def test_who_says_nothing_leaves_nothing(espalier: Espalier, folder: Path) -> None:
    result = espalier(*CHAT, stdin="/undo\n/retry\n/dance\n\n/quit\n")
    assert result.stdout.count("nothing was said yet") == 2
    assert "there is no '/dance'" in result.stdout
    assert not (folder / "espalier.db").exists()


def test_a_failed_reply_is_told_and_the_talk_goes_on(espalier: Espalier, folder: Path) -> None:
    text = (folder / "run.toml").read_text(encoding="utf-8")
    broken = text.replace('kind = "scripted"', 'kind = "scripted"\nfailures = { every = 1, kind = "refused" }')
    (folder / "run.toml").write_text(broken, encoding="utf-8")
    result = espalier(*CHAT, stdin="Hello\n/quit\n")
    assert "no reply (refused)" in result.stderr
    with Store.read(folder / "espalier.db") as store:
        assert store.rows("SELECT count(*) FROM nodes") == [(0,)]
        assert store.rows("SELECT count(*) FROM failures") == [(1,)]


def test_a_system_message_of_ones_own(espalier: Espalier, folder: Path) -> None:
    (folder / "prompts").mkdir()
    (folder / "prompts" / "sailor.md").write_text("[head]\nYou are a sailor.\n", encoding="utf-8")
    espalier(*CHAT, "--system-from", "sailor", stdin="Hello\n")
    with Store.read(folder / "espalier.db") as store:
        ((text,),) = store.rows("SELECT text FROM prompts")
    assert "You are a sailor." in text


def test_a_streamed_reply_passes_the_sanitiser(capsys: pytest.CaptureFixture[str]) -> None:
    printer = Printer()
    asking = Asking("r", "t", "n", "responder.chat", "respond", "p")
    printer.begin()
    for piece in ("a\x1b", "[2J \U0001f468", "\u200d", "\U0001f469 b"):
        printer.take(asking, 0, piece)
    text = "a\x1b[2J \U0001f468\u200d\U0001f469 b"
    printer.end(Node("n", "t", None, 1, "assistant", "responder.chat", "0", text))
    assert capsys.readouterr().out == "a<ESC>[2J \U0001f468\u200d\U0001f469 b\n"
    printer.begin()
    printer.end(Node("n", "t", None, 1, "assistant", "responder.chat", "0", "whole"))
    assert capsys.readouterr().out == "whole\n"


def test_nobody_in_a_persons_own_tree_can_go_on(espalier: Espalier) -> None:
    reply = next(n for n in talked(espalier, "Hello") if n["speaker"] == "assistant")
    result = espalier("branch", str(reply["id"]), "--reroll", "1", exit_code=3)
    assert "is a human run" in result.stderr
