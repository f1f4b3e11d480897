"""Round trips and orders, for any input that Hypothesis can think of."""

import numpy as np
import pytest

from make import dense, model_of, question, recurrent
from stepstream import Carry, Session, Sliding, Tumbling
from stepstream.live import snapshot
from stepstream.live.state import StreamState
from stepstream.live.windowing import parse

hypothesis = pytest.importorskip("hypothesis")
from hypothesis import given, settings  # noqa: E402  (importorskip comes first)
from hypothesis import strategies as st  # noqa: E402

MODEL = question()
SMALL = model_of(recurrent("gru", 3, 4), recurrent("lstm", 4, 2, sequences=False), dense(2, 1))
SAMPLES = np.random.default_rng(9).normal(size=(24, 3)).astype(np.float32)
KINDS = ["carry", "tumbling(7)", "sliding(7, by=states)", "sliding(7, stride=3, by=states)", "sliding(7, by=recompute)"]
calm = settings(deadline=None, derandomize=True, max_examples=40)

ways = st.sampled_from([None, "recompute", "states"])
slidings = st.integers(1, 10**6).flatmap(
    lambda n: (
        st.builds(Sliding, st.just(n), stride=st.integers(1, n), by=ways)
        | st.builds(Sliding, st.just(n), states=st.integers(1, n), by=ways)
    )
)
windowings = st.one_of(
    slidings,
    st.just(Carry()),
    st.integers(1, 2**40).map(Tumbling),
    st.floats(min_value=1e-9, max_value=1e12, allow_nan=False).map(Session),
)
floats = st.floats(width=32, allow_nan=False, allow_infinity=False)
states = st.builds(
    lambda values, age, time, samples: StreamState(np.array(values, np.float32), age, time, samples),
    st.lists(floats, min_size=96, max_size=96),
    st.none() | st.integers(0, 2**62),
    st.none() | st.floats(allow_nan=False, allow_infinity=False),
    st.integers(0, 2**62),
)


def equal(a, b):
    return a.row.tobytes() == b.row.tobytes() and (a.age, a.time, a.samples) == (b.age, b.time, b.samples)


@calm
@given(windowings)
def test_a_windowing_reads_back_from_its_text(windowing):
    assert parse(str(windowing)) == windowing


@calm
@given(st.integers(1, 10**6).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n))))
def test_a_number_of_states_is_a_stride(pair):
    n, k = pair
    windowing = parse(f" sliding( {n},states = {k} ) ")
    assert windowing == Sliding(n, states=k) == Sliding(n, stride=-(-n // k))
    assert windowing.states <= k


@calm
@given(states)
def test_a_saved_state_is_the_same_state(tmp_path_factory, state):
    path = tmp_path_factory.mktemp("one") / "state.h5"
    snapshot.save(path, MODEL, Carry(), state)
    assert equal(snapshot.load(path, MODEL, Carry()), state)


@calm
@given(states)
def test_a_state_in_columns_is_the_same_state(tmp_path_factory, state):
    path = tmp_path_factory.mktemp("columns") / "state.h5"
    snapshot.save_columns(path, MODEL, Carry(), state)
    assert equal(snapshot.load_columns(path, MODEL, Carry()), state)


@calm
@given(st.lists(st.integers(0, 23), max_size=6), st.sampled_from(KINDS))
def test_however_a_stream_is_cut_up_the_bits_are_the_same(tmp_path_factory, cuts, windowing):
    whole = MODEL.stream(windowing).steps(SAMPLES)
    folder = tmp_path_factory.mktemp("cut")
    stream, answers, at = MODEL.stream(windowing), [], 0
    for cut in [*sorted(cuts), 24]:
        answers.append(stream.steps(SAMPLES[at:cut]))
        stream.save(folder / "state.h5")
        stream = MODEL.stream(windowing)
        stream.load(folder / "state.h5")
        at = cut
    assert np.concatenate(answers).tobytes() == whole.tobytes()


@calm
@given(
    st.lists(st.sampled_from(["step", "masked", "peek", "fork", "save", "reset"]), max_size=40), st.sampled_from(KINDS)
)
def test_whatever_is_done_to_a_stream_it_answers_on_its_samples(tmp_path_factory, calls, windowing):
    """Against streams that did nothing but step through the same samples."""
    path = tmp_path_factory.mktemp("calls") / "state.h5"
    stream, done = MODEL.stream(windowing), []
    for n, call in enumerate(calls):
        x = SAMPLES[n % 24]
        if call == "save":
            stream.save(path)
            stream = MODEL.stream(windowing)
            stream.load(path)
        elif call == "fork":
            twin = stream.fork()
            stream.step(x)
            stream = twin
        elif call == "reset":
            stream.reset()
            done = []
        else:
            mask = False if call == "masked" else None
            y = stream.peek(x, mask=mask) if call == "peek" else stream.step(x, mask=mask)
            other = MODEL.stream(windowing)
            for earlier, hidden in done:
                other.step(earlier, mask=hidden)
            assert other.step(x, mask=mask) == y
            done += [(x, mask)] * (call != "peek")
        assert stream.age == len(done)


@calm
@given(st.integers(1, 12), st.data())
def test_sliding_is_the_whole_pass_whatever_the_window_and_the_masks(n, data):
    stride = data.draw(st.integers(1, n))
    masks = np.array(data.draw(st.lists(st.lists(st.booleans(), min_size=24, max_size=24), min_size=1, max_size=3)))
    x = np.stack([SAMPLES, SAMPLES[::-1], -SAMPLES])[: len(masks)]
    for by in ("recompute", "states"):
        executor = Sliding(n, stride, by=by).on(SMALL.executor)[1]
        state = executor.initial_state(len(x))
        for t in range(24):
            (y,), state = executor.step(x[:, t], state, masks[:, t])
            first = next(a for a in range(0, t + 1, stride) if t + 1 - a <= n)
            (whole,) = SMALL.executor.last(x[:, first : t + 1], masks[:, first : t + 1])
            assert y.tobytes() == whole.tobytes()


@calm
@given(st.permutations(range(24)), st.integers(1, 4))
def test_streams_do_not_see_each_other(order, count):
    """Whatever the order in which samples of different streams arrive."""
    streams = [MODEL.stream("carry") for _ in range(count)]
    seen = [[] for _ in range(count)]
    for n in order:
        seen[n % count].append((n, streams[n % count].step(SAMPLES[n])))
    for mine in seen:
        alone = MODEL.stream("carry")
        assert [alone.step(SAMPLES[n]) for n, _ in mine] == [y for _, y in mine]
