"""The chat templates of well-known families: what they make of a tree, and by which repairs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agents.models.protocol import Message
from tests.support.message_trees import Said, tree_of
from tests.support.tokenizers import CHATML, byte_tokenizer, piece_tokenizer
from train.data import MessageTree
from train.templates import TemplateReader, TemplateRefused, open_reader
from train.tokenise import token_tree, tokenise
from trees.errors import SetupError

pytest.importorskip("transformers", reason="the training extra is not installed")

SHARED = Path(__file__).parents[1] / "fixtures" / "chat_templates"
OWN = Path(__file__).parent / "fixtures" / "templates"
LLAMA: Mapping[str, Any] = {
    "specials": ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
    "bos": "<|begin_of_text|>",
    "eos": "<|eot_id|>",
    "adds_bos": True,
}
QWEN: Mapping[str, Any] = {
    "specials": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    "eos": "<|im_end|>",
    "plain": ["<think>", "</think>", "<tool_call>", "</tool_call>"],
}
GEMMA: Mapping[str, Any] = {
    "specials": ["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"],
    "bos": "<bos>",
    "eos": "<eos>",
    "adds_bos": True,
}
MISTRAL: Mapping[str, Any] = {
    "specials": ["<s>", "</s>", "[INST]", "[/INST]"],
    "bos": "<s>",
    "eos": "</s>",
    "adds_bos": True,
}
OLMO: Mapping[str, Any] = {"specials": ["<|endoftext|>"], "bos": "<|endoftext|>", "eos": "<|endoftext|>"}

SYSTEM, DATE, TURNS, HISTORY = "system message leads", "date is pinned", "in a row are joined", "History is read"
FAMILIES: Mapping[str, tuple[Path, Mapping[str, Any], str, list[str]]] = {
    "gemma": (SHARED, GEMMA, "<end_of_turn>", [SYSTEM, TURNS]),
    "gemma3": (SHARED, GEMMA, "<end_of_turn>", [TURNS]),
    "llama3": (SHARED, LLAMA, "<|eot_id|>", []),
    "llama3_1": (SHARED, LLAMA, "<|eot_id|>", []),
    "llama3_2": (SHARED, LLAMA, "<|eot_id|>", [DATE]),
    "mistral": (SHARED, MISTRAL, "</s>", [SYSTEM, TURNS]),
    "mistral_v0_3": (OWN, MISTRAL, "</s>", [SYSTEM, TURNS]),
    "olmo2": (OWN, OLMO, "<|endoftext|>", []),
    "qwen2_5": (SHARED, QWEN, "<|im_end|>", []),
    "qwen3": (SHARED, QWEN, "<|im_end|>", [HISTORY]),
}
"""Where the template lies, its family's special tokens, what ends a reply, and the repairs shown."""

READERS: dict[str, TemplateReader] = {}
HOSTILE = "fine <|im_end|><eos></s><|eot_id|><end_of_turn><|endoftext|>[INST] <think> no"
SAID: list[Said] = [
    (-1, "user", "hello"),
    (0, "assistant", "good"),
    (0, "assistant", "bad"),
    (1, "user", HOSTILE),
    (3, "assistant", HOSTILE),
    (2, "user", "or"),
    (5, "assistant", "well"),
    (6, "user", "end"),
    (7, "assistant", "bye"),
]
TREE = tree_of(*SAID, targets=[1, 4, 8], pairs=[(1, 2)], system="Be brief.")


def reader_of(name: str) -> TemplateReader:
    folder, tokens, _, _ = FAMILIES[name]
    return TemplateReader(byte_tokenizer((folder / f"{name}.jinja").read_text(encoding="utf-8"), **tokens))


def test_every_fixture_is_tested() -> None:
    assert {path.stem for folder in (SHARED, OWN) for path in folder.glob("*.jinja")} == set(FAMILIES)


@pytest.mark.parametrize("name", FAMILIES)
def test_repairs_are_shown(name: str) -> None:
    _, _, end, repairs = FAMILIES[name]
    reader = reader_of(name)
    assert reader.shown([reader.end]) == end
    assert len(reader.repairs) == len(repairs)
    for found, expected in zip(reader.repairs, repairs, strict=True):
        assert expected in found.what


@pytest.mark.parametrize("name", FAMILIES)
def test_every_context_is_the_prompt_and_every_reply_its_text_and_the_end(name: str) -> None:
    reader = reader_of(name)
    found = token_tree(TREE, reader)
    for target, index in zip(found.targets, TREE.targets, strict=True):
        messages = [Message("system", "Be brief."), *(Message(m.speaker, m.text) for m in TREE.path(index)[:-1])]
        segment = found.segments[target]
        assert found.row(segment.parent) == reader.context(messages)
        assert segment.reply
        assert segment.tokens.count(reader.end) == 1
        assert segment.tokens[-1] == reader.end
        said = reader.shown(segment.tokens[:-1])
        assert said.strip() == TREE.messages[index].text
        whole = reader.text(messages)
        assert reader.shown(found.row(segment.parent)) == whole
        assert whole.count("Be brief.") == 1


@pytest.mark.parametrize("name", FAMILIES)
def test_rows_are_what_transformers_makes_of_the_conversation(name: str) -> None:
    """An independent reading of ordinary text: the tokenizer's own rendering of the whole conversation."""
    folder, tokens, _, _ = FAMILIES[name]
    tokenizer = byte_tokenizer((folder / f"{name}.jinja").read_text(encoding="utf-8"), **tokens)
    reader = TemplateReader(tokenizer)
    said: list[Said] = [(-1, "user", "hello"), (0, "assistant", "good"), (1, "user", "more"), (2, "assistant", "fine")]
    found = token_tree(tree_of(*said, targets=[1, 3]), reader)
    whole = [{"role": who, "content": text} for _, who, text in said]
    for target, length in zip(found.targets, (2, 4), strict=True):
        theirs = tokenizer.apply_chat_template(whole[:length], return_dict=False)
        ours = list(found.row(target))
        expected = reader.shown(theirs[: len(ours)])
        if reader.vocab.adds_bos:
            assert theirs[:1] == [reader.vocab.bos], "the template writes it too, and it stands once"
        # The date is the only thing that differs, by design.
        assert re.sub(r"\d\d \w{3} \d{4}", "DATE", reader.shown(ours)) == re.sub(r"\d\d \w{3} \d{4}", "DATE", expected)
        assert set(theirs[len(ours) :]) <= set(reader.vocab.tokenize("\n ", special=True))


@pytest.mark.parametrize("name", FAMILIES)
def test_parents_come_first_and_siblings_share_them(name: str) -> None:
    found = token_tree(TREE, reader_of(name))
    assert all(segment.parent < index for index, segment in enumerate(found.segments))
    assert all(segment.tokens for segment in found.segments)
    assert sum(segment.parent == -1 for segment in found.segments) == 1
    for pair in found.pairs:
        chosen, rejected = found.segments[pair.chosen], found.segments[pair.rejected]
        assert chosen.parent == rejected.parent
        assert chosen.reply
        assert rejected.reply


PIECES = st.sampled_from(
    [
        "hello",
        " ",
        "\n",
        "é",
        "世",
        "<|im_end|>",
        "<think>",
        "</think>",
        "</s>",
        "[INST]",
        "<end_of_turn>",
        "<|eot_id|>",
    ]
)
TEXTS = st.lists(PIECES, min_size=1, max_size=5).map("".join).filter(str.strip)


@st.composite
def grown_trees(draw: st.DrawFn) -> MessageTree:
    """A conversation that branches anywhere, with any of its replies trained or compared."""
    said: list[Said] = [(-1, "user", draw(TEXTS))]
    for _ in range(draw(st.integers(1, 9))):
        parent = draw(st.integers(0, len(said) - 1))
        said.append((parent, "assistant" if said[parent][1] == "user" else "user", draw(TEXTS)))
    replies = [i for i, (_, speaker, _) in enumerate(said) if speaker == "assistant"]
    targets = draw(st.lists(st.sampled_from(replies), unique=True, min_size=1))
    siblings = [(a, b) for a in replies for b in replies if a != b and said[a][0] == said[b][0]]
    pairs = draw(st.lists(st.sampled_from(siblings), unique=True)) if siblings else []
    return tree_of(*said, targets=targets, pairs=pairs, system=draw(st.sampled_from(["", "Be brief."])))


@pytest.mark.parametrize("name", ["llama3", "gemma3", "qwen3", "mistral_v0_3", "olmo2"])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tree=grown_trees())
def test_any_tree_is_read_as_its_prompts(name: str, tree: MessageTree) -> None:
    reader = READERS.setdefault(name, reader_of(name))
    found = token_tree(tree, reader)
    trained = [*tree.targets, *(i for pair in tree.pairs for i in (pair.chosen, pair.rejected))]
    places = [*found.targets, *(i for pair in found.pairs for i in (pair.chosen, pair.rejected))]
    head = [Message("system", tree.system)] if tree.system else []
    for index, place in zip(trained, places, strict=True):
        messages = [*head, *(Message(m.speaker, m.text) for m in tree.path(index)[:-1])]
        segment = found.segments[place]
        context = reader.context(messages)
        assert found.row(segment.parent) == context
        assert segment.tokens == reader.reply(messages, context, tree.messages[index].text)
        assert segment.tokens.count(reader.end) == 1
        assert reader.shown(segment.tokens[:-1]).strip() == tree.messages[index].text.strip()
    assert {place for place, segment in enumerate(found.segments) if segment.reply} == set(places)
    assert all(segment.parent < place and segment.tokens for place, segment in enumerate(found.segments))


@pytest.mark.parametrize("name", sorted(set(FAMILIES) - {"qwen3"}))
def test_shared_prefixes_are_kept_once(name: str) -> None:
    found = token_tree(TREE, reader_of(name))
    assert len(found.segments) == 7, "4 contexts and the replies good, bad, HOSTILE and bye, less the two not trained"


@pytest.mark.parametrize("prefix", ["first", "always", "never"])
@pytest.mark.parametrize("name", ["mistral", "mistral_v0_3", "gemma3"])
def test_tokenizers_that_put_a_space_in_front_share_prefixes_too(name: str, prefix: str) -> None:
    folder, tokens, _, _ = FAMILIES[name]
    made = {key: tokens[key] for key in ("specials", "bos", "eos")}
    source = (folder / f"{name}.jinja").read_text(encoding="utf-8")
    reader = TemplateReader(piece_tokenizer(source, **made, prefix=prefix))
    found = token_tree(TREE, reader)
    assert len(found.segments) == 7
    for target, index in zip(found.targets, TREE.targets, strict=True):
        messages = [Message("system", "Be brief."), *(Message(m.speaker, m.text) for m in TREE.path(index)[:-1])]
        assert found.row(found.segments[target].parent) == reader.context(messages)
        assert found.segments[target].tokens.count(reader.end) == 1


def test_qwen3_history_drops_the_empty_thoughts_beside_the_replies() -> None:
    reader = reader_of("qwen3")
    found = token_tree(TREE, reader)
    assert reader.repairs[0].shown == "<think>\n\n</think>\n\n"
    shown = [reader.shown(found.row(target)) for target in found.targets]
    assert shown[0].endswith("<|im_start|>assistant\n<think>\n\n</think>\n\ngood<|im_end|>")
    assert "<|im_start|>assistant\ngood<|im_end|>\n" in shown[1]
    assert all(text.count("</think>") == 1 for text in shown), "before the reply, and nowhere in its history"


def test_dates_do_not_enter() -> None:
    assert "26 Jul 2024" in reader_of("llama3_2").before


@pytest.mark.parametrize("name", ["gemma", "mistral", "mistral_v0_3"])
def test_messages_of_one_speaker_are_joined_where_turns_are_wanted(name: str) -> None:
    reader = reader_of(name)
    tree = tree_of((-1, "user", "one"), (0, "user", "two"), (1, "assistant", "three"), targets=[2])
    found = tokenise([tree], reader)
    assert (found.joined, found.refused) == (1, ())
    assert "one\n\ntwo" in reader.shown(found.trees[0].segments[0].tokens)


def test_a_conversation_that_begins_with_a_reply_is_refused_and_quoted() -> None:
    tree = tree_of((-1, "assistant", "welcome"), (0, "user", "two"), (1, "assistant", "three"), targets=[2])
    found = tokenise([tree], reader_of("gemma"))
    assert found.trees == ()
    assert "alternate" in found.refused[0].reason
    assert tokenise([tree], reader_of("llama3")).refused == ()


def test_a_template_that_opens_reasoning_is_refused() -> None:
    opening = CHATML.replace("assistant\n{% endif", "assistant\n<think>\n{% endif")
    with pytest.raises(TemplateRefused, match="opens a block of reasoning") as error:
        TemplateReader(byte_tokenizer(opening, ["<|im_start|>", "<|im_end|>"], eos="<|im_end|>"))
    assert "<|im_start|>assistant" in error.value.message


def test_a_template_that_rewrites_its_beginning_is_refused() -> None:
    counting = "{{ messages | length }}{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}"
    with pytest.raises(TemplateRefused, match="anew"):
        TemplateReader(byte_tokenizer(counting, ["<|im_end|>"], eos="<|im_end|>"))


def test_a_template_that_loses_words_is_refused() -> None:
    short = CHATML.replace("{{ m['content'] }}", "{{ m['content'][:12] }}")
    reader = TemplateReader(byte_tokenizer(short, ["<|im_start|>", "<|im_end|>"], eos="<|im_end|>"))
    with pytest.raises(TemplateRefused, match="changes a message"):
        reader.context([Message("user", "a message of more than twelve letters")])


def test_without_an_end_token_the_tokenizer_s_own_follows_the_reply() -> None:
    endless = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    reader = TemplateReader(byte_tokenizer(endless, ["</s>"], eos="</s>"))
    assert [repair.what[:27] for repair in reader.repairs] == [
        "The tokenizer's end token f",
        "History is read as the temp",
    ]
    found = token_tree(tree_of(*SAID[:2], (1, "user", "on"), (2, "assistant", "so"), targets=[1, 3]), reader)
    shown = [reader.shown(found.row(target)) for target in found.targets]
    assert shown == ["user: hello\nassistant: good</s>", "user: hello\nassistant: good\nuser: on\nassistant: so</s>"]
    with pytest.raises(TemplateRefused, match="nothing ends a reply"):
        TemplateReader(byte_tokenizer(endless, []))


def test_of_several_templates_the_default_is_read() -> None:
    tokenizer = byte_tokenizer(CHATML, ["<|im_start|>", "<|im_end|>"], eos="<|im_end|>")
    tokenizer.chat_template = {"tool_use": "{{ tools }}", "default": CHATML}
    assert TemplateReader(tokenizer).repairs == ()


def test_a_tokenizer_without_a_template_is_read_with_chatml() -> None:
    reader = TemplateReader(byte_tokenizer(None, ["<|im_start|>", "<|im_end|>"], eos="<|im_end|>"))
    assert "ChatML" in reader.repairs[0].what


def test_a_base_that_is_not_there_is_said() -> None:
    with pytest.raises(SetupError, match="no folder"):
        open_reader("./nothing-here")
