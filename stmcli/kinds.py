"""The kinds of export: what each is called, and who writes it."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from stmcli.datasets import FORMATS
from stmcli.errors import UsageError
from stmcli.options import DATASETS, EXPORTS, SOFT_EXPORTS, ExportOptions
from stmcli.outputs import AlphaWriter, CutoutWriter, GreenWriter, MatteWriter, OverlayWriter, SoftWriter, Writer
from stmcli.video import ALPHA_CODECS, Source, SourceInfo

SOFT = "soft"  # the folder of the stored probabilities

_COLOUR = re.compile(r"[0-9a-fA-F]{6}")


@dataclass(frozen=True)
class Output:
    """One thing to write beside the masks."""

    name: str  # of the file or folder
    kind: str
    object_id: int | None = None  # None: all objects


def outputs(options: ExportOptions, ids: Sequence[int]) -> list[Output]:
    """Return what the options ask for, for objects `ids`. Raises UsageError for options that mean nothing."""
    unknown = [kind for kind in options.kinds if kind not in EXPORTS]
    if unknown:
        raise UsageError(f"no export {unknown[0]}", hint=f"Use {', '.join(EXPORTS)}.")
    if not _COLOUR.fullmatch(options.background):
        raise UsageError(f"{options.background} is no colour", hint="Write it like 00ff00: red, green, blue.")
    found = []
    for kind in dict.fromkeys(options.kinds):
        if kind in DATASETS:
            FORMATS[kind].check_ids(Path(FORMATS[kind].file), ids)
        if kind != "none":
            each = list(ids) if options.per_object and kind in SOFT_EXPORTS else [None]
            found += [Output(_name(kind, number, options), kind, number) for number in each]
    return found


def _name(kind: str, number: int | None, options: ExportOptions) -> str:
    """Return the name of an output: `alpha.mov`, `alpha-3.mov`, `cutout-3`."""
    if kind in DATASETS:
        return FORMATS[kind].file
    suffix = {"cutout": "", "alpha": ALPHA_CODECS[options.alpha_codec].suffix}.get(kind, ".mp4")
    return f"{kind}{'' if number is None else f'-{number}'}{suffix}"


def soft_outputs(ids: Sequence[int]) -> list[Output]:
    """Return the folders that hold the network's probabilities, one for each object."""
    return [Output(f"{SOFT}/{number}", SOFT, number) for number in ids]


def open_writers(
    wanted: Sequence[Output],
    folder: Path,
    source: Source,
    options: ExportOptions,
    *,
    soft_bits: int,
) -> Iterator[Writer]:
    """Open a writer for each output, one after the other; an encoder that is missing is found here."""
    for output in wanted:
        yield _maker(output, source, options, soft_bits)(folder / output.name)


def _maker(output: Output, source: Source, options: ExportOptions, soft_bits: int) -> Callable[[Path], Writer]:
    info, number = source.info, output.object_id
    premultiplied = options.alpha_mode == "premultiplied"
    sound = options.audio == "copy"
    codec = ALPHA_CODECS[options.alpha_codec]
    makers: dict[str, Callable[[Path], Writer]] = {
        SOFT: lambda path: SoftWriter(path, source.frame_name, object_id=number or 0, bits=soft_bits),
        "overlay": lambda path: OverlayWriter(
            path, info, audio=sound, opacity=options.opacity, contour=options.contour
        ),
        "alpha": lambda path: AlphaWriter(
            path, info, codec, object_id=number, premultiplied=premultiplied, audio=sound
        ),
        "matte": lambda path: MatteWriter(path, info, object_id=number),
        "cutout": lambda path: CutoutWriter(
            path, source.frame_name, object_id=number, bits=options.bits, premultiplied=premultiplied
        ),
        "green": lambda path: GreenWriter(path, info, colour=options.background, object_id=number, audio=sound),
    }
    if output.kind in makers:
        return makers[output.kind]
    return partial(_dataset, output.kind, info, source.frame_name, dict(options.categories))


def _dataset(
    kind: str, info: SourceInfo, frame_name: Callable[[int], str], categories: Mapping[int, str], path: Path
) -> Writer:
    return FORMATS[kind](path, info, frame_name, categories=categories)


@contextmanager
def opened(writers: Iterator[Writer]) -> Iterator[list[Writer]]:
    """Open the writers one after the other; on any error let all of them remove what is unfinished."""
    ready: list[Writer] = []
    try:
        for writer in writers:
            ready.append(writer)
        yield ready
    except BaseException:
        for writer in ready:
            writer.abort()
        raise
