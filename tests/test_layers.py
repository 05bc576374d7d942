"""The rooms stand on levels, and imports go down: the layout in README is true."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
LEVELS = (  # top down; a module imports from its own room and from levels below
    {"icm.__main__"},
    {"icm.cli"},
    {"icm.commands", "train.iterate"},  # both are doors to the pipeline
    {"icm.pipeline"},
    {"train", "eval"},
    {"icm.labelling", "icm.exporters", "icm.storage"},
    {"icm.search", "icm.publish"},
    {"icm.results"},
    {"icm.engines", "icm.tasks"},
    {"icm.prompts", "icm.consistency"},
    {"icm.examples"},
    {"icm.models"},
    {"icm.doors", "icm.config", "icm.yaml_files", "icm.http", "icm.markdown"},
    {"icm.files"},
    {"icm.secrets"},
    {"icm.errors", "icm.calibration", "icm.provenance"},
    {"icm.text"},
)
PLACE = {room: number for number, rooms in enumerate(LEVELS) for room in rooms}


def modules() -> dict[str, Path]:
    files = (path for part in ("icm", "train", "eval") for path in (ROOT / part).rglob("*.py"))
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in files}


def imported(path: Path, known: dict[str, Path]) -> set[str]:
    """Our modules that a module imports, inside functions too; `icm/__init__.py` imports for type checkers alone."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{name.name}" for name in node.names}
            found |= names if names <= known.keys() else names | {node.module}
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
    return {name for name in found if name in known and name != "icm"}


def room(module: str) -> str:
    return max((name for name in PLACE if f"{module}.".startswith(f"{name}.")), key=len)


def test_imports_go_down_and_in_no_circle() -> None:
    known = modules()
    graph = {module: imported(path, known) - {module} for module, path in known.items() if module != "icm"}
    upward = [
        f"{module} imports {other}"
        for module, others in graph.items()
        for other in others
        if room(module) != room(other) and PLACE[room(other)] <= PLACE[room(module)]
    ]
    assert not upward
    TopologicalSorter(graph).prepare()  # raises CycleError


def test_the_search_reads_neither_gold_nor_result_files() -> None:
    known = modules()
    for module, path in known.items():
        if module.startswith("icm.search"):
            assert "GoldLabels" not in path.read_text(encoding="utf-8")
            assert "icm.results.format" not in imported(path, known)


def test_rooms_stay_small() -> None:
    folders = {path.parent for path in modules().values()}
    assert len(list((ROOT / "icm").glob("*.py"))) <= 18
    assert [folder for folder in folders if len(list(folder.glob("*.py"))) > 20] == []
    assert [str(path) for path in modules().values() if len(path.read_text().splitlines()) > 400] == []
    functions = (node for path in modules().values() for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    lengths = {f.name: (f.end_lineno or 0) - f.lineno + 1 for f in functions if isinstance(f, ast.FunctionDef)}
    assert {name: length for name, length in lengths.items() if length > 50} == {}
