"""Spoil files at random and see that every rule holds; with the soak in processes that may crash.

python -m soak.trials SEED COUNT [CASE]    try so many; each is printed before it begins
python -m soak.trials CASE COMMAND HARM    try one again, as it was printed
"""

import os
import shutil
import sys
import tempfile
import traceback
import warnings
from contextlib import chdir
from functools import cache
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from soak.damage import Cut, Flips, Harm, Outcome, Overwritten, Swapped, broken_rules, everything, harms
from soak.inputs import TINY, Case, Command, cases, write_tiny
from stmcli.cli.app import app, set_up_warnings
from stmcli.errors import StmError

HARMS = {kind.__name__: kind for kind in (Cut, Flips, Overwritten, Swapped)}
PARTS = ("masks/", "overlay.mp4")  # of a result, that do not say when they were made


class Ground:
    """A folder to try things in: the cases as they are, and one of them spoilt."""

    def __init__(self, root: Path) -> None:
        self.root, self.cases = root, cases()
        self.weights = write_tiny(root / TINY)
        self._made: dict[str, Path] = {}

    def content(self, case: Case) -> bytes:
        """Return what is in the file of a case before it is spoilt."""
        return (self._template(case) / case.file).read_bytes()

    def attempt(self, case: Case, command: Command, harm: Harm) -> tuple[Outcome, list[str]]:
        """Spoil the file of a case, run a command on it; return how it ended and which rules it broke."""
        template, folder = self._template(case), self.root / "run"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(template, folder)
        file = folder / case.file
        file.write_bytes(harm.apply(file.read_bytes()))
        before = everything(folder)
        with chdir(folder):
            outcome = run(command if callable(command) else case.words(command, self.weights))
        replaced = case.whole or outcome.code in (0, 3)
        stays = {name for name in before if not (replaced and name.startswith("out/"))}
        broken = broken_rules(outcome, folder, before, stays, case.names)
        if case.whole:
            broken += _unlike(folder, outcome)
        return outcome, broken

    def _template(self, case: Case) -> Path:
        if case.name not in self._made:
            folder = self.root / case.name.replace("/", " ")
            folder.mkdir()
            case.make(folder)
            self._made[case.name] = folder
        return self._made[case.name]


def run(command: list[str] | Command) -> Outcome:
    """Run `stm`, or a function of its Python side, in this folder; errors end both in the same way."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("default", category=UserWarning)
        set_up_warnings()
        if callable(command):
            try:
                command()
            except StmError as error:
                return Outcome(error.exit_code, "", f"error: {error}")
            except Exception:
                return Outcome(1, "", "error:", traceback.format_exc())
            return Outcome(0, "", "")
        done = CliRunner(env={"XDG_CACHE_HOME": str(Path("cache").absolute())}).invoke(app, [*command])
    crash = ""
    if done.exc_info and not isinstance(done.exception, (SystemExit, type(None))):
        crash = "".join(traceback.format_exception(*done.exc_info))
    return Outcome(done.exit_code, done.stdout, done.stderr, crash)


def _unlike(folder: Path, outcome: Outcome) -> list[str]:
    """Return how the result of a run that went on differs from the one that it must come to."""
    if outcome.code:
        return [f"it did not go on: {outcome.stderr}"]
    mine, other = (
        {n: c for n, c in everything(folder / name).items() if n.startswith(PARTS)} for name in ("out", "whole")
    )
    unlike = sorted(name for name in {*mine, *other} if mine.get(name) != other.get(name))
    return [f"another result: {', '.join(unlike)}"] if unlike else []


@cache
def ground() -> Ground:
    """Return the folder of this process, which goes when it ends."""
    import atexit

    root = Path(tempfile.mkdtemp(prefix="stm-soak-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    return Ground(root)


@st.composite
def attempts(draw: st.DrawFn, names: tuple[str, ...]) -> tuple[str, int, Harm]:
    """Draw a case, one of its commands, and how its file is spoilt."""
    case = ground().cases[draw(st.sampled_from(names))]
    command = draw(st.integers(0, len(case.commands) - 1))
    return case.name, command, draw(harms(ground().content(case), is_json=case.is_json))


def judge(name: str, command: int, harm: Harm) -> Outcome:
    """Try one; raise AssertionError that says which rules were broken, and how to try it again."""
    case = ground().cases[name]
    outcome, broken = ground().attempt(case, case.commands[command], harm)
    if broken:
        again = f'python -m soak.trials "{name}" {command} "{harm}"'
        raise AssertionError("\n".join([again, *broken, outcome.stderr]))
    return outcome


def main(words: list[str]) -> None:
    if words[0] in ground().cases:
        print(judge(words[0], int(words[1]), eval(words[2], HARMS)))
        return
    number, count, *names = int(words[0]), int(words[1]), *words[2:]

    @seed(number)
    @settings(
        max_examples=count, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=[*HealthCheck]
    )
    @given(attempts(tuple(names or ground().cases)))
    def search(attempt: tuple[str, int, Harm]) -> None:
        print("try", *map(repr, attempt), sep="\t", flush=True)
        try:
            print("end", judge(*attempt).code, sep="\t", flush=True)
        except Exception as error:  # go on: one defect must not hide others
            print("bad", repr(str(error)), sep="\t", flush=True)

    search()


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main(sys.argv[1:])
