"""Turn predictions into the files that annotation tools and training code read."""

from stmcli.datasets.coco import CocoWriter
from stmcli.datasets.davis import DavisWriter
from stmcli.datasets.mots import MotsWriter
from stmcli.datasets.writer import DatasetWriter
from stmcli.datasets.ytvis import YtvisWriter

__all__ = ["FORMATS", "CocoWriter", "DatasetWriter", "DavisWriter", "MotsWriter", "YtvisWriter"]

FORMATS: dict[str, type[DatasetWriter]] = {
    "davis": DavisWriter,
    "ytvis": YtvisWriter,
    "coco": CocoWriter,
    "mots": MotsWriter,
}
