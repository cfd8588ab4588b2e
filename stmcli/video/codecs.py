"""Name the encoders that stm writes films with, and how each is set."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache

import av
from av.video.codeccontext import VideoCodecContext
from av.video.format import VideoFormat


@dataclass(frozen=True)
class Codec:
    """Say how a kind of film is encoded.

    `suffix` names the container, `even` that only even sizes are taken, `fallback` what is used instead
    where the encoder is missing or refuses (a hardware encoder does, without its hardware).
    """

    suffix: str
    encoder: str
    pix_fmt: str
    options: Mapping[str, str] = field(default_factory=dict)
    even: bool = False
    fallback: "Codec | None" = None

    @property
    def is_yuv(self) -> bool:
        """Return whether colours are converted to luma and chroma, and so need their tags."""
        return self.pix_fmt.startswith("yuv")

    @property
    def has_alpha(self) -> bool:
        """Return whether the film keeps alpha."""
        return has_alpha(VideoFormat(self.pix_fmt))


def opens(codec: Codec, size: tuple[int, int]) -> bool:
    """Return whether an encoder is there, with its hardware, and takes pictures of `size` (width, height)."""
    width, height = (side + side % 2 * codec.even for side in size)
    return _opens(codec.encoder, codec.pix_fmt, width, height, tuple(codec.options.items()))


@cache  # hardware does not come and go
def _opens(encoder: str, pix_fmt: str, width: int, height: int, options: tuple[tuple[str, str], ...]) -> bool:
    try:
        context = av.CodecContext.create(encoder, "w")
        assert isinstance(context, VideoCodecContext), context
        context.width, context.height = width, height
        context.pix_fmt, context.time_base, context.options = pix_fmt, Fraction(1, 25), dict(options)
        context.open()
    except (av.FFmpegError, ValueError):  # PyAV says ValueError for an encoder that there is not
        return False
    return True


def ffmpeg_version() -> str:
    """Return the version of the FFmpeg libraries in use."""
    return av.ffmpeg_version_info


def has_alpha(layout: VideoFormat) -> bool:
    """Return whether pixels of this format have transparency."""
    return any(component.is_alpha for component in layout.components)


# A second look, not an archive: 1.7 times as fast as `veryfast`, and more bits instead. A sixth of the rest would go
# into where to place B-frames, for 0.1 to 0.6 dB and more bits for them; a fifth into arithmetic codes, for 12 % less.
_SUPERFAST = {"preset": "superfast", "crf": "18", "b_strategy": "0", "coder": "vlc"}
H264 = Codec(".mp4", "libx264", "yuv420p", _SUPERFAST, even=True)
H264_NVENC = Codec(
    ".mp4", "h264_nvenc", "yuv420p", {"preset": "p4", "rc": "vbr", "cq": "19", "b": "0"}, even=True, fallback=H264
)

# A fixed quantiser (2 of 1..224; 118 is FF_QP2LAMBDA) saves the search for one per slice: 4 to 5 times as fast,
# and 56 dB still.
_PRORES = {
    "profile": "4444",
    "alpha_bits": "16",
    "vendor": "apl0",
    "flags": "+qscale",
    "global_quality": str(2 * 118),
}
_FFV1 = {"level": "3", "coder": "0", "context": "0", "slices": "4", "slicecrc": "1", "g": "1"}
# Any loss in colour is the same loss in alpha, and more than 3 levels of it from the second step of `crf` on.
_VP9 = {"lossless": "1", "deadline": "realtime", "cpu-used": "8", "row-mt": "1"}

ALPHA_CODECS: dict[str, Codec] = {
    "prores4444": Codec(".mov", "prores_ks", "yuva444p10le", _PRORES),
    "png": Codec(".mov", "png", "rgba", {"pred": "sub", "compression_level": "1"}),
    "qtrle": Codec(".mov", "qtrle", "argb"),
    "ffv1": Codec(".mkv", "ffv1", "bgra", _FFV1),
    "vp9": Codec(".webm", "libvpx-vp9", "yuva420p", _VP9),
}
