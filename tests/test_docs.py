"""Every block of the README and the docs runs, and the generated pages are current.

```python blocks of a page share one namespace and an empty folder; a ```text block right after one is what it prints.
In ```console blocks, lines with `$ ` are run by a shell and the others are what comes out. `requires=` names a package.
"""

import contextlib
import importlib.util
import io
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(\w+)(?: requires=(\w+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass
class Block:
    kind: str
    requires: str | None
    text: str
    line: int
    expected: str | None = None


def blocks(page):
    text = page.read_text(encoding="utf-8")
    found = []
    for match in FENCE.finditer(text):
        kind, requires, body = match.groups()
        if kind == "text" and found and text[: match.start()].endswith("```\n"):
            found[-1].expected = body
        else:
            found.append(Block(kind, requires, body, text[: match.start()].count("\n") + 2))
    return found


def run_python(block, page, namespace):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        # line numbers of the page in a traceback
        exec(compile("\n" * (block.line - 1) + block.text, str(page), "exec"), namespace)
    if block.expected is not None:
        assert out.getvalue() == block.expected, f"{page}:{block.line}"


def run_console(block, page, folder):
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "NO_COLOR": "1"}
    for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        command, _, expected = part.partition("\n")
        out = subprocess.run(
            ["bash", "-o", "pipefail", "-c", command], cwd=folder, env=env, capture_output=True, text=True, check=False
        )
        assert out.stdout == expected, f"{page}:{block.line}: {command}\n{out.stderr}"
        status = int(re.search(r"# exit (\d+)$", command)[1]) if "# exit" in command else 0
        assert out.returncode == status, f"{page}:{block.line}: {command}\n{out.stderr}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_blocks_of(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace, missing = {"__name__": "page"}, set()
    for block in blocks(page):
        if block.requires and importlib.util.find_spec(block.requires) is None:
            missing.add(block.requires)
        elif block.kind == "python":
            run_python(block, page, namespace)
        elif block.kind == "console":
            run_console(block, page, tmp_path)
        else:
            assert block.kind == "sh", f"{page}:{block.line}: a {block.kind} block that nobody runs"
    if missing:
        pytest.skip(f"some blocks need {', '.join(sorted(missing))}; all others were run")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_links_of(page):
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if not link.startswith("http"):
            assert (page.parent / link).exists(), f"{page}: {link}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_tests_that_are_named_in(page):
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")]
    known = set(re.findall(r"^ *def (test_\w+)\(", "\n".join(sources), re.MULTILINE))
    named = re.findall(r"`(test_\w+)`", page.read_text(encoding="utf-8"))
    assert not [name for name in named if name not in known]
    assert len(named) > 20 or page.stem != "what-survives-what"


def test_every_line_of_what_survives_what_names_its_test():
    page = (ROOT / "docs" / "explanation" / "what-survives-what.md").read_text(encoding="utf-8")
    lines = page.partition("## What happens")[2].partition("\n\nTo be")[0].strip().splitlines()[2:]
    assert len(lines) > 15
    for line in lines:
        assert "`test_" in line, line


def test_generated_pages_are_current():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    for path, text in generate.pages().items():
        assert path.read_text(encoding="utf-8") == text, f"{path} is old: run python docs/generate.py"


def test_contributing_says_what_the_scripts_in_bench_need():
    contributing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    needs = [re.search(r"pip install [\w -]+\w", path.read_text(encoding="utf-8")) for path in ROOT.glob("bench/*.py")]
    assert len([need for need in needs if need]) >= 2
    for need in needs:
        assert need is None or need[0] in contributing


def test_ci_runs_the_commands_of_the_readme():
    """`sh` blocks install packages, so they are for CI, in environments of their own."""
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    commands = [block.text.strip() for block in blocks(ROOT / "README.md") if block.kind == "sh"]
    assert len(commands) == 2
    for command in commands:
        assert f"readme '{command}'" in ci or f'readme "{command}"' in ci, command
