"""Every option of a command arrives where it is meant to, and nowhere else."""

from dataclasses import fields, is_dataclass

import pytest
from typer.main import get_command

from stmcli.cli import app
from stmcli.flags import flag_of

STM = get_command(app)
NETWORK = {
    "--weights paper": {"network.weights": "paper"},
    "--device cuda:1": {"network.device": "cuda:1"},
    "--precision bf16": {"network.precision": "bf16"},
    "--size 240": {"network.size": 240},
    "--top-k 7": {"network.top_k": 7},
    "--reach 3": {"network.reach": 3.0},
    "--tta scale,flip": {"network.tta": ("flip", "scale")},
    "--adapt 9": {"network.adapt": 9},
    "--compile": {"network.compile": True},
    "--focus 2.5": {"network.focus": 2.5},
    "--together": {"network.together": True},
    "--anchor 50": {"network.anchor": 50.0},
    "--augment scale": {"network.augment": ("scale",)},
    "--memory-gate 0.4": {"network.gate": 0.4},
    "--mem-renew 2": {"network.renew": 2},
}
MEMORY = {
    "--mem-every 3": {"memory.every": 3},
    "--mem-max 8": {"memory.max_slots": 8},
    "--mem-policy first": {"memory.policy": "first"},
    "--mem-keep useful": {"memory.keep": "useful"},
    "--mem-half": {"memory.half": True},
}
EXPORTS = {
    "--per-object": {"export.per_object": True},
    "--audio none": {"export.audio": "none"},
    "--encoder x264": {"export.encoder": "x264"},
    "--opacity 0.3": {"export.opacity": 0.3},
    "--no-contour": {"export.contour": False},
    "--alpha-codec vp9": {"export.alpha_codec": "vp9"},
    "--alpha-mode premultiplied": {"export.alpha_mode": "premultiplied"},
    "--bits 16": {"export.bits": 16},
    "--background #FF0000": {"export.background": "ff0000"},
    "--no-refine": {"export.refine": False},
    "--category 2=dog": {"export.categories": ((2, "dog"),)},
}
CLIP = {
    "--export davis": {"export.kinds": ("davis",)},
    "--objects 1,3": {"segment.objects": (1, 3)},
    "--first-number 4": {"segment.first_number": 4},
    "--fps 23.976": {"segment.fps": "24000/1001"},
    "--keep-soft": {"segment.keep_soft": True},
    "--soft-bits 16": {"segment.soft_bits": 16},
    "--on-corrupt skip": {"segment.on_corrupt": "skip"},
    "--decoder nvdec": {"segment.decoder": "nvdec"},
    "--direction both": {"segment.direction": "both"},
    "--overwrite": {"segment.overwrite": True},
    "--no-page": {"segment.page": False},
    "--no-resume": {"segment.resume": False},
    "--keep-memory": {"segment.keep_memory": True},
}
WORKERS = {
    "--jobs 3": {"options.jobs": 3},
    "--gpus 0,2": {"options.gpus": (0, 2)},
    "--threads 5": {"options.threads": 5},
    "--engine here": {"options.engine": "here"},
    "--address there:1 --engine ray": {"options.address": "there:1", "options.engine": "ray"},
    "--retries 2": {"options.retries": 2},
    "--fail-fast": {"options.fail_fast": True},
}
TRAINING = {
    "--stills-share 0.2": {"clips.stills_share": 0.2},
    "--without light": {"clips.light": 0.0},
    "--with jpeg": {"clips.jpeg": 0.3},
    "--size resnet50": {"options.size": "resnet50"},
    "--init paper": {"init": "paper"},
    "--resume": {"resume": True},
    "--steps 70": {"options.steps": 70},
    "--time-budget 2h": {"options.time_budget": 7200.0},
    "--batch 3": {"options.batch": 3},
    "--objects 2": {"options.objects": 2},
    "--crop 96": {"clips.crop": 96},
    "--frames 4": {"clips.frames": 4},
    "--frames-end 6": {"clips.frames_end": 6},
    "--skip 12": {"clips.skip": 12},
    "--skip-end 7": {"clips.skip_end": 7},
    "--detach": {"options.detach": True},
    "--lr 0.1": {"options.lr": 0.1},
    "--validate-every 5m": {"options.validate_every": 300.0},
    "--seed 8": {"options.seed": 8},
}
# Of each command: the words that it needs, the function that it calls, and what its options change in the arguments.
COMMANDS = {
    "segment clip.mp4 --mask mask.png": (
        "stmcli.pipeline.segment_video",
        {"--start 2": {"segment.start": 2}, "--end 5": {"segment.end": 5}, **CLIP, **NETWORK, **MEMORY, **EXPORTS},
    ),
    "batch --manifest clips.csv": ("stmcli.batch.run_batch", {**WORKERS, **CLIP, **NETWORK, **MEMORY, **EXPORTS}),
    "export masks --video clip.mp4 --to overlay": (
        "stmcli.export.export_masks",
        {
            "--first-number 4": {"first_number": 4},
            "--fps 25": {"fps": "25"},
            "--on-corrupt skip": {"on_corrupt": "skip"},
            "--overwrite": {"overwrite": True},
            **EXPORTS,
        },
    ),
    "evaluate --run davis": (
        "stmcli.pipeline.segment_dataset",
        {
            "--protocol folder": {"protocol": "folder"},
            "--clip dog --clip cat": {"only": ["dog", "cat"]},
            "--no-refine": {"refine": False},
            "--overwrite": {"overwrite": True},
            **NETWORK,
            **MEMORY,
        },
    ),
    "bench clip.mp4 --mask mask.png": (
        "stmcli.bench.bench_command",
        {
            "--export davis": {"export.kinds": ("davis",)},
            "--mem-max 8": {"memory.max_slots": 8},
            "--frames 5": {"frames": 5},
            "--rounds 2": {"rounds": 2},
            **NETWORK,
        },
    ),
    "train stills": ("stmcli.train.train", TRAINING),
}
# Options that are for the command itself, or name files.
OTHERS = {
    "segment": "--mask --output --review --threads --dry-run --json --quiet --verbose",
    "batch": "--masks --manifest --output --only-failed --limit --dry-run --json --quiet --verbose",
    "export": "--video --to --output --json --quiet --verbose",
    "evaluate": "--gt --run --output --policies --csv --plot --seen --submission --threads --json --quiet",
    "bench": "--mask --objects --frame-size --against --threads --json --quiet",
    "train": "--output --video --val --preset --profile --device --threads --quiet",
}


class Called(Exception):
    """What a command hands over to the function that does the work."""


def call(first, *_, **named):
    raise Called(first, named)


def flat(name, value):
    """Yield the fields of a dataclass, those of the dataclasses in it too, under their names."""
    if is_dataclass(value):
        for field in fields(value):
            yield from flat(f"{name}.{field.name}".removeprefix("."), getattr(value, field.name))
    elif not callable(value):
        yield name, value


def handed_over(words):
    """Return what the command calls its function with; an error of its own is on stderr."""
    with pytest.raises(Called) as caught:
        STM.main([*words.split(), "--quiet"], standalone_mode=False)
    first, named = caught.value.args
    return dict(pair for part in (("", first), *named.items()) for pair in flat(*part))


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words.split()[0])
def test_every_option_changes_what_it_names_and_nothing_else(monkeypatch, tmp_path, words):
    called, expected = COMMANDS[words]
    monkeypatch.setattr(called, call)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clips.csv").write_text("video,mask\nclip.mp4,mask.png\n")
    usual = handed_over(words)
    for option, change in expected.items():
        now = handed_over(f"{words} {option}")
        assert {name: value for name, value in now.items() if value != usual[name]} == change, option


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words.split()[0])
def test_no_option_is_left_out_here(words):
    name = words.split()[0]
    named = {option.split()[0] for option in COMMANDS[words][1]}
    options = [one for one in STM.get_command(None, name).params if one.param_type_name == "option"]
    assert {one.opts[0] for one in options if not named & {*one.opts, *one.secondary_opts}} == {*OTHERS[name].split()}


@pytest.mark.parametrize("name", [name for name, options in OTHERS.items() if "--threads" in options.split()])
def test_a_network_has_the_threads_that_it_is_given(monkeypatch, tmp_path, name):
    words = next(words for words in COMMANDS if words.split()[0] == name)
    said = list[int]()
    monkeypatch.setattr("torch.set_num_threads", said.append)
    monkeypatch.setattr(COMMANDS[words][0], call)
    monkeypatch.chdir(tmp_path)
    for more in ("", " --threads 3"):
        handed_over(words + more)
    assert said == [3]


def test_a_field_is_called_as_the_option_that_changes_it():
    options = {word: one for one in STM.get_command(None, "segment").params for word in one.opts + one.secondary_opts}
    for option, change in (CLIP | NETWORK | MEMORY | EXPORTS).items():
        for name in change:
            assert options[flag_of(*name.split("."))] is options[option.split()[0]]
