"""Where people are told things. Import it where something is said: rich takes longer to import than help to show."""

from rich.console import Console

messages = Console(stderr=True, highlight=False, soft_wrap=True)
results = Console(highlight=False, soft_wrap=True)
