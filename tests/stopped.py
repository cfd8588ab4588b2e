"""Stop `stm` by signals, again and again, in children of one process that has imported everything already.

`python tests/stopped.py SEED TRIALS FOLDER WORDS...` runs `stm WORDS -o FOLDER/<n>` and prints, as JSON, how each trial
ended: the signals, the exit code, what it said, which files it left, and how the same command ended afterwards.
"""

import hashlib
import json
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

import stmcli.cli.segment
import stmcli.pipeline  # noqa: F401  (the network's library takes seconds to import)
from stmcli.__main__ import main

HOW = ((signal.SIGINT,), (signal.SIGTERM,), (signal.SIGINT, signal.SIGINT))


def start(words, errors):
    """Return the process id of a child that runs `stm`."""
    child = os.fork()
    if child:
        return child
    for number, path in ((1, os.devnull), (2, errors)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.argv = ["stm", *words]
    code = 99
    try:
        main()
    except SystemExit as ended:
        code = int(ended.code or 0)
    except BaseException:
        traceback.print_exc()  # it is to end by itself
    finally:
        os._exit(code)


def listens(child):
    """Tell whether a child has its own way with SIGTERM by now, or has ended."""
    facts = dict(line.split(":", 1) for line in Path(f"/proc/{child}/status").read_text().splitlines())
    return "SigCgt" not in facts or bool(int(facts["SigCgt"], 16) >> (signal.SIGTERM - 1) & 1)


def end(child):
    """Return the exit code of a child, as a shell gives it."""
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code if code >= 0 else 128 - code


def left(output):
    """Return the hash of every file in a folder, but for the report, which has times in it."""
    files = {str(path.relative_to(output)): path for path in sorted(output.rglob("*")) if path.is_file()}
    return {
        name: "" if name == "report.json" else hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in files.items()
    }


def run(words, errors):
    """Return the exit code of `stm` and what it said."""
    code = end(start(words, errors))
    return code, errors.read_text()


def trial(chance, seconds, output, words):
    """Stop a run at any moment, look at what is there, and run the same command again."""
    numbers = chance.choice(HOW)
    errors = output.with_suffix(".txt")
    words = [*words, "-o", str(output)]
    child = start(words, errors)
    while not listens(child):
        time.sleep(0.002)
    time.sleep(chance.uniform(0.02, seconds))
    os.kill(child, numbers[0])
    for number in numbers[1:]:
        time.sleep(chance.uniform(0, 0.05))
        os.kill(child, number)  # of a child that has ended too: it is still waited for
    code, said, files = end(child), errors.read_text(), list(left(output))
    again, said_again = run(words, errors)
    names = [signal.Signals(number).name for number in numbers]
    return {"signals": names, "code": code, "said": said, "files": files, "again": again, "said_again": said_again}


def trials(seed, count, folder, words):
    """Yield how each trial ended; the first is not stopped, and how long it takes is known of a run before it."""
    chance = random.Random(seed)
    run([*words, "-o", str(folder / "cold")], folder / "cold.txt")
    began = time.monotonic()
    code, said = run([*words, "-o", str(folder / "whole")], folder / "whole.txt")
    seconds = time.monotonic() - began
    whole = left(folder / "whole")
    yield {"signals": [], "code": code, "said": said, "files": list(whole), "again": 0, "said_again": "", "same": True}
    for number in range(count):
        output = folder / str(number)
        yield trial(chance, seconds, output, words) | {"same": left(output) == whole}


if __name__ == "__main__":
    print(json.dumps([*trials(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])]))
