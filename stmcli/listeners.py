"""Who hears how a job goes on: jobs print nothing, they call."""


def unheard(*_: object) -> None:
    """Listen to nothing."""
