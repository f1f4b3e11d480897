"""An evaluation to keep and to hand on: Markdown, and one HTML page that needs nothing beside it."""

from __future__ import annotations

import html
from collections.abc import Iterator
from typing import TYPE_CHECKING

from stepstream.learn.evaluation_plots import svg
from stepstream.learn.evaluation_tables import Section, sections, summary
from stepstream.version import __version__

if TYPE_CHECKING:
    from stepstream.learn.evaluation import Evaluation

TITLE = "What the model is worth at each sample"


def markdown(evaluation: Evaluation) -> str:
    """Everything but the plots."""
    return "\n".join(_markdown(evaluation)).rstrip() + "\n"


def _markdown(evaluation: Evaluation) -> Iterator[str]:
    yield from (f"# {TITLE}", "")
    yield from (f"- {_plain(line)}" for line in summary(evaluation))
    yield from ("", "## Findings", "")
    yield from (f"- {_plain(f.words)}. Remedy: {_plain(f.remedy)}." for f in evaluation.findings)
    if not evaluation.findings:
        yield "Nothing conspicuous."
    for section in sections(evaluation):
        yield from ("", f"## {section.title}", "")
        if section.note:
            yield from (f"{section.note[0].upper()}{section.note[1:]}.", "")
        yield "| " + " | ".join(_plain(c) for c in section.columns) + " |"
        yield "| --- |" + " ---: |" * (len(section.columns) - 1)
        yield from ("| " + " | ".join(_plain(c) for c in row) + " |" for row in section.rows)


def _plain(text: str) -> str:
    """Text that Markdown shows as it is, in a table too: names come from files."""
    for character in "\\|`*_<>[]":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.split())


STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, "Segoe UI", Helvetica, Arial, sans-serif; color: #1c2733; margin: 0 }
html { background: #f4f6f8 }
main { max-width: 1120px; margin: 0 auto; padding: 28px 32px 40px; background: #fff; box-shadow: 0 0 24px #0001 }
h1 { font-size: 26px; margin: 0 0 10px } h2 { font-size: 18px; margin: 34px 0 6px }
.about, .note, footer { color: #56636f; margin: 0 0 8px } .about { font-size: 14px }
.finding { border-left: 4px solid #D55E00; background: #fdf3ec; padding: 9px 14px; margin: 8px 0 }
.finding p { margin: 0 } .remedy { color: #56636f } .fine { border-color: #009E73; background: #eef8f4 }
.scroll { overflow-x: auto } svg { width: 100%; height: auto; margin-top: 14px }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 14px; white-space: nowrap }
th, td { padding: 4px 12px 4px 0; text-align: right } th { border-bottom: 2px solid #ccd4db; font-weight: 600 }
td { border-bottom: 1px solid #eef1f4 } th:first-child, td:first-child { text-align: left }
tr.mark td { border-top: 2px solid #D55E00 } tbody tr:hover td { background: #f4f8fb }
td.words { text-align: left; color: #56636f }
@media print { body { background: #fff } main { box-shadow: none } }
"""


def html_page(evaluation: Evaluation) -> str:
    """One page with its style and its plots inside; no script, nothing from elsewhere. Raises InputError without
    matplotlib.
    """
    return "\n".join(_html(evaluation)) + "\n"


def _html(evaluation: Evaluation) -> Iterator[str]:
    yield '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<title>{TITLE}</title><style>{STYLE}</style></head><body><main><h1>{TITLE}</h1>"
    yield from (f'<p class="about">{html.escape(line)}</p>' for line in summary(evaluation))
    yield "<h2>Findings</h2>"
    for f in evaluation.findings:
        remedy = f'<p class="remedy">Remedy: {html.escape(f.remedy)}</p>'
        yield f'<div class="finding"><p>{html.escape(f.words)}</p>{remedy}</div>'
    if not evaluation.findings:
        yield '<div class="finding fine"><p>Nothing conspicuous.</p></div>'
    yield svg(evaluation)
    for section in sections(evaluation):
        yield from _table(section)
    yield f"<footer><p>stepstream {__version__}</p></footer></main></body></html>"


def _table(section: Section) -> Iterator[str]:
    yield f"<h2>{html.escape(section.title)}</h2>"
    if section.note:
        yield f'<p class="note">{html.escape(section.note[0].upper() + section.note[1:])}.</p>'
    head = "".join(f"<th>{html.escape(c)}</th>" for c in section.columns)
    yield f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>'
    for i, row in enumerate(section.rows):
        words = ' class="words"' if section.columns[-1] == "that is" else ""
        cells = "".join(f"<td>{html.escape(c)}</td>" for c in row[:-1]) + f"<td{words}>{html.escape(row[-1])}</td>"
        mark = ' class="mark"' if i in section.marks else ""
        yield f"<tr{mark}>{cells}</tr>"
    yield "</tbody></table></div>"
