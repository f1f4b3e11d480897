"""Calibration and triggers put into a graph, and taken out again.

    ... -> logits -> [calibrate] -> sigmoid or softmax -> [isotonic] -> the output -> [trigger] -> "decision"

All that a graph has of these is taken off first and what is wanted is put on again, so that each comes once, in this
order, and a graph without any is the graph that it was.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from stepstream.arguments import whole, yes
from stepstream.arrays import float32, short
from stepstream.errors import GraphError, InputError
from stepstream.graph.ir import Array, Graph, Node, state_ref
from stepstream.graph.validate import validate
from stepstream.limits import MAX_INDEX

ATTACHED = ("calibrate", "isotonic", "trigger")  # the ops that are no part of the network
DECISION = "decision"  # the name of the output that a trigger adds
_PROBABILITIES = ("sigmoid", "softmax")


@dataclass(frozen=True, eq=False)
class Attached:
    """What a graph has beside its network. scale (n,): of the logits, by position; knots: x and y of a map of the
    probabilities; rule (n, 3), k and latched: of a trigger. None where there is none.
    """

    scale: Array | None = None
    knots: tuple[Array, Array] | None = None
    rule: Array | None = None
    k: int = 1
    latched: bool = True

    @property
    def calibration(self) -> str | None:
        """In words."""
        parts = []
        if self.scale is not None:
            parts.append(f"logits times {_span(self.scale)}")
        if self.knots is not None:
            parts.append(f"probabilities along {len(self.knots[0])} knots")
        return ", ".join(parts) or None

    @property
    def trigger(self) -> str | None:
        """In words."""
        if self.rule is None:
            return None
        n = len(self.rule)
        by = "a rule for all samples" if n == 1 else f"a rule by sample, up to sample {n}"
        row = "after one sample" if self.k == 1 else f"after {self.k} in a row"
        return f"{by}, {row}, {'the first decision stays' if self.latched else 'revocable'}"


def _span(values: Array) -> str:
    if len(values) == 1:
        return f"{values[0]:.4g}"
    return f"{values[0]:.4g} at sample 1 to {values[-1]:.4g} from sample {len(values)} on"


def calibrated(graph: Graph, scale: Array, knots: tuple[Array, Array] | None = None) -> Graph:
    """The logits times scale[min(t, n) - 1] at the t-th sample since the reset, scale (n,) above 0; a calibration that
    is there is replaced, a trigger stays.

    knots: x and y (knots,) of a rising line of pieces that the probabilities then go along; of a softmax each class by
    itself, and all are divided by their sum. Raises InputError for values that do not do, and where `n_classes` does.
    """
    base, attached = taken_off(graph)
    if knots is not None:
        try:
            x, y = knots
        except (TypeError, ValueError) as e:
            raise InputError(f"knots: expected (x, y), got {short(knots)}") from e
        knots = float32(x, "numbers as x of knots"), float32(y, "numbers as y of knots")
    return _put_on(base, replace(attached, scale=float32(scale, "numbers as scale"), knots=knots))


def uncalibrated(graph: Graph) -> Graph:
    """Without a calibration; the graph as it was before `calibrated`, where it had none then."""
    base, attached = taken_off(graph)
    return _put_on(base, replace(attached, scale=None, knots=None))


def logits(graph: Graph) -> Graph:
    """The network alone, and without its last activation: the output are the raw logits (units,) of each sample."""
    base, _ = taken_off(graph)
    last = _last_activation(base)
    raw = replace(last, params={**last.params, "activation": {"name": "linear"}})
    return _exchanged(base, {last.id: (raw,)})


def with_trigger(graph: Graph, rule: Array, k: int = 1, latched: bool = True) -> Graph:
    """With one more output, "decision", (1,): the class that is decided upon, or -1. A trigger there is replaced.

    rule (n, 3): a, b and c of each position; k: samples in a row; latched: whether the first decision stays until the
    reset. ops/trigger.py has the formula. Raises InputError for values that do not do, for an output
    that is called "decision" itself, and where `n_classes` does.
    """
    k, latched = whole("k", k, 1, MAX_INDEX, "samples"), yes("latched", latched)
    base, attached = taken_off(graph)
    if base.outputs[0][0] == DECISION:
        raise InputError(
            f"expected an output of another name, got {DECISION!r}, which is what the trigger's is called; rename the "
            "layer"
        )
    rule = float32(rule, "numbers as rule")
    return _put_on(base, replace(attached, rule=rule, k=int(k), latched=bool(latched)))


def without_trigger(graph: Graph) -> Graph:
    """Without a trigger and its output."""
    base, attached = taken_off(graph)
    return _put_on(base, replace(attached, rule=None))


def n_classes(graph: Graph) -> int:
    """2 for one sigmoid unit, the units of a softmax. Raises InputError for a graph with any other output, or several.

    A regression, a sigmoid of several units and a softmax of one unit have no one class on top.
    """
    base, _ = taken_off(graph)
    return _classes(base)


def taken_off(graph: Graph) -> tuple[Graph, Attached]:
    """The network alone, and what it had beside. Raises InputError where it gives no probabilities of classes."""
    attached, nodes, outputs = Attached(), {n.id: n for n in graph.nodes}, graph.outputs
    if has_trigger(graph):
        trigger = nodes.pop(outputs[-1][1])
        attached = replace(
            attached, rule=trigger.weights["rule"], k=trigger.params["k"], latched=trigger.params["latched"]
        )
        outputs = outputs[:-1]
    if len(outputs) != 1:
        raise InputError(f"expected a model with one output, got {[name for name, _ in outputs]}")
    ((name, source),) = outputs
    if source in nodes and nodes[source].op == "isotonic":
        isotonic = nodes.pop(source)
        attached = replace(attached, knots=(isotonic.weights["x"], isotonic.weights["y"]))
        (source,) = isotonic.inputs
    base = Graph(graph.inputs, tuple(nodes.values()), ((name, source),))
    last = _last_activation(base)
    _classes(base)
    before = nodes.get(last.inputs[0])
    if before is not None and before.op == "calibrate":
        attached = replace(attached, scale=before.weights["scale"])
        inner = nodes.get(before.inputs[0])
        new: tuple[Node, ...] = (replace(last, inputs=before.inputs),)
        gone = {before.id}
        if inner is not None and inner.id == _own_logits(last.id) and inner.op == "dense":
            params = {**inner.params, "activation": last.params["activation"]}
            new = (replace(inner, id=last.id, params=params),)
            gone.add(inner.id)
        base = _exchanged(base, {last.id: new, **dict.fromkeys(gone, ())})
    return base, attached


def has_trigger(graph: Graph) -> bool:
    """Whether the last of several outputs is the decision of a trigger."""
    if len(graph.outputs) < 2 or graph.outputs[-1][0] != DECISION:
        return False
    return any(n.op == "trigger" and n.id == graph.outputs[-1][1] for n in graph.nodes)


def stray_trigger(graph: Graph) -> str | None:
    """The id of a trigger that is not where `with_trigger` puts it: over the only other output, taken by none but
    "decision".
    """
    outputs = graph.outputs
    for node in graph.nodes:
        if node.op != "trigger":
            continue
        placed = len(outputs) == 2 and outputs[1] == (DECISION, node.id) and node.inputs == (outputs[0][1],)
        state = state_ref(node.id, "")
        if not placed or any(i == node.id or i.startswith(state) for n in graph.nodes for i in n.inputs):
            return node.id
    return None


def attached_to(graph: Graph) -> Attached:
    """What a graph has beside its network; nothing where it could have nothing."""
    try:
        return taken_off(graph)[1]
    except InputError:
        return Attached()


def _put_on(base: Graph, a: Attached) -> Graph:
    nodes, ((name, source),) = base, base.outputs
    last = _last_activation(base)
    if a.scale is not None:
        own = _free(base, "calibration")
        scaled = Node(own, "calibrate", last.inputs, {}, {"scale": a.scale}, own)
        if last.op == "activation":
            new: tuple[Node, ...] = (scaled, replace(last, inputs=(own,)))
        else:
            linear = replace(last, id=_own_logits(last.id), params={**last.params, "activation": {"name": "linear"}})
            activation = replace(
                last,
                op="activation",
                inputs=(own,),
                params={"activation": last.params["activation"]},
                weights={},
            )
            new = (linear, replace(scaled, inputs=(linear.id,)), activation)
        nodes = _exchanged(nodes, {last.id: new})
    added, outputs = list(nodes.nodes), [(name, source)]
    if a.knots is not None:
        own = _free(nodes, "calibration.isotonic")
        x, y = a.knots
        added.append(Node(own, "isotonic", (source,), {}, {"x": x, "y": y}, own))
        outputs = [(name, own)]
    if a.rule is not None:
        own = _free(base, "trigger")
        params = {"k": a.k, "latched": a.latched}
        added.append(Node(own, "trigger", (outputs[0][1],), params, {"rule": a.rule}, own))
        outputs.append((DECISION, own))
    graph = Graph(base.inputs, tuple(added), tuple(outputs))
    try:
        validate(graph)
    except GraphError as e:
        raise InputError(str(e)) from e
    return graph


def _own_logits(node: str) -> str:
    """The name of a dense layer whose activation, of the layer's own name, is apart from it."""
    return f"{node}.logits"


def _exchanged(graph: Graph, new: dict[str, tuple[Node, ...]]) -> Graph:
    nodes = tuple(other for node in graph.nodes for other in new.get(node.id, (node,)))
    return replace(graph, nodes=nodes)


def _free(graph: Graph, name: str) -> str:
    taken = {name for name, _ in graph.inputs} | {n.id for n in graph.nodes} | {n.layer for n in graph.nodes}
    while name in taken:
        name += "_"
    return name


def _last_activation(graph: Graph) -> Node:
    """The node that makes the probabilities: an activation, or a dense layer with one."""
    nodes, ((_, source),) = {n.id: n for n in graph.nodes}, graph.outputs
    node = nodes.get(source)
    while node is not None and (node.op == "latest" or (node.op == "activation" and _activation(node) == "linear")):
        node = nodes.get(node.inputs[0])
    if node is None or _activation(node) not in _PROBABILITIES:
        kind = "an input" if node is None else f"{node.layer!r} ({_activation(node) or node.op})"
        raise InputError(
            "expected a model that ends with a sigmoid or a softmax, and so gives probabilities, got one that ends "
            f"with {kind}"
        )
    return node


def _activation(node: Node) -> str | None:
    return str(node.params["activation"]["name"]) if node.op in {"activation", "dense"} else None


def _classes(graph: Graph) -> int:
    last = _last_activation(graph)
    specs, name = validate(graph), _activation(last)
    units = specs[graph.outputs[0][1]].size
    if len(specs[last.id].shape) != 1:
        raise InputError(f"expected probabilities of classes, got a {name} of shape {specs[last.id].shape}")
    if (name == "sigmoid") == (units == 1):
        return max(units, 2)
    cure = "two units or a sigmoid" if units == 1 else "a softmax, which makes one of them the class"
    raise InputError(f"expected probabilities of classes, got a {name} of {_units(units)}; build the model with {cure}")


def _units(n: int) -> str:
    return "1 unit" if n == 1 else f"{n} units"
