"""An engine that takes samples and labels until somebody kills it: python labelling.py STORE FIRST

The operations follow from their numbers alone, so that another engine can do the same.
"""

import random
import sys
from itertools import count
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from engines import MODEL, SAMPLES

from stepstream import Engine


def opened(store, capacity=4):
    return Engine(MODEL, "carry", store, judge=10, remember=3, capacity=capacity, snapshot_bytes=20_000)


def operations(engine, first=0):
    """Do them, from number `first` on; yields the number of each when it is done."""
    for i in count(first):
        rng = random.Random(i)
        key, kind, y = f"dev-{rng.randrange(8)}", rng.choice(["step", "step", "step", "label", "one", "end"]), i % 2
        if kind == "step":
            engine.step(key, SAMPLES[i % len(SAMPLES)].tolist(), seq=i)
        elif kind == "label":
            engine.label(key, y, over=rng.random() < 0.3)
        elif kind == "one":
            engine.label(key, y, seq=max(0, i - rng.randrange(10)))
        else:
            engine.end(key)
        if rng.random() < 0.02:
            engine.snapshot()
        yield i


def figures(engine):
    """What labels gave, from whenever; None for nothing."""
    found = engine.stats()["quality"] or {"labels": 0}
    return {k: v for k, v in found.items() if k not in {"missed", "duplicates"}} if found["labels"] else None


if __name__ == "__main__":
    for done in operations(opened(sys.argv[1]), int(sys.argv[2])):
        print(done, flush=True)
