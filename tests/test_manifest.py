import json

import pytest

from stmcli.errors import UsageError
from stmcli.manifest import pair_manifest


@pytest.fixture
def manifest(tmp_path):
    def write(text, name="jobs.csv"):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return pair_manifest(tmp_path / name, tmp_path / "out")

    return write


def test_paths_are_taken_from_the_folder_of_the_manifest(manifest, tmp_path):
    one, two = manifest("video,mask,output\nA/x.mp4,m/x.png,first/x\n/elsewhere/y.mp4,/m/y.png,\n")
    assert (one.video, one.masks, one.output) == (tmp_path / "A/x.mp4", (tmp_path / "m/x.png",), "first/x")
    assert (str(two.video), two.masks[0].as_posix(), two.output) == ("/elsewhere/y.mp4", "/m/y.png", "y")


def test_json_lines_say_the_same(manifest):
    text = 'video,mask,output\nA/x.mp4,"3:a.png;10s:b.png",r\nA/y.mp4,m.png,\n'
    rows = [
        {"video": "A/x.mp4", "mask": ["3:a.png", "10s:b.png"], "output": "r"},
        {"video": "A/y.mp4", "mask": "m.png"},
    ]
    assert manifest("\n".join(map(json.dumps, rows)) + "\n\n", "jobs.jsonl") == manifest(text)


def test_several_masks_keep_their_frames(manifest, tmp_path):
    (tmp_path / "odd;name.png").write_bytes(b"")
    one, two = manifest("video,mask\nx.mp4,0:a.png; 7:b.png\ny.mp4,odd;name.png\n")
    assert one.masks == (f"0:{tmp_path / 'a.png'}", f"7:{tmp_path / 'b.png'}")
    assert two.masks == (tmp_path / "odd;name.png",)


def test_a_byte_order_mark_and_more_columns_do_not_matter(manifest):
    (pair,) = manifest('\ufeffwho,video,mask\nme,"my, x.mp4",x.png\n')
    assert (pair.name, pair.output) == ("my, x.mp4", "my, x")


def test_a_line_without_a_mask_fails_its_clip_alone(manifest):
    one, two = manifest("video,mask\nx.mp4,\ny.mp4,y.png\n")
    assert "no mask on line 2" in one.error
    assert two.error == ""


@pytest.mark.parametrize("video", [".", "..", "../x/..", "sub/.."])
def test_a_folder_without_a_name_of_its_own_is_called_by_that_of_its_place(manifest, tmp_path, video):
    (pair,) = manifest(f"video,mask\n{video},a.png\n")
    assert (tmp_path / "out" / pair.output).parent == tmp_path / "out"
    assert pair.output == (tmp_path / video).resolve().name


def test_a_clip_that_has_no_name_at_all_needs_an_output(manifest):
    with pytest.raises(UsageError, match="line 2: '/' has no name for its result"):
        manifest("video,mask\n/,a.png\n")
    assert manifest("video,mask,output\n/,a.png,root\n")[0].output == "root"


def test_a_clip_in_a_folder_that_is_anothers_output_gets_a_folder_beside_it(manifest):
    pairs = manifest("video,mask,output\na/b/x.mp4,m.png,\nc.mp4,m.png,a/b\na/b/y.mp4,m.png,\n")
    assert [pair.output for pair in pairs] == ["a/b~2/x", "a/b", "a/b~2/y"]


def test_outputs_of_very_many_equal_clips_are_found_one_after_the_other(manifest):
    pairs = manifest("video,mask\n" + "x.mp4,m.png\n" * 20_000)
    assert [pair.output for pair in pairs] == ["x.mp4", *(f"x.mp4~{number}" for number in range(2, 20_001))]


def test_very_many_given_outputs_are_checked_for_being_apart(manifest):
    rows = [f"x.mp4,m.png,{number % 100}/{number}" for number in range(20_000)]
    assert len(manifest("\n".join(["video,mask,output", *rows]))) == 20_000
    with pytest.raises(UsageError, match="line 20002: output '7' is not apart from that of line"):
        manifest("\n".join(["video,mask,output", *rows, "y.mp4,m.png,7"]))


def test_outputs_that_are_not_given_keep_out_of_the_way(manifest):
    pairs = manifest("video,mask,output\nA/x.mp4,m.png,\nA/x.mov,m.png,\ny.mp4,m.png,A/X\n../z.mp4,m.png,\n")
    assert [pair.output for pair in pairs] == ["A/x.mp4", "A/x.mov", "A/X", "z"]


@pytest.mark.parametrize("output", ["../x", "a/../../x", "/tmp/x", ".", "a/..", "..\\x", "link/x"])
@pytest.mark.parametrize("name", ["jobs.csv", "jobs.jsonl"])
def test_an_output_outside_the_root_is_refused(manifest, tmp_path, output, name):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/link").symlink_to(tmp_path)
    row = {"video": "x.mp4", "mask": "x.png", "output": output}
    text = json.dumps(row) if name.endswith("l") else f"video,mask,output\n{','.join(row.values())}\n"
    with pytest.raises(UsageError, match="outside the output root") as caught:
        manifest(text, name)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("", "no column video"),
        ("video,mask\n", "no clips"),
        ("clip,mask\nx.mp4,m.png\n", "no column video"),
        ("video,mask\n,m.png\n", "line 2: no clip"),
        ('video,mask\nx.mp4,"m.png\n', "line 2: unexpected end"),
        ("video,mask,output\nx.mp4,m.png,a\ny.mp4,m.png,a\n", "line 3: output 'a' is not apart from that of line 2"),
        ("video,mask,output\nx.mp4,m.png,a\ny.mp4,m.png,a/b\n", "line 3: output 'a/b' is not apart"),
    ],
)
def test_a_table_that_cannot_be_used_names_the_line(manifest, text, cause):
    with pytest.raises(UsageError, match=cause):
        manifest(text)


@pytest.mark.parametrize(
    "line",
    ["{", "[1]", "[" * 10**5, '"x"', '{"video": 3, "mask": "m"}', '{"video": "x", "mask": {"a": 1}}'],
    ids=lambda line: line[:40],
)
def test_json_that_cannot_be_used_names_the_line(manifest, line):
    with pytest.raises(UsageError, match="line 2: "):
        manifest('{"video": "x.mp4", "mask": "m.png"}\n' + line, "jobs.jsonl")


def test_a_manifest_that_is_no_text_or_not_there(tmp_path):
    (tmp_path / "jobs.csv").write_bytes(b"video,mask\n\xff\xfe\n")
    with pytest.raises(UsageError, match="UTF-8"):
        pair_manifest(tmp_path / "jobs.csv", tmp_path)
    with pytest.raises(UsageError, match="no such file"):
        pair_manifest(tmp_path / "none.csv", tmp_path)
