"""How clips change over a run: their length, and how far apart their frames are in a video."""

from stmcli.options import ClipOptions

SHRINKING = 0.9  # share of the run after which the largest skip goes to what it is at the end


def clip_length(options: ClipOptions, done: float) -> int:
    """Return the frames of a clip when the share `done` of the run is over; every length gets an equal part."""
    last = options.frames if options.frames_end is None else options.frames_end
    steps = abs(last - options.frames)
    passed = min(steps, int(done * (steps + 1)))
    return options.frames + (passed if last > options.frames else -passed)


def largest_skip(options: ClipOptions, done: float) -> int:
    """Return the frames that may be left out between two of a clip: grown from 0, at last less or more."""
    grown = options.skip * min(1.0, done / options.skip_grown) if options.skip_grown else options.skip
    shrinking = min(1.0, max(0.0, (done - SHRINKING) / (1 - SHRINKING)))
    if options.skip_end > options.skip:
        return round(grown + (options.skip_end - grown) * shrinking)
    return round(min(grown, options.skip + (options.skip_end - options.skip) * shrinking))
