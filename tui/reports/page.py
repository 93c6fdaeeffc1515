"""A report as one HTML page that needs nothing but itself: no script, no address of another file, pictures in the text.

Its own policy forbids the browser to run or load anything, so a text that got past the escaping would still do nothing.

Invariant: every text passes `_safe` on its way into the page.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from tui.reports.blocks import Block, Code, Conversation, Facts, Folded, Picture, Report, Said, Section, Table, Words
from tui.reports.shapes import drawing
from tui.reports.svg_pen import INKS, inside
from tui.sanitise import visible

LONGEST = 20_000
"""Characters of one text that are shown; a note tells how many more there are."""
_DARK = {
    "ink": "#e9e9e4",
    "quiet": "#a5a59e",
    "line": "#3a3a38",
    "paper": "#191919",
    **{f"c{n}": c for n, c in enumerate("#56b4e9 #e69f00 #2fc79a #e0a3c6 #8fd0f5 #ff8a3d #f0e442 #aaaaaa".split())},
}
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_STYLE = """
* { box-sizing: border-box; }
body { font: 16px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 0 auto 4rem;
  max-width: 76rem; padding: 0 1.25rem; overflow-wrap: anywhere; }
header { padding: 2.2rem 0 .6rem; } h1 { font-size: 1.9rem; margin: 0; line-height: 1.2; }
header p { margin: .4rem 0 0; color: var(--quiet); font-size: 1.05rem; }
nav { position: sticky; top: 0; background: var(--paper); border-bottom: 1px solid var(--line); padding: .55rem 0;
  display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; } nav a { color: var(--c0); text-decoration: none; }
nav a:hover, nav a:focus-visible { text-decoration: underline; }
section { scroll-margin-top: 3.4rem; } h2 { margin: 2.6rem 0 .8rem; font-size: 1.35rem; }
h3 { font-size: 1.02rem; margin: 0 0 .4rem; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(26rem, 100%), 1fr)); gap: 1rem; }
figure { margin: .6rem 0; max-width: 46rem; border: 1px solid var(--line); border-radius: 8px;
  padding: .6rem .6rem .2rem; }
figure svg { width: 100%; height: auto; display: block; font-family: inherit; }
figcaption { color: var(--quiet); font-size: .88rem; padding: .2rem .4rem .5rem; }
.wide { overflow-x: auto; margin: .6rem 0; } table { border-collapse: collapse; }
th, td { padding: .28rem .8rem .28rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
th { font-weight: 600; color: var(--quiet); } .n, th { white-space: nowrap; }
.n { text-align: right; font-variant-numeric: tabular-nums; } td { overflow-wrap: break-word; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.4rem; margin: .6rem 0; }
dt { color: var(--quiet); } dd { margin: 0; white-space: pre-wrap; }
pre { background: color-mix(in srgb, var(--line) 40%, var(--paper)); border-radius: 8px; padding: .8rem 1rem;
  overflow-x: auto; white-space: pre-wrap; font-size: .86rem; }
.quiet { color: var(--quiet); } .warn { border-left: 4px solid var(--c5); padding-left: .8rem; }
details { margin: .7rem 0; } summary { cursor: pointer; color: var(--c0); }
.talk { border: 1px solid var(--line); border-radius: 8px; padding: .9rem 1rem; margin: 1rem 0; }
.row { display: grid; gap: .8rem; margin-top: .6rem;
  grid-template-columns: repeat(auto-fit, minmax(min(22rem, 100%), 1fr)); }
.said { border-radius: 8px; padding: .55rem .8rem; border: 1px solid var(--line); border-left-width: 4px; }
.said.user { border-left-color: var(--quiet); background: color-mix(in srgb, var(--line) 35%, var(--paper)); }
.said.winner { border-left-color: var(--c2); } .said.loser { border-left-color: var(--c5); }
.said.reply { border-left-color: var(--c0); }
.who { display: flex; flex-wrap: wrap; gap: 0 .9rem; font-size: .84rem; color: var(--quiet); }
.who b { color: var(--ink); } .text { white-space: pre-wrap; margin-top: .2rem; }
.notes { margin: .4rem 0 0; padding-left: 1.1rem; font-size: .88rem; color: var(--quiet); }
footer { margin-top: 3rem; border-top: 1px solid var(--line); padding-top: .6rem; color: var(--quiet); }
@media print { nav { display: none; } figure, .talk, tr { break-inside: avoid; } }
"""


def page(report: Report) -> str:
    """The whole page."""
    links = "".join(f"<a href='#part-{n}'>{_safe(section.title)}</a>" for n, section in enumerate(report.sections, 1))
    parts = "".join(_section(section, number) for number, section in enumerate(report.sections, 1))
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        f"<meta http-equiv='Content-Security-Policy' content=\"{_POLICY}\">"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{_safe(report.title)}</title><style>{_colours()}{_STYLE}</style></head><body>"
        f"<header><h1>{_safe(report.title)}</h1><p>{_safe(report.about)}</p></header><nav>{links}</nav>"
        f"<main>{parts}</main><footer>Made by espalier from one store; this page needs no network.</footer>"
        "</body></html>\n"
    )


def _colours() -> str:
    def inks(values: dict[str, str]) -> str:
        return " ".join(f"--{name}: {value};" for name, value in values.items())

    light = {**INKS, "paper": "#fdfdfb"}
    return (
        f":root {{ color-scheme: light dark; {inks(light)} }}\n"
        f"@media (prefers-color-scheme: dark) {{ :root {{ {inks(_DARK)} }} }}"
    )


def _section(section: Section, number: int) -> str:
    return f"<section id='part-{number}'><h2>{_safe(section.title)}</h2>{_blocks(section.blocks)}</section>"


def _blocks(blocks: Iterable[Block]) -> str:
    """Blocks one after the other; pictures that follow each other stand side by side where there is room."""
    parts: list[str] = []
    pictures: list[str] = []
    for block in blocks:
        if isinstance(block, Picture):
            pictures.append(_picture(block))
            continue
        parts += [_side_by_side(pictures), _block(block)]
        pictures = []
    return "".join([*parts, _side_by_side(pictures)])


def _side_by_side(pictures: list[str]) -> str:
    return f"<div class='plots'>{''.join(pictures)}</div>" if pictures else ""


def _block(block: Block) -> str:
    match block:
        case Words():
            return f"<p class='{block.tone}'>{_safe(block.text)}</p>" if block.tone else f"<p>{_safe(block.text)}</p>"
        case Facts():
            return f"<dl>{''.join(f'<dt>{_safe(what)}</dt><dd>{_safe(how)}</dd>' for what, how in block.rows)}</dl>"
        case Table():
            return _table(block)
        case Code():
            return f"<pre>{_safe(block.text)}</pre>"
        case Picture():
            return _picture(block)
        case Conversation():
            return _conversation(block)
        case Folded():
            return f"<details><summary>{_safe(block.title)}</summary>{_blocks(block.blocks)}</details>"


def _picture(block: Picture) -> str:
    told = f"<figcaption>{_safe(block.told)}</figcaption>" if block.told else ""
    return f"<figure>{inside(drawing(block.plot))}{told}</figure>"


def _table(table: Table) -> str:
    classes = [" class='n'" if heading in table.right else "" for heading in table.headings]
    head = "".join(f"<th{c}>{_safe(heading)}</th>" for c, heading in zip(classes, table.headings, strict=True))
    rows = "".join(
        "<tr>" + "".join(f"<td{c}>{_safe(cell)}</td>" for c, cell in zip(classes, row, strict=True)) + "</tr>"
        for row in table.rows
    )
    return f"<div class='wide'><table><tr>{head}</tr>{rows}</table></div>"


def _conversation(talk: Conversation) -> str:
    rows = "".join(f"<div class='row'>{''.join(_said(said) for said in row)}</div>" for row in talk.rows)
    about = _block(Facts(talk.about)) if talk.about else ""
    return f"<div class='talk'><h3>{_safe(talk.title)}</h3>{about}{rows}</div>"


def _said(said: Said) -> str:
    mark = f"<span>{_safe(said.mark)}</span>" if said.mark else ""
    notes = "".join(f"<li>{_safe(note)}</li>" for note in said.notes)
    listed = f"<ul class='notes'>{notes}</ul>" if notes else ""
    who = f"<div class='who'><b>{_safe(said.who)}</b>{mark}</div>"
    return f"<div class='said {said.manner}'>{who}<div class='text'>{_safe(said.text)}</div>{listed}</div>"


def _safe(text: str) -> str:
    return escape(visible(text, longest=LONGEST))
