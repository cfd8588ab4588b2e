"""The app that the commands join: consoles, errors as one line, and the options that several commands share."""

import re
import shlex
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from typer.core import TyperGroup

from stmcli import __version__
from stmcli.errors import ManyErrors, PartialError, StmError, UsageError, exit_code_of, listed
from stmcli.options import MEMORY_KEEPS, MEMORY_POLICIES, MemoryOptions, NetworkOptions
from stmcli.signals import stop_behind

# The list of commands, what people come for first. Each is in the module of its name, which is loaded when it is needed
COMMANDS = {
    "segment": "Follow the objects of a first-frame mask through a clip.",
    "batch": "Segment many clips.",
    "info": "Say what a clip holds, and whether it can be segmented.",
    "frame": "Write one frame, upright and at source size, to paint a mask on.",
    "mask": "Look at mask files, and clean them.",
    "report": "Write the page of a result again.",
    "review": "Look through a result in the browser, and paint corrections.",
    "export": "Make other files of masks that are there, without the network.",
    "evaluate": "Score masks against ground truth.",
    "train": "Train a network.",
    "weights": "The bundled network and imported checkpoints.",
    "bench": "Measure how fast the network is, or a whole command.",
    "doctor": "Say what is installed here and what works.",
}
NETWORK, MEMORY = NetworkOptions(), MemoryOptions()

_EXTRA = re.compile(r"Got unexpected extra argument\(s\) \((.*)\)")  # typer's

Result = TypeVar("Result")
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
            if error.filename is not None:
                raise
            with suppress(OSError):
                _say_error(StmError(f"cannot print: {error.strerror}"))  # stdout is a full disk
            raise SystemExit(1) from None

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
            for name in (cmd_name,) if cmd_name in COMMANDS else COMMANDS:  # one like an unknown one is suggested
                import_module(f"stmcli.cli.{name}")
            loaded: Any = typer.main.get_command(app)
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


def say(text: str) -> None:
    """Tell a person something, on stderr."""
    from rich.text import Text

    from stmcli.cli.console import messages

    messages.print(Text(text))


def part_of(error: PartialError, kind: type[Result]) -> Result:
    """Return what was made although an error ended the job; raise the error when there is nothing."""
    if not isinstance(error.result, kind):
        raise error
    return error.result


def give(text: str | Path) -> None:
    """Hand over a result, on stdout, exactly as it is."""
    typer.echo(str(text))


def show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """Show a library's warning as a note."""
    say(f"note: {message}")


def set_up_warnings() -> None:
    """Show warnings in one line each."""
    warnings.showwarning = show_warning


app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # plain help is there in half the time
    pretty_exceptions_enable=False,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "auto_envvar_prefix": "STM",
        "max_content_width": 120,  # columns, of a terminal that has them
    },
    help="Cut an object out of every frame of a clip, given its mask in the first frame.",
    epilog="Every option also reads an environment variable: STM_SEGMENT_MEM_EVERY for stm segment --mem-every. "
    "Several values are separated by spaces, with quotes around those that have some themselves.",
)

DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")]
ThreadsOption = Annotated[int, typer.Option(min=0, help="CPU threads; 0 = all.")]
EveryOption = Annotated[int, typer.Option(min=0, help="Keep each N-th frame in memory; 0: first and previous only.")]
MaxOption = Annotated[int, typer.Option(min=2, help="Most frames in memory, first and previous included.")]
PolicyOption = Annotated[str, typer.Option(help=f"{', '.join(MEMORY_POLICIES)}.")]
KeepOption = Annotated[
    str, typer.Option(help="Frames that stay when memory is full: recent, or useful ones, that are read most.")
]
HalfOption = Annotated[bool, typer.Option("--mem-half", help="Store the memory in bf16 beside a network in fp32.")]
FPS_HELP = "Frames a second of an image sequence, like 25 or 23.976; a video has its own."
FpsOption = Annotated[str, typer.Option(metavar="RATE", help=FPS_HELP)]
FirstNumberOption = Annotated[
    int | None,
    typer.Option(min=0, help="Number of the clip's first frame, in all names and options.", show_default="its own"),
]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", "-y", help="Replace what is there already.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no notes.")]


def _verbose(ctx: typer.Context, count: int) -> int:
    root = ctx.find_root()
    root.obj = bool(root.obj) or count > 1
    return count


VerboseOption = Annotated[
    int,
    typer.Option(
        "--verbose",
        "-v",
        count=True,
        callback=_verbose,
        show_default=False,
        show_envvar=False,
        help="Say what is done; -vv: tracebacks of errors.",
    ),
]


def _version(wanted: bool) -> None:
    if wanted:
        give(f"stm {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, show_envvar=False, help="Print it.")
    ] = False,
    verbose: VerboseOption = 0,
) -> None:
    """Hold the options that stand before every command."""


def rate_of(option: str, text: str) -> str:
    """Return a rate as a fraction, which must be one; raise UsageError for others."""
    from stmcli.video import parse_rate

    try:
        return str(parse_rate(text))
    except UsageError as error:
        raise UsageError(f"{option} {error.cause}", hint=error.hint) from None


def one_of(option: str, value: str, allowed: tuple[str, ...]) -> str:
    """Return `value` when it is allowed; raise UsageError otherwise."""
    if value not in allowed:
        raise UsageError(f"{option} {value}: unknown", hint=f"Use one of {', '.join(allowed)}.")
    return value


def use_threads(number: int) -> None:
    """Let the network have so many threads of the CPU; 0: as many as it takes by itself."""
    if number:
        import torch

        torch.set_num_threads(number)


def memory_options(every: int, most: int, policy: str, keep: str, *, half: bool) -> MemoryOptions:
    """Check and collect the options of the memory."""
    policy, keep = one_of("--mem-policy", policy, MEMORY_POLICIES), one_of("--mem-keep", keep, MEMORY_KEEPS)
    return MemoryOptions(every, most, policy, keep, half)
