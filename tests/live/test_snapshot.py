"""State files: what is written, what is refused, and that nothing is ever half-written."""

import os
import subprocess
import sys

import h5py
import numpy as np
import pytest

import stepstream
from make import dense, model_of, recurrent
from stepstream import InputError, Model, StateError
from stepstream.formats.reading import LayerInfo, Provenance, Reading
from stepstream.graph.ir import Graph, Node, TensorSpec, TimeRole
from stepstream.live import snapshot

SAMPLES = np.random.default_rng(6).normal(size=(20, 3)).astype(np.float32)


@pytest.fixture
def stream(model):
    stream = model.stream("carry")
    stream.steps(SAMPLES[:4])
    return stream


def test_the_root_holds_only_states(stream, tmp_path):
    stream.step(SAMPLES[4], time=1234.5)
    stream.save(tmp_path / "state.h5")
    with h5py.File(tmp_path / "state.h5") as file:
        # layers 0 and 3 of model.layers: LSTM, LeakyReLU, Dropout, LSTM, ...
        assert {name: file[name].shape for name in file} == {
            "states_0_0": (1, 32),
            "states_0_1": (1, 32),
            "states_3_0": (1, 16),
            "states_3_1": (1, 16),
        }
        assert file.attrs["age"] == 5
        assert file.attrs["time"] == 1234.5
        assert file.attrs["windowing"] == "carry"
        assert file.attrs["fingerprint"] == stream.model.fingerprint
        np.testing.assert_array_equal(file["states_3_1"][0], stream.state["lstm_1"]["c"])


def test_another_models_state_is_refused_naming_both(stream, tmp_path, motions):
    stream.save(tmp_path / "state.h5")
    other = stepstream.load(motions / "model.keras", scale=(0.0, 2.0)).stream("carry")
    other.step(SAMPLES[0])
    with pytest.raises(StateError) as caught:
        other.load(tmp_path / "state.h5")
    assert stream.model.fingerprint in str(caught.value)
    assert other.model.fingerprint in str(caught.value)
    assert other.age == 1


def test_another_windowings_state_is_refused_naming_both(stream, model, tmp_path):
    stream.save(tmp_path / "state.h5")
    with pytest.raises(StateError, match=r"tumbling\(9\).*carry"):
        model.stream("tumbling(9)").load(tmp_path / "state.h5")


def test_a_newer_layout_is_refused(stream, tmp_path):
    stream.save(tmp_path / "state.h5")
    with h5py.File(tmp_path / "state.h5", "r+") as file:
        file.attrs["layout"] = 2
    with pytest.raises(StateError, match="newer"):
        stream.load(tmp_path / "state.h5")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: f.__delitem__("states_0_1"), "states_0_1"),
        (lambda f: f.create_dataset("states_9_0", data=np.zeros((1, 4))), "states_9_0"),
        (lambda f: f["states_0_0"].__setitem__((0, 0), np.nan), "NaN"),
        (lambda f: (f.__delitem__("states_0_0"), f.create_dataset("states_0_0", data=np.zeros((1, 31)))), r"\(1, 32\)"),
        (lambda f: (f.__delitem__("states_0_0"), f.create_group("states_0_0")), "states_0_0"),
        (lambda f: (f.__delitem__("states_0_0"), f.create_dataset("states_0_0", data=[["a"] * 32])), "floats"),
    ],
)
def test_a_spoilt_file_changes_nothing(stream, tmp_path, spoil, message):
    stream.save(tmp_path / "state.h5")
    with h5py.File(tmp_path / "state.h5", "r+") as file:
        spoil(file)
    before = stream.snapshot()
    with pytest.raises(StateError, match=message):
        stream.load(tmp_path / "state.h5")
    assert stream.snapshot() == before


@pytest.mark.parametrize("content", [b"", b"not hdf5", b"\x89HDF\r\n\x1a\n" + bytes(100)])
def test_files_that_are_no_states(stream, tmp_path, content):
    (tmp_path / "state.h5").write_bytes(content)
    with pytest.raises(StateError, match="not a readable state file"):
        stream.load(tmp_path / "state.h5")
    with pytest.raises(StateError, match="nowhere"):
        stream.load(tmp_path / "nowhere.h5")


@pytest.mark.parametrize("limit", [0, 100, 5000])
def test_a_full_disk_leaves_the_old_file(stream, motions, tmp_path, limit):
    """A file-size limit makes real writes fail. HDF5 itself, writing to disk, would end the process here."""
    path = tmp_path / "state.h5"
    stream.save(path)
    old = path.read_bytes()
    code = (
        "import resource, signal, stepstream\n"
        f"stream = stepstream.load({str(motions / 'model.keras')!r}).stream('carry')\n"
        "stream.step([1, 2, 3])\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
        "try:\n"
        f"    stream.save({str(path)!r})\n"
        "except stepstream.StateError as e:\n"
        "    print(e)\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.startswith(f"{path}: cannot be written, and is as it was")
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


def test_only_files_are_replaced(stream, tmp_path):
    """Not /dev/null, not a folder; a link stays a link, and the file keeps its mode."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(StateError, match="expected a file"):
            stream.save(path)
    assert (tmp_path / "pipe").is_fifo()
    (tmp_path / "real").mkdir()
    stream.save(tmp_path / "real" / "state.h5")
    (tmp_path / "real" / "state.h5").chmod(0o640)
    (tmp_path / "link.h5").symlink_to(tmp_path / "real" / "state.h5")
    stream.step(SAMPLES[5])
    stream.save(tmp_path / "link.h5")
    assert (tmp_path / "link.h5").is_symlink()
    assert (tmp_path / "real" / "state.h5").stat().st_mode & 0o777 == 0o640
    twin = stream.fork()
    twin.load(tmp_path / "real" / "state.h5")
    assert twin.age == 5


@pytest.mark.parametrize("path", ["a\0b", "a\ud800b", None, 3, b"state.h5"])
def test_what_names_no_file(stream, path):
    for call in (stream.save, stream.load):
        with pytest.raises(InputError, match="expected the path of a state file"):
            call(path)


def test_a_name_that_is_too_long(stream, tmp_path):
    with pytest.raises(StateError, match="cannot be written"):
        stream.save(tmp_path / ("a" * 300))


@pytest.mark.parametrize(
    ("windowing", "spoil"),
    [
        ("carry", lambda f: f.attrs.__setitem__("age", np.uint64(2**64 - 1))),
        ("carry", lambda f: f.attrs.__setitem__("samples", 2**63 - 1)),
        ("sliding(3)", lambda f: f["samples"].__setitem__(0, 2**63 - 1)),
    ],
)
def test_counts_that_cannot_go_on_are_refused(model, tmp_path, windowing, spoil):
    stream = model.stream(windowing)
    stream.steps(SAMPLES[:4])
    stream.save(tmp_path / "state.h5")
    with h5py.File(tmp_path / "state.h5", "r+") as file:
        spoil(file)
    with pytest.raises(StateError, match=f"from 0 to {2**62}"):
        stream.load(tmp_path / "state.h5")


def test_a_folder_that_is_not_there(stream, tmp_path):
    with pytest.raises(StateError, match=r"state\.h5: cannot be written.*No such file"):
        stream.save(tmp_path / "nowhere" / "state.h5")


def test_an_unknown_age_is_said(model, tmp_path):
    with h5py.File(tmp_path / "recipe.h5", "w") as file:
        for name, units in (("states_0_0", 32), ("states_0_1", 32), ("states_3_0", 16), ("states_3_1", 16)):
            file.create_dataset(name, data=np.full((1, units), 0.25, np.float32))
    stream = model.stream("carry")
    stream.load(tmp_path / "recipe.h5")
    assert stream.age is None
    assert stream.beyond_training_length
    stream.step(SAMPLES[0])
    assert stream.age is None
    with pytest.raises(StateError, match="age"):
        model.stream("tumbling(5)").load(tmp_path / "recipe.h5")
    stream.save(tmp_path / "again.h5")
    stream.load(tmp_path / "again.h5")
    assert stream.age is None
    stream.reset()
    assert stream.age == 0


def test_the_recipe_is_no_file_with_columns(stream, model, tmp_path):
    stream.save(tmp_path / "state.h5")
    with pytest.raises(StateError, match="expected a state file with columns, got one in the layout of the Keras"):
        model.stream("sliding(3)").load(tmp_path / "state.h5")


def test_a_model_without_state(tmp_path):
    stream = model_of(dense(3, 2)).stream("carry")
    stream.step([1, 2, 3])
    stream.save(tmp_path / "state.h5")
    stream.reset()
    stream.load(tmp_path / "state.h5")
    assert stream.age == 1


def two_lstms(*owners):
    """A chain of two LSTMs that say which layers they come from: (node id, layer, layer_index) each."""
    nodes, source = [], "x"
    for features, (node, layer, index) in zip((3, 4), owners, strict=True):
        op, params, weights = recurrent("lstm", features, 4)
        nodes.append(Node(node, op, (source,), params, weights, layer, index))
        source = node
    graph = Graph((("x", TensorSpec((3,), TimeRole.SEQUENCE)),), tuple(nodes), ((source, source),))
    layers = tuple(LayerInfo(layer, "LSTM") for _, layer, _ in owners)
    return Model(Reading(graph, layers, (), 7, Provenance("test", "test")))


@pytest.mark.parametrize(
    ("owners", "expected"),
    [
        ([("a", "lstm", 1), ("b", "other", 2)], None),  # each a layer of its own: the recipe's
        ([("a", "lstm", 1), ("b", "lstm", 1)], ["a", "b"]),  # a layer that is called twice
        ([("a", "lstm", 1), ("lstm", "lstm", 1)], ["a", "lstm"]),
        ([("a", "outer", 1), ("b", "inner", -1)], ["outer", "inner"]),  # a layer inside another model
        ([("a", "first", 1), ("b", "second", 1)], ["first", "second"]),  # two layers inside the same one
        ([("a", "block/lstm", -1), ("b", "..", -1)], ["block%2Flstm", "%2E%2E"]),
        ([("a", "", -1), ("b", "100%", -1)], ["%", "100%25"]),
    ],
)
def test_the_recipe_is_for_layers_of_their_own(tmp_path, owners, expected):
    model = two_lstms(*owners)
    stream, twin = model.stream("carry"), model.stream("carry")
    stream.step(SAMPLES[0], time=12.5)
    stream.steps(SAMPLES[1:4])
    stream.save(tmp_path / "state.h5")
    with h5py.File(tmp_path / "state.h5") as file:
        if expected is None:
            assert set(file) == {f"states_{i}_{j}" for i in (1, 2) for j in (0, 1)}
        else:
            assert set(file) == {"state", "keys", "age", "samples", "time"}
            assert set(file["state"]) == set(expected)
            assert len(stream.state) == 2
            assert {name: d.shape for name, d in file["state"][expected[0]].items()} == {"h": (1, 4), "c": (1, 4)}
    twin.load(tmp_path / "state.h5")
    assert (twin.age, twin.time, twin.snapshot().samples) == (4, 12.5, 4)
    assert twin.step(SAMPLES[4]).tobytes() == stream.step(SAMPLES[4]).tobytes()
    snapshot.describe(tmp_path / "state.h5")


@pytest.mark.parametrize(("third", "expected"), [("other", ["a", "b", "other"]), ("a", ["a", "b", "c"])])
def test_a_layer_called_twice_beside_another(third, expected, tmp_path):
    """The other keeps its name, unless that is a node's."""
    op, params, weights = recurrent("lstm", 3, 3)
    nodes = [("a", "twice", 1), ("b", "twice", 1), ("c", third, 2)]
    chain = [Node(n, op, (s,), params, weights, layer, i) for (n, layer, i), s in zip(nodes, "xab", strict=True)]
    graph = Graph((("x", TensorSpec((3,), TimeRole.SEQUENCE)),), tuple(chain), (("c", "c"),))
    model = Model(Reading(graph, (), (), 7, Provenance("test", "test")))
    stream, twin = model.stream("carry"), model.stream("carry")
    stream.steps(SAMPLES[:3])
    stream.save(tmp_path / "state.h5")
    with h5py.File(tmp_path / "state.h5") as file:
        assert sorted(file["state"]) == expected
    twin.load(tmp_path / "state.h5")
    assert twin.snapshot().row.tobytes() == stream.snapshot().row.tobytes()


def test_one_stream_out_of_a_file_of_several_is_not_guessed(tmp_path):
    stream = two_lstms(("a", "lstm", 1), ("b", "lstm", 1)).stream("carry")
    stream.save(tmp_path / "state.h5")
    with h5py.File(tmp_path / "state.h5", "r+") as file:
        for name, two in (("keys", ["", "b"]), ("age", [0, 0]), ("samples", [0, 0]), ("time", [np.nan, np.nan])):
            del file[name]
            file[name] = two
    with pytest.raises(StateError, match="one stream, got 2"):
        stream.load(tmp_path / "state.h5")


def save_states(model, path):
    """The well-known recipe: every state of every recurrent layer, by index in model.layers."""
    with h5py.File(path, "w") as file:
        for i, layer in enumerate(model.layers):
            for j, state in enumerate(getattr(layer, "states", None) or []):
                file.create_dataset(f"states_{i}_{j}", data=np.asarray(state))


def load_states(model, path):
    """The recipe's own loader: every dataset in the file is a state."""
    with h5py.File(path, "r") as file:
        for name in file:
            _, i, j = name.split("_")
            model.layers[int(i)].states[int(j)].assign(file[name][()])


def printed(model):
    return "\n".join(str(np.asarray(s)) for layer in model.layers for s in getattr(layer, "states", None) or [])


@pytest.fixture(params=["sequential", "functional"])
def stateful(request):
    keras = pytest.importorskip("keras")
    layers = keras.layers
    keras.utils.set_random_seed(3)
    chain = [
        layers.LSTM(5, return_sequences=True, stateful=True),
        layers.LeakyReLU(),
        layers.GRU(4, return_sequences=True, stateful=True),
        layers.Dropout(0.2),
        layers.SimpleRNN(3, stateful=True),
        layers.Dense(1, activation="sigmoid"),
    ]
    if request.param == "sequential":
        return keras.Sequential([layers.Input((1, 3), batch_size=1), *chain])
    x = y = layers.Input((1, 3), batch_size=1)
    for layer in chain:
        y = layer(y)
    return keras.Model(x, y)


def test_the_recipe_reads_our_file_and_we_read_its(stateful, tmp_path):
    stream = stepstream.load(stateful).stream("carry")
    twin = stepstream.load(stateful).stream("carry")
    for x in SAMPLES[:6]:
        # a call, not predict_on_batch: on the JAX back end that one forgets the new states
        theirs = np.asarray(stateful(x[None, None]))[0, 0]
        assert stream.step(x) == pytest.approx(theirs, abs=1e-6)

    # theirs to ours
    save_states(stateful, tmp_path / "theirs.h5")
    before = printed(stateful)
    twin.load(tmp_path / "theirs.h5")
    with h5py.File(tmp_path / "theirs.h5") as file:
        kept = {name: file[name][0] for name in file}
    ours = [value for slots in twin.state.values() for value in slots.values()]
    np.testing.assert_array_equal(np.concatenate(ours), np.concatenate([kept[n] for n in sorted(kept)]))

    # ours to theirs: wiped, then read back by their own loader, printing equal states
    twin.save(tmp_path / "ours.h5")
    for layer in stateful.layers:
        if hasattr(layer, "reset_states"):
            layer.reset_states()
    assert printed(stateful) != before
    load_states(stateful, tmp_path / "ours.h5")
    assert printed(stateful) == before
    theirs = np.asarray(stateful(SAMPLES[6][None, None]))[0, 0]
    assert twin.step(SAMPLES[6]) == pytest.approx(theirs, abs=1e-6)
