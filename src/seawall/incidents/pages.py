"""A document of a few kinds of blocks, written down as Markdown or as a page that needs nothing else.

The page has no script and nothing from elsewhere; it reads in light and dark, on paper, and at the width of a phone.
Text may have `code` between backticks; everything else in it is taken literally, whoever wrote it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from seawall.telemetry.charts import Chart, draw, style


@dataclass(frozen=True, slots=True)
class Paragraph:
    """Some sentences."""

    text: str


@dataclass(frozen=True, slots=True)
class Bullets:
    """A list."""

    items: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows under a header. `numbers` are the columns that are set to the right; `strong` the rows that stand out."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: frozenset[int] = frozenset()
    strong: frozenset[int] = frozenset()
    is_wide: bool = False


@dataclass(frozen=True, slots=True)
class Blank:
    """Room for what only people can write."""

    prompt: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A chart; `text` is what stands for it where there are no drawings."""

    chart: Chart
    text: str


Block = Paragraph | Bullets | Table | Blank | Figure


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A heading and what stands under it."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A whole document. `facts` stand in a row under the title, `foot` at the end in small."""

    title: str
    facts: Sequence[str]
    sections: Sequence[Section]
    foot: str


# Markdown.

MARKDOWN_SPECIAL: Final = re.compile(r"([\\*_\[\]<>|#~])")
FIRST_OF_LINE: Final = re.compile(r"^(\d*)([-+.)])(?=\s|$)")


def markdown(document: Document) -> str:
    """Return the document as Markdown (CommonMark with tables, as GitHub has them)."""
    parts = [f"# {_plain(document.title)}", " · ".join(_plain(fact) for fact in document.facts)]
    for section in document.sections:
        parts.append(f"## {_plain(section.title)}")
        parts += [_markdown(block) for block in section.blocks]
    return "\n\n".join([*parts, "---", f"_{_plain(document.foot)}_"]) + "\n"


def _markdown(block: Block) -> str:
    match block:
        case Paragraph(text):
            return _plain(text)
        case Bullets(items):
            return "\n".join(f"- {_plain(item)}" for item in items)
        case Table():
            rule = ["--:" if column in block.numbers else "---" for column in range(len(block.header))]
            rows = [[_plain(cell) or " " for cell in row] for row in block.rows]
            rows = [
                [f"**{cell}**" if number in block.strong and cell.strip() else cell for cell in row]
                for number, row in enumerate(rows)
            ]
            return "\n".join(_row(cells) for cells in ([_plain(cell) for cell in block.header], rule, *rows))
        case Blank(prompt):
            return f"> ✎ **For people to write:** {_plain(prompt)}\n>\n> &nbsp;"
        case Figure():
            return f"```text\n{block.text}\n```"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _plain(text: str) -> str:
    """Return text that means itself in Markdown, in one line; what stands between backticks stays code."""
    parts = re.split(r"(`[^`]*`)", " ".join(text.split()))
    quoted = [
        # A bar would end the cell of a table even in code.
        part.replace("|", "\\|") if part.startswith("`") and len(part) > 1 else _literal(part)
        for part in parts
    ]
    return FIRST_OF_LINE.sub(r"\1\\\2", "".join(quoted))


def _literal(text: str) -> str:
    return MARKDOWN_SPECIAL.sub(r"\\\1", text).replace("`", "\\`").replace("&", "&amp;")


# HTML.

STYLE: Final = """
:root { color-scheme: light dark; --ink: #1f2328; --quiet: #59636e; --paper: #ffffff; --line: #d8dee4;
  --soft: #f6f8fa; --accent: #1f5fbf; --blank: #b26a00; --blank-soft: #fff8ec; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --quiet: #9aa4af; --paper: #0f1319; --line: #30363d;
  --soft: #171c23; --accent: #6ea8fe; --blank: #e3a13a; --blank-soft: #241d10; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, sans-serif;
  overflow-wrap: break-word; }
main { max-width: 880px; margin: 0 auto; padding: 24px 16px 64px; }
h1 { font-size: 1.65rem; line-height: 1.25; margin: 0 0 8px; }
h2 { font-size: 1.2rem; margin: 40px 0 8px; padding-bottom: 4px; border-bottom: 1px solid var(--line); }
p, ul { margin: 10px 0; }
ul { padding-left: 22px; }
.facts { color: var(--quiet); margin: 0 0 20px; }
.scroll { overflow-x: auto; margin: 12px 0; }
table { border-collapse: collapse; width: 100%; font-size: .93rem; }
th, td { text-align: left; vertical-align: top; padding: 6px 10px 6px 0; border-bottom: 1px solid var(--line); }
th { color: var(--quiet); font-weight: 600; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
tr.strong td { font-weight: 600; }
td.narrow { white-space: nowrap; font-variant-numeric: tabular-nums; }
code { font: .88em/1.4 ui-monospace, monospace; background: var(--soft); padding: 1px 4px; border-radius: 4px;
  overflow-wrap: anywhere; }
.blank { border: 2px dashed var(--blank); background: var(--blank-soft); border-radius: 6px; padding: 10px 14px 44px;
  margin: 12px 0; }
.blank b { color: var(--blank); }
figure { margin: 18px 0; }
figure svg { display: block; width: 100%; height: auto; }
figure svg + svg { display: none; }
footer { margin-top: 48px; padding-top: 10px; border-top: 1px solid var(--line); color: var(--quiet);
  font-size: .85rem; }
@media (max-width: 620px) {
  body { font-size: 15px; }
  h1 { font-size: 1.35rem; }
  figure svg { display: none; }
  figure svg + svg { display: block; }
  table.wide, table.wide tbody, table.wide tr, table.wide td { display: block; }
  table.wide thead { display: none; }
  table.wide tr { border-bottom: 1px solid var(--line); padding: 8px 0; }
  table.wide td { border: 0; padding: 0; }
  table.wide td.narrow { display: inline-block; margin-right: 10px; color: var(--quiet); }
}
@media print { .blank { break-inside: avoid; } figure { break-inside: avoid; } }
"""

WIDE: Final = (860, 250)
PHONE: Final = (380, 270)
"""Pixels of a chart, on a desk and on a phone: letters are as large on both."""


def html(document: Document) -> str:
    """Return the document as a page that needs nothing else."""
    parts = [
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(document.title)}</title>\n<style>{STYLE}{style()}</style>\n</head>\n<body>\n<main>",
        f"<h1>{_marked(document.title)}</h1>",
        f'<p class="facts">{" · ".join(_marked(fact) for fact in document.facts)}</p>',
    ]
    for section in document.sections:
        parts.append(f"<section>\n<h2>{_marked(section.title)}</h2>")
        parts += [_html(block) for block in section.blocks]
        parts.append("</section>")
    return "\n".join([*parts, f"<footer>{_marked(document.foot)}</footer>", "</main>\n</body>\n</html>", ""])


def _html(block: Block) -> str:
    match block:
        case Paragraph(text):
            return f"<p>{_marked(text)}</p>"
        case Bullets(items):
            return f"<ul>{''.join(f'<li>{_marked(item)}</li>' for item in items)}</ul>"
        case Table():
            head = "".join(
                f'<th class="number">{_marked(cell)}</th>' if column in block.numbers else f"<th>{_marked(cell)}</th>"
                for column, cell in enumerate(block.header)
            )
            body = "\n".join(
                f"<tr{' class=strong' if number in block.strong else ''}>"
                + "".join(f"<td{_class(block, column)}>{_marked(cell)}</td>" for column, cell in enumerate(row))
                + "</tr>"
                for number, row in enumerate(block.rows)
            )
            kind = ' class="wide"' if block.is_wide else ""
            table = f"<table{kind}><thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table>"
            return f'<div class="scroll">{table}</div>'
        case Blank(prompt):
            return f'<div class="blank"><b>✎ For people to write</b><br>{_marked(prompt)}</div>'
        case Figure():
            wide, phone = (draw(block.chart, width=width, height=height) for width, height in (WIDE, PHONE))
            return f"<figure>{wide}{phone}</figure>"


def _class(table: Table, column: int) -> str:
    if column in table.numbers:
        return ' class="narrow"' if table.is_wide else ' class="number"'
    return ""


def _marked(text: str) -> str:
    """Return text for a page, with what stands between backticks as code."""
    parts = re.split(r"`([^`]+)`", text)
    return "".join(f"<code>{escape(part)}</code>" if number % 2 else escape(part) for number, part in enumerate(parts))
