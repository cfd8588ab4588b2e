"""Hold the table of layers: a module imports only from lines below its own."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import stmcli

PACKAGE = Path(stmcli.__file__).parent
LAYERS = [
    {"cli"},
    {"policies", "forecast"},
    {"batch", "review", "maskpaint", "doctor"},
    {"painting"},
    {"engines", "manifest"},
    {"pairing"},
    {"pipeline"},
    {"run"},
    {"page"},
    {"export", "train", "bench"},
    {"job"},
    {"earlier"},
    {"evaluate"},
    {"identity", "saved"},
    {"results"},
    {"kinds"},
    {"datasets"},
    {"outputs", "report"},
    {"matting"},
    {"footprint"},
    {"segmenter"},
    {"weights"},
    {"registry", "device", "ranges"},
    {"clips"},
    {"memory"},
    {"transfer", "peak"},
    {"model"},
    {"maskcheck"},
    {"given", "maskfix"},
    {"annotations"},
    {"video"},
    {"masks"},
    {"images", "ghosts"},
    {"render", "diagram"},
    {"metrics"},
    {"options", "flags"},
    {"journal"},
    {"files", "layout", "lines", "threads", "listeners", "machine", "room", "signals"},
    {"errors"},
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
CALLS_PIPELINE = {"bench"}
ONLY_IN = {"av": {"video"}, "rich": {"cli"}, "typer": {"cli"}, "pycocotools": {"annotations"}, "ray": {"engines"}}
MODEL_MAY_USE = {"torch", "torchvision", "stmcli", *sys.stdlib_module_names}
FILES = sorted(PACKAGE.rglob("*.py"))


def owner(path):
    """Return the module or subpackage of stmcli that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path):
    """Return every module that a file names in an import, in full."""
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def own(names):
    """Return the stmcli modules among imported names; `__version__` and the like are none."""
    return {name.split(".")[1] for name in names if name.startswith("stmcli.")} & set(RANK)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_from_lines_below(path):
    name, names = owner(path), imports(path)
    if name not in ("__init__", "__main__"):
        assert name in RANK, f"{name} has no line in the table"
        allowed = {other for other in RANK if RANK[other] > RANK[name]} | {name}
        allowed |= {"pipeline"} if name in CALLS_PIPELINE else set()
        assert own(names) <= allowed
    for library, users in ONLY_IN.items():
        assert name in users or library not in {imported.split(".")[0] for imported in names}


def test_no_module_needs_itself_by_way_of_others():
    modules = {module_of(path): path for path in FILES}
    needs = {module: {known(name, modules) for name in imports(path)} for module, path in modules.items()}
    order = TopologicalSorter({module: names - {module, "stmcli"} for module, names in needs.items()})
    assert {*order.static_order()} >= {*modules} - {"stmcli"}  # CycleError names those that turn in a circle


def module_of(path):
    """Return the name by which a file is imported."""
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


def known(name, modules):
    """Return the module that an imported name is or is in; all others are outside."""
    while name and name not in modules:
        name = name.rpartition(".")[0]
    return name or "stmcli"


@pytest.mark.parametrize("path", [p for p in FILES if owner(p) == "model"], ids=lambda path: path.name)
def test_the_model_needs_torch_and_nothing_else(path):
    assert {imported.split(".")[0] for imported in imports(path)} <= MODEL_MAY_USE
    assert own(imports(path)) <= {"model", "options", "errors"}


@pytest.mark.parametrize(
    "module",
    [
        *("stmcli", "stmcli.options", "stmcli.video", "stmcli.outputs", "stmcli.datasets", "stmcli.page"),
        *("stmcli.review", "stmcli.maskpaint", "stmcli.doctor"),
    ],
)
def test_an_import_does_not_wait_for_torch(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_table_is_checked_against_real_imports():
    assert "errors" in own(imports(PACKAGE / "video" / "reader.py"))
    assert "av" in imports(PACKAGE / "video" / "reader.py")
