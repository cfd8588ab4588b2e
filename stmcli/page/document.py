"""The frame of every page: one file, no scripts but its own, nothing loaded from anywhere."""

import html
from collections.abc import Iterable
from pathlib import Path

from stmcli.options import DOUBTFUL
from stmcli.render import palette_index, vivid

ASSETS = Path(__file__).parent / "assets"
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
COPY = """
document.addEventListener("click", async event => {
  const button = event.target.closest("button.copy");
  if (!button) return;
  const code = button.parentElement.querySelector("code");
  try { await navigator.clipboard.writeText(code.textContent); button.textContent = "copied"; }
  catch { getSelection().selectAllChildren(code); button.textContent = "selected"; }
  setTimeout(() => { button.textContent = "copy"; }, 1500);
});
"""


def text(value: object) -> str:
    """Return a value as it is shown: names may hold anything, also bytes that are no text."""
    return html.escape("".join(letter if letter.isprintable() else "�" for letter in str(value)))


def document(title: str, body: Iterable[str]) -> bytes:
    """Return a page; `title` is escaped here, `body` is HTML."""
    style = (ASSETS / "style.css").read_text(encoding="utf-8")
    lines = "\n".join(body)
    page = f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>{text(title)}</title>
<style>
{style}</style>
<main>
{lines}
</main>
<script>{COPY}</script>
</html>
"""
    return page.encode("utf-8", "replace")


def command(line: str) -> str:
    """Return a command line to copy."""
    return f'<div class="command"><code>{text(line)}</code><button class="copy" type="button">copy</button></div>'


def chip(number: int) -> str:
    """Return the id of an object on its colour."""
    red, green, blue = vivid()[palette_index(number)]
    return f'<span class="chip" style="--object:rgb({red} {green} {blue})">object {number}</span>'


def grade(confidence: float) -> str:
    """Return a confidence with a bar of its length, in a colour that says how good it is."""
    kind = "good" if confidence >= 0.7 else "fair" if confidence >= DOUBTFUL else "poor"
    return f'<span class="grade {kind}"><i style="width:{100 * confidence:.0f}%"></i>{confidence:.2f}</span>'
