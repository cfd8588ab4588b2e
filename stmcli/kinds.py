"""The kinds of export: what each is called, and who writes it."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from stmcli.datasets import FORMATS
from stmcli.errors import UsageError
from stmcli.flags import flag_of
from stmcli.masks import SOFT
from stmcli.options import DATASETS, EXPORTS, SOFT_EXPORTS, SOFT_STILLS, ExportOptions
from stmcli.outputs import (
    AlphaWriter,
    CutoutWriter,
    GreenWriter,
    MattesWriter,
    MatteWriter,
    OverlayWriter,
    SoftWriter,
    Writer,
)
from stmcli.video import ALPHA_CODECS, H264, H264_NVENC, Codec, Source, SourceInfo, opens

H264_KINDS = ("overlay", "matte", "green")
USED_BY = {  # the kinds that an option is of
    "per_object": SOFT_EXPORTS,
    "audio": ("overlay", "alpha", "green"),
    "encoder": H264_KINDS,
    "opacity": ("overlay",),
    "contour": ("overlay",),
    "alpha_codec": ("alpha",),
    "alpha_mode": ("alpha", "cutout"),
    "bits": SOFT_STILLS,
    "background": ("green",),
    "categories": ("ytvis", "coco", "mots"),
}

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


def idle(options: ExportOptions) -> list[str]:
    """Say which options are given although nothing is made that they are of."""
    return [
        f"{flag_of('export', name)} does nothing without {' or '.join(kinds)}"
        for name, kinds in USED_BY.items()
        if getattr(options, name) != getattr(ExportOptions, name) and not {*kinds} & {*options.kinds}
    ]


def _name(kind: str, number: int | None, options: ExportOptions) -> str:
    """Return the name of an output: `alpha.mov`, `alpha-3.mov`, `cutout-3`."""
    if kind in DATASETS:
        return FORMATS[kind].file
    film = ALPHA_CODECS[options.alpha_codec].suffix if kind == "alpha" else ".mp4"
    suffix = "" if kind in SOFT_STILLS else film
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
    on_cuda: bool = False,
) -> Iterator[Writer]:
    """Open a writer for each output, one after the other; an encoder that is missing is found here.

    `on_cuda` says that the network runs there, beside the writers.
    """
    for output in wanted:
        codec = _codec(output.kind, source.info, options, on_cuda=on_cuda)
        yield _open(output, folder / output.name, source, options, codec, soft_bits)


def _codec(kind: str, info: SourceInfo, options: ExportOptions, *, on_cuda: bool) -> Codec:
    """Return how a film is encoded; `nvenc` falls back with a note, `auto` looks first and needs none."""
    if kind == "alpha":
        return ALPHA_CODECS[options.alpha_codec]
    may_look = options.encoder == "auto" and on_cuda and kind in H264_KINDS
    if options.encoder == "nvenc" or (may_look and opens(H264_NVENC, (info.width, info.height))):
        return H264_NVENC
    return H264


def _open(output: Output, path: Path, source: Source, options: ExportOptions, codec: Codec, soft_bits: int) -> Writer:
    info, number = source.info, output.object_id
    premultiplied, audio = options.alpha_mode == "premultiplied", options.audio == "copy"
    match output.kind:
        case "overlay":
            return OverlayWriter(path, info, codec, audio=audio, opacity=options.opacity, contour=options.contour)
        case "alpha":
            return AlphaWriter(path, info, codec, object_id=number, premultiplied=premultiplied, audio=audio)
        case "matte":
            return MatteWriter(path, info, codec, object_id=number)
        case "green":
            return GreenWriter(path, info, codec, colour=options.background, object_id=number, audio=audio)
        case "cutout":
            name, bits = source.frame_name, options.bits
            return CutoutWriter(path, name, object_id=number, bits=bits, premultiplied=premultiplied)
        case "mattes":
            return MattesWriter(path, source.frame_name, object_id=number, bits=options.bits)
        case "soft":
            return SoftWriter(path, source.frame_name, object_id=number or 0, bits=soft_bits)
        case kind:
            return FORMATS[kind](path, info, source.frame_name, categories=dict(options.categories))


@contextmanager
def opened_writers(writers: Iterator[Writer]) -> Iterator[list[Writer]]:
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
