"""Who hears how a job goes on: jobs print nothing, they call."""

from collections.abc import Callable
from dataclasses import dataclass


def unheard(*_: object) -> None:
    """Listen to nothing."""


@dataclass(frozen=True)
class Listener:
    """What to call while a job goes through the frames of a clip."""

    start: Callable[[int | None, str], None] = unheard  # how many frames, None: unknown; the device, or the origin
    frame: Callable[[int], None] = unheard  # the number of every frame that is done
    adapt: Callable[[int, int], None] = unheard  # every step of `--adapt`, and of how many
