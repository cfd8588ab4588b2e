"""Find out what a report of a fault needs to say about this machine; it is pasted in public, so no environment."""

import locale
import os
import platform
import shutil
import sys
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from stmcli import __version__
from stmcli.files import nearest_existing
from stmcli.machine import processor, usable_cores

Probe = Callable[[], str]
LIBRARIES = ("torch", "torchvision", "av", "numpy", "scipy", "pillow", "safetensors", "typer", "rich")
EXTRAS = ("pycocotools", "ray")
TRIED = (640, 480)  # px, of the pictures that encoders are opened for


def examine() -> dict[str, dict[str, str]]:
    """Return what was found by section and name; what cannot be found out says why."""
    return {section: _answers(list_probes) for section, list_probes in SECTIONS.items()}


def _answers(list_probes: Callable[[], Mapping[str, Probe]]) -> dict[str, str]:
    try:
        probes = list_probes()
    except Exception as error:  # a broken installation is what this is for
        return {"all": _failed(error)}
    return {name: _answer(probe) for name, probe in probes.items()}


def _answer(probe: Probe) -> str:
    try:
        return probe()
    except Exception as error:
        return _failed(error)


def _failed(error: Exception) -> str:
    return " ".join(f"cannot be found out ({type(error).__name__}: {error})".split())


def _versions() -> Mapping[str, Probe]:
    libraries = {name: partial(_version, name) for name in LIBRARIES}
    return {"stm": lambda: __version__, "python": platform.python_version, **libraries, "ffmpeg": _ffmpeg}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _ffmpeg() -> str:
    from stmcli.video import ffmpeg_version

    return ffmpeg_version()


def _extras() -> Mapping[str, Probe]:
    return {name: partial(_version, name) for name in EXTRAS}


# -- the machine -----------------------------------------------------------------------------------------------------


def _machine() -> Mapping[str, Probe]:
    return {
        "system": platform.platform,
        "processor": processor,
        "cores": _cores,
        "memory": lambda: _size(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")),
        "units": _units,
        "cuda": _cuda,
        "precision": _precision,
        "terminal": _terminal,
    }


def _cores() -> str:
    return f"{os.cpu_count()}, {usable_cores()} of them for stm"


def _units() -> str:
    import torch

    from stmcli.device import has_bf16_units, has_int8_units

    units = {"bf16": has_bf16_units(), "int8": has_int8_units(torch.device("cpu"))}
    known = ", ".join(f"{'with' if there else 'without'} {name}" for name, there in units.items())
    return f"{torch.backends.cpu.get_cpu_capability()}, {known}"


def _precision() -> str:
    from stmcli.device import pick_device
    from stmcli.options import NetworkOptions
    from stmcli.weights import pick_precision

    network = NetworkOptions()
    return f"auto takes {pick_precision(network)} on {pick_device(network.device)} for {network.weights}"


def _cuda() -> str:
    import torch

    with warnings.catch_warnings(record=True) as said:  # torch warns of a driver that is too old, say
        warnings.simplefilter("always")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count:
        return "; ".join(_cuda_device(index) for index in range(count))
    if torch.version.cuda is None:
        return f"none: torch {torch.__version__} is made without CUDA"
    reasons = "; ".join(str(warning.message) for warning in said) or "no device or no driver is there"
    return f"none: torch is made for CUDA {torch.version.cuda}; {' '.join(reasons.split())}"


def _cuda_device(index: int) -> str:
    import torch

    facts = torch.cuda.get_device_properties(index)
    return f"cuda:{index} {facts.name}, {_size(facts.total_memory)}, compute {facts.major}.{facts.minor}"


def _terminal() -> str:
    kind = "a terminal" if sys.stdout.isatty() else "not a terminal"
    return f"{kind}, {sys.stdout.encoding}; locale {locale.getpreferredencoding(False)}"


# -- what stm works with ---------------------------------------------------------------------------------------------


def _encoders() -> Mapping[str, Probe]:
    from stmcli.video import ALPHA_CODECS, H264, H264_NVENC, Codec, opens

    def answer(codec: Codec) -> str:
        return _opening(opens(codec, TRIED))

    return {codec.encoder: partial(answer, codec) for codec in (H264, H264_NVENC, *ALPHA_CODECS.values())}


def _decoders() -> Mapping[str, Probe]:
    from stmcli.video import nvdec_opens

    return {"nvdec": lambda: _opening(nvdec_opens())}


def _opening(opens: bool) -> str:
    return "opens" if opens else "does not open"


def _weights() -> Mapping[str, Probe]:
    from stmcli.registry import Entry, registered, verify

    def answer(entry: Entry) -> str:
        verify(entry)
        return f"ok, sha256 {entry.sha256}"

    return {name: partial(answer, entry) for name, entry in registered().items()}


def _disk() -> Mapping[str, Probe]:
    return {"working folder": lambda: _free(Path.cwd()), "weights cache": _free_in_cache}


def _free_in_cache() -> str:
    from stmcli.registry import cache_folder

    return _free(cache_folder())


def _free(folder: Path) -> str:
    there = nearest_existing(folder)
    writable = "" if os.access(there, os.W_OK | os.X_OK) else ", but may not be written"
    return f"{_size(shutil.disk_usage(there).free)} free{writable}"


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"


SECTIONS = {
    "versions": _versions,
    "extras": _extras,
    "machine": _machine,
    "encoders": _encoders,
    "decoders": _decoders,
    "weights": _weights,
    "disk": _disk,
}
