"""stm doctor: what a report of a fault needs to say about this machine."""

import json

from stmcli.cli.app import JsonOption, app, give

_LABEL = 16  # columns


@app.command()
def doctor(as_json: JsonOption = False) -> None:
    """Say what is installed here and what works.

    To paste in a report of a fault.
    """
    from stmcli.doctor import examine

    found = examine()
    if as_json:
        give(json.dumps(found))
        return
    for section, answers in found.items():
        give(f"{section}:")
        for name, answer in answers.items():
            give(f"  {name:<{_LABEL}}{answer}")
