"""The options that say what is made of masks, shared by all commands that have some of them."""

from collections.abc import Iterable
from typing import Annotated

import typer

from stmcli.cli.app import one_of
from stmcli.errors import UsageError
from stmcli.options import ALPHA_CODECS, ALPHA_MODES, AUDIO, BITS, ENCODERS, EXPORTS, SOFT_EXPORTS, ExportOptions

EXPORT = ExportOptions()

AudioOption = Annotated[str, typer.Option(help=f"{', '.join(AUDIO)}.")]
EncoderOption = Annotated[
    str, typer.Option(help=f"{', '.join(ENCODERS)}, of H.264; auto: nvenc where the network is on CUDA and it opens.")
]
PerObjectOption = Annotated[
    bool, typer.Option("--per-object", help=f"{', '.join(SOFT_EXPORTS)}: once for each object.")
]
OpacityOption = Annotated[float, typer.Option(min=0, max=1, help="Of the overlay's colour inside an object.")]
ContourOption = Annotated[bool, typer.Option("--contour/--no-contour", help="Outline the overlay's objects.")]
CodecOption = Annotated[str, typer.Option(help=f"{', '.join(ALPHA_CODECS)}.")]
ModeOption = Annotated[str, typer.Option(help=f"{', '.join(ALPHA_MODES)}.")]
BitsOption = Annotated[int, typer.Option(help="8 or 16, of the channels of mattes and cutout.")]
ColourOption = Annotated[str, typer.Option(metavar="RRGGBB", help="The colour behind the objects of green.")]
RefineOption = Annotated[
    bool,
    typer.Option("--refine/--no-refine", help="Fit masks and alpha to the picture's edges, and clean alpha's colours."),
]
CategoryOption = Annotated[
    list[str] | None,
    typer.Option(metavar="ID=NAME", help="What an object is, in dataset files; repeatable.", show_default="object"),
]


LATER = EXPORTS[:-1]  # what `stm export` makes; `none` is for a run


def kinds_of(option: str, names: list[str] | None, *, among: tuple[str, ...] = EXPORTS) -> tuple[str, ...]:
    """Return the kinds of export that are asked for, perhaps as a,b; raise UsageError for one that there is not."""
    kinds = [kind.strip() for name in names or EXPORT.kinds for kind in name.split(",")]
    return tuple(one_of(option, kind, among) for kind in kinds)


def export_options(
    kinds: tuple[str, ...],
    *,
    per_object: bool,
    audio: str,
    encoder: str,
    opacity: float,
    contour: bool,
    alpha_codec: str,
    alpha_mode: str,
    bits: int,
    background: str,
    refine: bool,
    category: list[str] | None,
) -> ExportOptions:
    """Check and collect the options of the exports."""
    return ExportOptions(
        kinds=kinds,
        per_object=per_object,
        audio=one_of("--audio", audio, AUDIO),
        encoder=one_of("--encoder", encoder, ENCODERS),
        opacity=opacity,
        contour=contour,
        alpha_codec=one_of("--alpha-codec", alpha_codec, ALPHA_CODECS),
        alpha_mode=one_of("--alpha-mode", alpha_mode, ALPHA_MODES),
        bits=bits_of("--bits", bits),
        background=background.lower().removeprefix("#").removeprefix("0x"),
        refine=refine,
        categories=_categories(category or ()),
    )


def bits_of(option: str, value: int) -> int:
    """Return a number of bits that PNG has; raise UsageError for others."""
    return int(one_of(option, str(value), tuple(map(str, BITS))))


def _categories(texts: Iterable[str]) -> tuple[tuple[int, str], ...]:
    """Return the name of each object, by its id; raise UsageError for two of one."""
    names: dict[int, str] = {}
    for number, name in map(_category, texts):
        if names.setdefault(number, name) != name:
            cause = f"--category {number}={name}: object {number} is called {names[number]} already"
            raise UsageError(cause, hint="Give each object one name.")
    return tuple(sorted(names.items()))


def _category(text: str) -> tuple[int, str]:
    number, separator, name = text.partition("=")
    if not (number.strip().isdecimal() and separator and name.strip()):
        raise UsageError(f"--category {text}: not an object and its name", hint="Write it like 1=dog.")
    return int(number), name.strip()
