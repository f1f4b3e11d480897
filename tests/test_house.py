"""The house plan: imports point down only, nothing imports the command line, and importing is light."""

import ast
import re
import subprocess
import sys
from collections import Counter
from graphlib import TopologicalSorter
from pathlib import Path

import stepstream
from stepstream import learn

ROOT = Path(stepstream.__file__).parent
HEAVY = [
    "keras",
    "tensorflow",
    "torch",
    "jax",
    "h5py",
    "pyfive",
    "pyarrow",
    "onnxruntime",
    "redis",
    "sqlite3",
    "typer",
    "rich",
    "pandas",
    "matplotlib",
    "safetensors",
    "sklearn",
]
# who may import what lies outside the standard library and NumPy
OUTSIDE = {
    "h5py": {"stepstream.live"},  # writes
    "jax": {"stepstream.learn"},
    "keras": {"stepstream.cli", "stepstream.learn"},  # `verify` compares with it, where it is installed
    "matplotlib": {"stepstream.learn"},
    "pyarrow": {"stepstream.cli", "stepstream.learn"},
    "pyfive": {"stepstream.formats"},  # reads
    "redis": {"stepstream.stores"},
    "rich": {"stepstream.cli"},
    "sklearn": {"stepstream.learn"},
    "torch": {"stepstream.learn"},  # where Keras runs on it
    "typer": {"stepstream.cli"},
}


# from the ground up; rooms on one floor may see each other
FLOORS = [
    {"errors", "limits", "version"},
    {"arguments", "arrays", "cells", "classes", "graph", "ops", "stores"},
    {"kernel"},
    {"formats", "stores"},
    {"live"},
    {"bench", "reference", "report", "testing", "vectors"},
    {"model"},
    {"learn"},
    {"stepstream"},
    {"cli"},
    {"__main__"},
]


def imports(tree):
    """Every import that runs, inside functions too; those for the type checker alone are left out."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.module, alias.name) for alias in node.names)
        yield from imports(node)


def house():
    """Module -> the modules that it imports."""
    names = {".".join(("stepstream", *p.relative_to(ROOT).with_suffix("").parts)): p for p in ROOT.rglob("*.py")}
    names = {name.removesuffix(".__init__"): path for name, path in names.items()}
    graph = {}
    for name, path in names.items():
        found = set()
        for module, attribute in imports(ast.parse(path.read_text(encoding="utf-8"))):
            assert not module.startswith("."), "imports are written out in full"
            inner = f"{module}.{attribute}"
            found.add(inner if inner in names else module)
        graph[name] = found - {name}
    return graph


def test_imports_point_down_only():
    graph = {name: {m for m in found if m.startswith("stepstream")} for name, found in house().items()}
    TopologicalSorter(graph).prepare()  # raises CycleError, naming the cycle
    floor = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
    for name, found in graph.items():
        for module in found:
            above, below = ((m.split(".") * 2)[1] for m in (name, module))
            assert floor[above] >= floor[below], f"{name} imports {module}"


def test_nothing_imports_the_command_line():
    for name, found in house().items():
        if not name.startswith("stepstream.cli") and name != "stepstream.__main__":
            assert not {m for m in found if m.startswith(("stepstream.cli", "stepstream.serve"))}, name


def test_other_packages_stay_in_their_rooms():
    for name, found in house().items():
        for module in {m.partition(".")[0] for m in found} - sys.stdlib_module_names - {"numpy", "stepstream"}:
            assert any(name.startswith(room) for room in OUTSIDE[module]), f"{name} imports {module}"


def test_private_names_are_used():
    sources = [path.read_text(encoding="utf-8") for path in ROOT.rglob("*.py")]
    words = Counter(re.findall(r"\w+", "".join(sources)))
    defined = re.findall(r"^ *(?:def |class |)(_[a-zA-Z]\w*(?<!_))(?=\(|:| = )", "\n".join(sources), re.MULTILINE)
    assert len(defined) > 100
    assert not [name for name in defined if words[name] == 1]


def test_no_module_of_learn_takes_the_place_of_a_call():
    """`learn.train` is the call, whatever else was imported."""
    for name in learn.__all__:
        assert not (ROOT / "learn" / f"{name}.py").exists(), name
        assert callable(getattr(learn, name)), name


def test_import_loads_no_framework():
    code = f"import sys; from stepstream import learn; print([m for m in {HEAVY!r} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_reading_a_keras_file_needs_no_keras(motions):
    code = f"import sys, stepstream; stepstream.load({str(motions / 'model.keras')!r}); print('keras' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"


def test_what_happens_is_logged_the_standard_way(motions, tmp_path, caplog):
    with caplog.at_level("DEBUG", "stepstream"):
        model = stepstream.load(motions / "model.keras")
        model.stream("carry").save(tmp_path / "state.h5")
    read, wrote = caplog.messages
    assert read.startswith("read .keras, written by Keras")
    assert model.fingerprint[:12] in read
    assert "state.h5" in wrote
