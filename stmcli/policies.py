"""The paper's Table 5: the same clips segmented with each policy of the memory, and scored."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stmcli.errors import UsageError, counted
from stmcli.evaluate import Scores, evaluate_folder, list_sequences
from stmcli.evaluate.scores import to_csv
from stmcli.evaluate.ytvos import TRAINING_CATEGORIES
from stmcli.listeners import Listener, unheard
from stmcli.options import ExportOptions, MemoryOptions, NetworkOptions
from stmcli.pipeline import segment_dataset
from stmcli.report import read_report
from stmcli.results import REPORT, source_files
from stmcli.weights import load_model

TABLE_5 = ("first", "previous", "first+previous", "first+previous+every")


@dataclass(frozen=True)
class PolicyScores:
    """How one policy scores, and how long it takes: the whole job with decoding and mask files."""

    policy: str
    scores: Scores
    seconds_per_frame: float

    def as_json(self) -> dict[str, Any]:
        """Return what `stm evaluate --json` prints of the scores, and the time."""
        return {**self.scores.as_json(), "seconds_per_frame": self.seconds_per_frame}


def compare_policies(
    root: Path,
    output: Path,
    *,
    truth: Path,
    protocol: str,
    only: Collection[str] = (),
    network: NetworkOptions,
    memory: MemoryOptions,
    refine: bool = ExportOptions.refine,
    overwrite: bool = False,
    seen: frozenset[str] = TRAINING_CATEGORIES,
    listener: Listener = Listener(),
) -> Iterator[PolicyScores]:
    """Segment a dataset with every policy, into `output/<policy>/<clip>`, and yield the scores of each.

    `truth` is the ground truth, which may be the dataset's; `memory` says how often frames are kept and how many. Clips
    that are done already are not done again and keep the time they took. Raises StmError.
    """
    clips = list_sequences(root, protocol, only=only)
    frames = sum(len(source_files(clip.frames)) for clip in clips)
    listener.start(len(TABLE_5) * frames, f"{counted(len(clips), 'clip')}, {len(TABLE_5)} policies")
    model, each = load_model(network), replace(listener, start=unheard)
    for policy in TABLE_5:
        folder = segment_dataset(
            root,
            output / policy,
            protocol=protocol,
            only=only,
            network=network,
            memory=replace(memory, policy=policy),
            refine=refine,
            overwrite=overwrite,
            model=model,
            listener=each,
        )
        scores = evaluate_folder(folder, truth, protocol=protocol, only=only, seen=seen)
        yield PolicyScores(policy, scores, _seconds_per_frame([folder / clip.name for clip in clips]))


def table_as_csv(table: list[PolicyScores]) -> str:
    """Return a line for each policy, fractions from 0 to 1."""
    rows = [(one.policy, one.scores.mean_row(), one.scores.split(), one.seconds_per_frame) for one in table]
    header = ("policy", *rows[0][1], *rows[0][2], "seconds_per_frame")
    return to_csv(header, [(policy, *means.values(), *split.values(), time) for policy, means, split, time in rows])


def _seconds_per_frame(folders: list[Path]) -> float:
    reports = [read_report(folder / REPORT) for folder in folders]
    try:
        return float(sum(one["seconds"] for one in reports) / sum(one["frames_written"] for one in reports))
    except (KeyError, TypeError, ZeroDivisionError):
        cause = "a clip there has no report that says how long it took"
        raise UsageError(cause, path=folders[0].parent, hint="Segment again with -y") from None
