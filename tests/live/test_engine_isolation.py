"""A thousand streams in one engine, thrown together at random: each is its lonely run, bit for bit."""

import numpy as np
import pytest
from engines import DictStore

from make import explosive
from stepstream import Engine

STREAMS, CALLS, SAMPLES = 1000, 16, 400
MODEL = explosive()


@pytest.mark.parametrize("windowing", ["carry", "tumbling(3)", "sliding(4)"])
@pytest.mark.parametrize("journalled", [True, False])
def test_a_thousand_interleaved_streams(windowing, journalled):
    """Random neighbours, bad ones among them (NaN, and what overflows), resets, ends, forks, evictions, restarts."""
    rng, store = np.random.default_rng(7), DictStore(journalled)
    engine = Engine(MODEL, windowing, store, capacity=SAMPLES + 100)
    lonely = {}

    def alone(key):
        return lonely.setdefault(key, MODEL.stream(windowing))

    for call in range(CALLS):
        keys = rng.integers(0, STREAMS, SAMPLES).tolist()
        x = rng.normal(size=(SAMPLES, 3)).astype(np.float32)
        bad = rng.choice(SAMPLES, 20, replace=False)
        x[bad[:10]], x[bad[10:]] = np.nan, 3e38
        r = engine.step_many(keys, x, on_bad="skip")
        assert np.flatnonzero(~r.accepted).tolist() == sorted(bad.tolist())
        for i in np.flatnonzero(r.accepted).tolist():
            stream = alone(keys[i])
            assert (r.values[i, 0], r.age[i]) == (np.float32(stream.step(x[i])), stream.age)
        for key in rng.integers(0, STREAMS, 10).tolist():
            if rng.random() < 0.5:
                engine.reset(key)
                if key in lonely:
                    lonely[key].reset()
            else:
                engine.end(key)
                lonely.pop(key, None)
        for _ in range(5):
            old, new = rng.choice(sorted(lonely), 2, replace=False).tolist()
            engine.end(new)
            engine.fork(old, new)
            lonely[new] = lonely[old].fork()
        if call % 5 == 4:
            engine = Engine(MODEL, windowing, store.crash(), capacity=SAMPLES + 100)
    assert {s.key: s.age for s in engine.streams()} == {key: stream.age for key, stream in lonely.items()}
    assert engine.stats()["evicted"] > 0
