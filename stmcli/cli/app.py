"""The app that the commands join, how they speak, and the options that several of them share."""

import warnings
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from stmcli import __version__
from stmcli.cli.commands import Group
from stmcli.errors import PartialError, UsageError
from stmcli.options import MEMORY_KEEPS, MEMORY_POLICIES, MemoryOptions, NetworkOptions

NETWORK, MEMORY = NetworkOptions(), MemoryOptions()

Result = TypeVar("Result")


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
        bool,
        typer.Option("--version", callback=_version, is_eager=True, allow_from_autoenv=False, help="Print it."),
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
