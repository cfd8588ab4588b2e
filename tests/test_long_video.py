"""Memory does not grow with a clip; `make soak` looks at 20,000 frames."""

from soak.long_video import ALLOWED, EVERY, measure

FRAMES = 321
PER_FRAME = ALLOWED / 20_000  # bytes that a frame may leave behind so that 20,000 of them stay within what is allowed


def test_a_frame_leaves_next_to_nothing_behind():
    found = measure(FRAMES, trace=True, page=False)
    early, late = (look for look in found.looks if look.frame in (2 * EVERY, 5 * EVERY))
    assert (late.python - early.python) / (late.frame - early.frame) < PER_FRAME
    assert late.process - early.process < 5 * ALLOWED  # what is lent by the system comes in large pieces
