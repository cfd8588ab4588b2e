"""Write OpenEXR, DPX and Targa files."""

import struct
from pathlib import Path

import av
import numpy as np
from PIL import Image


def attribute(name, kind, value):
    return f"{name}\0{kind}\0".encode() + struct.pack("<I", len(value)) + value


def exr(light, *, at=(0, 0), window=None, kind="f", names="BGR"):
    """Return an uncompressed OpenEXR file of light (H, W, C), byte by byte as its documentation says."""
    (height, width), (left, top) = light.shape[:2], at
    box = struct.pack("<4i", left, top, left + width - 1, top + height - 1)
    number = {"e": 1, "f": 2}[kind]
    channels = b"".join(name.encode() + b"\0" + struct.pack("<i4xii", number, 1, 1) for name in names) + b"\0"
    header = (
        attribute("channels", "chlist", channels)
        + attribute("compression", "compression", b"\0")
        + attribute("dataWindow", "box2i", box)
        + attribute("displayWindow", "box2i", box if window is None else struct.pack("<4i", *window))
        + attribute("lineOrder", "lineOrder", b"\0")
        + attribute("pixelAspectRatio", "float", struct.pack("<f", 1))
        + attribute("screenWindowCenter", "v2f", struct.pack("<2f", 0, 0))
        + attribute("screenWindowWidth", "float", struct.pack("<f", 1))
        + b"\0"
    )
    head = struct.pack("<2I", 20000630, 2) + header
    lines = []
    for y, row in enumerate(light, top):
        samples = b"".join(row[:, channel].astype(f"<{kind}").tobytes() for channel in range(row.shape[1]))
        lines.append(struct.pack("<2i", y, len(samples)) + samples)
    start = len(head) + 8 * len(lines)
    offsets = [start + sum(map(len, lines[:place])) for place in range(len(lines))]
    return head + struct.pack(f"<{len(lines)}Q", *offsets) + b"".join(lines)


def write_plate(path: Path, rgb: np.ndarray) -> None:
    """Write a picture (H, W, 3) uint8, a DPX also of uint16; the levels of an EXR are taken as light."""
    match path.suffix:
        case ".exr":
            path.write_bytes(exr(rgb[:, :, ::-1].astype(np.float32) / 255))
        case ".tga":
            Image.fromarray(rgb).save(path)
        case ".dpx":
            _write_dpx(path, rgb)


def _write_dpx(path: Path, rgb: np.ndarray) -> None:
    layout = "rgb24" if rgb.dtype == np.uint8 else "rgb48le"
    with av.open(path, "w", format="image2", options={"update": "1"}) as out:
        stream = out.add_stream("dpx", rate=24)
        stream.height, stream.width = rgb.shape[:2]
        stream.pix_fmt = layout
        frame = av.VideoFrame.from_ndarray(rgb, layout)
        for packet in (*stream.encode(frame), *stream.encode(None)):
            out.mux(packet)
