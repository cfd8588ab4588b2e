"""Where the network computes, and how finely."""

import ctypes
import importlib.util
import os
import platform
import shutil
from functools import cache
from math import inf
from time import perf_counter

import torch

from stmcli.errors import StmError, UsageError
from stmcli.machine import is_intel
from stmcli.model import can_convolve
from stmcli.options import PRECISIONS, NetworkOptions

DTYPES = {"int8": torch.float32, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PRECISION = {dtype: name for name, dtype in DTYPES.items() if name != "int8"}
TRIALS = 24  # of each precision: one of few may be unlucky on a busy machine; the first prepares the convolution
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # of mallopt(3)
FEATURE_MAP = 2**30  # bytes: larger than any that is asked for at once


def pick_device(name: str) -> torch.device:
    """Turn `auto`, `cpu`, `cuda` or `cuda:1` into a device. Raises UsageError, or StmError when it is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"--device {name}: no such device", hint="Use auto, cpu, cuda or cuda:1") from None
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"--device {name}: not supported", hint="Use auto, cpu, cuda or cuda:1")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise StmError(f"--device {name}: there is no such CUDA device here", hint="Use --device auto or cpu")
    return device


def pick_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Turn `auto` into bf16 where the device has units for it, and names into dtypes; beside int8 there is fp32."""
    if precision not in PRECISIONS:
        raise UsageError(f"--precision {precision}: unknown", hint=f"Use one of {', '.join(PRECISIONS)}")
    if precision == "auto":
        on_cuda = device.type == "cuda"
        fast = torch.cuda.is_bf16_supported(False) if on_cuda else has_bf16_units() and bf16_is_faster()
        return torch.bfloat16 if fast else torch.float32
    return DTYPES[precision]


def has_bf16_units() -> bool:
    """Tell whether this CPU multiplies bf16 itself (AMX, AVX512-BF16); torch has no other names for it."""
    return has_amx() or bool(torch.cpu._is_avx512_bf16_supported())


def has_int8_units(device: torch.device) -> bool:
    """Tell whether a device multiplies integers of 8 bits itself and torch has convolutions for them: VNNI on x86."""
    there = torch.backends.mkldnn.is_available() and hasattr(torch.ops.onednn, "qconv_prepack")
    return device.type == "cpu" and there and bool(torch.cpu._is_vnni_supported())


def memory_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Return in what a network of some precision keeps its memory: beside integers bf16 where the CPU multiplies it."""
    return torch.bfloat16 if precision == "int8" and has_bf16_units() else pick_dtype(precision, device)


def has_amx() -> bool:
    """Tell whether this CPU multiplies small matrices of bf16 at once, many times as fast as fp32."""
    return bool(torch.cpu._is_amx_tile_supported())


@cache
def bf16_is_faster() -> bool:
    """Tell whether this CPU convolves faster in bf16 than in fp32: the best of some trials, some ms in all."""
    best = {torch.float32: inf, torch.bfloat16: inf}
    for _ in range(TRIALS):
        for dtype in best:
            x = torch.zeros(1, 64, 48, 48, dtype=dtype).contiguous(memory_format=torch.channels_last)
            weight = torch.zeros(64, 64, 3, 3, dtype=dtype).contiguous(memory_format=torch.channels_last)
            began = perf_counter()
            torch.conv2d(x, weight, padding=1)
            best[dtype] = min(best[dtype], perf_counter() - began)
    return best[torch.bfloat16] < best[torch.float32]


def is_short_of_multiplications(device: torch.device, dtype: torch.dtype) -> bool:
    """Tell whether multiplying less is worth more additions: on x86 in fp32, and in bf16 with AVX512-BF16 but no AMX.

    A rule and not a measurement: results, which differ in rounding, must not hang on a machine's good moments.
    """
    if device.type != "cpu" or platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    slow_bf16 = torch.cpu._is_avx512_bf16_supported() and not has_amx()
    return dtype == torch.float32 or bool(dtype == torch.bfloat16 and slow_bf16)


def has_slow_products(device: torch.device) -> bool:
    """Tell whether torch multiplies matrices in fp32 by the slower one of two libraries, and has the other one too.

    That is MKL, which uses AVX512 on Intel's CPUs alone: on an EPYC it takes twice as long.
    """
    held_back = torch.backends.mkl.is_available() and torch.cpu._is_avx512_supported() and not is_intel()
    return device.type == "cpu" and bool(held_back) and can_convolve()


def waits_for_cores(device: torch.device) -> bool:
    """Tell whether a network there computes on several cores, each step as fast as the slowest of them."""
    return device.type == "cpu" and torch.get_num_threads() > 1


def keep_freed_memory() -> None:
    """Have the C library keep what is freed, where it can: to get pages anew took a tenth of every frame on a CPU.

    Threads get their memory from one place, as only that of the first thread is kept.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):  # glibc
        library.mallopt(M_MMAP_THRESHOLD, FEATURE_MAP)
        library.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        library.mallopt(M_ARENA_MAX, 1)


def check_compiler(options: NetworkOptions) -> None:
    """Raise UsageError when the network is to be compiled and there is nothing here that can."""
    if not options.compile:
        return
    on_cuda = pick_device(options.device).type == "cuda"
    if on_cuda and importlib.util.find_spec("triton") is None:
        raise UsageError("--compile: triton is not installed", hint="Leave it out, or install triton.")
    if not on_cuda and not shutil.which(os.environ.get("CXX", "g++")):
        raise UsageError("--compile: there is no C++ compiler here", hint="Leave it out, or install g++.")
