"""No file can hurt: hostile and damaged files end in one clear error, in bounded time and memory, and run nothing.

The files come from hostile.py, hostile_child.py is the process that opens them: little address space, and an audit
hook that sees every import, every piece of code that is run, every file that is opened and every process started.
"""

import json
import os
import subprocess
import sys
from collections import Counter
from importlib.resources import files
from pathlib import Path

import hostile
import hostile_child
import pytest

import stepstream

ADDRESS_SPACE = 1024  # MiB, of which Python and NumPy take about half
REFUSED = {"ModelFileError", "StateError", "InputError"}
MUTATIONS = 2000
CANARY = "open('canary', 'w').write('imported')"


def opened_by_a_child(folder: Path) -> list[dict]:
    """How each file of a folder ended. The child's own death would leave fewer lines than files."""
    for name, data in hostile.honest().items():
        (folder / f"honest-{name}").write_bytes(data)
    (folder / f"{hostile.MODULE}.py").write_text(CANARY, encoding="utf-8")
    package = str(Path(stepstream.__file__).parents[1])
    before = sorted(p.name for p in folder.iterdir())
    run = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-B", hostile_child.__file__, str(folder), str(ADDRESS_SPACE)],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "TMPDIR": str(folder), "PYTHONPATH": package},
        timeout=300,
        check=False,
    )
    rows = [json.loads(line) for line in run.stdout.splitlines()]
    assert run.returncode == 0, f"after {rows[-1]['file'] if rows else 'nothing'}: {run.returncode}\n{run.stderr}"
    assert sorted(p.name for p in folder.iterdir()) == before, "something was left on disk"
    files = [n for n in before if n.startswith(("model", "state", "scale"))]
    assert [row["file"] for row in rows] == files
    assert [row for row in rows if row["did"]] == [], "something was run, imported or opened"
    assert max(row["seconds"] for row in rows) < 10
    assert max(row["mebibytes"] for row in rows) < 200
    return rows


@pytest.fixture(scope="module")
def cases():
    return list(hostile.all_cases())


def test_every_class_has_its_files(cases):
    counts = Counter(kind for kind, _, _ in cases)
    assert set(counts) == set(hostile.CASES)
    assert min(counts.values()) >= 10, counts
    assert len(cases) >= 200
    assert len({name for _, name, _ in cases}) == len(cases)


def test_hostile_files_are_refused(cases, tmp_path):
    """A model whose configuration is well formed and names code loads with blockers: refused by name."""
    for _, name, data in cases:
        (tmp_path / name).write_bytes(data)
    rows = opened_by_a_child(tmp_path)
    kinds = {name: kind for kind, name, _ in cases}
    allowed = dict.fromkeys(("code", "absurd", "options"), REFUSED | {"blocked"})
    allowed["growth"] = REFUSED | {"blocked", "loaded"}
    wrong = [row for row in rows if row["result"] not in allowed.get(kinds[row["file"]], REFUSED)]
    assert wrong == []


def test_random_damage_loads_or_is_refused(tmp_path):
    seeds = hostile.honest()
    real = [Path(str(files("stepstream") / "data" / "motions" / "model.keras"))]
    if folder := os.environ.get("STEPSTREAM_CASES"):
        real += sorted([*Path(folder).rglob("*.h5"), *Path(folder).rglob("*.keras")])
    seeds |= {f"model-{p.parent.name}-{p.name}": p.read_bytes() for p in real}
    for name, data in hostile.mutations(seeds, MUTATIONS):
        (tmp_path / name).write_bytes(data)
    rows = opened_by_a_child(tmp_path)
    results = Counter(row["result"] for row in rows)
    assert set(results) <= REFUSED | {"loaded", "blocked"}, [
        row for row in rows if row["result"] not in REFUSED | {"loaded", "blocked"}
    ]
    assert results["ModelFileError"] > MUTATIONS / 4  # the damage does reach what is read
    assert results["loaded"] > MUTATIONS / 20


def test_honest_files_load(tmp_path):
    """What the hostile ones were made of is sound, so that each is refused for its own reason."""
    for name, data in hostile.honest().items():
        (tmp_path / name).write_bytes(data)
    assert {row["result"] for row in opened_by_a_child(tmp_path)} == {"loaded"}


@pytest.mark.parametrize(
    ("run", "trace"),
    [
        ("import base64, marshal, sys; exec(marshal.loads(base64.b64decode(sys.argv[1])))", "executed"),
        (f"import {hostile.MODULE}", "imported"),
    ],
)
def test_the_canaries_sing(tmp_path, run, trace):
    """The bytecode and the module in the hostile files do leave a trace where somebody runs them."""
    (tmp_path / f"{hostile.MODULE}.py").write_text(CANARY, encoding="utf-8")
    subprocess.run([sys.executable, "-B", "-c", run, hostile.bytecode_text()], cwd=tmp_path, check=True)
    assert (tmp_path / "canary").read_text(encoding="utf-8") == trace
