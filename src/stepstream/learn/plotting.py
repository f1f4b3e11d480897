"""What all pictures share: matplotlib, imported when it is needed, colours, and the look of an axis."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stepstream.errors import InputError

# Okabe & Ito 2008: told apart by everybody
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
GREY = "#8a8a8a"
STYLE: Any = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.titlesize": 11,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.8,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "svg.hashsalt": "stepstream",
    "svg.fonttype": "path",
}


def styled() -> Any:
    """A context in which figures have the look; raises InputError without matplotlib."""
    try:
        from matplotlib import rc_context
    except ImportError as e:
        raise InputError("plots need matplotlib: pip install 'stepstream[train]'") from e
    return rc_context(STYLE)


def available() -> None:
    """Raises InputError without matplotlib: before the work that pictures are of."""
    styled()


def figure_of(width: float, height: float) -> Any:
    """An empty figure, in inches; without pyplot there is no global state, and no window."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def write_png(figure: Any, path: str | Path) -> None:
    """Raises InputError for a path that cannot be written."""
    try:
        figure.savefig(path, format="png", dpi=150)
    except OSError as e:
        raise InputError(f"{path}: {e.strerror or e}") from e
