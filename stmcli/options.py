"""Every default of stm, in frozen dataclasses: the CLI, the Python API and the tests read them from here."""

from dataclasses import dataclass

MEMORY_POLICIES = ("first+previous+every", "first+previous", "first", "previous")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
SOFT_EXPORTS = ("alpha", "matte", "cutout", "green")  # made of soft alpha
DATASETS = ("davis", "ytvis", "coco", "mots")
EXPORTS = ("overlay", *SOFT_EXPORTS, *DATASETS, "none")
ALPHA_CODECS = ("prores4444", "png", "qtrle", "ffv1", "vp9")
ALPHA_MODES = ("straight", "premultiplied")
BITS = (8, 16)
PROTOCOLS = ("davis2016", "davis2017", "folder", "ytvos")
ON_CORRUPT = ("fail", "stop", "skip")
AUDIO = ("copy", "none")
ENCODERS = ("auto", "x264", "nvenc")
ENGINES = ("processes", "here", "ray")


@dataclass(frozen=True)
class MemoryOptions:
    """Which past frames stay in memory."""

    every: int = 5  # keep each N-th frame; 0 keeps only the first and the previous
    max_slots: int = 20  # hard bound on memory slots, first and previous included
    policy: str = "first+previous+every"


@dataclass(frozen=True)
class NetworkOptions:
    """Which network runs, where, and how finely."""

    weights: str = "compact"  # a name from `stm weights list` or a file
    device: str = "auto"  # auto, cpu, cuda, cuda:1
    precision: str = "auto"
    size: int | None = None  # shorter side inside the network, px; None = what suits the weights, 0 = the source's
    top_k: int | None = None  # memory cells that a cell reads, the best matching; None = as above, 0 = all


@dataclass(frozen=True)
class MattingOptions:
    """How alpha is refined. Lengths are shares of the frame's shorter side."""

    refine: bool = True  # off: the network's own probabilities, and the source's colours
    radius: float = 0.03  # window in which the colours inside and outside are compared
    band: float = 0.0105  # how far from the contour colours may overrule the network
    noise: float = 0.01  # of the frame, standard deviation, 0..1
    prior: float = 2.0  # weight of the network against the colours
    colours: float = 0.015  # window in which foreground colours are averaged


@dataclass(frozen=True)
class ExportOptions:
    """What is made of masks and soft alpha, and how it looks."""

    kinds: tuple[str, ...] = ("overlay",)
    per_object: bool = False  # alpha, matte, cutout and green once for each object, not all objects together
    audio: str = "copy"
    encoder: str = "auto"  # of H.264 films; auto = NVENC beside a network on CUDA, where it opens, else x264
    opacity: float = 0.5  # of the overlay's colour inside an object
    contour: bool = True
    alpha_codec: str = "prores4444"
    alpha_mode: str = "straight"
    bits: int = 8  # of a cutout's channels
    background: str = "00ff00"  # behind the objects of green, RRGGBB
    refine: bool = True  # fit soft alpha to the edges in the picture, and take the background out of its colours
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
    overwrite: bool = False
    resume: bool = True  # take the finished result of the same job as done


@dataclass(frozen=True)
class BatchOptions:
    """Who does the clips of a batch, and what happens when one fails."""

    engine: str = "processes"
    jobs: int = 1  # clips at a time
    gpus: tuple[int, ...] = ()  # a process for each, instead of `jobs`
    address: str = ""  # of a Ray cluster; none = one on this machine
    threads: int | None = None  # of each worker's network; None = the cores divided among the workers
    retries: int = 0  # how often a clip that failed is tried again
    fail_fast: bool = False  # begin no other clip once one has failed

    @property
    def workers(self) -> int:
        """Return how many clips are done at a time."""
        return len(self.gpus) or self.jobs


@dataclass(frozen=True)
class MaskOptions:
    """What `stm mask` takes for a speck: parts of an object of fewer pixels."""

    tiny: int = 16  # counted by check
    speck: int = 0  # removed by fix; 0 = none


@dataclass(frozen=True)
class ClipOptions:
    """How synthetic clips are made from stills (paper, section 4.1, and what its successors added)."""

    crop: int = 160  # side of a training frame, px
    frames: int = 3
    pasted: int = 3  # objects cut from other stills, at most
    whole_image: float = 0.25  # share of clips without pasted objects: the paper's whole-image affine
    kin: float = 0.4  # share of pasted objects that come from the same collection as the tracked one
    union: float = 0.3  # share of stills whose objects are tracked as one
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


@dataclass(frozen=True)
class TrainOptions:
    """One training run."""

    size: str = "compact"  # a name from model.SIZES
    batch: int = 16
    objects: int = 1  # objects tracked per clip
    steps: int = 20_000
    time_budget: float | None = None  # seconds; the schedule follows whichever ends first
    lr: float = 5e-4
    warmup: int = 300  # steps
    weight_decay: float = 0.05
    clip_norm: float = 1.0
    ema: float = 0.999
    hard: float = 0.5  # share of pixels, the hardest, that count at the end of the run
    read_loss: float = 0.5  # weight of the loss on the memory read
    dice_loss: float = 0.5
    validate_every: float = 1200.0  # seconds of training between validations
    validate_size: int = 240  # shorter side inside the network at validation, px
    seed: int = 0
