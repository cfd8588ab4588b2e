"""Files that appear under their name only when they are complete."""

import os
from contextlib import suppress
from pathlib import Path

from stmcli.errors import WriteError


def write_whole(path: Path, content: bytes) -> None:
    """Write a file under a temporary name in the same folder, then rename it.

    What was there before is untouched until then. Raises WriteError.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_bytes(content)
        os.replace(part, path)
    except OSError as error:
        raise WriteError(
            f"cannot be written ({error.strerror or error})",
            path=path,
            hint="Free space or choose another output folder, then run the same command again",
        ) from error
    finally:
        with suppress(OSError):
            part.unlink()
