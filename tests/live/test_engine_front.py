"""Calls that wait at the same time go through an engine together."""

import asyncio

import pytest
from engines import MODEL, SAMPLES, DictStore, alone

from stepstream import Engine, InputError, StoreError


def watched(engine):
    """Sizes of the batches that go through."""
    sizes, each = [], engine._each

    def counting(calls):
        sizes.append(len(calls))
        return each(calls)

    engine._each = counting
    return sizes


@pytest.mark.parametrize("store", [None, DictStore()])
@pytest.mark.parametrize("form", ["array", "list"])
def test_concurrent_calls_go_together_and_in_order(store, form):
    with Engine(MODEL, "carry", store) as e:
        sizes = watched(e)

        async def client(key):
            got = []
            for i, x in enumerate(SAMPLES[:20]):
                r = await e.astep(key, x.tolist() if form == "list" else x, seq=i, time=float(i))
                got.append(r.value)
            return got

        async def all_of_them():
            keys = [(form, n) for n in range(30)]
            return await asyncio.gather(*(client(str(key)) for key in keys))

        answers = asyncio.run(all_of_them())
        assert all(got == alone(SAMPLES[:20]) for got in answers)
        assert sum(sizes) == 600
        assert len(sizes) < 100


def test_a_key_may_have_many_calls_under_way():
    e = Engine(MODEL, "carry", batch=7)
    sizes = watched(e)

    async def main():
        return await asyncio.gather(*(e.astep("k", x) for x in SAMPLES))

    results = asyncio.run(main())
    assert [r.value for r in results] == alone(SAMPLES)
    assert [r.age for r in results] == list(range(1, 61))
    assert sizes == [7] * 8 + [4]


def test_a_lone_call_does_not_wait_for_others():
    e = Engine(MODEL, "carry", wait=60)

    async def main():
        return await asyncio.wait_for(e.astep("k", SAMPLES[0]), 30)

    assert asyncio.run(main()).value == alone(SAMPLES[:1])[0]


def test_several_wait_until_the_batch_is_full_or_the_time_is_over():
    e = Engine(MODEL, "carry", batch=3, wait=60)
    sizes = watched(e)

    async def later():
        for _ in range(5):
            await asyncio.sleep(0)
        return await e.astep("c", SAMPLES[0])

    async def main():
        await asyncio.wait_for(asyncio.gather(e.astep("a", SAMPLES[0]), e.astep("b", SAMPLES[0]), later()), 30)

    asyncio.run(main())
    assert sizes == [3]
    e = Engine(MODEL, "carry", batch=3, wait=0.001)
    sizes = watched(e)

    async def two():
        await asyncio.gather(e.astep("a", SAMPLES[0]), e.astep("b", SAMPLES[0]))

    asyncio.run(two())
    assert sizes == [2]


def test_a_bad_sample_is_its_callers_alone():
    e = Engine(MODEL, "carry")

    async def main():
        return await asyncio.gather(
            e.astep("a", SAMPLES[0]),
            e.astep("b", [1, 2]),
            e.astep(1.5, SAMPLES[0]),
            e.astep("c", SAMPLES[0], seq=-1),
            e.astep("d", SAMPLES[0], time="now"),
            e.astep("a", SAMPLES[1]),
            return_exceptions=True,
        )

    first, *bad, last = asyncio.run(main())
    assert (first.value, last.value) == tuple(alone(SAMPLES[:2]))
    assert [type(b) for b in bad] == [InputError] * 4
    assert [s.key for s in e.streams()] == ["a"]


@pytest.mark.parametrize("store", [None, DictStore()])
def test_too_many_streams_at_once_fail_those_alone_for_whom_there_is_no_room(store):
    e = Engine(MODEL, "carry", store, capacity=2)
    sizes = watched(e)

    async def main():
        return await asyncio.gather(*(e.astep(key, SAMPLES[0]) for key in "abc"), return_exceptions=True)

    got = asyncio.run(main())
    assert sizes == [3]
    assert [r.value for r in got[:2]] == alone(SAMPLES[:1]) * 2
    if store is None:
        assert isinstance(got[2], InputError)
        assert "expected at most 2 streams" in str(got[2])
    else:
        assert got[2].value == got[0].value  # one of the others has made room


def test_a_damaged_stream_is_the_stores_error_in_company_as_alone():
    store = DictStore()
    with Engine(MODEL, "carry", store) as e:
        e.step_many(["a", "b"], SAMPLES[:2])
    store.kept[b"sa"] = (store.kept[b"sa"][0], None)
    store.crash()
    e = Engine(MODEL, "carry", store)

    async def main():
        calls = (e.astep("b", SAMPLES[2]), e.astep("a", SAMPLES[2]), e.astep("a", [1, 2]), e.astep(1.5, SAMPLES[2]))
        return await asyncio.gather(*calls, return_exceptions=True)

    good, *bad = asyncio.run(main())
    assert good.value == alone(SAMPLES[1:3])[1]
    assert [type(b) for b in bad] == [StoreError, InputError, InputError]
    assert "stream 'a': its record in the store is damaged" in str(bad[0])


def test_callbacks_of_calls_in_company_come_once():
    gone = []

    def evicted(key):
        gone.append(key)
        raise InputError("a callback's own")

    e = Engine(MODEL, "carry", DictStore(), capacity=2, on_evict=evicted)
    e.step_many(["x", "y"], SAMPLES[:2], time=[0.0, 0.0])

    async def main():
        return await asyncio.gather(*(e.astep(key, SAMPLES[0]) for key in "ab"), return_exceptions=True)

    assert [str(r) for r in asyncio.run(main())] == ["a callback's own"] * 2
    assert sorted(gone) == ["x", "y"]
    assert [e.export(key).samples for key in "ab"] == [1, 1]  # the calls have succeeded


@pytest.mark.parametrize("store", [None, DictStore()])
def test_a_task_that_is_cancelled_leaves_nobody_waiting(store):
    """As `asyncio.all_tasks` finds them, and many a shutdown cancels them all."""
    e = Engine(MODEL, "carry", store, wait=0.05)

    async def main():
        me = asyncio.current_task()
        waiting = [asyncio.create_task(e.astep("a", SAMPLES[0])) for _ in range(2)]
        await asyncio.sleep(0.01)
        for task in asyncio.all_tasks() - {me, *waiting}:
            task.cancel()
        done, _ = await asyncio.wait(waiting, timeout=30)
        assert all(task.cancelled() for task in waiting)
        assert len(done) == 2
        return await asyncio.wait_for(e.astep("b", SAMPLES[0]), 30)

    assert asyncio.run(main()).age == 1


def test_a_store_that_fails_is_told_to_all():
    store = DictStore()
    e = Engine(MODEL, "carry", store)
    store.fails = StoreError("disk full")

    async def main():
        return await asyncio.gather(*(e.astep(k, SAMPLES[0]) for k in "abc"), return_exceptions=True)

    assert [type(r) for r in asyncio.run(main())] == [StoreError] * 3


def test_who_no_longer_waits_holds_up_nobody():
    e = Engine(MODEL, "carry")

    async def main():
        gone, stays = asyncio.ensure_future(e.astep("a", SAMPLES[0])), asyncio.ensure_future(e.astep("b", SAMPLES[0]))
        await asyncio.sleep(0)
        gone.cancel()
        return await stays

    assert asyncio.run(main()).age == 1
    assert e.export("a").age == 1  # it was on its way


def test_loops_do_not_share_a_front():
    e = Engine(MODEL, "carry")

    async def main(x):
        return await e.astep("k", x)

    assert [asyncio.run(main(x)).value for x in SAMPLES[:3]] == alone(SAMPLES[:3])


@pytest.mark.parametrize(("options", "message"), [({"batch": 0}, "batch: expected"), ({"wait": -1}, "wait: expected")])
def test_sizes_and_times_are_looked_at(options, message):
    with pytest.raises(InputError, match=message):
        Engine(MODEL, "carry", **options)
