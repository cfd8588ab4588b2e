"""Pages to look through a result with: whole files that need no network and nothing beside them."""

from stmcli.page.advice import fix_command, in_shell
from stmcli.page.again import moved, open_clip, remake_page, result_report
from stmcli.page.clip import write_page
from stmcli.page.document import ASSETS
from stmcli.page.overview import write_batch_page
from stmcli.page.pictures import Pictures

__all__ = [
    "ASSETS",
    "Pictures",
    "fix_command",
    "in_shell",
    "moved",
    "open_clip",
    "remake_page",
    "result_report",
    "write_batch_page",
    "write_page",
]
