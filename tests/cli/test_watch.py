"""The live view, as a picture in text."""

import io
import threading

import pytest
from rich.console import Console

from stepstream.cli.watch import MAX_STREAMS, Watch


def picture(watch, width=100):
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(watch.table())
    return console.file.getvalue()


def test_each_stream_has_its_trace_and_its_newest_value():
    watch = Watch(Console(file=io.StringIO(), width=100), "two streams", {"a": "walking"})
    for n in range(5):
        watch.add("a", n / 4, n + 1, n == 4, False)
    watch.add("b[/]", 0.25, None, True, True)
    lines = picture(watch).splitlines()
    assert lines[0].strip() == "two streams"
    (a,) = (line for line in lines if line.startswith("a "))
    (b,) = (line for line in lines if line.startswith("b[/] "))
    assert "▁▃▅▆█" in a
    for part in ("walking", "1.000", " 5 ", "complete"):
        assert part in a
    for part in ("0.250", "?", "beyond training length"):
        assert part in b


def test_the_view_is_drawn_while_answers_come():
    watch = Watch(Console(file=io.StringIO(), width=100), "busy")
    stop, errors = threading.Event(), []

    def draw():
        while not stop.is_set():
            try:
                watch.table()
            except RuntimeError as e:
                errors.append(e)

    drawing = threading.Thread(target=draw)
    drawing.start()
    for n in range(20_000):
        watch.add(f"s{n % 3_000}", 0.5, 1, False, False)
    stop.set()
    drawing.join()
    assert not errors


def test_more_streams_than_a_screen_holds_are_counted():
    watch = Watch(Console(file=io.StringIO(), width=100), "many")
    for n in range(MAX_STREAMS + 3):
        watch.add(f"s{n}", 0.5, 1, False, False)
    assert "and 3 more streams" in picture(watch)


def test_what_was_decided_stands_beside_the_probability():
    watch = Watch(Console(file=io.StringIO(), width=100), "deciding", decides=True)
    watch.add("a", 0.75, 4, True, False, "badminton[/]")
    watch.add("b", 0.25, 1, False, True)
    _, head, a, b = picture(watch).splitlines()
    assert head.split() == ["stream", "probability", "now", "decision", "age"]
    assert a.split()[-4:] == ["0.750", "badminton[/]", "4", "complete"]
    assert b.split()[-5:] == ["0.250", "1", "beyond", "training", "length"]


@pytest.mark.parametrize("decides", [False, True])
@pytest.mark.parametrize("width", [80, 100, 160])
def test_no_head_is_cut(width, decides):
    watch = Watch(Console(file=io.StringIO(), width=width), "narrow", decides=decides)
    watch.add("stream 1", 0.75, 400, True, True, "badminton" * decides)
    assert "…" not in picture(watch, width)
