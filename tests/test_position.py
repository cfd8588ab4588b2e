from fractions import Fraction

import pytest
from PIL import Image

from stmcli.errors import UsageError
from stmcli.video import first_frame_from, last_frame_until, open_source, parse_position, read_frame


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("0", 0),
        ("00250", 250),
        (" 7 ", 7),
        ("10s", Fraction(10)),
        ("2.5s", Fraction(5, 2)),
        (".04s", Fraction(1, 25)),
        ("0s", Fraction(0)),
        ("1:30", Fraction(90)),
        ("90:00", Fraction(5400)),
        ("01:02:03.004", Fraction(3723004, 1000)),
        ("00:00:00.040", Fraction(1, 25)),
    ],
)
def test_a_position_is_a_number_or_a_time(text, position):
    found = parse_position(text)
    assert (found, type(found)) == (position, type(position))


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "s",
            "ten",
            "-5",
            "-1s",
            "1.5",
            "10 s",
            "1e3s",
            "1:2",
            "1:60",
            "0:61:00",
            "01:00:00:12",
            "²",
            "1::00",
            "10ms",
        ),
        *("9" * 5000, "9" * 400 + "s", "9" * 5000 + ":00"),
    ],
    ids=lambda text: text[-40:],
)
def test_nonsense_is_a_usage_error_that_says_how_to_write_it(text):
    with pytest.raises(UsageError, match=r"neither a frame number nor a time.*00:01:30"):
        parse_position(text)


TICKS = [100, 117, 150, 151, 190, 300]  # of 1/600 s: the clip starts late and has a variable rate


@pytest.mark.parametrize(
    ("ticks", "first", "last"),
    [(0, 0, 0), (1, 1, 0), (17, 1, 1), (18, 2, 1), (50, 2, 2), (51, 3, 3), (90, 4, 4), (91, 5, 4), (200, 5, 5)],
)
def test_a_time_finds_its_frame_at_a_variable_rate(make_clip, ticks, first, last):
    path = make_clip(frames=6, ticks=TICKS, time_base=Fraction(1, 600))
    assert first_frame_from(path, Fraction(ticks, 600)) == first
    assert last_frame_until(path, Fraction(ticks, 600)) == last


def test_a_time_after_the_last_frame_is_no_start_but_an_end(make_clip):
    path = make_clip()
    with pytest.raises(UsageError, match=r"no frame at 0\.361 s or later.*last frame is at 0\.360 s"):
        first_frame_from(path, Fraction(361, 1000))
    assert last_frame_until(path, Fraction(3600)) == 9


@pytest.mark.parametrize("name", ["a.mkv", "a.webm", "a.avi", "a.ts"])
def test_a_time_finds_the_frame_that_a_reader_yields_there(make_clip, name):
    path = make_clip(name, frames=14)
    with open_source(path) as source:
        times = [frame.time for frame in source]
    for index in (0, 6, 13):
        assert first_frame_from(path, times[index] - times[0]) == index
        assert last_frame_until(path, times[index] - times[0]) == index


def test_a_folder_has_times_by_its_rate_and_its_own_numbers(make_folder):
    folder = make_folder([f"{number:04d}.png" for number in range(1001, 1006)])  # 24 a second
    assert first_frame_from(folder, Fraction(0)) == 1001
    assert first_frame_from(folder, Fraction(5, 100)) == 1003
    assert last_frame_until(folder, Fraction(5, 100)) == 1002
    assert first_frame_from(folder / "%04d.png", Fraction(4, 24)) == 1005


def test_a_number_is_taken_as_it_is_without_a_look_at_the_clip(tmp_path):
    assert first_frame_from(tmp_path / "none.mp4", 12) == last_frame_until(tmp_path / "none.mp4", 12) == 12


def test_a_time_in_a_missing_clip_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        first_frame_from(tmp_path / "none.mp4", Fraction(1))


def test_a_frame_is_written_at_a_time(stm, make_clip, tmp_path):
    clip = make_clip()
    result = stm("frame", clip, "--at", "0.2s", "-o", "f.png")
    assert result.exit_code == 0, result.output
    with Image.open(tmp_path / "f.png") as image:
        assert image.tobytes() == read_frame(clip, 5).rgb.tobytes()
    assert stm("frame", clip, "-o", "first.png").exit_code == 0
    refused = stm("frame", clip, "--at", "1:2", "-o", "g.png")
    assert refused.exit_code == 2
    assert "neither a frame number nor a time" in refused.output


def test_the_first_frame_of_a_folder_needs_no_number(stm, make_folder, tmp_path):
    folder = make_folder(["0998.png", "0999.png"])
    assert stm("frame", folder, "-o", "f.png").exit_code == 0
    with Image.open(tmp_path / "f.png") as image:
        assert image.tobytes() == read_frame(folder, 998).rgb.tobytes()


def test_a_clip_is_segmented_from_a_time_to_a_time(segment, make_clip, make_mask, tmp_path):
    result = segment(make_clip(), "-m", make_mask(), "--start", "0.08s", "--end", "0:00.20", "-e", "none")
    assert result.exit_code == 0, result.output
    masks = sorted(path.name for path in (tmp_path / "stm_out" / "clip" / "masks").iterdir())
    assert masks == [f"{index:05d}.png" for index in range(2, 6)]
