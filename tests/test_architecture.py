"""The house: imports point one way and go in no circle, and the rooms stay few."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROOMS = ("cli", "pipeline", "rerankers")
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for room in ROOMS
    for path in (ROOT / room).rglob("*.py")
}


def imported(module: str) -> Iterator[str]:
    """Yield the modules of the house that a module imports, wherever in it, but for types alone."""
    path = MODULES[module]
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typed = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level and id(node) not in typed:
            base = package[: len(package) - node.level + 1] + (node.module or "").split(".")
            source = ".".join(part for part in base if part)
            for alias in node.names:
                target = f"{source}.{alias.name}" if f"{source}.{alias.name}" in MODULES else source
                if target in MODULES and target != module:
                    yield target


IMPORTS = {module: set(imported(module)) for module in MODULES}


def test_imports_point_one_way() -> None:
    backwards = [
        (module, target)
        for module, targets in IMPORTS.items()
        for target in targets
        if ROOMS.index(target.partition(".")[0]) < ROOMS.index(module.partition(".")[0])
    ]
    assert backwards == []


def test_imports_go_in_no_circle() -> None:
    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " → ".join([*way[way.index(module) :], module])
        if module not in done:
            for target in sorted(IMPORTS[module]):
                visit(target, (*way, module))
            done.add(module)

    for module in sorted(MODULES):
        visit(module, ())


def test_a_method_imports_types_and_its_familys_helpers_alone() -> None:
    for module, targets in IMPORTS.items():
        if module.startswith("rerankers.methods."):
            strangers = {t for t in targets if t != "rerankers.types" and not t.startswith("rerankers.methods")}
            assert strangers == set(), module


def test_the_pipeline_has_at_most_17_modules_and_folders() -> None:
    top = {module.split(".")[1] for module in MODULES if module.startswith("pipeline.")}
    assert len(top) <= 17, sorted(top)
