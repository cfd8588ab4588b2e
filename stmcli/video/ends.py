"""Find by their own account that files were cut short."""

import struct
from collections.abc import Callable, Iterator
from io import SEEK_CUR, SEEK_END
from pathlib import Path
from typing import BinaryIO

_HEAD = 65536  # bytes: what may stand before an MXF file, and holds the headers of the others
_MOST = 2**60  # bytes, more than any part of a file has
_LINE = 256  # bytes, more than a line of Y4M has
_CHROMA = {"420": (2, 2), "411": (4, 1), "422": (2, 1), "444": (1, 1)}  # columns and rows to a sample
_FLV_TAGS = {8, 9, 18}  # sound, pictures, script
_FLV_SIZE = b"\x00\x08filesize\x00"
_MXF_PARTITION = bytes.fromhex("060e2b34020501010d01020101")
_ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_FILE = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_ASF_LIVE = 1  # sizes are not known
_EBML, _SEGMENT, _VOID = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67", b"\xec"
_GIF_PICTURE, _GIF_END = b",", b";"
_EBML_PARTS = {  # of a live recording: cluster, time, blocks; what else there may be in and between them
    *map(bytes.fromhex, ("1f43b675", "e7", "a3", "a0", "a7", "ab", "ec", "bf", "5854")),
    *map(bytes.fromhex, ("114d9b74", "1549a966", "1654ae6b", "1c53bb6b", "1254c367", "1941a469", "1043a770")),
}
_RM_PARTS = {b".RMF", b"PROP", b"CONT", b"MDPR", b"DATA"}
_RM_DATA = 18  # bytes before its packets, which some count twice
_DV_HEAD = b"\x1f\x07\x00"
_DV_FRAME, _DV_FRAME_PAL = 120_000, 144_000  # bytes; a frame has one to four times as many
_PS_TAIL = 2**20  # bytes, more than a pack has
_PS_START, _PS_END, _PS_PACK = b"\0\0\1", 0xB9, 0xBA
_TS_PACKET, _TS_SYNC = 188, b"G"
_NUT_INDEX = b"NX\xdd\x67\x2f\x23\xe6\x4e"
_HALF = "the file was cut short: it ends within a frame"
_PART = "the file was cut short: it ends within a packet"


def end_loss(path: Path, kind: str) -> str | None:
    """Return what is missing at the end of a file of a container, None when it is whole or does not say."""
    check = _CHECKS.get(kind)
    if check is None:
        return None
    with path.open("rb") as file:
        head, size = file.read(_HEAD), path.stat().st_size
        file.seek(0)
        return check(file, head, size)


def end_doubt(path: Path, kind: str) -> str | None:
    """Return what lets one doubt that a file is whole, as recordings that were stopped have it too; None: nothing."""
    with path.open("rb") as file:
        head, size = file.read(_HEAD), path.stat().st_size
        if kind == "nut" and size > 12:
            file.seek(-12, SEEK_END)
            file.seek(max(0, size - int.from_bytes(file.read(8), "big")))
            return None if file.read(8) == _NUT_INDEX else "the file has no index, its end may be missing"
    packets = {head[place : place + 1] for place in range(0, min(size, 8 * _TS_PACKET), _TS_PACKET)}
    in_part = kind == "mpegts" and packets == {_TS_SYNC} and size % _TS_PACKET
    return "the file ends within a packet, its end may be missing" if in_part else None


def is_cut_mkv(path: Path) -> bool:
    """Tell whether an MKV or WebM file has fewer bytes than it says; some do not say."""
    with path.open("rb") as file:
        head = file.read(_HEAD)
    length, place = _segment(head)
    return length is not None and path.stat().st_size < place + length


def _segment(head: bytes) -> tuple[int | None, int]:
    """Return how long the segment of an MKV or WebM file is, None where that is left open, and where it begins."""
    length, place = _ebml_size(head, len(_EBML))
    while length is not None and head[place + length : place + length + 1] == _VOID:
        length, place = _ebml_size(head, place + length + 1)
    start = place + (length or 0)
    if length is None or not head[start:].startswith(_SEGMENT):
        return None, 0
    return _ebml_size(head, start + len(_SEGMENT))


def _ebml_size(data: bytes, place: int) -> tuple[int | None, int]:
    """Return the size that stands at a place of EBML, None where it is left open, and the place after it."""
    first = data[place] if place < len(data) else 0
    width = 9 - first.bit_length()
    if not first or place + width > len(data):
        return None, place
    value = int.from_bytes(data[place : place + width], "big") & (1 << 7 * width) - 1
    return (None if value == (1 << 7 * width) - 1 else value), place + width


def _mkv_loss(file: BinaryIO, head: bytes, size: int) -> str | None:
    """Go from part to part, and into those whose size is left open."""
    length, place = _segment(head)
    if length is not None:
        return None
    while place < size:
        file.seek(place)
        part = file.read(12)
        width = 9 - part[0].bit_length()
        if width > 4 or (len(part) >= width and part[:width] not in _EBML_PARTS):
            return None
        length, begin = _ebml_size(part, width)
        place += begin + (length or 0)
    return _PART if place > size else None


def _rm_loss(file: BinaryIO, _: bytes, size: int) -> str | None:
    end, kind = 0, b""
    while kind != b"DATA" and (kind := (head := file.read(8))[:4]) in _RM_PARTS:
        end += max(len(head), int.from_bytes(head[4:], "big"))  # which counts the head
        file.seek(end)
    return _fewer(size, end) if size + _RM_DATA < end else None


def _dv_loss(_: BinaryIO, head: bytes, size: int) -> str | None:
    pal = head[3:4] >= b"\x80"
    return _HALF if head.startswith(_DV_HEAD) and size % (_DV_FRAME_PAL if pal else _DV_FRAME) else None


def _ps_loss(file: BinaryIO, _: bytes, size: int) -> str | None:
    """Go from packet to packet through the last packs."""
    file.seek(max(0, size - _PS_TAIL))
    tail = file.read()
    place = tail.find(_PS_START + bytes([_PS_PACK]))
    while 0 <= place < len(tail) - 3:
        kind, more = tail[place + 3], tail[place + 4 : place + 14]
        if tail[place : place + 3] != _PS_START or kind < _PS_END:
            return None
        if kind == _PS_PACK:
            place += 12 if more[:1] < b"\x40" else 14 + (more[-1] & 7)
        else:
            place += 4 if kind == _PS_END else 6 + int.from_bytes(more[:2], "big")
    return _PART if place > len(tail) else None


def _avi_loss(file: BinaryIO, _: bytes, size: int) -> str | None:
    end = 0
    while (head := file.read(8)).startswith(b"RIFF"):  # one part after the other, of a gigabyte each in long files
        end = file.tell() + int.from_bytes(head[4:8], "little")
        file.seek(end + end % 2)
    return _fewer(size, end) if size < end else None


def _gif_loss(file: BinaryIO, head: bytes, _: int) -> str | None:
    file.seek(13 + _gif_colours(head[10:11]))
    while kind := file.read(1):
        if kind == _GIF_END:
            return None
        if kind == _GIF_PICTURE:
            file.seek(_gif_colours(file.read(9)[8:9]), SEEK_CUR)
        file.seek(1, SEEK_CUR)  # the kind of an extension, or how the picture is packed
        while length := file.read(1).strip(b"\0"):
            file.seek(length[0], SEEK_CUR)
    return "the file was cut short: it has no end"


def _gif_colours(flags: bytes) -> int:
    """Return how many bytes of colours follow in a GIF, by the flags before them."""
    return 3 << (flags[0] & 7) + 1 if flags and flags[0] & 0x80 else 0


def _y4m_loss(file: BinaryIO, head: bytes, size: int) -> str | None:
    length = _y4m_frame(head.partition(b"\n")[0].decode("ascii", "replace"))
    file.readline(_LINE)
    while length and (line := file.readline(_LINE)):
        if not line.endswith(b"\n"):
            return _HALF if b"FRAME".startswith(line[:5]) else None
        if not line.startswith(b"FRAME"):
            return None
        if file.seek(length, SEEK_CUR) > size:
            return _HALF
    return None


def _y4m_frame(header: str) -> int | None:
    """Return how many bytes a frame has, None when its header is not understood."""
    words = {word[:1]: word[1:] for word in header.split()[1:] if not word.startswith("X")}
    layout = words.get("C", "420")
    sides = [words.get(name, "") for name in "WH"]
    if not all(side.isdecimal() and len(side) < 7 for side in sides):
        return None
    width, height = map(int, sides)
    deep = layout[3:4] == "p" and layout[4:].isdecimal()
    if layout.startswith("mono"):
        return width * height * (1 if layout == "mono" else 2)
    if layout[:3] not in _CHROMA or layout.endswith("alpha"):
        return None
    across, down = _CHROMA[layout[:3]]
    return (width * height + 2 * (-(-width // across) * -(-height // down))) * (2 if deep else 1)


def _ivf_loss(file: BinaryIO, head: bytes, size: int) -> str | None:
    file.seek(int.from_bytes(head[6:8], "little"))
    while frame := file.read(12):
        if file.seek(int.from_bytes(frame[:4], "little"), SEEK_CUR) > size or len(frame) < 12:
            return _HALF
    return None


def _flv_loss(file: BinaryIO, head: bytes, size: int) -> str | None:
    if (place := head.find(_FLV_SIZE)) >= 0 and len(head) >= place + len(_FLV_SIZE) + 8:
        (declared,) = struct.unpack_from(">d", head, place + len(_FLV_SIZE))
        return _fewer(size, int(declared)) if size < declared < 2**62 else None
    file.seek(int.from_bytes(head[5:9], "big") + 4)
    while (tag := file.read(11)) and tag[0] & 0x1F in _FLV_TAGS:
        if file.seek(int.from_bytes(tag[1:4], "big"), SEEK_CUR) > size or len(tag) < 11:
            return _HALF
        file.seek(4, SEEK_CUR)
    return None


def mp4_boxes(file: BinaryIO, size: int) -> Iterator[tuple[bytes, int]]:
    """Yield the kind of each outermost box of an MP4 file of `size` bytes, and where it ends, perhaps beyond the file.

    One that tells no length is the last.
    """
    end = 0
    while end + 8 <= size:
        file.seek(end)
        head = file.read(16)
        length = int.from_bytes(head[8:] if head[:4] == b"\0\0\0\1" else head[:4], "big")
        end += length
        yield head[4:8], end
        if length < 8:
            return


def _mp4_loss(file: BinaryIO, _: bytes, size: int) -> str | None:
    boxes = [*mp4_boxes(file, size)]
    in_pieces = any(kind == b"moof" for kind, _ in boxes)
    cut = in_pieces and size < boxes[-1][1] < _MOST
    return "the file was cut short: it ends within a fragment" if cut else None


def _mxf_loss(_: BinaryIO, head: bytes, size: int) -> str | None:
    place = head.find(_MXF_PARTITION) + 16  # of the length of the first partition's header
    if place < 16 or len(head) < place + 41:
        return None
    place += 1 + (head[place] & 0x7F if head[place] & 0x80 else 0)
    footer = int.from_bytes(head[place + 24 : place + 32], "big")
    return _fewer(size, footer) if size < footer else None


def _asf_loss(_: BinaryIO, head: bytes, size: int) -> str | None:
    place = head.find(_ASF_FILE) + 24
    if not head.startswith(_ASF_HEADER) or place < 24 or len(head) < place + 68:
        return None
    declared = int.from_bytes(head[place + 16 : place + 24], "little")
    live = int.from_bytes(head[place + 64 : place + 68], "little") & _ASF_LIVE
    return None if live or size >= declared else _fewer(size, declared)


def _fewer(size: int, declared: int) -> str:
    return f"the file was cut short: {size} of {declared} bytes are there"


_CHECKS: dict[str, Callable[[BinaryIO, bytes, int], str | None]] = {
    "avi": _avi_loss,
    "gif": _gif_loss,
    "yuv4mpegpipe": _y4m_loss,
    "ivf": _ivf_loss,
    "flv": _flv_loss,
    "fragments": _mp4_loss,
    "live_flv": _flv_loss,
    "mxf": _mxf_loss,
    "matroska,webm": _mkv_loss,
    "rm": _rm_loss,
    "dv": _dv_loss,
    "mpeg": _ps_loss,
    "asf": _asf_loss,
}
