"""What ops declare of their inputs, parameters and weights, for every op that exists."""

import random

import numpy as np
import pytest

from make import EXAMPLES, NEVER_STEPS
from stepstream.errors import GraphError
from stepstream.graph.ir import MASK, Graph, Node, TensorSpec, TimeRole, frozen_json
from stepstream.graph.validate import infer, validate
from stepstream.ops import REGISTRY

ODD = (
    None, True, 0, 1, -1, 1.5, 1e39, 10**400, "", "x", [], [1], [[1]], {}, {"name": 1}, {"name": "relu", "x": 1}, b"",
)  # fmt: skip


def nodes_of(op):
    """The nodes of an op in its example, each with the specs that it finds."""
    graph = EXAMPLES[op]().reading.graph
    specs = validate(graph)
    return [(n, {i: specs[i] for i in n.inputs} | {MASK: specs[MASK]}) for n in graph.nodes if n.op == op]


def rebuilt(node, **changes):
    given = {
        "id": node.id,
        "op": node.op,
        "inputs": node.inputs,
        "params": dict(node.params),
        "weights": dict(node.weights),
    }
    return Node(**(given | changes), layer="here")


@pytest.mark.parametrize("op", sorted(set(REGISTRY) - NEVER_STEPS))
def test_every_op_declares_all_that_it_takes_and_no_more(op):
    """Each parameter of an op is needed and typed; what is unknown is refused."""
    seen, weights = set(), set()
    for node, specs in nodes_of(op):
        seen |= set(node.params)
        weights |= set(node.weights)
        for change, message in (
            ({"params": {**node.params, "knee": 1}}, "knee"),
            ({"weights": {**node.weights, "knee": np.ones(1)}}, "knee"),
            ({"inputs": node.inputs * 3 if not REGISTRY[op].takes[-1].endswith("*") else ()}, "inputs"),
        ):
            with pytest.raises(GraphError, match=message):
                infer(rebuilt(node, **change), specs)
        for name, kind in REGISTRY[op].params.items():
            less = {k: v for k, v in node.params.items() if k != name}
            if not kind.optional:
                with pytest.raises(GraphError, match=f"{name}.*missing"):
                    infer(rebuilt(node, params=less), specs)
    assert seen == set(REGISTRY[op].params)
    assert weights <= set(REGISTRY[op].weights)


def refusal(node, specs):
    """What infer says against it, if anything; no other error may come."""
    try:
        infer(node, specs)
    except GraphError as e:
        return str(e)
    return None


@pytest.mark.parametrize("op", sorted(set(REGISTRY) - NEVER_STEPS))
def test_odd_parameters_weights_and_inputs_end_in_one_error(op):
    rng = random.Random(op)
    for node, specs in nodes_of(op):
        for name in node.params:
            for odd in ODD:
                said = refusal(rebuilt(node, params={**node.params, name: odd}), specs)
                assert "'here'" in said if said else REGISTRY[op].params[name].fits(frozen_json(odd))
        for name in node.weights:
            for shape in ((), (1,), (2, 2), (1, 1, 1, 1, 1), (0,)):
                said = refusal(rebuilt(node, weights={**node.weights, name: np.ones(shape)}), specs)
                assert said is None or "'here'" in said
        for _ in range(20):
            said = refusal(rebuilt(node), {i: rng.choice(SPECS) for i in specs})
            assert said is None or "'here'" in said


SPECS = [
    TensorSpec((), TimeRole.SEQUENCE, "bool"),
    *(TensorSpec(shape, role) for shape in ((), (3,), (4, 3), (2, 2, 2)) for role in TimeRole),
]
ONE = (("x", TensorSpec((3,), TimeRole.SEQUENCE)),)
NUMBER = (("x", TensorSpec((), TimeRole.SEQUENCE)),)


@pytest.mark.parametrize(
    ("inputs", "node", "message"),
    [
        (NUMBER, ("activation", ("x",), {"activation": {"name": "softmax"}}), "a vector per sample"),
        (NUMBER, ("activation", ("x",), {"activation": {"name": "glu"}}), "a vector per sample"),
        (NUMBER, ("layer_norm", ("x",), {"epsilon": 0.1, "centre": True}), "a vector per sample"),
        (ONE, ("activation", (MASK,), {"activation": {"name": "tanh"}}), "expected numbers as input 0"),
        (ONE, ("mask_and", ("x",), {}), "a mask as input 0"),
        (ONE, ("repeat", ("x",), {}), "expected 2 inputs, got 1"),
        (ONE, ("add", (), {}), "earlier nodes"),
        (ONE, ("where", ("x", MASK, "x", "x"), {}), "expected 2 to 3 inputs, got 4"),
        (ONE, ("where", ("x", MASK), {}), "value.*missing"),
    ],
)
def test_what_would_mix_streams_or_fail_later_is_refused(inputs, node, message):
    op, sources, params = node
    with pytest.raises(GraphError, match=message):
        validate(Graph(inputs, (Node("n", op, sources, params, {}, "here"),), (("y", "n"),)))


def test_a_state_and_a_node_of_one_name_are_refused():
    (lstm, _), *_ = nodes_of("lstm")
    first = Node("n0#h", "activation", ("x",), {"activation": {"name": "tanh"}})
    with pytest.raises(GraphError, match="a name for its state"):
        validate(Graph(ONE, (first, lstm), (("y", lstm.id),)))
