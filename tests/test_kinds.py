"""Which encoder writes an H.264 film, and what happens where it does not open."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from stmcli import kinds, pipeline
from stmcli.files import part_of
from stmcli.job import Job, plan
from stmcli.kinds import USED_BY, idle, open_writers, opened_writers, outputs
from stmcli.options import DATASETS, EXPORTS, SOFT_STILLS, ExportOptions, MemoryOptions, NetworkOptions, SegmentOptions
from stmcli.pipeline import segment_video
from stmcli.results import is_empty
from stmcli.video import H264, H264_NVENC, open_source, opens
from stmcli.weights import load_model

HARDWARE = replace(H264_NVENC, encoder="mpeg4", options={})  # stands in for NVENC where it opens
NO_HARDWARE = replace(H264_NVENC, encoder="no_such_encoder")


class Block:
    """Answer with one object in a corner, soft or hard."""

    object_ids = (1,)

    def labels(self):
        return np.pad(np.ones((12, 16), np.uint8), ((0, 36), (0, 48)))

    def alpha(self, _=None):
        return self.labels().astype(np.float32)

    def foreground(self, _=None):
        return np.zeros((48, 64, 3), np.uint8)


def films(source, folder, *wanted, **choices):
    """Write films of a clip, and return their writers."""
    on_cuda = choices.pop("on_cuda", False)
    options = ExportOptions(wanted, **choices)
    unopened = open_writers(outputs(options, (1,)), folder, source, options, soft_bits=8, on_cuda=on_cuda)
    with opened_writers(unopened) as writers:
        for frame in source:
            for writer in writers:
                writer.write(frame, Block())
        for writer in writers:
            writer.close()
    return writers


@pytest.fixture
def job(tmp_path, make_clip, make_mask, tiny_weights):
    network = NetworkOptions(str(tiny_weights), "cpu", "fp32")
    return Job(make_clip(frames=3), (make_mask(),), tmp_path / "out", network=network)


@pytest.mark.parametrize("kind", EXPORTS)
def test_what_a_killed_run_leaves_of_an_output_is_no_result(tmp_path, make_clip, kind):
    options, out = ExportOptions((kind,), per_object=True), tmp_path / "out"
    with open_source(make_clip(frames=2)) as source:
        writers = [*open_writers(outputs(options, (1,)), out, source, options, soft_bits=8)]
        for writer in writers if kind not in SOFT_STILLS else ():
            writer.write(next(iter(source)), Block())
            if kind in DATASETS:
                part_of(writer.path).touch()  # as while it is closed
        left = [path.name for path in out.rglob("*")]
        empty = is_empty(out)
    for writer in writers:
        writer.abort()
    assert (bool(left), empty) == (kind != "none", True), left


@pytest.mark.parametrize(
    ("codec", "does"),
    [(H264, True), (HARDWARE, True), (NO_HARDWARE, False), (replace(H264, encoder="prores_ks"), False)],
    ids=["x264", "mpeg4", "missing", "refusing"],
)
def test_an_encoder_opens_or_it_does_not(codec, does):
    assert opens(codec, (63, 47)) is does


@pytest.mark.parametrize(
    ("encoder", "on_cuda", "taken"),
    [
        ("auto", False, "libx264"),
        ("auto", True, "mpeg4"),
        ("x264", True, "libx264"),
        ("nvenc", False, "mpeg4"),
        ("nvenc", True, "mpeg4"),
    ],
)
def test_the_encoder_is_chosen_for_every_h264_film(make_clip, tmp_path, monkeypatch, encoder, on_cuda, taken):
    monkeypatch.setattr(kinds, "H264_NVENC", HARDWARE)
    source = open_source(make_clip(frames=2))
    wanted = ("overlay", "matte", "green", "alpha")
    found = films(source, tmp_path / "out", *wanted, encoder=encoder, on_cuda=on_cuda, alpha_codec="png")
    assert [writer.facts["encoder"] for writer in found] == [*[taken] * 3, "png"]
    assert [writer.facts["codec"] for writer in found[:3]] == [{"libx264": "h264"}.get(taken, taken)] * 3
    assert not any(writer.notes for writer in found)


@pytest.mark.parametrize(("encoder", "notes"), [("auto", 0), ("nvenc", 1)])
def test_what_was_asked_for_is_missed_with_a_note_and_auto_without(make_clip, tmp_path, monkeypatch, encoder, notes):
    monkeypatch.setattr(kinds, "H264_NVENC", NO_HARDWARE)
    (film,) = films(open_source(make_clip(frames=2)), tmp_path / "out", "overlay", encoder=encoder, on_cuda=True)
    assert film.facts["encoder"] == "libx264"
    assert film.notes == ["overlay.mp4 is encoded with libx264: there is no encoder no_such_encoder here"][:notes]


@pytest.mark.parametrize(("wanted", "choices"), [("overlay", {}), ("coco", {"on_cuda": True})])
def test_nothing_is_tried_in_vain(make_clip, tmp_path, monkeypatch, wanted, choices):
    monkeypatch.setattr(kinds, "opens", lambda *_: pytest.fail("tried to open NVENC"))
    (tmp_path / "out").mkdir()
    films(open_source(make_clip(frames=2)), tmp_path / "out", wanted, **choices)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_device_is_asked_before_the_network_is_loaded(job, monkeypatch, device):
    tried = []
    monkeypatch.setattr(pipeline, "pick_device", lambda _: torch.device(device))
    monkeypatch.setattr(kinds, "opens", lambda codec, size: tried.append((codec, size)))

    def load(network):
        assert tried == [(H264_NVENC, (64, 48))] * (device == "cuda")
        return load_model(network)

    monkeypatch.setattr(pipeline, "load_model", load)
    assert segment_video(job).frames == 3


def test_the_commands_choose_an_encoder(segment, stm, make_clip, make_mask, monkeypatch, tmp_path):
    monkeypatch.setattr(kinds, "H264_NVENC", NO_HARDWARE)
    words = (make_clip(frames=2), "-m", make_mask(), "-o", "out")
    made = segment(*words, "--encoder", "nvenc")
    assert made.exit_code == 0, made.stderr
    note = "overlay.mp4 is encoded with libx264: there is no encoder no_such_encoder here"
    assert made.stderr.count(f"note: {note}\n") == 1
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["checked"]["overlay.mp4"]["encoder"] == "libx264"
    assert "another job" in segment(*words, "--encoder", "x264").stderr
    export = ("export", "out", "--video", tmp_path / "clip.mp4", "--to", "overlay", "-o", "more")
    assert note in stm(*export, "--encoder", "nvenc").stderr
    assert note not in stm(*export, "-y").stderr
    for command in ((segment, words), (stm, export)):
        refused = command[0](*command[1], "--encoder", "h265")
        assert (refused.exit_code, "Use one of auto, x264, nvenc" in refused.stderr) == (2, True)


@pytest.mark.parametrize(
    ("choice", "flag"),
    [
        ({"per_object": True}, "--per-object"),
        ({"audio": "none"}, "--audio"),
        ({"encoder": "x264"}, "--encoder"),
        ({"opacity": 0.3}, "--opacity"),
        ({"contour": False}, "--no-contour"),
        ({"alpha_codec": "png"}, "--alpha-codec"),
        ({"alpha_mode": "premultiplied"}, "--alpha-mode"),
        ({"bits": 16}, "--bits"),
        ({"background": "0000ff"}, "--background"),
        ({"categories": ((1, "dog"),)}, "--category"),
    ],
)
def test_an_option_of_an_export_that_is_not_made_is_said_to_do_nothing(choice, flag):
    (name,) = choice
    assert idle(ExportOptions(("none",), **choice)) == [f"{flag} does nothing without {' or '.join(USED_BY[name])}"]
    for kind in USED_BY[name]:
        assert idle(ExportOptions((kind,), **choice)) == []
    assert idle(ExportOptions(("none",))) == []


def test_options_that_do_nothing_are_noted_before_and_after_the_work(job, stm):
    job = replace(job, segment=SegmentOptions(soft_bits=16), export=ExportOptions(bits=16))
    renewed = replace(job, network=replace(job.network, renew=3), memory=MemoryOptions(policy="first"))
    assert "--mem-renew does nothing without --mem-policy first+previous+every" in plan(renewed)["notes"]
    bits, soft = "--bits does nothing without mattes or cutout", "--soft-bits does nothing without --keep-soft"
    assert all(note in str(plan(job)["notes"]) for note in (bits, soft))
    assert all(note in str(segment_video(job).notes) for note in (bits, soft))
    assert bits in stm("export", job.output, "--video", job.video, "--to", "davis", "--bits", "16").stderr
    for more in (
        {"segment": SegmentOptions(soft_bits=16, keep_soft=True)},
        {"export": ExportOptions(("mattes",), bits=16)},
    ):
        assert soft not in str(plan(replace(job, **more, output=job.output / "other"))["notes"])
