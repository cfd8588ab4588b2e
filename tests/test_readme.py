"""The README's Python example does what it says, and what it names is there."""

import re
from pathlib import Path

import typer

from stmcli.cli.app import app

README = Path(__file__).parents[1] / "README.md"
PACKAGE = README.parent / "stmcli"


def command_of(words):
    """Return the command that a line begins with, and the words behind its name."""
    command = typer.main.get_command(app)
    while words and hasattr(command, "commands"):
        command, words = command.get_command(None, words[0]), words[1:]
    return command, words


def test_every_command_has_the_options_that_it_is_shown_with():
    lines = re.findall(r"^stm ([^#\n]*)", README.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(lines) > 40
    for line in lines:
        command, words = command_of(line.split())
        known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
        assert not hasattr(command, "commands"), line
        assert {word for word in words if re.match("--?[a-z]", word)} <= known, line


def test_every_link_leads_to_a_file_that_is_there():
    for page in (README, README.parent / "tests" / "speed.md", README.parent / "tests" / "soak" / "README.md"):
        links = re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text(encoding="utf-8"))
        assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_map_of_the_code_names_what_is_there():
    (table,) = re.findall(r"^\| in `stmcli/`.*?\n\n", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    named = set(re.findall(r"`([a-z]+(?:/|\.py))`", table)) - {"stmcli/"}
    packages = {f"{path.parent.name}/" for path in PACKAGE.glob("*/__init__.py")}
    small = {"__init__.py", "__main__.py"}
    assert packages <= named <= packages | {path.name for path in PACKAGE.glob("*.py")} - small


def test_the_python_example_runs_as_it_stands(make_clip, make_mask, tiny_weights, tmp_path, monkeypatch):
    make_clip("shot.mp4", frames=3)
    make_mask("mask.png")
    (example,) = re.findall(r"^```python\n(.*?)^```$", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert 'weights="compact"' in example
    monkeypatch.chdir(tmp_path)
    exec(example.replace('"compact"', repr(str(tiny_weights))), {})
    assert sorted(path.name for path in Path("masks").iterdir()) == ["00000.png", "00001.png", "00002.png"]
    assert Path("overlay.mp4").is_file()
