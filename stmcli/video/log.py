"""What FFmpeg has to say about a file on its way."""

import av


def silence() -> None:
    """Turn off PyAV's log, which is off by default and turned on by torchvision 0.25 when that is imported.

    A decoder's thread that says something waits for the interpreter's lock then; and who closes the decoder holds that
    lock while it waits for the thread. A run that comes upon it waits for ever.
    """
    av.logging.set_level(None)
