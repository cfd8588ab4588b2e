"""The lists in which datasets name their clips."""

from pathlib import PurePosixPath


def read_list(content: bytes) -> list[str]:
    """Return the clips of a list, each once; lines name a clip, or its images as in DAVIS-2016."""
    words = [line.split()[0] for line in content.decode(errors="replace").splitlines() if line.split()]
    return [*dict.fromkeys(PurePosixPath(word).parent.name if "/" in word else word for word in words)]
