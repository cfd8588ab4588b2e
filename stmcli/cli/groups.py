"""Options that several commands share, declared once: a command takes a whole group of them as one argument."""

from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import Annotated, Any, get_type_hints

import typer

from stmcli.cli.app import (
    MEMORY,
    EveryOption,
    FirstNumberOption,
    FpsOption,
    HalfOption,
    KeepOption,
    MaxOption,
    OverwriteOption,
    PolicyOption,
    memory_options,
    one_of,
    rate_of,
)
from stmcli.cli.exports import (
    EXPORT,
    AudioOption,
    BitsOption,
    CategoryOption,
    CodecOption,
    ColourOption,
    ContourOption,
    EncoderOption,
    ModeOption,
    OpacityOption,
    PerObjectOption,
    RefineOption,
    bits_of,
    export_options,
    kinds_of,
)
from stmcli.errors import UsageError
from stmcli.options import DECODERS, DIRECTIONS, EXPORTS, ON_CORRUPT, ExportOptions, MemoryOptions, SegmentOptions

SEGMENT = SegmentOptions()


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Turn every parameter whose type is a group into the options of that group, as typer sees them."""
    hints = get_type_hints(command, include_extras=True)
    groups = {name: kind for name, kind in hints.items() if is_dataclass(kind) and isinstance(kind, type)}
    parameters = [
        option
        for parameter in signature(command).parameters.values()
        for option in (
            _options(groups[parameter.name])
            if parameter.name in groups
            else [parameter.replace(annotation=hints[parameter.name], kind=Parameter.KEYWORD_ONLY)]
        )
    ]

    @wraps(command)
    def flat(**values: Any) -> None:
        taken = {name: {field.name: values.pop(field.name) for field in fields(kind)} for name, kind in groups.items()}
        command(**values, **{name: groups[name](**options) for name, options in taken.items()})

    flat.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    flat.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return flat


def _options(kind: type[Any]) -> list[Parameter]:
    hints = get_type_hints(kind, include_extras=True)
    return [
        Parameter(field.name, Parameter.KEYWORD_ONLY, default=_default(field), annotation=hints[field.name])
        for field in fields(kind)
    ]


def _default(field: Field[Any]) -> Any:
    return Parameter.empty if field.default is MISSING else field.default


@dataclass(frozen=True)
class Memory:
    """Which past frames stay in memory."""

    mem_every: EveryOption = MEMORY.every
    mem_max: MaxOption = MEMORY.max_slots
    mem_policy: PolicyOption = MEMORY.policy
    mem_keep: KeepOption = MEMORY.keep
    mem_half: HalfOption = MEMORY.half

    def options(self) -> MemoryOptions:
        """Check the values. Raises UsageError."""
        return memory_options(self.mem_every, self.mem_max, self.mem_policy, self.mem_keep, half=self.mem_half)


@dataclass(frozen=True)
class Exports:
    """How what is made of masks looks."""

    per_object: PerObjectOption = EXPORT.per_object
    audio: AudioOption = EXPORT.audio
    encoder: EncoderOption = EXPORT.encoder
    opacity: OpacityOption = EXPORT.opacity
    contour: ContourOption = EXPORT.contour
    alpha_codec: CodecOption = EXPORT.alpha_codec
    alpha_mode: ModeOption = EXPORT.alpha_mode
    bits: BitsOption = EXPORT.bits
    background: ColourOption = EXPORT.background
    refine: RefineOption = EXPORT.refine
    category: CategoryOption = None

    def options(self, option: str, kinds: list[str] | None, *, among: tuple[str, ...] = EXPORTS) -> ExportOptions:
        """Check the values, with the kinds that `option` names, `among` those that there are. Raises UsageError."""
        return export_options(
            kinds_of(option, kinds, among=among),
            per_object=self.per_object,
            audio=self.audio,
            encoder=self.encoder,
            opacity=self.opacity,
            contour=self.contour,
            alpha_codec=self.alpha_codec,
            alpha_mode=self.alpha_mode,
            bits=self.bits,
            background=self.background,
            refine=self.refine,
            category=self.category,
        )


@dataclass(frozen=True)
class Clip:
    """What to follow in a clip, what to write of it, and what may be replaced."""

    export: Annotated[
        list[str] | None,
        typer.Option(
            "--export",
            "-e",
            metavar="KIND",
            help=f"{', '.join(EXPORTS)}; repeatable.",
            show_default=", ".join(EXPORT.kinds),
        ),
    ] = None
    objects: Annotated[str, typer.Option(help="Ids to follow, e.g. 1,3.", show_default="all")] = ""
    first_number: FirstNumberOption = SEGMENT.first_number
    fps: FpsOption = SEGMENT.fps
    keep_soft: Annotated[
        bool, typer.Option("--keep-soft", help="Store the network's probabilities for stm export.")
    ] = SEGMENT.keep_soft
    soft_bits: Annotated[int, typer.Option(help="8 or 16, of the stored probabilities.")] = SEGMENT.soft_bits
    on_corrupt: Annotated[str, typer.Option(help=f"{', '.join(ON_CORRUPT)}.")] = SEGMENT.on_corrupt
    decoder: Annotated[
        str, typer.Option(help=f"{', '.join(DECODERS)}, of videos; nvdec on the graphics card, where it opens.")
    ] = SEGMENT.decoder
    direction: Annotated[
        str, typer.Option(help=f"{', '.join(DIRECTIONS)}: from the first mask, from the last, or between all.")
    ] = SEGMENT.direction
    overwrite: OverwriteOption = SEGMENT.overwrite
    page: Annotated[bool, typer.Option("--page/--no-page", help="Write report.html, to look the result through.")] = (
        SEGMENT.page
    )
    resume: Annotated[
        bool,
        typer.Option("--resume/--no-resume", help="Go on where this very job stopped, if anywhere; or do it again."),
    ] = SEGMENT.resume
    keep_memory: Annotated[
        bool,
        typer.Option("--keep-memory", help="Store the memory, so that a correction computes only what it changes."),
    ] = SEGMENT.keep_memory

    def options(self, *, start: int | None = None, end: int | None = None) -> SegmentOptions:
        """Check the values, for the whole clip or a part. Raises UsageError."""
        return SegmentOptions(
            objects=_ids(self.objects),
            first_number=self.first_number,
            fps=rate_of("--fps", self.fps),
            start=start,
            end=end,
            keep_soft=self.keep_soft,
            soft_bits=bits_of("--soft-bits", self.soft_bits),
            on_corrupt=one_of("--on-corrupt", self.on_corrupt, ON_CORRUPT),
            decoder=one_of("--decoder", self.decoder, DECODERS),
            overwrite=self.overwrite,
            resume=self.resume,
            page=self.page,
            keep_memory=self.keep_memory,
            direction=one_of("--direction", self.direction, DIRECTIONS),
        )


def _ids(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",")) if text else ()
    except ValueError:
        raise UsageError(f"--objects {text}: not a list of ids", hint="Write them like 1,3.") from None
