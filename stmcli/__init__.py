"""Cut an object out of every frame of a clip, given its mask in the first frame."""

__version__ = "0.1.0"
