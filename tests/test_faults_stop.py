"""The rows of the list of faults about a run that is stopped, or meets another: it says how to go on, and does."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import hear_interrupts
from stopped import listens

from stmcli import results
from stmcli.__main__ import main
from stmcli.errors import Interrupted, Terminated, WeightsError, WriteError
from stmcli.segmenter import Segmenter
from stmcli.signals import listen, stop_behind

STOPPED = r"error: (\S+: stopped after \d+ frames\. Run the same command again to go on\.|interrupted)"


@pytest.mark.parametrize(
    ("seed", "trials"), [(142, 3), *(pytest.param(seed, 40, marks=pytest.mark.long) for seed in range(2, 6))]
)
def test_a_run_stopped_at_any_moment_goes_on_to_the_same_result(scene, tiny_weights, seed, trials):
    """The short form stops in the middle of the run; the long one, at any moment, also before it has begun."""
    script = Path(__file__).with_name("stopped.py")
    clip = scene.make_clip("long.mp4", frames=55)
    words = ["segment", clip, "-m", scene.mask, "-w", tiny_weights, "--device", "cpu", "--no-page"]
    command = [sys.executable, script, seed, trials, scene.folder, *words]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    whole, *ended = json.loads(done.stdout)
    assert whole["code"] == 0, whole
    assert len(ended) == trials
    for one in ended:
        wanted = 143 if one["signals"] == ["SIGTERM"] else 130
        assert one["code"] in (wanted, 0), one  # 0: it was done before the signal came
        assert "Traceback" not in one["said"], one
        once = len(one["signals"]) == 1  # twice means now: not a word, and nothing is put away
        if once and not one["said"]:  # the words of the command were still being read: nothing has begun
            assert not one["files"], one
        elif once and one["code"]:
            assert re.fullmatch(STOPPED, one["said"].splitlines()[-1]), one
            assert not [name for name in one["files"] if ".part" in name or name == ".lock"], one
        assert (one["again"], one["same"]) == (0, True), one
    assert any(one["code"] for one in ended)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_stopped_while_it_is_still_being_loaded_says_so(number, code):
    command = [sys.executable, "-m", "stmcli", "doctor"]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes, preexec_fn=hear_interrupts) as process:
        while not listens(process.pid):
            time.sleep(0.001)
        process.send_signal(number)
        assert (process.communicate()[1], process.returncode) == ("error: interrupted\n", code)


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt, 130), (Terminated, 143)])
@pytest.mark.parametrize(
    "where",
    ["signal.signal", "stmcli.cli.set_up_warnings", "typer.main.get_command", "typer.core.TyperGroup.make_context"],
)
def test_a_run_stopped_before_its_command_has_begun_says_so(where, error, code, monkeypatch, capsys):
    def stop(*_, **__):
        raise error

    monkeypatch.setattr("signal.signal", lambda *_: None)  # those of the tests stay
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    monkeypatch.setattr("gc.freeze", lambda: None)
    monkeypatch.setattr("sys.argv", ["stm", "doctor"])
    monkeypatch.setattr(where, stop)
    with pytest.raises(SystemExit) as ended:
        main()
    assert (capsys.readouterr().err, ended.value.code) == ("error: interrupted\n", code)


@pytest.fixture
def stopped_while_weights_are_read(monkeypatch):
    """Return a function that has a signal come while torch looks at a tensor, which then says ValueError."""
    from torch import UntypedStorage

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    get, looks = UntypedStorage.__getitem__, []

    def prepare(number):
        def look(storage, place):
            looks.append(place)
            if len(looks) == 2:  # safetensors cuts out the bytes of a tensor, then torch looks at them
                signal.raise_signal(number)
            return get(storage, place)

        monkeypatch.setattr("stmcli.signals._heard", [])
        monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
        monkeypatch.setattr(UntypedStorage, "__getitem__", look)
        signal.signal(number, signal.default_int_handler)
        listen()

    yield prepare
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("command", ["segment", "batch", "weights"])
def test_a_run_stopped_while_weights_are_read_says_so(
    command, number, code, scene, stm, tiny_weights, stopped_while_weights_are_read, monkeypatch
):
    masks = scene.folder / "masks"
    masks.mkdir()
    shutil.copy(scene.mask, masks / scene.clip.with_suffix(".png").name)
    network = ("-w", tiny_weights, "--device", "cpu", "--precision", "fp32")
    words, said = {
        "segment": ((*scene.job, *network), f"{scene.output}: stopped after 0 frames. Run the same command"),
        "batch": (
            (scene.clip, "--masks", masks, "-o", scene.output, "--engine", "here", *network),
            f"{scene.output}: stopped after 0 of 1 clip. Run the same command",
        ),
        "weights": (("import", tiny_weights, "--name", "mine"), "interrupted"),
    }[command]
    stopped_while_weights_are_read(number)
    done = stm(command, *words)
    assert (done.exit_code, done.stdout) == (code, "")
    assert done.stderr.splitlines()[-1].startswith(f"error: {said}"), done.stderr
    if command != "weights":
        monkeypatch.setattr("stmcli.signals._heard", [])  # as in another process
        assert stm(command, *words).exit_code == 0


@pytest.fixture
def listening(monkeypatch):
    """Hear signals as `stm` does, and leave everything as it was."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.setattr("stmcli.signals._heard", [])
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    hear_interrupts()
    listen()
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


class Dropped:
    """What raises where nothing can be raised: as it is thrown away."""

    def __init__(self, what):
        self.what = what

    def __del__(self):
        self.what()


@pytest.mark.usefixtures("listening")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_that_is_lost_in_a_callback_ends_a_run_all_the_same(scene, segment, monkeypatch, number, code):
    step, steps = Segmenter.step, []

    def stepping(self, *words, **more):
        steps.append(self)
        if len(steps) == 3:
            Dropped(lambda: signal.raise_signal(number))
        return step(self, *words, **more)

    monkeypatch.setattr(Segmenter, "step", stepping)
    done = segment(*scene.job)
    assert (done.exit_code, len(steps)) == (code, 3)
    assert re.fullmatch(STOPPED, done.stderr.splitlines()[-1]), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.usefixtures("listening")
def test_another_error_that_cannot_be_raised_is_shown(capsys):
    def fail():
        raise ValueError("a fault")

    Dropped(fail)
    assert "ValueError: a fault" in capsys.readouterr().err


@pytest.mark.usefixtures("listening")
def test_a_signal_while_a_folder_is_being_locked_leaves_no_lock_there(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "_is_still", lambda *_: signal.raise_signal(signal.SIGINT) or True)
    with pytest.raises(KeyboardInterrupt), results.lock(tmp_path / "a" / "b"):
        raise AssertionError("it went on")
    assert [*tmp_path.iterdir()] == []


def test_an_error_after_a_signal_is_its_own_where_it_tells_of_a_loss(monkeypatch):
    stop = Terminated()
    monkeypatch.setattr("stmcli.signals._heard", [])
    assert stop_behind(ValueError()) is None
    monkeypatch.setattr("stmcli.signals._heard", [stop])
    assert stop_behind(ValueError()) is stop_behind(WeightsError("damaged")) is stop
    assert stop_behind(WriteError("the disk is full")) is stop_behind(Interrupted("stopped", path="x", by=stop)) is None


def test_the_second_of_two_runs_names_the_first(scene, stm, tiny_weights):
    words = ["segment", scene.make_clip("long.mp4", frames=80), *scene.job[1:], "-w", tiny_weights, "--device", "cpu"]
    command = [sys.executable, "-m", "stmcli", *map(str, words)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as first:
        while not (scene.output / "masks").exists() and first.poll() is None:
            time.sleep(0.02)
        first.send_signal(signal.SIGSTOP)  # it must not end before the second has looked
        second = stm(*words)
        first.send_signal(signal.SIGCONT)
        first.communicate()
    assert (second.exit_code, second.stdout) == (1, "")
    assert second.stderr == f"error: {scene.output}: in use by process {first.pid}. Wait for it, or stop it.\n"
    assert first.returncode == 0
    assert len(list((scene.output / "masks").iterdir())) == 80
