"""What the writers of all dataset formats have in common: order, numbers, one name at the end."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar

from stmcli.datasets.categories import Categories
from stmcli.datasets.pictures import Pictures
from stmcli.errors import UsageError, WriteError
from stmcli.files import part_of, writing
from stmcli.masks import VOID, Labels, object_ids
from stmcli.outputs import Prediction
from stmcli.video import Frame, SourceInfo

NO_NAMES: Mapping[int, str] = MappingProxyType({})


class DatasetWriter(ABC):
    """Take the predictions of one clip in the order of its frames; `path` is there when close() returns.

    `info` describes the source, `frame_name` gives the stem of the file for a frame number, and `categories`
    names what an object is by its id: an object without a name is an `object`. Void is never an object.
    Opening raises UsageError for what would fail later, every other method WriteError.
    """

    file: ClassVar[str]  # the usual name of `path`
    largest_id: ClassVar[int] = 65535

    def __init__(
        self,
        path: Path,
        info: SourceInfo,
        frame_name: Callable[[int], str],
        *,
        categories: Mapping[int, str] = NO_NAMES,
    ) -> None:
        self.path = path
        self.notes: list[str] = []
        self.facts: dict[str, int] = {}  # what the finished output holds
        self._info, self._frame_name = info, frame_name
        self._categories = Categories(categories)
        self._pictures = Pictures(info)
        self._part = part_of(path)
        self._count = 0
        self._ended = False
        self._check_path()
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._begin()

    @classmethod
    def check_ids(cls, path: Path, ids: Iterable[int]) -> None:
        """Raise UsageError for an object id that the format has no room for."""
        unfit = [number for number in ids if not 0 < number <= cls.largest_id or number == VOID]
        if unfit:
            cause = f"object {unfit[0]} does not fit: the ids of this format end at {cls.largest_id}"
            raise UsageError(cause, path=path, hint="Give the objects smaller ids, or leave this export out.")

    def write(self, frame: Frame, prediction: Prediction) -> None:
        """Append one frame."""
        labels = prediction.labels()  # (H, W)
        ids = object_ids(labels)
        self.check_ids(self.path, ids)
        with writing(self.path):
            self._add(frame, labels, ids)
        self._count += 1

    def keep(self, frame: Frame, prediction: Prediction) -> None:
        """Append a frame that an earlier run has done: no part of an unfinished output is left."""
        self.write(frame, prediction)

    def close(self) -> None:
        """Finish what was written and give it its name."""
        if self._ended:
            return
        try:
            if not self._count:
                raise WriteError("0 frames were given to it", path=self.path)
            with writing(self.path):
                self._finish()
            self.facts = {"frames": self._count}
        finally:
            self.abort()

    def abort(self) -> None:
        """Remove what is unfinished; what was there before stays."""
        if not self._ended:
            self._ended = True
            self._discard()

    def _check_path(self) -> None:
        if self.path.is_dir():
            raise UsageError("is a folder", path=self.path, hint="Choose another --output.")

    @abstractmethod
    def _begin(self) -> None: ...

    @abstractmethod
    def _add(self, frame: Frame, labels: Labels, ids: tuple[int, ...]) -> None: ...

    @abstractmethod
    def _finish(self) -> None: ...

    @abstractmethod
    def _discard(self) -> None: ...
