"""A report for whoever reads it in a terminal: the same blocks as on the page, from top to bottom."""

from __future__ import annotations

from collections.abc import Iterable
from textwrap import indent, wrap

from tui.console import is_plain, say, say_table
from tui.reports.blocks import Block, Code, Conversation, Facts, Folded, Picture, Report, Table, Words
from tui.reports.text_pen import WIDTH, text_of
from tui.sanitise import visible

LONGEST_FOLDED = 24
"""Lines of what is folded on the page (a configuration, a card, a list) that are printed; a longer one stands there."""


def say_report(report: Report) -> None:
    """Print all of it."""
    say(f"{report.title}\n{report.about}")
    for section in report.sections:
        say(f"\n{section.title}\n{'=' * len(section.title)}")
        _say_blocks(section.blocks)


def _say_blocks(blocks: Iterable[Block]) -> None:
    for block in blocks:
        _say_block(block)


def _say_block(block: Block) -> None:
    match block:
        case Words():
            say("\n".join(wrap(visible(block.text), WIDTH)) + "\n")
        case Facts():
            say_table(("", ""), block.rows)
            say("")
        case Table():
            say_table([visible(heading) for heading in block.headings], block.rows, right=block.right)
            say("")
        case Code():
            say(indent(visible(block.text, longest=None), "  ") + "\n")
        case Picture():
            say("\n".join(text_of(block.plot, plain=is_plain())))
            say("\n".join(wrap(visible(block.told), WIDTH)) + "\n")
        case Conversation():
            _say_conversation(block)
        case Folded():
            _say_folded(block)


def _say_folded(block: Folded) -> None:
    lines = sum(_lines(inner) for inner in block.blocks)
    if lines > LONGEST_FOLDED:
        say(f"{block.title}: {lines} lines, which --html shows\n")
        return
    say(f"{block.title}:")
    _say_blocks(block.blocks)


def _lines(block: Block) -> int:
    if isinstance(block, Code):
        return block.text.count("\n") + 1
    return len(block.rows) if isinstance(block, Table) else 0


def _say_conversation(talk: Conversation) -> None:
    say(f"--- {talk.title}")
    if talk.about:
        say_table(("", ""), talk.about)
    for row in talk.rows:
        notes = ["\n".join(f"· {note}" for note in said.notes) for said in row]
        say_table(
            [visible(f"{said.who}  {said.mark}".strip()) for said in row],
            [[said.text for said in row], *([notes] if any(notes) else [])],
        )
        say("")
