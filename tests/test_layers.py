"""Who may import whom: a module imports only modules of floors below its own, or of its own package."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]

# The longest prefix of a module's name decides. Modules of one floor may import each other, those of SEPARATE may not.
FLOORS = {
    "acfun.errors": 0,
    "acfun.config": 0,
    "acfun.config_fields": 0,
    "acfun.masks": 0,
    "acfun.palette": 0,
    "acfun.images": 0,
    "acfun.paths": 0,
    "acfun.noise": 0,
    "acfun.process": 0,
    "acfun.descriptions": 0,
    "acfun.devices": 0,
    "acfun.costs": 0,
    "acfun.face": 1,
    "acfun.synthetic": 1,
    "acfun.base": 1,
    "acfun.losses": 2,
    "acfun.afun": 2,
    "acfun.cfun": 2,
    "acfun.portrait": 2,
    "acfun.backdrop": 2,
    "acfun.brushwork": 2,
    "acfun.relief": 1,
    "acfun.patch_guide": 2,
    "acfun.patches": 2,
    "acfun.drawing": 2,
    "acfun.features": 2,
    "acfun.identity_adapter": 2,
    "acfun.imagery": 2,
    "acfun.proportions": 2,
    "acfun.style": 3,
    "acfun.style_architecture": 3,
    "acfun.style_blend": 3,
    "acfun.style_file": 3,
    "acfun.style_model": 3,
    "acfun.model_card": 3,
    "acfun.hub": 3,
    "acfun.conditioning": 3,
    "acfun.guidance": 3,
    "acfun.sampling": 3,
    "acfun.fit": 4,
    "acfun.fit_checkpoint": 4,
    "acfun.fit_data": 4,
    "acfun.fit_prepare": 4,
    "acfun.fit_setup": 4,
    "acfun.planner": 4,
    "acfun.objectives": 4,
    "acfun.pipelines": 5,
    "acfun.evaluation": 6,
    "acfun.photo": 7,
    "acfun.scene": 7,
    "acfun.batch": 7,
    "acfun.export": 7,
    "acfun.lora_import": 7,
    "acfun.doctor": 7,
    "acfun.manifest": 7,
    "acfun.progress": 7,
    "acfun.style_cache": 7,
    "acfun.commands": 7,
    "acfun.cli": 7,
    "acfun.__main__": 7,
    "acfun": 8,
}
SEPARATE = ("acfun.face", "acfun.synthetic", "acfun.base")
# The lowest floor that may hold a config; below, builders take plain arguments.
CONFIG_FLOOR = 4


def find_modules() -> dict[str, Path]:
    """Name → file of every module that is installed."""
    roots = {"acfun": CHECKOUT / "acfun", "acfun.pipelines": CHECKOUT / "pipelines"}
    modules = {}
    for package, root in roots.items():
        for path in sorted(root.rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            modules[".".join([package, *(part for part in parts if part != "__init__")])] = path
    return modules


MODULES = find_modules()


def find_floor(module: str) -> int | None:
    """The floor in the table; the top package's own floor only for itself, so that new modules must be entered."""
    names = [name for name in FLOORS if module == name or (name != "acfun" and module.startswith(f"{name}."))]
    return FLOORS[max(names, key=len)] if names else None


def find_imports(name: str, path: Path) -> Iterator[tuple[str, int]]:
    """Modules of acfun that a file imports anywhere, even late or for types only, with the line."""
    is_package = path.name == "__init__.py"
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            candidates = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parents = name.split(".")[: len(name.split(".")) + is_package - node.level] if node.level else []
            origin = ".".join([*parents, *([node.module] if node.module else [])])
            # `from acfun import losses` means the module, `from acfun.losses import total_loss` the one it stands in.
            # The version is no module's work: whoever asks for it depends on nothing.
            wanted = [f"{origin}.{alias.name}" for alias in node.names]
            candidates = [full if full in MODULES else origin for full in wanted if full != "acfun.__version__"]
        else:
            continue
        yield from ((module, node.lineno) for module in candidates if module.split(".")[0] == "acfun")


def find_package(module: str) -> str | None:
    """The separate package that a module belongs to, or None."""
    return next((package for package in SEPARATE if module == package or module.startswith(f"{package}.")), None)


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_only_floors_below(name: str) -> None:
    floor = find_floor(name)
    assert floor is not None, f"{name} has no floor: enter it in the table of {Path(__file__).name}"
    for imported, line in find_imports(name, MODULES[name]):
        where = f"{MODULES[name].relative_to(CHECKOUT)}:{line}"
        imported_floor = find_floor(imported)
        assert imported_floor is not None, f"{where} imports {imported}, which has no floor"
        assert imported_floor <= floor, f"{where}: {name} (floor {floor}) imports {imported} (floor {imported_floor})"
        if find_package(name) and find_package(imported):
            assert find_package(name) == find_package(imported), f"{where}: {name} imports {imported}"
        if imported == "acfun.config":
            assert floor >= CONFIG_FLOOR, f"{where}: {name} holds a config, but floor {floor} takes plain arguments"


def test_imports_have_no_circle() -> None:
    """Modules of one floor may import each other, but not in a circle."""
    graph = {name: {imported for imported, _ in find_imports(name, path)} - {name} for name, path in MODULES.items()}
    # The top package loads everything late, and a package's __init__ stands for its parts.
    graph["acfun"] = set()
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, f"circle of imports: {' → '.join([*trail[trail.index(name) :], name])}"
        if name in done:
            return
        for imported in graph.get(name, ()):
            visit(imported, (*trail, name))
        done.add(name)

    for name in graph:
        visit(name, ())


def test_the_table_names_no_module_twice() -> None:
    """Entries that repeat what a shorter one says would go stale unseen."""
    for name, floor in FLOORS.items():
        parents = [other for other in FLOORS if other != "acfun" and name.startswith(f"{other}.")]
        assert all(FLOORS[parent] != floor for parent in parents), name
