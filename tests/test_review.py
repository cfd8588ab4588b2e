"""The server of stm review: who may ask, for what, and what a saved correction is."""

import http.client
import io
import json
import os
import re
import shlex
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
from conftest import picture
from PIL import Image

from stmcli.errors import Terminated, UsageError
from stmcli.masks import read_labels, read_values, write_labels
from stmcli.painting import PaintServer
from stmcli.render import palette_index, vivid
from stmcli.review import Review

FIRST = 5  # the number of the first frame


@pytest.fixture
def result(tmp_path):
    """The folder of a result of three frames 64x48, as stm segment leaves it."""
    frames, out = tmp_path / "frames", tmp_path / "out"
    frames.mkdir()
    (out / "masks").mkdir(parents=True)
    listed = []
    for place in range(3):
        Image.fromarray(picture(place)).save(frames / f"{FIRST + place:05d}.png")
        labels = np.zeros((48, 64), np.uint8)
        labels[place : place + 9, :20] = 3
        write_labels(out / "masks" / f"{FIRST + place:05d}.png", labels)
        objects = {"3": {"area": 180, "confidence": 0.9 - 0.3 * place}}
        listed.append({"frame": FIRST + place, "time": place / 25, "objects": objects})
    report = {
        "status": "ok",
        "source": {"path": str(frames)},
        "objects": [3],
        "masks": [{"frame": FIRST, "path": "m.png", "ids": [3]}],
        "mask_words": ["m.png"],
        "frames": listed,
    }
    (out / "report.json").write_text(json.dumps(report))
    (tmp_path / "secret.png").write_bytes(b"secret")
    return out


def use_correction(folder):
    """Paint a correction of the second frame, and report that the result was made with it."""
    Review(folder).save(FIRST + 1, painted())
    report = json.loads((folder / "report.json").read_text())
    report["mask_words"] += [str(folder / "corrections")]
    report["masks"] += [{"frame": FIRST + 1, "path": str(folder / "corrections" / f"{FIRST + 1:05d}.png"), "ids": [3]}]
    (folder / "report.json").write_text(json.dumps(report))


def serving(folder):
    return served(Review(folder))


@contextmanager
def served(painting):
    with PaintServer(painting) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def server(result):
    with serving(result) as server:
        yield server


def ask(server, path, *, method="GET", body=None, token=None, **headers):
    """Send a request exactly as written; returns status, headers and body."""
    connection = http.client.HTTPConnection(*server.server_address, timeout=10)
    fields = {"Host": f"127.0.0.1:{server.server_port}"} | {name.replace("_", "-"): v for name, v in headers.items()}
    connection.putrequest(method, f"/{token or server.token}/{path}", skip_host=True, skip_accept_encoding=True)
    for name, value in fields.items():
        connection.putheader(name, value)
    if body is not None and "Content-Length" not in fields:
        connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, dict(answer.getheaders()), content


def painted():
    labels = np.zeros((48, 64), np.uint16)
    labels[10:20, 10:30], labels[30:40, 40:60] = 3, 7
    return labels


def test_the_page_and_its_parts_are_served_and_nothing_may_come_from_elsewhere(server):
    for name, kind in (("", "text/html"), ("paint.js", "text/javascript"), ("style.css", "text/css")):
        status, headers, content = ask(server, name)
        assert (status, headers["Content-Type"].split(";")[0]) == (200, kind)
        assert content
        assert b"://" not in content
        assert headers["Content-Security-Policy"].startswith("default-src 'none'")
        assert not [header for header in headers if header.startswith("Access-Control")]


def test_without_the_token_nothing_is_told(server):
    for token in ("x", "", server.token[:-1], server.token + "x", server.token.swapcase(), "é"):
        connection = socket.create_connection(server.server_address, timeout=10)
        head = f"GET /{token}/clip.json HTTP/1.0\r\nHost: 127.0.0.1:{server.server_port}\r\n\r\n"
        connection.sendall(head.encode())
        assert b" 403 " in connection.recv(4096).split(b"\r\n")[0]
        connection.close()


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "127.0.0.1:1", "", "localhost.evil.example:80"])
def test_another_host_is_refused(server, host):
    assert ask(server, "clip.json", Host=host)[0] == 403


def test_another_origin_is_refused_even_with_the_token(server, result):
    body = painted().tobytes()
    for origin in ("http://evil.example", "null", f"https://127.0.0.1:{server.server_port}", ""):
        assert ask(server, f"labels/{FIRST}", method="POST", body=body, Origin=origin)[0] == 403
    assert not (result / "corrections").exists()


def test_a_mask_is_fitted_to_the_frame_and_not_saved(server, result, monkeypatch):
    asked = []
    monkeypatch.setattr("stmcli.matting.painted.fit_labels", lambda *both: asked.append(both) or 7 * (both[1] == 3))
    status, headers, content = ask(server, f"fitted/{FIRST + 1}", method="POST", body=painted().tobytes())
    assert (status, headers["Content-Type"]) == (200, "application/octet-stream")
    assert np.array_equal(np.frombuffer(content, "<u2").reshape(48, 64), 7 * (painted() == 3))
    [(rgb, labels)] = asked
    assert np.array_equal(rgb, picture(1))
    assert np.array_equal(labels, painted())
    assert ask(server, f"fitted/{FIRST}", method="POST", body=b"12")[0] == 400
    assert ask(server, f"fitted/{FIRST + 3}", method="POST", body=painted().tobytes())[0] == 404
    assert not (result / "corrections").exists()


@pytest.mark.parametrize(
    "path",
    [
        "../secret.png",
        "labels/../../secret",
        "labels/..%2F..%2Fsecret",
        "picture/../../../secret.png",
        "labels//etc/passwd",
        "labels/99",
        "labels/-1",
        "labels/5.png",
        "labels/+5",
        "labels/%D9%A5",
        "labels/" + "9" * 5000,
        "report.json",
        "paint.html/",
        "..",
    ],
)
def test_only_frames_of_the_report_are_reached(server, result, path):
    assert ask(server, path)[0] == 404
    assert ask(server, path, method="POST", body=painted().tobytes())[0] == 404
    assert not (result / "corrections").exists()


def test_the_server_listens_on_the_loopback_address_only(server):
    assert server.server_address[0] == "127.0.0.1"
    assert server.url.startswith("http://127.0.0.1:")
    others = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}
    for address in others - {"127.0.0.1", "127.0.1.1"}:
        with pytest.raises(OSError, match=r"refused|timed out|unreachable"):
            socket.create_connection((address, server.server_port), timeout=2)


def test_pictures_and_labels_are_those_of_the_frame(server, result):
    status, _, content = ask(server, f"labels/{FIRST + 1}")
    assert status == 200
    stored = read_values(result / "masks" / f"{FIRST + 1:05d}.png")
    assert np.array_equal(np.frombuffer(content, "<u2").reshape(48, 64), stored)
    status, headers, content = ask(server, f"picture/{FIRST + 1}")
    assert (status, headers["Content-Type"]) == (200, "image/jpeg")
    shown = np.array(Image.open(io.BytesIO(content))).astype(int)
    assert np.abs(shown - picture(1)).mean() < 4


def test_objects_have_the_colours_of_the_other_pictures(server):
    facts = json.loads(ask(server, "clip.json")[2])
    assert facts["objects"] == [3]
    assert (len(facts["colours"]), facts["colours"][3 - 1]) == (255, vivid()[3].tolist())
    assert facts["colours"][(1000 - 1) % 255] == vivid()[palette_index(1000)].tolist()


def test_a_frame_that_is_not_there_any_more_is_not_found_and_named(server, result):
    missing = result.parent / "frames" / f"{FIRST + 1:05d}.png", result / "masks" / f"{FIRST + 1:05d}.png"
    for path, kind in zip(missing, ("picture", "labels"), strict=True):
        path.unlink()
        status, headers, content = ask(server, f"{kind}/{FIRST + 1}")
        assert (status, headers["Content-Type"]) == (404, "application/json")
        assert re.match(rf"{result.parent}/\S+: .+\. .+", json.loads(content)["error"])
    (result / "corrections").write_bytes(b"")
    assert ask(server, f"labels/{FIRST}", method="POST", body=painted().astype("<u2").tobytes())[0] == 500


def test_a_correction_is_saved_as_a_mask_and_read_back_and_forgotten(server, result):
    status, _, content = ask(server, f"labels/{FIRST + 2}", method="POST", body=painted().astype("<u2").tobytes())
    assert status == 200
    path = result / "corrections" / f"{FIRST + 2:05d}.png"
    assert np.array_equal(read_labels(path, size=(64, 48)), painted())
    with Image.open(path) as stored:
        assert stored.mode == "P"
    words = shlex.split(json.loads(content)["command"])
    assert words[3:7] == ["--mask", "m.png", "--mask", str(result / "corrections")]
    assert np.array_equal(np.frombuffer(ask(server, f"labels/{FIRST + 2}")[2], "<u2").reshape(48, 64), painted())
    assert json.loads(ask(server, "clip.json")[2])["frames"][2]["corrected"] is True
    assert json.loads(ask(server, f"labels/{FIRST + 2}", method="DELETE")[2]) == {"command": ""}
    assert not path.exists()
    stored = read_values(result / "masks" / path.name)
    assert np.array_equal(np.frombuffer(ask(server, f"labels/{FIRST + 2}")[2], "<u2").reshape(48, 64), stored)


def test_a_correction_that_is_saved_twice_at_a_time_is_written_one_after_the_other(result, monkeypatch):
    review, at_work, most = Review(result), [], []

    def write(path, labels):
        at_work.append(path)
        most.append(len(at_work))
        time.sleep(0.05)
        write_labels(path, labels)
        at_work.pop()

    monkeypatch.setattr("stmcli.review.write_labels", write)
    masks = [np.full((48, 64), number, np.uint16) for number in range(4)]
    with ThreadPoolExecutor(4) as threads:
        saved = {*threads.map(lambda labels: review.save(FIRST, labels), masks)}
    assert len(saved) == 1
    assert max(most) == 1


def test_a_corrected_given_mask_takes_its_place_in_the_command(server, result):
    content = ask(server, f"labels/{FIRST}", method="POST", body=painted().astype("<u2").tobytes())[2]
    words = shlex.split(json.loads(content)["command"])
    assert words[3:7] == ["--mask", "m.png", "--mask", str(result / "corrections")]  # the later one of a frame holds
    assert words[-1] == "-y"  # another first mask is another job


def test_corrections_of_an_earlier_command_are_named_once_and_need_no_leave(result):
    use_correction(result)
    review = Review(result)
    review.save(FIRST + 2, painted())
    words = shlex.split(review.command())
    assert words[3:7] == ["--mask", "m.png", "--mask", str(result / "corrections")]
    assert words.count("--mask") == 2
    assert "-y" not in words


def test_the_command_makes_the_result_anew_without_corrections_that_were_removed(result):
    use_correction(result)
    review = Review(result)
    review.save(FIRST + 2, painted())
    review.forget(FIRST + 1)
    words = shlex.split(review.command())
    assert words[3:7] == ["--mask", "m.png", "--mask", str(result / "corrections")]
    assert words[-1] == "-y"  # without leave it is done already
    review.forget(FIRST + 2)
    words = shlex.split(review.command())
    assert words[3:5] == ["--mask", "m.png"]
    assert words.count("--mask") == 1
    assert words[-1] == "-y"


@pytest.mark.parametrize("place", ["moved", "frames/../out"])
def test_corrections_that_a_result_was_made_with_are_its_own_wherever_it_is(result, tmp_path, place):
    use_correction(result)
    if place == "moved":
        result.rename(tmp_path / place)
    review = Review(tmp_path / place)
    assert review.doubts == []
    words = shlex.split(review.command())
    assert words[3:7] == ["--mask", "m.png", "--mask", str(tmp_path / place / "corrections")]
    assert words.count("--mask") == 2


@pytest.mark.parametrize("older", [True, False])
def test_a_correction_that_another_mask_has_taken_the_place_of_since_does_not_come_back(result, older):
    Review(result).save(FIRST + 1, painted())
    report = json.loads((result / "report.json").read_text())
    report["mask_words"] += [f"{FIRST + 1}:fixed.png"]
    report["masks"] += [{"frame": FIRST + 1, "path": str(result / "fixed.png"), "ids": [3]}]
    (result / "report.json").write_text(json.dumps(report))
    file = result / "corrections" / f"{FIRST + 1:05d}.png"
    moment = (result / "report.json").stat().st_mtime_ns + (-1 if older else 1) * 10**9
    os.utime(file, ns=(moment, moment))
    review = Review(result)
    assert file.exists() != older == file.with_name(f"{file.name}.old").exists()
    assert bool(review.command()) != older
    assert [f"now {file.name}.old" in doubt for doubt in review.doubts] == [True] * older


@pytest.mark.parametrize("command", ["review", "report"])
def test_a_folder_that_does_not_exist_is_no_empty_one(stm, result, command):
    answer = stm(command, result.with_name("oot"))
    assert answer.exit_code == 2
    assert f"{result.with_name('oot')}: no such folder of a result. Did you mean out?" in answer.stderr


def test_corrections_that_are_all_the_masks_of_a_run_are_named_once(result):
    report = json.loads((result / "report.json").read_text())
    report["mask_words"] = [str(result / "corrections")]
    (result / "report.json").write_text(json.dumps(report))
    review = Review(result)
    review.save(FIRST, painted())
    assert shlex.split(review.command()).count("--mask") == 1


def test_the_way_back_begins_at_the_last_correction(result):
    report = json.loads((result / "report.json").read_text())
    report["masks"][0]["frame"] = FIRST + 2
    report["options"] = {"segment": {"direction": "backward"}}
    (result / "report.json").write_text(json.dumps(report))
    review = Review(result)
    review.save(FIRST, painted())
    assert "-y" not in shlex.split(review.command())
    review.save(FIRST + 2, painted())
    assert "-y" in shlex.split(review.command())


def test_a_clip_that_was_moved_is_named_where_it_is(result, tmp_path):
    (tmp_path / "frames").rename(tmp_path / "moved")
    review = Review(result, video=tmp_path / "moved")
    review.save(FIRST + 1, painted())
    assert shlex.split(review.command())[2] == str(tmp_path / "moved")


def test_another_clip_is_refused(result, make_folder):
    report = json.loads((result / "report.json").read_text())
    report["source"] |= {"width": 64, "height": 48}
    (result / "report.json").write_text(json.dumps(report))
    other = make_folder([f"{FIRST + place:05d}.png" for place in range(3)], name="other", width=80)
    with pytest.raises(UsageError, match="other: is 80x48, but the clip of the result was 64x48"):
        Review(result, video=other)


def test_a_sequence_whose_last_image_was_removed_is_refused(result, tmp_path, stm):
    (tmp_path / "frames" / f"{FIRST + 2:05d}.png").unlink()
    for command in ("review", "report"):
        answer = stm(command, result)
        assert answer.exit_code == 2
        assert f"frames: has no frame {FIRST + 2}, which the result has. Say with --video" in answer.stderr


@pytest.mark.parametrize("length", ["0", "10", "99999999999", "-1", "x"])
def test_a_mask_of_another_size_is_refused(server, result, length):
    status, _, _ = ask(server, f"labels/{FIRST}", method="POST", body=b"0123456789", Content_Length=length)
    assert status == 400
    assert not (result / "corrections").exists()


def test_links_out_of_the_result_are_refused(result, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (result / "corrections").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="link out of the result"):
        Review(result)


def test_a_folder_without_a_result_and_a_lost_clip_are_named(result, tmp_path, stm):
    (tmp_path / "nothing").mkdir()
    answer = stm("review", tmp_path / "nothing")
    assert answer.exit_code == 2
    assert "holds no result" in answer.stderr
    (tmp_path / "frames").rename(tmp_path / "moved")
    answer = stm("review", result)
    assert answer.exit_code == 2
    assert "--video" in answer.stderr
    assert Review(result, video=tmp_path / "moved").width == 64


@pytest.mark.usefixtures("result")
def test_corrections_go_into_the_next_run(segment, tmp_path, make_mask):
    """The command that the page gives is accepted by stm segment."""
    mask = make_mask(ids=(3,))
    frames = tmp_path / "frames"
    assert segment(frames, "-m", mask, "-o", "run", "-e", "none").exit_code == 0
    review = Review(tmp_path / "run")
    review.save(FIRST + 1, painted())
    words = shlex.split(review.command())
    assert words[:2] == ["stm", "segment"]
    kept = [word for word in words[2:] if word != "cpu"]
    for flag in ("--weights", "--device", "--precision"):
        if flag in kept:
            del kept[kept.index(flag) : kept.index(flag) + (1 if flag == "--device" else 2)]
    answer = segment(*kept)
    assert answer.exit_code == 0, answer.stderr
    given = json.loads((tmp_path / "run" / "report.json").read_text())["masks"]
    assert [mask["frame"] for mask in given] == [FIRST, FIRST + 1]
    assert (tmp_path / "run" / "corrections" / f"{FIRST + 1:05d}.png").exists()


@pytest.mark.parametrize(("name", "needs_leave"), [("moved/clip.mp4", False), ("renamed.mp4", True)])
def test_the_command_asks_for_leave_where_the_clip_has_another_name(
    segment, make_clip, make_mask, tmp_path, name, needs_leave
):
    clip = make_clip(frames=3, name="clip.mp4")
    assert segment(clip, "-m", make_mask(), "-o", "run", "-e", "none").exit_code == 0
    (tmp_path / "moved").mkdir()
    review = Review(tmp_path / "run", video=clip.rename(tmp_path / name))
    review.save(1, review.labels(1))
    assert ("-y" in shlex.split(review.command())) is needs_leave
    words = [tmp_path / name, "-m", make_mask(), "-m", tmp_path / "run" / "corrections", "-o", "run", "-e", "none"]
    assert segment(*words).exit_code == (2 if needs_leave else 0)
    assert segment(*words, *["-y"] * needs_leave).exit_code == 0


def interrupt(*_):
    raise KeyboardInterrupt


def test_ctrl_c_ends_a_review_and_says_how_to_go_on(stm, result, monkeypatch):
    monkeypatch.setattr(PaintServer, "serve_forever", interrupt)
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    monkeypatch.setenv("DISPLAY", ":0")
    answer = stm("review", result)
    assert answer.exit_code == 0
    assert answer.stdout.strip().startswith("http://127.0.0.1:")
    assert opened == [answer.stdout.strip()]
    assert "No corrections" in answer.stderr
    Review(result).save(FIRST, painted())
    answer = stm("review", result, "--no-browser")
    assert f"--mask {result / 'corrections'}" in answer.stderr
    assert len(opened) == 1


def test_a_review_that_the_system_ends_says_how_to_go_on_too(stm, result, monkeypatch):
    def terminate(*_):
        raise Terminated

    monkeypatch.setattr(PaintServer, "serve_forever", terminate)
    Review(result).save(FIRST, painted())
    answer = stm("review", result, "--no-browser")
    assert answer.exit_code == 143
    assert f"--mask {result / 'corrections'}" in answer.stderr


def test_a_port_in_use_is_named(stm, result):
    with serving(result) as server:
        answer = stm("review", result, "--port", server.server_port)
    assert answer.exit_code == 2
    assert f"port {server.server_port} cannot be used" in answer.stderr


def test_segment_can_go_over_to_the_review(segment, make_clip, make_mask, monkeypatch):
    monkeypatch.setattr(PaintServer, "serve_forever", interrupt)
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    answer = segment(make_clip(frames=3), "-m", make_mask(), "-o", "out", "-e", "none", "--review")
    assert answer.exit_code == 0, answer.stderr
    assert answer.stdout.splitlines()[-1].startswith("http://127.0.0.1:")
