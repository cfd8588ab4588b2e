"""The processes of a run that `torchrun` started, each with clips of its own; one alone when it did not."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from stmcli.errors import TrainingError

PATIENCE = timedelta(hours=2)  # for a process that validates while the others wait


@dataclass(frozen=True)
class Ranks:
    """Which of how many processes this is."""

    rank: int = 0
    size: int = 1
    local: int = 1  # processes on this machine

    @property
    def leads(self) -> bool:
        """Whether this process writes, validates and reports."""
        return self.rank == 0

    def mean_(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their mean over all processes. Raises TrainingError when another one has ended."""
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([x.reshape(-1) for x in tensors])
        with _translated_errors():
            dist.all_reduce(flat)
        for x, mean in zip(tensors, (flat / self.size).split([x.numel() for x in tensors]), strict=True):
            x.copy_(mean.view(x.shape))

    def first(self, value: float, device: torch.device) -> float:
        """Return the value that the first process has. Raises TrainingError when another one has ended."""
        if self.size == 1:
            return value
        shared = torch.tensor([value], dtype=torch.float64, device=device)
        with _translated_errors():
            dist.broadcast(shared, 0)
        return float(shared)


def leads() -> bool:
    """Tell, before it joins the others, whether this process is the one that reports."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def joined(device: torch.device) -> Iterator[tuple[Ranks, torch.device]]:
    """Join the other processes for as long as the block runs; give the device that is this one's own."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 or "RANK" not in os.environ:
        yield Ranks(), device
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        local = int(os.environ.get("LOCAL_WORLD_SIZE", size))
        yield Ranks(dist.get_rank(), dist.get_world_size(), local), device
    finally:
        dist.destroy_process_group()


@contextmanager
def _translated_errors() -> Iterator[None]:
    """Turn what torch raises when a process is gone into one line."""
    try:
        yield
    except RuntimeError as error:
        cause = f"another process of this run has ended ({str(error).strip().splitlines()[0][:200]})"
        raise TrainingError(cause, hint="See its own error, then go on by --resume") from None
