"""Who does the clips of a batch: this process, several processes, or a cluster."""

from stmcli.engines.engine import Engine, open_engine
from stmcli.engines.sharing import settled, share_cores
from stmcli.engines.task import Advanced, Hear, Outcome, Task

__all__ = ["Advanced", "Engine", "Hear", "Outcome", "Task", "open_engine", "settled", "share_cores"]
