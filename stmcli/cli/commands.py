"""The commands, each loaded when it is needed, and what is wrong with their words as one line."""

import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from errno import ENAMETOOLONG
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup

from stmcli.errors import ManyErrors, StmError, UsageError, exit_code_of, listed
from stmcli.signals import stop_behind

# The list of commands, what people come for first. Each is in the module of its name, which is loaded when it is needed
COMMANDS = {
    "segment": "Follow the objects of a first-frame mask through a clip.",
    "batch": "Segment many clips.",
    "info": "Say what a clip holds, and whether it can be segmented.",
    "frame": "Write one frame, upright and at source size, to paint a mask on.",
    "mask": "Paint a mask, look at mask files, and clean them.",
    "report": "Write the page of a result again.",
    "review": "Look through a result in the browser, and paint corrections.",
    "export": "Make other files of masks that are there, without the network.",
    "evaluate": "Score masks against ground truth.",
    "train": "Train a network.",
    "weights": "The bundled network and imported checkpoints.",
    "bench": "Measure how fast the network is, or a whole command.",
    "doctor": "Say what is installed here and what works.",
}

_EXTRA = re.compile(r"Got unexpected extra argument\(s\) \((.*)\)")  # typer's
SHOWN = 60  # characters of a name that is too long
NO_WORDS = "NoArgsIsHelpError"  # typer's, without a public name: its message is the help
BadUsage: Any = typer.BadParameter.__base__  # typer's own errors: an unknown option, a value that is no number


class Group(TyperGroup):
    """Turn every error that a person can act on into one line on stderr and its exit code."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run `stm`, with typer's complaints in the form of ours."""
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, False, windows_expand_args, **extra)
        try:
            raise SystemExit(super().main(args, prog_name, complete_var, False, windows_expand_args, **extra) or 0)
        except BadUsage as error:
            text = error.format_message()
            if type(error).__name__ == NO_WORDS:
                typer.echo(text, err=True)
            else:
                _say_error(_explained(" ".join(text.split()), _command_of(error)))
            raise SystemExit(error.exit_code) from None
        except BrokenPipeError:  # nobody reads our output any more
            raise SystemExit(1) from None
        except OSError as error:
            fault = _fault_behind(error)
            if fault is None:
                raise
            with suppress(OSError):
                _say_error(fault)
            raise SystemExit(fault.exit_code) from None

    def make_context(self, *words: Any, **extra: Any) -> Any:
        """Read the words of the command line."""
        with _interruptible():
            return super().make_context(*words, **extra)

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002
        """Return the commands, the first ones first."""
        return [*COMMANDS]

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002
        """List the commands in a help text."""
        with formatter.section("Commands"):
            formatter.write_dl([*COMMANDS.items()])

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command whose help leaves out environment variables, which hold lists as a shell does."""
        if cmd_name not in self.commands:
            names = (cmd_name,) if cmd_name in COMMANDS else COMMANDS  # one like an unknown one is suggested
            apps = [import_module(f"stmcli.cli.{name}").app for name in names]  # the same one, with more commands
            loaded: Any = typer.main.get_command(apps[-1])
            self.commands = loaded.commands
        command: Any = super().get_command(ctx, cmd_name)
        for one in (command, *getattr(command, "commands", {}).values()) if command else ():
            for param in one.params:
                param.show_envvar = False
                param.split_envvar_value = _words
        return command

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            with _interruptible():
                return super().invoke(ctx)
        except StmError as error:
            if ctx.obj:  # -vv
                from stmcli.cli.console import messages

                messages.print_exception()
            _say_error(error)
            raise typer.Exit(error.exit_code) from None


def _fault_behind(error: OSError) -> StmError | None:
    """Return what a person can act on of an error that no command expects."""
    if error.filename is None:
        return StmError(f"cannot print: {error.strerror}")  # stdout is a full disk
    if error.errno == ENAMETOOLONG:
        return UsageError("too long for a name", path=f"{str(error.filename)[:SHOWN]}...", hint="Check it.")
    return None


@contextmanager
def _interruptible() -> Iterator[None]:
    """Say that a signal stopped `stm`: typer itself is silent, and takes every signal for Ctrl-C."""
    try:
        yield
    except typer.Exit:
        raise
    except (KeyboardInterrupt, Exception) as error:
        if (stop := stop_behind(error)) is None:
            raise
        _say_error(StmError("interrupted"))
        raise typer.Exit(exit_code_of(stop)) from None


def _explained(text: str, command: str) -> UsageError:
    """Return what typer complains of; of too many words, as a shell makes of `*.png`, only the first."""
    hint = f"See {command} --help."
    if command == "stm segment" and "'--mask'" in text:
        hint = f"stm mask paint makes one. {hint}"
    if (extra := _EXTRA.fullmatch(text)) is None:
        return UsageError(text, hint=hint)
    if command == "stm segment":
        hint = f"A sequence of frames is one word, its folder or shot.####.png; stm batch takes several clips. {hint}"
    return UsageError(f"too many words: {listed(extra[1].split(), 2)}", hint=hint)


def _words(text: str) -> list[str]:
    """Split the value of an environment variable at spaces; quotes keep a path with spaces whole."""
    try:
        return shlex.split(text)
    except ValueError:  # a single quote, as in a name
        return text.split()


def _command_of(error: Any) -> str:
    """Return the command whose help tells more about one of typer's errors."""
    names, context = list[str](), getattr(error, "ctx", None)
    while context is not None and context.parent is not None:
        names.insert(0, context.info_name)
        context = context.parent
    return " ".join(["stm", *names])


def _say_error(error: StmError) -> None:
    from rich.text import Text

    from stmcli.cli.console import messages

    for one in error.errors if isinstance(error, ManyErrors) else (error,):
        messages.print(Text(f"error: {one}"), style="red" if messages.is_terminal else None)
