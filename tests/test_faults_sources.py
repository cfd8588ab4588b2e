"""Inputs that point at other files or hosts: they are refused, and a server that they name hears nothing."""

import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from faults import check_fault, forbid_network
from PIL import Image


class Server(ThreadingHTTPServer):
    """Count connections, whatever is asked for in them, and give everybody the same file."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.heard, self.content = [], b""
        self.url = f"http://127.0.0.1:{self.server_port}"

    def process_request(self, request, client_address):
        self.heard.append(client_address)
        super().process_request(request, client_address)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.server.content)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(scene):
    with Server() as running:
        running.content = scene.clip.read_bytes()
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


HLS = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{place}\n#EXT-X-ENDLIST\n"
CONCAT = "ffconcat version 1.0\nfile '{place}'\n"
BARE_CONCAT = "file '{place}'\n"
SDP = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\na=control:{place}\nm=video {port} RTP/AVP 96\n"
DASH = """{head}<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT1S"><Period>
<AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="9" codecs="avc1.42c00a"><BaseURL>{place}</BaseURL>
<SegmentBase indexRange="0-9"/></Representation></AdaptationSet></Period></MPD>"""
SMIL = '<smil><body><video src="{place}"/></body></smil>'
PLS = "[playlist]\nNumberOfEntries=1\nFile1={place}\n"
SCRIPTS = {
    "m3u8": (HLS, r": this is a playlist, and playlists are not followed"),
    "m3u8 after a byte order mark": ("\ufeff" + HLS, r": this is a playlist"),
    "concat script": (CONCAT, r": this is a playlist"),
    "concat script without its head": (BARE_CONCAT, r": this is a text file, not a video"),
    "sdp": (SDP, r": this is a text file, not a video"),
    "dash manifest": (DASH.replace("{head}", '<?xml version="1.0"?>\n'), r": this is an XML document"),
    "dash manifest without its head": (DASH.replace("{head}", ""), r": this is a text file, not a video"),
    "smil": (SMIL, r": this is a text file"),
    "pls": (PLS, r": this is a text file"),
}


@pytest.mark.parametrize("name", ["x.mp4", "x.mkv", "x.m3u8"])
@pytest.mark.parametrize("where", ["elsewhere", "beside"])
@pytest.mark.parametrize("kind", SCRIPTS)
def test_what_lists_other_files_is_refused_and_opens_none(scene, segment, server, monkeypatch, kind, where, name):
    text, message = SCRIPTS[kind]

    def spoil(scene):
        place = f"{server.url}/clip.mp4" if where == "elsewhere" else scene.clip
        scene.clip = scene.put(name, text.format(place=place, port=server.server_port).encode())

    forbid_network(monkeypatch)
    check_fault(scene, (spoil, 1, name.replace(".", r"\.") + message), lambda: segment(*scene.job))
    assert server.heard == []


def box(kind, *parts):
    content = b"".join(parts)
    return (8 + len(content)).to_bytes(4, "big") + kind + content


def grown(content, old, new):
    """Replace a box deep in an MP4 by a larger one, in the sizes of all that hold it too."""
    place = content.index(old)
    data = bytearray(content)
    data[place : place + len(old)] = new
    for kind in (b"dinf", b"minf", b"mdia", b"trak", b"moov"):
        at = content.rindex(kind, 0, place) - 4
        size = int.from_bytes(data[at : at + 4], "big") + len(new) - len(old)
        data[at : at + 4] = size.to_bytes(4, "big")
    return bytes(data)


def reference(url):
    """Return the box by which a track says that its samples are elsewhere."""
    entry = box(b"url ", bytes(4), url.encode() + b"\0")
    return box(b"dref", bytes(4), (1).to_bytes(4, "big"), entry)


def test_an_mp4_whose_samples_are_elsewhere_is_refused(scene, segment, server):
    whole = scene.clip.read_bytes()
    own = box(b"dref", bytes(4), (1).to_bytes(4, "big"), box(b"url ", (1).to_bytes(4, "big")))
    data = grown(whole, own, reference(f"{server.url}/clip.mp4"))
    at = data.index(b"mdat")
    size = int.from_bytes(data[at - 4 : at], "big")
    data = data[: at + 4] + bytes(size - 8) + data[at + size - 4 :]  # so that only the server has the pictures

    def spoil(scene):
        scene.clip = scene.put("x.mov", data)

    spoil(scene)
    result = segment(*scene.job)
    assert (result.exit_code, len(result.stderr.splitlines())) == (1, 1), result.stderr
    assert "x.mov: frame 0 cannot be decoded" in result.stderr or "0 frames can be decoded" in result.stderr
    assert server.heard == []


def test_a_reference_movie_is_refused(scene, segment, server):
    url = f"{server.url}/clip.mp4".encode() + b"\0"
    target = box(b"rdrf", bytes(4), b"url ", len(url).to_bytes(4, "big"), url)
    data = box(b"ftyp", b"qt  ", bytes(4)) + box(b"moov", box(b"rmra", box(b"rmda", target)))

    def spoil(scene):
        scene.clip = scene.put("x.mov", data)

    check_fault(scene, (spoil, 1, r"x\.mov: "), lambda: segment(*scene.job))
    assert server.heard == []


URLS = [
    *("{url}/clip.mp4", "{url}/shot.%04d.png", "{url}/shot.####.png", "tcp://127.0.0.1:{port}", "file:///etc/passwd"),
    *("rtsp://127.0.0.1:{port}/x", "data:/video/mp4;base64,AAAA"),
]


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("part", ["clip", "mask", "weights"])
def test_a_url_is_refused_whatever_it_is_given_for(scene, segment, stm, server, url, part):
    def spoil(scene):
        setattr(scene, part, url.format(url=server.url, port=server.server_port))

    def run():
        return stm("segment", *scene.job, "-w", scene.weights) if part == "weights" else segment(*scene.job)

    check_fault(scene, (spoil, 2, "is a URL, and nothing is opened over the network"), run)
    assert server.heard == []


def test_a_url_is_named_with_both_its_slashes(scene, segment, stm):
    for answer in (segment("https://host/a//b.mp4", "--mask", scene.mask), stm("info", "https://host/a//b.mp4")):
        assert re.match("error: https://host/a/+b.mp4: is a URL", answer.stderr), answer.stderr


@pytest.mark.parametrize("name", ["concat:{url}/a.mp4|{url}/b.mp4", "subfile,,start,0,end,9,,:{url}/a.mp4", "pipe:0"])
def test_a_protocol_of_the_decoder_is_the_name_of_a_file(scene, segment, server, name):
    def spoil(scene):
        scene.clip = name.format(url=server.url)

    check_fault(scene, (spoil, 2, "no such file"), lambda: segment(*scene.job))
    assert server.heard == []


def test_a_frame_that_is_a_program_for_a_printer_is_no_image(scene, segment):
    """Pillow would hand PostScript to Ghostscript."""

    def spoil(scene):
        scene.clip = scene.special("folder", "frames")
        Image.new("RGB", (64, 48)).save(scene.clip / "0.eps")
        (scene.clip / "0.eps").rename(scene.clip / "0.png")

    check_fault(scene, (spoil, 1, r"0\.png: not an image that can be read"), lambda: segment(*scene.job))


def test_the_server_would_have_been_heard_of(server):
    from urllib.request import urlopen

    with urlopen(f"{server.url}/clip.mp4") as answer:
        assert answer.read() == server.content
    assert len(server.heard) == 1
