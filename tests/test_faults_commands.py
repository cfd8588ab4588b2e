"""The rows of the list of faults for the commands beside `stm segment`: every input and output of theirs, spoilt."""

import os
import pickle
import tarfile

import numpy as np
import pytest
from faults import check_fault
from PIL import Image
from spoilt import bomb, cut
from test_clips import still, write_stills
from test_evaluate import moving, write_clip
from test_faults_clip import FAULTS as CLIP_FAULTS
from test_videos import write_video
from test_weights import Marker

from stmcli.masks import write_labels

# -- a clip, for every command that reads one ---------------------------------------------------------------------

READERS = {
    "frame": lambda s: ("frame", s.clip, "-o", s.folder / "f.png"),
    "export": lambda s: ("export", masks_of(s), "--video", s.clip, "--to", "overlay"),
    "mask check": lambda s: ("mask", "check", s.mask, "--video", s.clip),
    "mask fix": lambda s: ("mask", "fix", s.mask, "--video", s.clip, "-o", s.folder / "fixed.png"),
    "bench": lambda s: ("bench", s.clip, "-m", s.mask),
}
UNREADABLE = ("missing video", "empty folder called mp4", "pipe", "device", "empty", "text", "only sound", "cut mp4")


def masks_of(scene):
    """Return a folder of masks for the three frames of the good clip."""
    folder = scene.folder / "masks"
    if not folder.exists():
        write_clip(folder, np.pad(np.ones((3, 9, 9), np.uint8), ((0, 0), (0, 39), (0, 55))))
    return folder


@pytest.mark.parametrize("command", READERS)
@pytest.mark.parametrize("fault", UNREADABLE)
def test_every_command_names_a_clip_that_it_cannot_read(scene, stm, fault, command):
    masks_of(scene)
    check_fault(scene, CLIP_FAULTS[fault], lambda: stm(*READERS[command](scene)))


# -- the other inputs and the outputs of each command -------------------------------------------------------------


def touch(name, content=b""):
    def spoil(scene):
        path = scene.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    return spoil


def special(kind, name):
    def spoil(scene):
        (scene.folder / name).unlink(missing_ok=True)
        scene.special(kind, name)

    return spoil


def changed(name, change):
    def spoil(scene):
        change(scene.folder / name)

    return spoil


def nothing(_):
    pass


def lost(path):
    path.unlink()


def larger(path):
    write_labels(path, np.ones((50, 90), np.uint8))


def linked_film(scene):
    (scene.folder / "overlay.mp4").hardlink_to(scene.clip)


def runs_code(path):
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(pickle.dumps(Marker(path.with_name("ran")), protocol=2))


def holds_run(scene):
    for name in ("best.safetensors", "last.pt"):
        touch(f"run/{name}", b"precious")(scene)


def postscript(path):
    Image.new("RGB", (80, 64)).save(path, "EPS")


def empty_tar(scene):
    tarfile.open(scene.folder / "stills.tar", "w").close()


TOO_LONG = 256 * "x"
EXPORT = ("export", "masks", "--video", "clip.mp4", "--to", "overlay")
QUIET = (*EXPORT, "-q")
FIRST = "masks/00000.png"
EXPORT_FAULTS = {
    "no masks": (nothing, ("export", "mosks", *EXPORT[2:]), 2, r"mosks: no such folder.*Did you mean masks\?"),
    "masks are a file": (nothing, ("export", "mask.png", *EXPORT[2:]), 2, r"mask\.png: .*folder"),
    "empty mask": (touch(FIRST), EXPORT, 2, r"00000\.png: empty file"),
    "cut mask": (changed(FIRST, lambda p: cut(p, 0.8)), EXPORT, 2, r"00000\.png: "),
    "bomb": (changed(FIRST, bomb), EXPORT, 2, r"00000\.png: absurd dimensions"),
    "pipe as mask": (special("pipe", FIRST), EXPORT, 2, r"00000\.png: not a regular file"),
    "mask of another size": (
        changed(FIRST, larger),
        EXPORT,
        2,
        r"00000\.png: the mask is 90x50 but clip\.mp4 is 64x48",
    ),
    "gap in the masks": (changed("masks/00001.png", lost), EXPORT, 2, r"masks: no mask of frame 1"),
    "mask without a frame": (touch("masks/00003.png"), EXPORT, 2, r"00003\.png: empty|has no frame 3"),
    "unknown kind": (nothing, (*EXPORT[:-1], "gif"), 2, r"--to gif: unknown"),
    "output is a file": (nothing, (*EXPORT, "-o", "mask.png"), 2, r"mask\.png: is a file, not a folder"),
    "output has too long a name": (nothing, (*QUIET, "-o", TOO_LONG), 2, "no folder can have this name"),
    "output has no place": (nothing, (*QUIET, "-o", "/proc/out"), 2, r"/proc/out: cannot be written"),
    "output is there": (touch("overlay.mp4", b"precious"), EXPORT, 2, r"overlay\.mp4: exists already.*-y"),
    "output is the clip": (linked_film, (*EXPORT, "-y"), 2, r"overlay\.mp4: is an input"),
}

EVALUATE = ("evaluate", "predicted", "--gt", "truth")
CAT = "truth/cat/00002.png"
LIST = "truth/ImageSets/2017/val.txt"
DAVIS17 = ("--protocol", "davis2017")
EVALUATE_FAULTS = {
    "no predictions": (nothing, ("evaluate", "gone", *EVALUATE[2:]), 2, r"gone: no such folder"),
    "no ground truth": (nothing, (*EVALUATE[:3], "trith"), 2, r"trith: no such folder.*Did you mean truth\?"),
    "ground truth is a file": (nothing, (*EVALUATE[:3], "clip.mp4"), 2, r"clip\.mp4: not a folder"),
    "empty mask": (touch(CAT), EVALUATE, 2, r"00002\.png: empty file"),
    "cut mask": (changed(CAT, lambda p: cut(p, 0.8)), EVALUATE, 2, r"00002\.png: "),
    "cut prediction": (changed("predicted/cat/00002.png", lambda p: cut(p, 0.8)), EVALUATE, 2, r"predicted/cat/00002"),
    "bomb": (changed(CAT, bomb), EVALUATE, 2, r"00002\.png: absurd dimensions"),
    "pipe": (special("pipe", CAT), EVALUATE, 2, r"00002\.png: not a regular file"),
    "another size": (
        changed("predicted/cat/00002.png", larger),
        EVALUATE,
        2,
        r"predicted/cat/00002\.png: .* 90x50 but",
    ),
    "clip missing": (
        changed("predicted/cat", lambda p: p.rename(p.with_name("kat"))),
        EVALUATE,
        2,
        "no masks for clip",
    ),
    "frame missing": (changed("predicted/cat/00002.png", lost), EVALUATE, 2, r"cat: no mask for frame 00002"),
    "gap in the truth": (changed(CAT, lost), (*EVALUATE, *DAVIS17), 2, r"cat: no ground truth for frame 00002"),
    "list leads outside": (touch(LIST, b"../cat\n"), (*EVALUATE, *DAVIS17), 2, r"val\.txt: '\.\./cat' is not the name"),
    "list is absolute": (touch(LIST, b"/etc\n"), (*EVALUATE, *DAVIS17), 2, r"val\.txt: '/etc' is not the name"),
    "no truth": (nothing, EVALUATE[:2], 2, r"--gt: missing\. Give PRED and --gt"),
    "masks and a run": (nothing, (*EVALUATE[:2], "--run", "truth"), 2, r"--run: makes masks.*Leave out one"),
    "unknown protocol": (nothing, (*EVALUATE, "--protocol", "best"), 2, r"--protocol best: unknown"),
    "csv is there": (touch("a.csv", b"precious"), (*EVALUATE, "--csv", "a.csv"), 2, r"a\.csv: exists already.*-y"),
    "csv without a folder": (nothing, (*EVALUATE, "--csv", "no/a.csv"), 2, r"no: no such folder"),
    "csv without a place": (nothing, (*EVALUATE, "--csv", "/proc/a.csv"), 1, r"/proc/a\.csv: cannot be written"),
    "plot without a place": (nothing, (*EVALUATE, "--plot", "/proc/x"), 1, r"/proc/x: cannot be written"),
    "masks have too long a name": (
        nothing,
        ("evaluate", TOO_LONG, *EVALUATE[2:]),
        2,
        r"xx\.{3}: too long",
    ),
    "ground truth has too long a name": (nothing, (*EVALUATE[:3], TOO_LONG), 2, r"xx\.{3}: too long"),
    "plot has too long a name": (nothing, (*EVALUATE, "--plot", TOO_LONG), 2, r"xx\.{3}: too long"),
    "plot is a file": (nothing, (*EVALUATE, "--plot", "clip.mp4"), 2, r"clip\.mp4: is neither a folder nor a PNG"),
}

TRAIN = ("train", "stills", "-o", "run", "--steps", "1", "--batch", "1", "--crop", "32", "--device", "cpu", "-q")
OTHER = ("train", "stills.tar", *TRAIN[2:])
VIDEOS = ("train", "--video", "videos", *TRAIN[2:])
RED, SHOT = "stills/images/red.png", "videos/JPEGImages/480p/car/00002.png"
TRAIN_FAULTS = {
    "no stills": (nothing, ("train", "stulls", *TRAIN[2:]), 2, r"stulls: no such file.*Did you mean stills\?"),
    "stills are text": (touch("stills.tar", b"words"), OTHER, 1, r"stills\.tar: not a tar"),
    "stills are empty": (touch("stills.tar"), OTHER, 1, r"stills\.tar: (empty file|not a tar)"),
    "tar without stills": (empty_tar, OTHER, 1, r"stills\.tar: no stills with objects"),
    "pipe as stills": (special("pipe", "stills.tar"), OTHER, 2, r"stills\.tar: not a regular file"),
    "device as stills": (nothing, ("train", "/dev/zero", *TRAIN[2:]), 2, r"/dev/zero: not a regular file"),
    "cut image": (changed(RED, lambda p: cut(p, 0.8)), TRAIN, 1, r"stills: red cannot be read"),
    "image is a bomb": (changed(RED, bomb), TRAIN, 1, r"stills: red cannot be read"),
    "image is a program for a printer": (changed(RED, postscript), TRAIN, 1, r"stills: red cannot be read"),
    "no videos": (
        nothing,
        ("train", "--video", "vudeos", *TRAIN[2:]),
        2,
        r"vudeos: no such file.*Did you mean videos\?",
    ),
    "pipe as videos": (
        special("pipe", "stills.tar"),
        ("train", "--video", "stills.tar", *TRAIN[2:]),
        2,
        r"stills\.tar: not a regular file",
    ),
    "no validation": (nothing, (*TRAIN, "--val", "gone"), 2, r"gone: no such folder"),
    "output is a file": (
        nothing,
        ("train", "stills", "-o", "clip.mp4", *TRAIN[4:]),
        2,
        r"clip\.mp4: is a file, not a folder",
    ),
    "output has no place": (nothing, ("train", "stills", "-o", "/proc/run", *TRAIN[4:]), 2, r"/proc/run: cannot be wr"),
    "output has too long a name": (
        nothing,
        ("train", "stills", "-o", TOO_LONG, *TRAIN[4:]),
        2,
        "no folder can have this name",
    ),
    "output holds a run": (holds_run, TRAIN, 2, r"run: holds a run already.*--resume"),
    "no run to go on with": (nothing, (*TRAIN, "--resume"), 2, r"last\.pt: no run to go on with"),
    "run is damaged": (touch("run/last.pt", b"PK\3\4" + bytes(99)), (*TRAIN, "--resume"), 1, r"last\.pt: damaged"),
    "run is empty": (touch("run/last.pt"), (*TRAIN, "--resume"), 1, r"last\.pt: damaged"),
    "run runs code": (
        changed("run/last.pt", runs_code),
        (*TRAIN, "--resume"),
        1,
        r"last\.pt: refused, .*could run code",
    ),
}


BATCH = ("batch", "clips", "--masks", "masks.d", "-o", "done", "--device", "cpu", "-q")
MANIFEST = ("batch", "--manifest", "jobs.csv", *BATCH[4:])
HEAD = b"video,mask,output\nclip.mp4,mask.png,"
BATCH_FAULTS = {
    "no clips": (nothing, ("batch", "clops", *BATCH[2:]), 2, r"clops: no such file.*Did you mean clips\?"),
    "no masks": (nothing, (*BATCH[:3], "gone", *BATCH[4:]), 2, r"gone: no such folder"),
    "empty folder": (special("folder", "empty"), ("batch", "empty", *BATCH[2:]), 2, r"empty: no clips|no clips in"),
    "no manifest": (nothing, MANIFEST, 2, r"jobs\.csv: (no such file|cannot be read \(No such file)"),
    "empty manifest": (touch("jobs.csv"), MANIFEST, 2, r"jobs\.csv: no column video"),
    "manifest without clips": (touch("jobs.csv", b"video,mask,output\n"), MANIFEST, 2, r"jobs\.csv: no clips"),
    "manifest is no text": (touch("jobs.csv", b"\xff\xfe\0"), MANIFEST, 2, r"jobs\.csv: not text in UTF-8"),
    "pipe as manifest": (special("pipe", "jobs.csv"), MANIFEST, 2, r"jobs\.csv: not a regular file"),
    "device as manifest": (nothing, ("batch", "--manifest", "/dev/zero", *BATCH[4:]), 2, r"zero: not a regular file"),
    "output leads outside": (touch("jobs.csv", HEAD + b"../x\n"), MANIFEST, 2, r"jobs\.csv: line 2: .*outside the out"),
    "output is absolute": (touch("jobs.csv", HEAD + b"/tmp/x\n"), MANIFEST, 2, r"jobs\.csv: line 2: .*outside the out"),
    "output leads outside by windows": (
        touch("jobs.csv", HEAD + b"..\\x\n"),
        MANIFEST,
        2,
        r"line 2: .*outside the out",
    ),
    "output is a file": (nothing, (*BATCH[:5], "mask.png", *BATCH[6:]), 2, r"mask\.png: .*(not a|Not a|File exists)"),
    "output has no place": (nothing, (*BATCH[:5], "/proc/x", *BATCH[6:]), 2, r"/proc/x: cannot be written"),
}

OTHER_FAULTS = {
    "frame without a folder": (nothing, ("frame", "clip.mp4", "-o", "no/f.png"), 2, r"no: no such folder"),
    "frame is there": (touch("f.png", b"precious"), ("frame", "clip.mp4", "-o", "f.png"), 2, r"f\.png: exists already"),
    "frame has no place": (nothing, ("frame", "clip.mp4", "-o", "/proc/f.png"), 1, r"/proc/f\.png: cannot be written"),
    "frame beyond the end": (nothing, ("frame", "clip.mp4", "--at", "9"), 2, r"clip\.mp4: has no frame 9"),
    "weights without a name": (nothing, ("weights", "path", "nano"), 2, r"nano: no such weights.*compact"),
    "weights not registered": (nothing, ("weights", "verify", "nano"), 2, r"nano: no such weights.*compact"),
    "import by no name": (nothing, ("weights", "import", "clip.mp4", "--name", "../x"), 2, r"not a name for weights"),
    "report of nothing": (special("folder", "out"), ("report", "out"), 2, r"out: .*no (result|report)|report\.json"),
    "report of a missing folder": (nothing, ("report", "gone"), 2, r"gone"),
    "review of nothing": (special("folder", "out"), ("review", "out", "--no-browser"), 2, r"out: |report\.json"),
    "pipe to check": (special("pipe", "p.png"), ("mask", "check", "p.png"), 2, r"p\.png: not a regular file"),
    "fix writes over its input": (
        nothing,
        ("mask", "fix", "mask.png", "-o", "mask.png", "-y"),
        2,
        r"mask\.png: is an in",
    ),
}

ROWS = {
    f"{command}: {fault}": row
    for command, rows in (
        *(("export", EXPORT_FAULTS), ("evaluate", EVALUATE_FAULTS), ("train", TRAIN_FAULTS)),
        *(("batch", BATCH_FAULTS), ("others", OTHER_FAULTS)),
    )
    for fault, row in rows.items()
}


def furnish(scene, command):
    """Put what a command takes, whole, into the scene."""
    if command == "export":
        masks_of(scene)
    elif command == "evaluate":
        for name in ("cat", "dog"):
            write_clip(scene.folder / "truth" / name, moving(1, 3, step=2))
            write_clip(scene.folder / "predicted" / name, moving(1, 3, step=1))
    elif command == "train":
        write_stills(scene.folder / "stills", {"red": still()})
        write_video(scene.folder / "videos", numbers=range(3))
    elif command == "batch":
        (scene.folder / "clips").mkdir()
        (scene.folder / "masks.d").mkdir()
        os.link(scene.clip, scene.folder / "clips" / "clip.mp4")
        os.link(scene.mask, scene.folder / "masks.d" / "clip.png")


@pytest.mark.parametrize("name", ROWS)
def test_a_fault_of_a_command_is_one_line_and_leaves_everything_as_it_was(scene, stm, name):
    spoil, words, code, message = ROWS[name]
    furnish(scene, name.partition(":")[0])
    check_fault(scene, (spoil, code, message), lambda: stm(*words))
    assert not list(scene.folder.rglob("ran"))
