"""Every default of stm, in frozen dataclasses: the CLI, the Python API and the tests read them from here."""

from dataclasses import dataclass, fields

MEMORY_KEEPS = ("recent", "useful")
MEMORY_POLICIES = ("first+previous+every", "first+previous", "first", "previous")
TTA = AUGMENT = ("flip", "scale")
PRECISIONS = ("auto", "int8", "fp32", "bf16", "fp16")
OUTPUT = "stm_out"  # the folder that results go to
FPS = "24"  # of an image sequence, which says nothing about time
SOFT_FILMS = ("alpha", "matte", "green")
SOFT_STILLS = ("mattes", "cutout")  # folders of an image for each frame
SOFT_EXPORTS = (*SOFT_FILMS, *SOFT_STILLS)  # made of soft alpha
DATASETS = ("davis", "ytvis", "coco", "mots")
EXPORTS = ("overlay", *SOFT_EXPORTS, *DATASETS, "none")
ALPHA_CODECS = ("prores4444", "png", "qtrle", "ffv1", "vp9")
ALPHA_MODES = ("straight", "premultiplied")
BITS = (8, 16)
PROTOCOLS = ("davis2016", "davis2017", "folder", "ytvos")
ON_CORRUPT = ("fail", "stop", "skip")
AUDIO = ("copy", "none")
ENCODERS = ("auto", "x264", "nvenc")
DECODERS = ("software", "nvdec")
DOUBTFUL = 0.5  # confidence below which a mask may well be wrong: J under 0.5
DIRECTIONS = ("forward", "backward", "both")
ENGINES = ("processes", "here", "ray")
GROUPS = ("segment", "network", "memory", "export")  # of the options of a job


@dataclass(frozen=True)
class MemoryOptions:
    """Which past frames stay in memory."""

    every: int = 5  # keep each N-th frame; 0 keeps only the first and the previous
    max_slots: int = 20  # hard bound on memory slots, first and previous included
    policy: str = "first+previous+every"
    keep: str = "recent"  # which kept frames stay when the slots are full: the latest, or the most read
    half: bool = False  # store keys and values in bf16, whatever the network computes in

    @property
    def has_first(self) -> bool:
        """Whether given frames are read."""
        return "first" in self.policy.split("+")

    @property
    def has_previous(self) -> bool:
        """Whether the frame before is read."""
        return "previous" in self.policy.split("+")

    @property
    def has_every(self) -> bool:
        """Whether each N-th frame is kept."""
        return "every" in self.policy.split("+")


@dataclass(frozen=True)
class Fit:
    """How a network looks at frames and reads its memory: as suits its weights, where nobody asks for other values."""

    size: int = 0  # shorter side inside the network, px; 0 = the source's
    top_k: int = 0  # memory cells that a cell reads, the best matching; 0 = all
    reach: float = 0.0  # how far from its own place a cell reads, in cells of 16 px; 0 = anywhere
    focus: float = 0.0  # window in which an object is looked for, in lengths of it; 0 = the whole frame
    anchor: float = 1.0  # how many times as much a given frame counts near a place; 1 = as any other
    augment: tuple[str, ...] = ()  # how else a frame is memorized where objects enter: flip = mirrored, scale = resized
    gate: float = 0.0  # an object of lower confidence in a frame is not remembered, nor shown if of odd size; 0 = it is
    renew: int = 1  # the previous frame is memorized only every so many frames; those between read an older one


FIT = tuple(field.name for field in fields(Fit))
DEFAULT_FIT = Fit(size=480)  # of weights that say nothing else


@dataclass(frozen=True)
class NetworkOptions:
    """Which network runs, where, and how finely."""

    weights: str = "compact"  # a name from `stm weights list` or a file
    device: str = "auto"  # auto, cpu, cuda, cuda:1
    precision: str = "auto"
    size: int | None = None  # this, `top_k`, `reach`, `focus` ...: see `Fit`; None = what suits the weights
    top_k: int | None = None
    reach: float | None = None
    tta: tuple[str, ...] = ()  # views whose mean is taken: flip = mirrored too, scale = at two other sizes too
    adapt: int = 0  # steps of training the decoder on the given frame first
    compile: bool = False  # by torch.compile
    focus: float | None = None
    together: bool = False  # one window for all objects, not one for each
    anchor: float | None = None
    augment: tuple[str, ...] | None = None
    gate: float | None = None
    renew: int | None = None


@dataclass(frozen=True)
class MattingOptions:
    """How alpha is refined. Lengths are shares of the frame's shorter side, but for that of gaps."""

    refine: bool = True  # off: the network's own probabilities, and the source's colours
    radius: float = 0.03  # window in which the colours inside and outside are compared
    band: float = 0.0105  # how far from the contour colours may overrule the network
    noise: float = 0.01  # of the frame, standard deviation, 0..1
    prior: float = 2.0  # weight of the network against the colours
    closing: float = 0.1  # half the width of gaps of a mask that are closed, as a share of its sides
    least: float = 0.2  # probability of what is taken for the object there
    colours: float = 0.015  # window in which foreground colours are averaged


@dataclass(frozen=True)
class ExportOptions:
    """What is made of masks and soft alpha, and how it looks."""

    kinds: tuple[str, ...] = ("overlay",)
    per_object: bool = False  # what is made of soft alpha once for each object, not all objects together
    audio: str = "copy"
    encoder: str = "auto"  # of H.264 films; auto = NVENC beside a network on CUDA, where it opens, else x264
    opacity: float = 0.5  # of the overlay's colour inside an object
    contour: bool = True
    alpha_codec: str = "prores4444"
    alpha_mode: str = "straight"
    bits: int = 8  # of the channels of mattes and cutouts
    background: str = "00ff00"  # behind the objects of green, RRGGBB
    refine: bool = True  # fit masks and alpha to the picture's edges, and take the background out of alpha's colours
    categories: tuple[tuple[int, str], ...] = ()  # names of objects in dataset files, by id


@dataclass(frozen=True)
class SegmentOptions:
    """One clip: what to follow, and what to keep for later exports."""

    objects: tuple[int, ...] = ()  # ids to follow; none = all in the mask
    first_number: int | None = None  # of the source's first frame; None = its own
    start: int | None = None  # frame numbers, counted as said above; end is inclusive
    end: int | None = None
    keep_soft: bool = False  # store the network's probabilities; implied by exports that are made of them
    soft_bits: int = 8  # of the stored probabilities
    on_corrupt: str = "fail"
    decoder: str = "software"  # of videos, on the way forward; nvdec falls back with a note
    overwrite: bool = False
    page: bool = True  # write report.html, to look the result through
    resume: bool = True  # take the finished result of the same job as done
    keep_memory: bool = False  # so that a later correction computes only the frames that it changes
    direction: str = "forward"  # backward: from the last mask; both: from the masks on either side
    fps: str = FPS  # frames a second of an image sequence, a fraction
    corrections: bool = True  # later masks correct known objects; off: they only bring new ones


@dataclass(frozen=True)
class BatchOptions:
    """Who does the clips of a batch, and what happens when one fails."""

    engine: str = "processes"
    jobs: int | None = None  # clips at a time; None = as many as this machine's cores and memory are for, 1 on a GPU
    gpus: tuple[int, ...] = ()  # a process for each, instead of `jobs`
    address: str = ""  # of a Ray cluster; none = one on this machine
    threads: int | None = None  # of each worker's network; None = the cores divided among the workers
    retries: int = 0  # how often a clip that failed is tried again
    fail_fast: bool = False  # begin no other clip once one has failed

    @property
    def workers(self) -> int:
        """Return how many clips are done at a time, 1 where that is not settled."""
        return 1 if self.engine == "here" else len(self.gpus) or self.jobs or 1


@dataclass(frozen=True)
class MaskOptions:
    """What `stm mask` takes for a speck: parts of an object of fewer pixels."""

    tiny: int = 16  # counted by check
    speck: int = 0  # removed by fix; 0 = none


@dataclass(frozen=True)
class BenchOptions:
    """How `stm bench` measures the network alone, or with a clip the whole command."""

    frame: tuple[int, int] = (854, 480)  # width and height of the synthetic frames, px
    frames: int = 10  # of these that are timed in a round
    rounds: int = 3
    clip_frames: int = 60  # of a clip that are timed in a round


@dataclass(frozen=True)
class ClipOptions:
    """How training clips are made: of stills (paper, section 4.1, and what its successors added) and of videos."""

    crop: int = 160  # side of a training frame, px
    frames: int = 3  # of a clip at the start of the run
    frames_end: int | None = None  # at the end of the run; None = as at the start
    stills_share: float = 0.5  # of the steps, when there are stills and videos
    pasted: int = 3  # objects cut from other stills, at most
    whole_image: float = 0.25  # share of clips without pasted objects: the paper's whole-image affine
    kin: float = 0.4  # share of pasted objects that come from the same collection as the tracked one
    union: float = 0.3  # share of clips in which all objects of the picture are tracked as one
    translate: float = 0.22  # motion per frame, in half-crops (standard deviation)
    rotate: float = 0.16  # radians
    zoom: float = 0.12  # log scale
    shear: float = 0.08
    warp: float = 0.05  # largest displacement of the coarse warp grid, in half-crops
    area: tuple[float, float] = (0.02, 0.4)  # of a pasted object, as a share of the crop
    light: float = 0.25  # photometric change of a layer
    flicker: float = 0.06  # photometric change from frame to frame
    blur: float = 0.3  # share of blurred clips
    noise: float = 0.04  # largest standard deviation of the noise
    jpeg: float = 0.0  # share of clips with the blocks of a JPEG
    motion_blur: float = 0.0  # share of clips blurred along a line
    jump: float = 0.0  # share of clips that zoom suddenly between two frames
    occluder: float = 0.0  # share of clips in which something passes over the object, which comes back
    twin: float = 0.0  # share of pasted objects that are copies of another one in the clip
    regions: float = 0.0  # share of pasted objects that are random regions of a still
    skip: int = 25  # frames of a video that are left out between two frames of a clip, at most
    skip_end: int = 5  # that at the end of the run, smaller or larger
    skip_grown: float = 0.5  # share of the run in which it grows from 0


@dataclass(frozen=True)
class TrainOptions:
    """One training run."""

    size: str = "compact"  # a name from model.SIZES
    batch: int = 16  # clips of a step, in each process
    objects: int = 1  # objects tracked per clip, at most
    steps: int = 20_000
    time_budget: float | None = None  # seconds; the schedule follows whichever ends first
    lr: float = 5e-4
    cosine: bool = True  # the learning rate falls to zero; off: it stays
    warmup: int = 300  # steps
    weight_decay: float = 0.05
    beta2: float = 0.99  # of Adam
    clip_norm: float = 1.0
    ema: float = 0.999
    hard: float = 0.5  # share of pixels, the hardest, that count at the end of the run
    read_loss: float = 0.5  # weight of the loss on the memory read
    dice_loss: float = 0.5
    detach: bool = False  # off: gradients flow through the predicted masks that are memorized
    train_norm: bool = True  # off: batch norm keeps its statistics, scales and shifts
    equal_start: bool = True  # both encoders and key heads of a new network start from the same numbers
    validate_every: float = 1200.0  # seconds of training between validations
    validate_size: int = 240  # shorter side inside the network at validation, px
    seed: int = 0


# What `stm train --preset` starts from; section 4 of the paper for the second.
PRESETS = {
    "scratch": (TrainOptions(), ClipOptions()),
    "paper": (
        TrainOptions(
            size="resnet50",
            batch=4,
            lr=1e-5,
            cosine=False,
            warmup=1,
            weight_decay=0.0,
            beta2=0.999,
            clip_norm=float("inf"),
            ema=0.0,
            hard=1.0,
            read_loss=0.0,
            dice_loss=0.0,
            train_norm=False,
            equal_start=False,
            validate_size=480,
        ),
        ClipOptions(
            crop=384,
            pasted=0,
            whole_image=1.0,
            kin=0.0,
            union=0.0,
            warp=0.0,
            light=0.0,
            flicker=0.0,
            blur=0.0,
            noise=0.0,
            skip_end=25,
            skip_grown=1.0,
        ),
    ),
}

# The ingredients of training that `stm train --without NAME` leaves out and `--with NAME` puts in: the values of the
# option of that name (`whole-image` is `whole_image`) without and with it.
INGREDIENTS: dict[str, tuple[float, float]] = {
    "pasted": (0, ClipOptions.pasted),
    "whole-image": (0.0, ClipOptions.whole_image),
    "kin": (0.0, ClipOptions.kin),
    "union": (0.0, ClipOptions.union),
    "translate": (0.0, ClipOptions.translate),
    "rotate": (0.0, ClipOptions.rotate),
    "zoom": (0.0, ClipOptions.zoom),
    "shear": (0.0, ClipOptions.shear),
    "warp": (0.0, ClipOptions.warp),
    "light": (0.0, ClipOptions.light),
    "flicker": (0.0, ClipOptions.flicker),
    "blur": (0.0, ClipOptions.blur),
    "noise": (0.0, ClipOptions.noise),
    "jpeg": (0.0, 0.3),
    "motion-blur": (0.0, 0.2),
    "jump": (0.0, 0.2),
    "occluder": (0.0, 0.25),
    "twin": (0.0, 0.3),
    "regions": (0.0, 0.2),
    "read-loss": (0.0, TrainOptions.read_loss),
    "dice-loss": (0.0, TrainOptions.dice_loss),
    "hard": (1.0, TrainOptions.hard),
    "ema": (0.0, TrainOptions.ema),
    "equal-start": (False, True),
    "train-norm": (False, True),
}
