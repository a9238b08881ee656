"""Pages for people: what all have in common. Made here, whole, without scripts and without anything from elsewhere."""

import re
from html import escape

from starlette.responses import Response

# nothing is fetched; the only thing a page can do is to send a form back to us
POLICY = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
STYLE = """
:root { color-scheme: light dark; --ink: #1a1d21; --soft: #4a5158; --line: #c9ced4; --ground: #fff; --box: #f3f5f7;
  --link: #0b57b0; --good: #17652c; --bad: #a3160f }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaed; --soft: #b3bac2; --line: #454c54; --ground: #15181b;
  --box: #1f2429; --link: #8ab8ff; --good: #7fd294; --bad: #ff9d94 } }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 68rem; padding: 1rem 1.25rem 4rem; color: var(--ink); background: var(--ground);
  font: 1rem/1.55 system-ui, sans-serif }
a { color: var(--link) } a:focus-visible, summary:focus-visible, input:focus-visible, select:focus-visible,
button:focus-visible, pre:focus-visible { outline: 3px solid var(--link); outline-offset: 2px }
.skip { position: absolute; left: -99rem } .skip:focus { position: static }
h1 { font-size: 1.7rem } h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line) } h3 { margin: 2rem 0 .4rem }
h2, h3 { scroll-margin-top: 1rem }
code, pre { font: .9rem/1.45 ui-monospace, monospace } code { overflow-wrap: anywhere }
pre { overflow-x: auto; padding: .75rem; background: var(--box); border: 1px solid var(--line); border-radius: 4px }
table { border-collapse: collapse; width: 100%; margin: .5rem 0 1rem }
caption { text-align: left; font-weight: 600; padding: .4rem 0 }
th, td { text-align: left; vertical-align: top; padding: .3rem .6rem .3rem 0; border-bottom: 1px solid var(--line) }
th { font-weight: 600 } td { color: var(--soft) } td:first-child { white-space: nowrap; color: var(--ink) }
.method { font-weight: 700 } .good { color: var(--good) } .bad { color: var(--bad) }
nav ul { columns: 22rem; padding-left: 1.2rem } details { margin: .5rem 0 } summary { cursor: pointer }
label { display: block; margin: .4rem 0 } input, select, button { font: inherit; color: inherit; padding: .25rem .5rem;
  background: var(--box); border: 1px solid var(--soft); border-radius: 4px } input { width: 100%; max-width: 30rem }
"""


def page(title: str, body: str, status: int = 200) -> Response:
    """A page with this title and body, which is HTML."""
    text = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)} – Clockjack</title><style>{STYLE}</style></head><body>"
        '<a class="skip" href="#main">To the content</a>'
        '<header><p><a href="/docs">Clockjack API</a></p></header>'
        f'<main id="main"><h1>{escape(title)}</h1>{body}</main></body></html>'
    )
    headers = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
    return Response(text.encode("utf-8", "replace"), status, headers, "text/html; charset=utf-8")


def code(text: object) -> str:
    """As code."""
    return f"<code>{escape(str(text))}</code>"


def prose(text: str) -> str:
    """Words for people, in which what stands between backticks is code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def block(text: str, name: str) -> str:
    """As code on lines of its own, that the keyboard can scroll; `name` says what it is to who cannot see it."""
    return f'<pre tabindex="0" role="region" aria-label="{escape(name)}">{escape(text)}</pre>'


def table(caption: str, heads: list[str], rows: list[list[str]]) -> str:
    """A table of HTML cells; "" without rows."""
    if not rows:
        return ""
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    lines = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>"
