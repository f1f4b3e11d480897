"""Bundles at random and with intent: what is accepted steps, and nothing runs or takes much."""

import copy
import json
import random

import numpy as np
import pytest
from bundle_making import DEEP, FORGED, composed, joined, mutated, parted, sealed
from test_hostile import opened_by_a_child

from make import EXAMPLES, question
from stepstream import ModelFileError, limits
from stepstream.formats import bundle_file
from stepstream.formats.bundle_graph import built
from stepstream.graph.passes import drop_identities
from stepstream.kernel.executor import executor_for
from stepstream.ops.executor import NumpyExecutor
from stepstream.testing import stepped


@pytest.mark.parametrize("op", sorted(EXAMPLES))
def test_mutated_graphs_are_refused_or_step(op, path):
    """Whatever is accepted runs, on NumPy and on the kernel, and gives the same."""
    EXAMPLES[op]().save(path)
    values, arrays = parted(path.read_bytes())
    weights = {name: a for name, a in arrays.items() if name.startswith("weights")}
    rng, accepted = random.Random(op), 0
    for _ in range(150):
        data = mutated(values["graph"], rng)
        used = set(json.dumps(data).split('"')) & set(weights)
        try:
            graph = built(data, {name: weights[name] for name in used}, "made up")
        except ModelFileError:
            continue
        accepted += 1
        executor, _ = executor_for(drop_identities(graph))
        x = np.random.default_rng(0).normal(size=(2, 3, graph.features)).astype(np.float32)
        both = stepped(executor, x), stepped(NumpyExecutor(graph), x)
        np.testing.assert_allclose(*both, rtol=1e-3, atol=1e-3)
        assert stepped(executor, x[:1]).tobytes() == both[0][:1].tobytes()
    assert accepted > 3


@pytest.mark.slow
def test_hostile_bundles_run_nothing_and_take_little(saved, tmp_path, path):
    question().save(path)
    seeds, rng = [saved, path.read_bytes()], random.Random(0)
    path.unlink()
    for i, (change, arguments, _) in enumerate(FORGED):
        values, arrays = parted(saved)
        change(values, arrays, **arguments)
        (tmp_path / f"model-forged-{i}.stepstream").write_bytes(joined(values, arrays))
    for i in range(200):
        values, arrays = parted(seeds[i % 2])
        name = rng.choice([n for n in values if n not in {"sums", "bundle"}])
        values[name] = mutated(values[name], rng)
        (tmp_path / f"model-mutated-{i}.stepstream").write_bytes(joined(values, arrays))
    for name, data in bombs(saved):
        (tmp_path / f"model-{name}.stepstream").write_bytes(data)
    rows = opened_by_a_child(tmp_path)
    assert {row["result"] for row in rows} == {"ModelFileError", "loaded"}
    assert {row["result"] for row in rows if "forged" in row["file"]} == {"ModelFileError"}


def bombs(saved: bytes):
    """Small files that ask for much."""
    values, arrays = parted(saved)
    first, entry = values["graph"]["nodes"][0], values["graph"]["inputs"][0]

    def graph(nodes, inputs=(entry,), outputs=(("n0", "n0"),)):
        made = {**values, "graph": {"inputs": list(inputs), "nodes": nodes, "outputs": [list(o) for o in outputs]}}
        return joined(copy.deepcopy(made), arrays)

    def other(name, op, sources, **given):
        return {**first, "id": name, "op": op, "inputs": sources, "params": given, "weights": {}}

    wide = {**entry, "name": "w", "shape": [2**25]}
    yield "wide", graph([first], [entry, wide])
    yield "wider", graph([first], [entry, {**wide, "shape": [2**26, 2**26]}])
    yield "many-inputs", graph([first, other("s", "add", ["n0"] * (limits.MAX_NODE_INPUTS - 1))], outputs=[("s", "s")])
    yield "too-many-inputs", graph([first, other("s", "add", ["n0"] * limits.MAX_NODE_INPUTS)], outputs=[("s", "s")])
    yield "doubling", graph([first, *[other(f"c{i}", "concatenate", [f"c{i - 1}" if i else "n0"] * 2, axis=-1)
                                      for i in range(60)]])  # fmt: skip
    chain = [other(f"a{i}", "activation", [f"a{i - 1}" if i else "n0"], activation={"name": "tanh"})
             for i in range(limits.MAX_NODES - 1)]  # fmt: skip
    yield "chain", graph([first, *chain])
    big = {**entry, "shape": [2**13, 1]}
    pools = [other(f"p{i}", "pool", ["x"], kind="max", size=[2**12], strides=[1], padding="valid") for i in range(2000)]
    row = other("r", "reshape", [f"p{len(pools) - 1}"], shape=[2**12 + 1])
    yield "pools", graph([*pools, row, {**first, "inputs": ["p0"]}], [big], [("r", "r")])
    yield "long-window", graph([first, other("t", "position", ["x"], n=2**24)])
    yield "deep", composed({"bundle": DEEP * 1000, "sums": "{}"}, {}, b"")
    yield "brackets", sealed((2**24).to_bytes(8, "little") + bundle_file.PREFIX + b"0" * 64 + b"[" * (2**24))
