"""Common parts of Duotone's HTML pages: document, style, tables, escaping of text.

A page is self-contained, and follows the reader's setting of light or dark mode.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape

_STYLE = """
:root { color-scheme: light dark; --paper: #fbfaf7; --card: #fff; --ink: #1d1b22; --soft: #6d6878; --line: #dcd8e2;
  --mark: #a8315f; }
@media (prefers-color-scheme: dark) { :root { --paper: #131118; --card: #1c1924; --ink: #eceaf1; --soft: #9d97aa;
  --line: #353042; --mark: #f48e5a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 76rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 2.1rem; line-height: 1.1; margin: 0 0 .4rem; letter-spacing: -.02em; }
h2 { font-size: 1.15rem; margin: 2.4rem 0 .8rem; }
p { max-width: 46rem; margin: .4rem 0; } .soft { color: var(--soft); font-size: .92rem; }
figure { margin: 0; } audio { display: block; width: 100%; } pre { overflow-x: auto; font-size: 13px; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th { font-weight: 600; color: var(--soft); font-size: .88rem; } td, th { padding: .35rem .8rem; text-align: right;
  white-space: nowrap; } td:first-child, th:first-child { text-align: left; padding-left: 0; }
tbody tr { border-top: 1px solid var(--line); }
"""


def page(title: str, body: str, style: str = "") -> str:
    """A complete document; `body` is HTML, `title` plain text, `style` additional CSS."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{safe(title)}</title>\n<style>{_STYLE}{style}</style>\n</head>\n<body><main>\n{body}\n</main></body>\n</html>\n"
    )


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of plain text that scrolls horizontally if it is too wide; the first column is left-aligned."""
    head = "".join(f"<th>{safe(heading)}</th>" for heading in headings)
    body = "".join("<tr>" + "".join(f"<td>{safe(cell)}</td>" for cell in row) + "</tr>\n" for row in rows)
    return f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>'


def safe(text: str) -> str:
    """Escape text for a page; bytes of file names that are not Unicode become question marks."""
    return escape(text.encode("utf-8", "replace").decode("utf-8"))


def inline(data: bytes, kind: str) -> str:
    """Bytes of a MIME type as a data URL."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
