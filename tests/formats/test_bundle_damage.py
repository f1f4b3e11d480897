"""Bundles that were damaged or made up are refused, naming the place."""

import json
import os

import pytest
from bundle_making import FORGED, LENGTH, composed, joined, params, parted, refused, sealed, tiny

import make
import stepstream
from make import dense, model_of
from stepstream import InputError, ModelFileError, limits


def test_every_flipped_byte_is_refused(saved, path):
    with path.open("r+b", buffering=0) as file:
        for at, byte in enumerate(saved):
            for mask in (1 << at % 8, 0xFF):
                os.pwrite(file.fileno(), bytes([byte ^ mask]), at)
                with pytest.raises(ModelFileError, match=r"damaged|cut off"):
                    stepstream.load(path)
            os.pwrite(file.fileno(), bytes([byte]), at)
    stepstream.load(path)


def test_every_truncation_is_refused_and_so_is_more(saved, path):
    refused(path, saved + b"\0")
    for length in reversed(range(len(saved))):
        os.truncate(path, length)
        with pytest.raises(ModelFileError, match="cut off"):
            stepstream.load(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'"op', "the graph: damaged"),
        (b"epochs", "report 'training': damaged"),
        (b"trained_ages", "the model's names and lengths: damaged"),
        (b"stepstream 0", "the header: damaged"),
        (b'\\"kind', "the provenance: damaged"),
        (b'"sums', "the header is damaged"),
        (b"F32", "the header is damaged"),
    ],
)
def test_a_flipped_byte_of_the_header_is_named(text, message, saved, path):
    at = saved.index(text) + len(text) - 1
    flipped = saved[:at] + bytes([saved[at] ^ 1]) + saved[at + 1 :]
    assert message in refused(path, flipped)


def test_a_flipped_byte_of_the_numbers_is_named(saved, path):
    start = LENGTH + int.from_bytes(saved[:LENGTH], "little")
    for at, message in ((0, "weight 'bias' of node 'n0': damaged"), (4, "weight 'kernel'"), (8, "the check vectors")):
        flipped = bytearray(saved)
        flipped[start + at] ^= 1
        assert message in refused(path, bytes(flipped))
    assert "cut off" in refused(path, saved[:-1])


@pytest.mark.parametrize(("change", "arguments", "message"), FORGED, ids=[str(i) for i in range(len(FORGED))])
def test_what_is_made_up_is_refused(change, arguments, message, saved, path):
    values, arrays = parted(saved)
    change(values, arrays, **arguments)
    assert message in refused(path, joined(values, arrays))


def swapped(graph):
    graph["outputs"].reverse()


def alone(graph):
    del graph["outputs"][0]


def renamed(graph):
    graph["outputs"][1][0] = "other"


def one_more_output(graph):
    graph["outputs"].insert(0, ["more", "n0"])


def no_output(graph):
    del graph["outputs"][1]


def over_another(graph):
    graph["nodes"][-1]["inputs"] = ["n0"]


def taken_by_another(graph):
    again = {"op": "activation", "params": {"activation": {"name": "tanh"}}, "weights": {}}
    graph["nodes"].append({**graph["nodes"][-1], "id": "z", "inputs": ["trigger"], **again})


def state_taken_by_another(graph):
    taken_by_another(graph)
    graph["nodes"][-1]["inputs"] = ["trigger#streak"]


@pytest.mark.parametrize(
    "change",
    [swapped, alone, renamed, one_more_output, no_output, over_another, taken_by_another, state_taken_by_another],
)
def test_a_trigger_anywhere_else_is_refused(change, path):
    make.deciding().save(path)
    values, arrays = parted(path.read_bytes())
    change(values["graph"])
    assert "node 'trigger': expected a trigger over the only output" in refused(path, joined(values, arrays))


def test_another_graph_under_the_old_fingerprint_is_refused(saved, path):
    values, arrays = parted(saved)
    params(values, arrays, activation={"name": "tanh"})
    assert "fingerprint" in refused(path, joined(values, arrays, keep_fingerprint=True))


def test_a_window_and_a_training_length_that_differ_are_refused(path):
    make.windowed().save(path)
    values, arrays = parted(path.read_bytes())
    values["model"]["training_length"] = 8
    assert "expected 7 as training length" in refused(path, joined(values, arrays))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"dtype": "F64"}, "expected float32 values"),
        ({"dtype": "F16"}, "expected float32 values"),
        ({"shape": [2, 2]}, "expected float32 values"),
        ({"shape": [-1, -1]}, "expected float32 values"),
        ({"shape": [1.0, 1]}, "expected float32 values"),
        ({"shape": 1}, "expected float32 values"),
        ({"shape": [1] * 40}, "expected float32 values"),
        ({"shape": [2**62, 2**62]}, "expected float32 values"),
        ({"data_offsets": [0, 4]}, "expected float32 values"),  # over the bias
        ({"data_offsets": [8, 12]}, "expected float32 values"),  # a hole
        ({"data_offsets": [4]}, "expected float32 values"),
        ({"more": 1}, "expected float32 values"),
    ],
)
def test_arrays_that_overlap_or_are_no_float32_are_refused(entry, message, saved, path):
    start = LENGTH + int.from_bytes(saved[:LENGTH], "little")
    header = json.loads(saved[LENGTH:start])
    texts = header.pop("__metadata__")
    del texts["sha256"]
    header["weights/n0/kernel"] |= entry
    assert message in refused(path, composed(texts, header, saved[start:]))


def test_headers_that_lie_are_refused(saved, path):
    start = LENGTH + int.from_bytes(saved[:LENGTH], "little")
    head, body = saved[LENGTH:start], saved[start:]
    for length, message in (
        (0, "the header"), (start, "the header"), (2**63, "the header"), (len(head) + 8, "expected JSON"),
        (len(head) - 8, "expected JSON"),
    ):  # fmt: skip
        assert message in refused(path, sealed(length.to_bytes(8, "little") + head + body))
    twice = head.rstrip().removesuffix(b"}") + b',"check/x":{"dtype":"F32","shape":[],"data_offsets":[104,108]}}'
    twice += b" " * (-len(twice) % 8)
    assert "twice" in refused(path, sealed(len(twice).to_bytes(8, "little") + twice + body + b"1234"))
    long = head + b" " * limits.MAX_JSON_BYTES
    long += b" " * (-len(long) % 8)
    assert "header of at most" in refused(path, sealed(len(long).to_bytes(8, "little") + long + body))
    marks = composed({"a": "[" * limits.MAX_JSON_ELEMENTS}, {}, b"")
    assert "elements of JSON" in refused(path, marks)
    assert "texts as metadata" in refused(path, composed({"a": 1}, {}, b""))
    assert "bytes as the header says" in refused(path, sealed(saved + bytes(8)))
    many = {f"a{i}": {} for i in range(limits.MAX_TENSORS + 1)}
    assert "arrays, got" in refused(path, composed({}, many, b""))


def test_what_is_no_bundle_at_all_is_refused_by_its_name(path, motions, recording):
    for data in (b"", b"x", (motions / "model.keras").read_bytes(), recording.read_bytes(), bytes(1000)):
        refused(path, data)
    path.unlink()
    with pytest.raises(ModelFileError, match="No such file"):
        stepstream.load(path)
    path.mkdir()
    with pytest.raises(ModelFileError, match="a folder"):
        stepstream.load(path)


def test_a_bundle_is_known_by_its_first_bytes_too(saved, tmp_path):
    (tmp_path / "model.bin").write_bytes(saved)
    assert stepstream.load(tmp_path / "model.bin").fingerprint == tiny().fingerprint


def test_many_nodes_over_one_weight_are_refused(saved, path, monkeypatch):
    monkeypatch.setattr(limits, "MAX_REPEATED_BYTES", 20)
    values, arrays = parted(saved)
    first = values["graph"]["nodes"][0]
    values["graph"]["nodes"] += [{**first, "id": f"m{i}"} for i in range(3)]
    assert "share fewer weights" in refused(path, joined(values, arrays))
    monkeypatch.setattr(limits, "MAX_NODES", 3)
    assert "at most 3 nodes" in refused(path, joined(values, arrays))
    model = model_of(*[dense(3, 3)] * 4)
    with pytest.raises(InputError, match="at most 3 nodes"):
        model.save(path)


def test_limits_hold_for_what_is_saved_too(path, monkeypatch):
    monkeypatch.setattr(limits, "MAX_TENSORS", 3)
    with pytest.raises(InputError, match="at most 3 arrays"):
        tiny().save(path)
    monkeypatch.undo()
    tiny().save(path)
    monkeypatch.setattr(limits, "MAX_BUNDLE_BYTES", 100)
    with pytest.raises(ModelFileError, match="at most 100 bytes"):
        stepstream.load(path)
