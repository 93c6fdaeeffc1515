"""The report on a pool: in a terminal, and as one HTML page with pictures that needs no network.

Invariant: the page holds no script and no address of another file; every text of a persona is escaped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from tui.console import say, say_table
from tui.growing_view import in_words
from tui.sanitise import one_line, visible
from tui.svg import bars, colours_of, histogram, scatter
from tui.thresholds import few_found, filter_told, guard_told

Report = Mapping[str, Any]
_BLOCKS = " ▁▂▃▄▅▆▇█"
_LISTED = 400
"""Characters of a text in a table."""
_STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1b; --paper: #fdfdfb; --line: #d5d5d0; --accent: #0072b2; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8e4; --paper: #181818; --line: #444; --accent: #56b4e9; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto;
  max-width: 78rem; padding: 0 1rem; }
h1, h2, h3 { line-height: 1.2; } h2 { margin-top: 3rem; border-bottom: 1px solid var(--line); }
.beside { display: grid; grid-template-columns: repeat(auto-fit, minmax(22rem, 1fr)); gap: 2rem; }
table { border-collapse: collapse; width: 100%; } td, th { padding: .25rem .6rem; text-align: left;
  vertical-align: top; border-bottom: 1px solid var(--line); } td.n, th.n { text-align: right; white-space: nowrap; }
svg { width: 100%; height: auto; } svg .bar { fill: var(--accent); } svg text { fill: var(--ink); font-size: 11px; }
svg .mark { stroke: #d55e00; stroke-dasharray: 4 3; } .swatch { display: inline-block; width: .8em; height: .8em;
  border-radius: 50%; margin-right: .4em; } .legend span { margin-right: 1.2em; white-space: nowrap; }
.wide { overflow-x: auto; } .quiet { opacity: .7; }
"""


def say_report(reports: Sequence[Report]) -> None:
    """Print the facts, stores beside each other."""
    for kind in _kinds(reports):
        facts = [r["kinds"][kind] for r in reports if kind in r["kinds"]]
        names = [r["store"] for r in reports if kind in r["kinds"]]
        say(f"\n{_plural(kind)}")
        say_table(("", *names), [(label, *(value(f) for f in facts)) for label, value in _ROWS], right=names)
        for name, fact in zip(names, facts, strict=True):
            say(f"\n{name}: nearest neighbours, similarity 0 to 1, the same from {fact['threshold']:.2f} on")
            for told in _thresholds_told(fact):
                say(f"  {told}")
            say(f"  0 {_sparkline(fact['nearest_histogram'])} 1")
            if fact["reasons"]:
                say(f"  grown: {in_words(fact['reasons'])}")
            _say_axes(fact)
            _say_closest(fact)


def _say_axes(fact: Report) -> None:
    for axis in fact["axes"]:
        told = ", ".join(
            f"{v['value']} {v['filled']}" + (f"/{v['asked']}" if v["asked"] is not None else "") for v in axis["values"]
        )
        say(f"  {axis['axis']}: {told}" + (f"; untold {axis['untold']}" if axis["untold"] else ""))


def _say_closest(fact: Report) -> None:
    for pair in fact["closest"][:3]:
        say(f"  {pair['similarity']:.3f}  {one_line(pair['a']['text'], 100)}")
        say(f"         {one_line(pair['b']['text'], 100)}")


def _plural(kind: str) -> str:
    return "profiles" if kind == "profile" else "personalities"


def _kinds(reports: Sequence[Report]) -> list[str]:
    return [kind for kind in ("profile", "personality") if any(kind in r["kinds"] for r in reports)]


def _number(value: float | None, form: str = ".2f") -> str:
    return "-" if value is None else format(value, form)


def _origin(fact: Report) -> str:
    return f"{fact['seeds']} seeds, {fact['grown']} grown"


def _pronouns(fact: Report) -> str:
    return ", ".join(f"{word} {count}" for word, count in fact["pronouns"].items())


_ROWS: Sequence[tuple[str, Any]] = (
    ("in the pool", lambda f: str(f["size"])),
    ("where from", _origin),
    ("held out / kept from training", lambda f: f"{f['held_out']} / {f['blocked']}"),
    ("nearest neighbour, mean", lambda f: _number(f["nearest_mean"])),
    ("nearest neighbour, median", lambda f: _number(f["nearest_median"])),
    ("pairs that say the same", lambda f: str(f["near_duplicates"])),
    ("Vendi score (effectively different items)", lambda f: _number(f["vendi"], ".1f")),
    ("words, quartiles", lambda f: " / ".join(f"{q:.0f}" for q in f["length_quartiles"])),
    ("different words", lambda f: f"{f['distinct_words']} of {f['words']}"),
    ("pronouns", _pronouns),
    ("in most items", lambda f: ", ".join(w["word"] for w in f["most_words"][:6])),
    ("compared by", lambda f: f["embedder"] + ("" if f["knows_paraphrases"] else " (words only: no paraphrases)")),
)


def _sparkline(counts: Sequence[int]) -> str:
    most = max([*counts, 1])
    return "".join(_BLOCKS[-(-count * (len(_BLOCKS) - 1) // most)] for count in counts)


def page(reports: Sequence[Report]) -> str:
    """The whole page."""
    sections = "".join(_section(kind, reports) for kind in _kinds(reports))
    title = "Personas: " + " and ".join(r["store"] for r in reports)
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{_safe(title)}</title><style>{_STYLE}</style></head><body><h1>{_safe(title)}</h1>{sections}"
        "</body></html>\n"
    )


def _section(kind: str, reports: Sequence[Report]) -> str:
    shown = [(r["store"], r["kinds"][kind]) for r in reports if kind in r["kinds"]]
    head = "".join(f"<th class='n'>{_safe(name)}</th>" for name, _ in shown)
    rows = "".join(
        f"<tr><td>{_safe(label)}</td>" + "".join(f"<td class='n'>{_safe(value(f))}</td>" for _, f in shown) + "</tr>"
        for label, value in _ROWS
    )
    each = "".join(f"<div><h3>{_safe(name)}</h3>{_pictures(fact)}</div>" for name, fact in shown)
    return (
        f"<h2>{_plural(kind)}</h2><div class='wide'><table><tr><th></th>{head}</tr>{rows}</table></div>"
        f"<div class='beside'>{each}</div>"
    )


def _pictures(fact: Report) -> str:
    parts = [
        "<h4>Nearest neighbours</h4>",
        histogram(fact["nearest_histogram"], 0, 1, "similarity to the nearest neighbour", fact["threshold"]),
        "".join(f"<p class='quiet'>{_safe(told)}.</p>" for told in _thresholds_told(fact)),
        _growth(fact),
        _maps(fact),
        _axes_tables(fact),
        _closest_table(fact),
    ]
    return "".join(parts)


def _thresholds_told(fact: Report) -> list[str]:
    """What the thresholds of filter and guard find of the labelled pairs, and what to do if that is little."""
    measured, threshold, guard = fact["measured"], fact["threshold"], fact["guard"]
    told = [f"from {threshold:.3f} on two items say the same{filter_told(measured, threshold)}"]
    if guard != threshold or measured.get("guard_by") == "hand":
        told.append(f"held-out ones are guarded from {guard:.3f} on{guard_told(measured, guard)}")
    few = few_found(fact["kind"], measured, guard)
    return [*told, few] if few is not None else told


def _growth(fact: Report) -> str:
    if not fact["growth"]:
        return ""
    several = len({g["growing"] for g in fact["growth"]}) > 1
    rates = [
        (f"{g['growing'][:8]} " * several + f"generation {g['generation']}", g["kept"] / max(g["candidates"], 1))
        for g in fact["growth"]
    ]
    told = _safe(in_words(fact["reasons"]))
    return f"<h4>Accept rate by generation</h4>{bars(rates, 'share of candidates kept')}<p class='quiet'>{told}</p>"


def _maps(fact: Report) -> str:
    """One map for each thing items can be coloured by; the first is open."""
    points = fact["map"]
    axes = sorted({axis for point in points for axis in point["axes"]})
    by: list[tuple[str, list[str]]] = [
        ("generation", ["seed" if p["generation"] is None else f"generation {p['generation']}" for p in points]),
        *((axis, [p["axes"].get(axis, "untold") for p in points]) for axis in axes),
    ]
    return "<h4>Map</h4>" + "".join(
        f"<details{'' if number else ' open'}><summary>by {_safe(name)}</summary>{_map(points, groups, name)}</details>"
        for number, (name, groups) in enumerate(by)
    )


def _map(points: Sequence[Report], groups: Sequence[str], name: str) -> str:
    colours = colours_of(groups)
    legend = "".join(
        f"<span><i class='swatch' style='background:{colour}'></i>{_safe(group)}</span>"
        for group, colour in list(colours.items())[:12]
    )
    placed = [(p["x"], p["y"], group, p["text"]) for p, group in zip(points, groups, strict=True)]
    return f"{scatter(placed, f'items by {name}')}<p class='legend'>{legend}</p>"


def _axes_tables(fact: Report) -> str:
    if not fact["axes"]:
        return ""
    rows = "".join(
        f"<tr><td>{_safe(axis['axis'])}</td><td>{_safe(v['value'])}</td><td class='n'>{v['filled']}</td>"
        f"<td class='n'>{'' if v['asked'] is None else v['asked']}</td></tr>"
        for axis in fact["axes"]
        for v in axis["values"]
    )
    head = "<tr><th>axis</th><th>value</th><th class='n'>filled</th><th class='n'>asked</th></tr>"
    return f"<details><summary>Axes, filled against asked</summary><table>{head}{rows}</table></details>"


def _closest_table(fact: Report) -> str:
    rows = "".join(
        f"<tr><td class='n'>{p['similarity']:.3f}</td><td>{_safe(p['a']['text'])}</td>"
        f"<td>{_safe(p['b']['text'])}</td></tr>"
        for p in fact["closest"]
    )
    return f"<h4>Closest pairs</h4><div class='wide'><table>{rows}</table></div>" if rows else ""


def _safe(text: str) -> str:
    return escape(visible(str(text), longest=_LISTED))
