"""The templates of well-known models: what they do with a system message, and that turns only ever append."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.models.chat_template import CHATML, ChatTemplate
from agents.models.protocol import Message, ModelFailure

FIXTURES = Path(__file__).parents[2] / "fixtures" / "chat_templates"
EXPECTED = {
    "gemma": "folded",
    "gemma3": "role",
    "llama3": "role",
    "llama3_1": "role",
    "llama3_2": "role",
    "mistral": "folded",
    "qwen2_5": "role",
    "qwen3": "role",
}
# The shape of later Mistral templates: the system text moves along with the last user message.
MOVING_SYSTEM = """
{%- if messages[0].role == 'system' %}{% set system = messages[0].content %}{% set rest = messages[1:] %}
{%- else %}{% set system = '' %}{% set rest = messages %}{% endif %}
{%- for message in rest %}
{%- if message.role == 'user' %}[INST]{{ system + '\n\n' if loop.last and system else '' }}
{{- message.content }}[/INST]
{%- else %}{{ message.content }}{{ eos_token }}{% endif %}
{%- endfor %}"""
SILENT_SYSTEM = "{% for m in messages if m.role != 'system' %}<{{ m.role }}>{{ m.content }}{% endfor %}"

CONVERSATION = [
    Message("system", "Be brief."),
    Message("user", "one"),
    Message("assistant", "two"),
    Message("user", "three"),
    Message("assistant", "four"),
    Message("user", "five"),
]


def real_template(name: str) -> ChatTemplate:
    return ChatTemplate((FIXTURES / f"{name}.jinja").read_text(encoding="utf-8"), bos="<s>", eos="</s>")


def every_template() -> list[tuple[str, ChatTemplate]]:
    extra = {
        "chatml": ChatTemplate(None),
        "moving": ChatTemplate(MOVING_SYSTEM),
        "silent": ChatTemplate(SILENT_SYSTEM),
    }
    return [(name, real_template(name)) for name in EXPECTED] + list(extra.items())


def test_every_fixture_is_tested() -> None:
    assert {path.stem for path in FIXTURES.glob("*.jinja")} == set(EXPECTED)


@pytest.mark.parametrize(("name", "strategy"), sorted(EXPECTED.items()))
def test_probe_finds_what_a_real_template_does_with_a_system_message(name: str, strategy: str) -> None:
    assert real_template(name).system == strategy


@pytest.mark.parametrize("source", [MOVING_SYSTEM, SILENT_SYSTEM], ids=["moving", "silent"])
def test_a_template_that_moves_or_drops_the_system_text_gets_it_folded(source: str) -> None:
    template = ChatTemplate(source)
    assert template.system == "folded"
    assert "Be brief.\n\none" in template.render(CONVERSATION)


@pytest.mark.parametrize(
    ("name", "template"), every_template(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_turns_are_appended(name: str, template: ChatTemplate) -> None:
    whole = template.render(CONVERSATION, add_generation_prompt=False)
    for length in (2, 4):
        assert whole.startswith(template.render(CONVERSATION[:length], add_generation_prompt=False))
    texts = [message.content for message in CONVERSATION]
    places = [whole.index(text) for text in texts]
    assert places == sorted(places)
    assert all(whole.count(text) == 1 for text in texts)


def test_generation_prompt_opens_the_answer_and_thinking_is_off() -> None:
    assert ChatTemplate(None).render(CONVERSATION[:2]).endswith("<|im_start|>assistant\n")
    assert real_template("qwen3").render(CONVERSATION[:2]).endswith("<think>\n\n</think>\n\n")
    assert "Cutting Knowledge" in real_template("llama3_1").render(CONVERSATION)


def test_prompts_do_not_change_by_the_day() -> None:
    dated = ChatTemplate("{{ strftime_now('%d %b %Y') }}{% for m in messages %}{{ m.content }}{% endfor %}")
    assert dated.render([Message("user", "")]) == "26 Jul 2024"
    assert "26 Jul 2024" in real_template("llama3_2").render(CONVERSATION)


def test_digest_tells_sources_and_strategies_apart() -> None:
    digests = {template.digest for _, template in every_template()}
    assert len(digests) == len(every_template())
    assert ChatTemplate(CHATML).digest == ChatTemplate(None).digest


def test_a_system_message_alone_or_empty_is_folded_too() -> None:
    gemma = real_template("gemma")
    assert "Be brief." in gemma.render([Message("system", "Be brief.")])
    assert gemma.render([Message("system", ""), Message("user", "hi")]) == gemma.render([Message("user", "hi")])


def test_message_text_is_data_for_the_template() -> None:
    text = "{{ 7 * 7 }} {% raise_exception('x') %}"
    assert text in ChatTemplate(None).render([Message("user", text)])


def test_refusal_and_broken_source_say_so() -> None:
    with pytest.raises(ModelFailure, match="alternate") as refusal:
        real_template("gemma").render([Message("user", "a"), Message("user", "b")])
    assert refusal.value.kind == "refused"
    with pytest.raises(ModelFailure, match="chat template") as broken:
        ChatTemplate("{% for m in messages %}")
    assert broken.value.kind == "setup"


def test_templates_run_in_a_sandbox() -> None:
    template = ChatTemplate("{{ messages.append(1) }}{{ ''.__class__.__mro__ }}")
    with pytest.raises(ModelFailure):
        template.render([Message("user", "a")])


def test_tojson_is_not_escaped_for_html() -> None:
    template = ChatTemplate("{{ messages[0].content | tojson }}")
    assert template.render([Message("user", "<é'>")]) == '"<é\'>"'
