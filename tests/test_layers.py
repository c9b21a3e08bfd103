"""The house: a module imports only from the lines above its own, stages never import each other, `__all__` is true.

The order is DESIGN's; a package is one line. A new module gets its place here.
"""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
import types
from pathlib import Path

import pytest

import facepipe

ROOT = Path(facepipe.__file__).parent

# What may import what: only from lines above. `facepipe` itself is its version and the lazy front door.
ORDER = [
    "facepipe",
    "errors",
    "types",
    "boxes",
    "folders",
    "overlap",
    "memory",
    "geometry",
    "smoothing",
    "image",
    "drawing",
    "metrics",
    "losses",
    "networks",
    "diagnostics",
    "video",
    "weights",
    "backends",
    "imagesets",
    "config",
    "people",
    "selection",
    "stored",
    "workspace",
    "provenance",
    "truth",
    "results",
    "trouble",
    "viewer",
    "gallery",
    "cuts",
    "tracks",
    "gaps",
    "eyes",
    "finder",
    "watermark",
    "composite",
    "datasets",
    "methods",
    "evaluation",
    "report",
    "compare",
    "training",
    "stages",
    "engine",
    "pipeline",
    "console",
    "demo",
    "cli",
]
NUMPY_ONLY = ("errors", "types", "geometry", "smoothing")


def module_names() -> list[str]:
    files = sorted(ROOT.rglob("*.py"))
    names = [".".join(("facepipe", *file.relative_to(ROOT).with_suffix("").parts)) for file in files]
    return [name.removesuffix(".__init__") for name in names]


def source_of(name: str) -> Path:
    path = ROOT.joinpath(*name.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def unit(name: str) -> str:
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else "facepipe"


def imports(name: str) -> set[str]:
    """Modules of facepipe that the module imports anywhere in its text, but for type checkers."""
    known, found = set(MODULES), set()
    for node in ast.walk(ast.parse(source_of(name).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "facepipe"}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: relative import"
            if node.module and node.module.split(".")[0] == "facepipe":
                for alias in node.names:
                    whole = f"{node.module}.{alias.name}"
                    found.add(whole if whole in known else node.module)
    return found


MODULES = module_names()


@pytest.mark.parametrize("name", [name for name in MODULES if name != "facepipe"])
def test_imports_come_from_above(name: str) -> None:
    own = unit(name)
    assert own in ORDER, f"{name} has no place in the order; add it where it belongs"
    for other in imports(name):
        assert ORDER.index(unit(other)) < ORDER.index(own) or unit(other) == own, f"{name} imports {other}"


def test_there_are_no_cycles() -> None:
    graph = {name: imports(name) - {name} for name in MODULES if name != "facepipe"}
    left = set(graph)
    while left:
        free = {name for name in left if not graph[name] & left}
        assert free, f"these import each other: {sorted(left)}"
        left -= free


def test_stages_never_import_each_other() -> None:
    for name in MODULES:
        if unit(name) == "stages":
            assert not {other for other in imports(name) if unit(other) == "stages"}, name


def test_detectors_landmarkers_and_embedders_do_not_know_each_other() -> None:
    adapters = {f"facepipe.backends.{name}" for name in ("detectors", "landmarkers", "embedders")}
    for name in adapters:
        assert not imports(name) & adapters, name


@pytest.mark.parametrize("name", MODULES)
def test_all_is_sorted_and_true(name: str) -> None:
    module = importlib.import_module(name)
    own = {
        key
        for key, value in vars(module).items()
        if not key.startswith("_")
        and getattr(value, "__module__", None) == name
        and isinstance(value, type | types.FunctionType)
    }
    if not hasattr(module, "__all__"):
        assert not own, f"{name} has public names and no __all__"
        return
    listed = list(module.__all__)
    if name == "facepipe.cli" or name.rpartition(".")[2].startswith("_"):
        own = set()  # commands belong to the app; a private module is open to its package
    assert len(set(listed)) == len(listed)
    assert listed == sorted(listed, key=_rank), f"{name}: {sorted(listed, key=_rank)}"
    for key in listed:
        assert getattr(module, key) is not None
        assert not key.startswith("_") or key == "__version__"
    assert own <= set(listed), f"{name}: public, but not in __all__: {own - set(listed)}"


def _rank(name: str) -> tuple[int, str]:
    """Constants, classes, the rest: the order that ruff's RUF022 keeps."""
    if name.isupper():
        return 0, name
    return (1, name) if name[0].isupper() else (2, name)


# ------------------------------------------------------------------------------------------- what an import costs


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


HEAVY = ("torch", "cv2", "av", "scipy", "skimage", "pyarrow", "facenet_pytorch", "face_alignment")


def test_import_facepipe_loads_nothing_heavy() -> None:
    assert run_python(f"import facepipe, sys; print([m for m in {HEAVY} if m in sys.modules])").strip() == "[]"


def test_the_command_line_starts_without_torch() -> None:
    code = "import facepipe.cli, sys; print([m for m in ('torch', 'cv2', 'av') if m in sys.modules])"
    assert run_python(code).strip() == "[]"


@pytest.mark.parametrize("module", ["pipeline", "viewer", "gallery"])
def test_what_may_have_nothing_to_do_loads_no_torch(module: str) -> None:
    assert run_python(f"import facepipe.{module}, sys; print('torch' in sys.modules)").strip() == "False"


@pytest.mark.parametrize("module", ["geometry", "metrics", "image", "video", "config", "workspace"])
def test_works_with_torch_blocked(module: str) -> None:
    run_python(f"import sys; sys.modules['torch'] = None\nimport facepipe.{module}")


def test_numbers_with_everything_heavy_blocked() -> None:
    out = run_python(
        "import sys; sys.modules.update(dict.fromkeys(['torch', 'cv2', 'av', 'scipy', 'skimage']))\n"
        "from facepipe import geometry\n"
        "m = geometry.umeyama([[0, 0], [1, 0], [0, 1]], [[1, 1], [3, 1], [1, 3]])\n"
        "print((m.round(9) + 0).tolist())"
    )
    assert out.strip() == "[[2.0, 0.0, 1.0], [0.0, 2.0, 1.0], [0.0, 0.0, 1.0]]"


@pytest.mark.parametrize("name", NUMPY_ONLY)
def test_the_core_imports_no_heavy_library_at_its_top(name: str) -> None:
    for module in (m for m in MODULES if unit(m) == name):
        tree = ast.parse(source_of(module).read_text(encoding="utf-8"))
        for node in tree.body:
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {n.split(".")[0] for n in names} & {"torch", "cv2", "av", "skimage"}, f"{module}: {names}"


def test_the_front_door_serves_what_it_lists() -> None:
    for name in facepipe.__all__:
        assert getattr(facepipe, name) is not None
    assert callable(facepipe.run)
    with pytest.raises(AttributeError, match="no attribute 'swop'"):
        _ = facepipe.swop
