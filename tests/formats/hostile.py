"""Hostile files, at least ten of each class, and random damage to real ones. hostile_child.py opens them."""

from __future__ import annotations

import base64
import functools
import io
import itertools
import json
import marshal
import random
import re
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np

ARRAYS = {
    "lstm/kernel": (3, 8),
    "lstm/recurrent": (2, 8),
    "lstm/bias": (8,),
    "dense/kernel": (2, 1),
    "dense/bias": (1,),
}  # of the smallest model: LSTM(2) -> Dense(1) on 3 features
KERAS3 = dict(
    zip(
        ARRAYS,
        ("lstm/cell/vars/0", "lstm/cell/vars/1", "lstm/cell/vars/2", "dense/vars/0", "dense/vars/1"),
        strict=True,
    )
)
MODULE = "stepstream_canary"  # a module whose import leaves a trace
Case = tuple[str, str, bytes]  # class, file name, content; the name begins with model, state or scale
CASES: dict[str, Callable[[], Iterator[tuple[str, bytes]]]] = {}


def case(make):
    CASES[make.__name__] = make
    return make


# -- honest files, to be spoilt ---------------------------------------------------------------------------------------


def values(name: str) -> np.ndarray:
    return np.linspace(-0.5, 0.5, int(np.prod(ARRAYS[name])), dtype=np.float32).reshape(ARRAYS[name])


def config(keras: int = 2, **changes) -> dict:
    """changes: lstm={...}, dense={...}: keys of a layer's own configuration; entry={...}: of the entry around it."""
    shape = {"batch_input_shape": [None, 7, 3]} if keras == 2 else {}
    lstm = {"name": "lstm", "units": 2, "activation": "tanh", "recurrent_activation": "sigmoid", "use_bias": True}
    dense = {"name": "dense", "units": 1, "activation": "sigmoid", "use_bias": True}
    layers = [
        {"class_name": "LSTM", "config": {**lstm, **shape, **changes.get("lstm", {})}},
        {"class_name": "Dense", "config": {**dense, **changes.get("dense", {})}, **changes.get("entry", {})},
    ]
    if keras == 3:
        layers.insert(0, {"class_name": "InputLayer", "config": {"name": "in", "batch_shape": [None, 7, 3]}})
    return {"class_name": "Sequential", "config": {"name": "s", "layers": layers}}


def put(file: h5py.Group, path: str, name: str, **options) -> None:
    file.create_dataset(path, data=values(name), **options)


def h5(spoil=lambda file: None, model_config=None, write=put, without=(), libver=None) -> bytes:
    """A whole model as Keras 2 writes it. write: how an array gets into the file."""
    image = io.BytesIO()
    with h5py.File(image, "w", libver=libver) as file:
        text = config() if model_config is None else model_config
        text = text if isinstance(text, str | bytes) else json.dumps(text)
        file.attrs.create("model_config", text, dtype=h5py.string_dtype())
        file.attrs["keras_version"], file.attrs["backend"] = "2.15.0", "tensorflow"
        root = file.create_group("model_weights")
        root.attrs["layer_names"] = [b"lstm", b"dense"]
        for layer in ("lstm", "dense"):
            names = [n for n in ARRAYS if n.startswith(layer)]
            root.create_group(layer).attrs["weight_names"] = [n.encode() for n in names]
            for name in names:
                if name not in without:
                    write(file, f"model_weights/{layer}/{name}", name)
        spoil(file)
    return image.getvalue()


def weights3(spoil=lambda file: None, write=put, without=(), libver=None) -> bytes:
    image = io.BytesIO()
    with h5py.File(image, "w", libver=libver) as file:
        for name, place in KERAS3.items():
            if name not in without:
                write(file, f"layers/{place}", name)
        spoil(file)
    return image.getvalue()


def deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


@functools.cache
def zeros(mebibytes: int, window: int = -15) -> bytes:
    """So many MiB of zeros, deflated, without making them all: every block after a full flush is the same."""
    packer = zlib.compressobj(9, zlib.DEFLATED, window)
    first = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    if window < 0:
        return first + block * (mebibytes - 1) + packer.flush()
    check = 1
    for _ in range(mebibytes):
        check = zlib.adler32(bytes(2**20), check)
    return first + block * (mebibytes - 1) + b"\x03\x00" + struct.pack(">I", check)


def crc_of_zeros(mebibytes: int) -> int:
    check = 0
    for _ in range(min(mebibytes, 8)):  # longer ones never come as far as the sum
        check = zlib.crc32(bytes(2**20), check)
    return check


def entry(name, data=b"", **said) -> dict:
    """said: what is written instead of the truth; local_...: in the local header alone."""
    return {"name": name, "data": data, **said}


def archive(*entries: dict, head=b"", tail=b"", comment=b"", **said) -> bytes:
    """A zip archive that may lie about everything."""
    out, directory, first = head, b"", None
    for e in entries:
        data, method = e["data"], e.get("method", 0)
        raw = e["name"] if isinstance(e["name"], bytes) else e["name"].encode()
        truth = {
            "flags": 0x800, "method": method, "crc": zlib.crc32(data), "packed": len(data), "size": len(data),
            "name": raw,
        }  # fmt: skip
        central = {**truth, **{k: v for k, v in e.items() if k in truth and k != "name"}}
        local = {**central, **{k.removeprefix("local_"): v for k, v in e.items() if k.startswith("local_")}}
        offset = len(out) if "shared" not in e else first
        first = offset if first is None else first
        if "shared" not in e:
            extra = e.get("extra", b"")
            out += struct.pack(
                "<4s5H3I2H", b"PK\x03\x04", 20, local["flags"], local["method"], 0, 0x21, local["crc"], local["packed"],
                local["size"], len(local["name"]), len(extra),
            ) + local["name"] + extra + data  # fmt: skip
        directory += struct.pack(
            "<4s6H3I5H2I", b"PK\x01\x02", 0x314, 20, central["flags"], central["method"], 0, 0x21, central["crc"],
            central["packed"], central["size"], len(raw), 0, 0, e.get("disk", 0), 0, e.get("mode", 0o100644) << 16,
            e.get("offset", offset),
        ) + raw  # fmt: skip
    at = said.get("at", len(out))
    count = said.get("count", len(entries))
    end = struct.pack(
        "<4s4H2IH", b"PK\x05\x06", said.get("disk", 0), 0, said.get("here", count), count,
        said.get("directory", len(directory)), at, len(comment),
    )  # fmt: skip
    return out + directory + end + comment + tail


def parts(model_config=None, weights=None) -> list[dict]:
    text = config(3) if model_config is None else model_config
    data = text if isinstance(text, bytes) else json.dumps(text).encode()
    return [
        entry("metadata.json", json.dumps({"keras_version": "3.5.0"}).encode()),
        entry("config.json", data),
        entry("model.weights.h5", weights3() if weights is None else weights),
    ]


def keras(model_config=None, weights=None) -> bytes:
    return archive(*parts(model_config, weights))


def both(**options) -> Iterator[tuple[str, bytes]]:
    """The same in a file of Keras 2 and in an archive of Keras 3."""
    yield "model.h5", h5(**options)
    yield "model.keras", keras(weights=weights3(**options))


def each_array(write) -> Iterator[tuple[str, bytes]]:
    """One array after the other put into the file in a way of its own."""
    for name in ARRAYS:
        spoilt = lambda file, path, n, name=name: (write if n == name else put)(file, path, n)  # noqa: E731
        yield from both(write=spoilt)


def honest() -> dict[str, bytes]:
    return {
        "model.h5": h5(),
        "model.keras": keras(),
        "state-one.h5": state(),
        "state-columns.h5": columns(),
        "scale.json": SCALE,
    }


@functools.cache
def fingerprint() -> str:
    import stepstream

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.h5"
        path.write_bytes(h5())
        return stepstream.load(path).fingerprint


SCALE = b'{"mean": [0.0, 1.0, 2.0], "std": [1.0, 1.0, 2.0]}'


def state(spoil=lambda file: None, write=None, **changes) -> bytes:
    """One stream of the smallest model, as people save Keras states."""
    image = io.BytesIO()
    with h5py.File(image, "w") as file:
        for n in (0, 1):
            if write is None or n:
                file.create_dataset(f"states_0_{n}", data=np.full((1, 2), 0.25, np.float32))
            else:
                write(file, "states_0_0")
        for key, value in {"age": 3, "samples": 3, **changes}.items():
            file.attrs[key] = value
        spoil(file)
    return image.getvalue()


def columns(spoil=lambda file: None, **changes) -> bytes:
    """One stream of the smallest model, in columns."""
    image = io.BytesIO()
    with h5py.File(image, "w") as file:
        file.attrs["layout"], file.attrs["windowing"], file.attrs["fingerprint"] = 1, "carry", fingerprint()
        values = {"age": [3], "samples": [3], "time": [np.nan], **changes}
        file.create_dataset("keys", data=values.pop("keys", [""]))
        for name, column in values.items():
            file.create_dataset(name, data=column)
        for slot in ("h", "c"):
            file.create_dataset(f"state/lstm/{slot}", data=np.zeros((1, 2), np.float32))
        spoil(file)
    return image.getvalue()


# -- the classes ------------------------------------------------------------------------------------------------------


@case
def zip_bombs():
    metadata, text, weights = parts()
    for n, size in ((17, 17), (900, 900)):
        bomb = entry("config.json", zeros(n), method=8, size=size << 20, crc=crc_of_zeros(n))
        yield "model.keras", archive(metadata, bomb, weights)
    for n in (32, 100, 4000):
        bomb = entry("model.weights.h5", zeros(n), method=8, size=n << 20, crc=crc_of_zeros(n))
        yield "model.keras", archive(metadata, text, bomb)
    yield "model.keras", archive(entry("metadata.json", zeros(64), method=8, size=64 << 20), text, weights)
    for name in ("config.json", "model.weights.h5", "metadata.json"):  # says that it is small
        liar = entry(name, zeros(200), method=8, size=1000)
        yield "model.keras", archive(*(p for p in parts() if p["name"] != name), liar)
    inner = archive(entry("model.weights.h5", zeros(100), method=8, size=100 << 20))
    yield "model.keras", archive(metadata, text, entry("model.weights.h5", inner))
    packed = deflate(zeros(200))
    yield "model.keras", archive(metadata, text, entry("model.weights.h5", packed, method=8, size=len(zeros(200))))
    kernel = entry("a", zeros(10), method=8, size=10 << 20)
    overlapping = [entry(f"a{i}", zeros(10), method=8, size=10 << 20, shared=True) for i in range(500)]
    yield "model.keras", archive(*parts(), kernel, *overlapping)
    yield "model.keras", archive(*parts(), *(entry(f"a{i}") for i in range(2000)))
    yield "model.keras", archive(*parts(), entry("a" * 60000), *(entry(f"{i}" + "a" * 60000) for i in range(30)))


@case
def zip_paths():
    names = ["../config.json", "/etc/passwd", "assets/../../x", "C:/x", "..", "a\\..\\b", "./config.json", "a//b", "x\0.json",
             "x\x1b[2J", "assets/..", "a/./b"]  # fmt: skip
    for name in names:
        yield "model.keras", archive(*parts(), entry(name, b"x"))
    for mode in (0o120777, 0o020666, 0o010666, 0o140777, 0o060666):  # link, device, pipe, socket, disk
        yield "model.keras", archive(*parts(), entry("assets/x", b"/etc/passwd", mode=mode))
    yield "model.keras", archive(entry("config.json", b"/etc/passwd", mode=0o120777), *parts()[::2])


@case
def duplicate_entries():
    for name, other in itertools.product(("config.json", "metadata.json", "model.weights.h5"), (b"{}", None)):
        twin = next(p for p in parts() if p["name"] == name)
        again = twin if other is None else entry(name, other)
        yield "model.keras", archive(*parts(), again)
        yield "model.keras", archive(again, *parts())
    yield "model.keras", archive(*parts(), *(entry("assets/x") for _ in range(100)))
    yield "model.keras", archive(*parts(), entry("config.json", b"{}", flags=0))  # one name in two encodings


@case
def zip_lies():
    metadata, text, weights = parts()
    packed = deflate(text["data"])
    told = {"method": 8, "size": len(text["data"]), "crc": zlib.crc32(text["data"])}
    size = len(text["data"])
    spoilt = [
        {"flags": 0x801}, {"flags": 0x841}, {"flags": 0x2801}, {"flags": 0x820}, {"method": 12}, {"method": 14},
        {"method": 9}, {"method": 93}, {"method": 99}, {"crc": 1}, {"local_crc": 1}, {"local_size": 1},
        {"local_packed": 1}, {"local_method": 8}, {"local_flags": 1}, {"local_name": b"confix.json"}, {"disk": 1},
        {"local_name": b"config.jso"}, {"size": size + 1}, {"size": size - 1, "packed": size - 1}, {"offset": 10**6},
        {"size": 0xFFFFFFFF}, {"packed": 0xFFFFFFFF}, {"offset": 0xFFFFFFFF}, {"offset": 1},
        {"local_size": 0xFFFFFFFF, "local_packed": 0xFFFFFFFF},
        {"local_size": 0xFFFFFFFF, "local_packed": 0xFFFFFFFF, "extra": struct.pack("<HHQQ", 1, 16, size, 2**60)},
        {"data": packed[:-9], **told}, {"data": packed + b"xyz", **told}, {"data": b"\xff" + packed, **told},
        {"data": packed, **told, "size": size + 1}, {"data": packed, **told, "size": size - 1},
    ]  # fmt: skip
    for change in spoilt:
        yield "model.keras", archive(metadata, {**text, **change}, weights)
    for options in ({"head": b"MZ" * 300}, {"tail": b"\0"}, {"tail": b"PK\x05\x06" + bytes(18)}, {"comment": b"hello"},
                    {"count": 2}, {"count": 4}, {"here": 2}, {"count": 0xFFFF}, {"at": 0}, {"at": 2**31}, {"disk": 1},
                    {"directory": 10}, {"directory": 2**31}, {"directory": 0xFFFFFFFF}):  # fmt: skip
        yield "model.keras", archive(metadata, text, weights, **options)
    yield "model.keras", archive(text)
    yield "model.keras", archive(weights)
    yield "model.keras", archive(entry("x", keras()))


LINKED = ("model_weights", "model_weights/lstm", "model_weights/lstm/lstm", "model_weights/lstm/lstm/kernel",
          "model_weights/dense/dense/bias")  # fmt: skip
LINKED3 = ("layers", "layers/lstm", "layers/lstm/cell", "layers/lstm/cell/vars", "layers/dense/vars/1")


def linked(make) -> Iterator[tuple[str, bytes]]:
    def relink(path):
        def spoil(file):
            file.move(path, "kept")
            file[path] = make(path)

        return spoil

    for path in LINKED:
        yield "model.h5", h5(relink(path))
    for path in LINKED3:
        yield "model.keras", keras(weights=weights3(relink(path)))
    yield "model.h5", h5(relink(LINKED[3]), libver="latest")
    yield "model.keras", keras(weights=weights3(relink(LINKED3[4]), libver="latest"))


@case
def soft_links():
    yield from linked(lambda path: h5py.SoftLink("/kept"))
    yield from linked(lambda path: h5py.SoftLink(f"/{path}"))  # to itself
    yield "model.h5", h5(lambda f: f["model_weights"].__setitem__("extra", h5py.SoftLink("/nowhere")))


@case
def external_links():
    yield from linked(lambda path: h5py.ExternalLink("/etc/passwd", path))
    yield from linked(lambda path: h5py.ExternalLink("honest-model.h5", path))


@case
def virtual_datasets():
    def write(file, path, name):
        layout = h5py.VirtualLayout(ARRAYS[name], np.float32)
        layout[...] = h5py.VirtualSource("honest-model.h5", f"model_weights/{name}", ARRAYS[name])
        file.create_virtual_dataset(path, layout)

    yield from each_array(write)


@case
def external_storage():
    for target in ("/etc/passwd", "honest-model.h5"):
        yield from each_array(
            lambda file, path, name, target=target: file.create_dataset(
                path, ARRAYS[name], np.float32, external=[(target, 0, h5py.h5f.UNLIMITED)]
            )
        )


def packed_as(data, chunks=None, shape=None, mask=0, **options):
    """Chunks written raw. data: one chunk's bytes, for all."""

    def write(file, path, name):
        dataset = file.create_dataset(path, shape or ARRAYS[name], np.float32, chunks=chunks or ARRAYS[name], **options)
        for at in dataset.iter_chunks():
            dataset.id.write_direct_chunk(tuple(s.start for s in at), data, filter_mask=mask)

    return write


@case
def filters():
    yield from each_array(lambda file, path, name: put(file, path, name, compression="lzf"))
    yield from each_array(lambda file, path, name: put(file, path, name, scaleoffset=3))
    for number in (4, 5, 305, 32001, 32004, 32008, 32013, 32015, 32026, 65535):
        write = packed_as(b"data", compression=number, allow_unknown_filter=True)
        try:
            yield from both(write=write)
        except (ValueError, OSError):  # this build of the library knows the filter and wants more of it
            continue


@case
def compressed_bombs():
    def only_first(write):
        return lambda file, path, name: (write if name == "lstm/kernel" else put)(file, path, name)

    for n in (1, 10, 50):  # of the right shape, and far more comes out
        yield from both(write=only_first(packed_as(zeros(n, 15), compression="gzip")))
    for shape in ((2**28,), (2**24, 2**8), (2**40,)):  # of a shape that only a bomb can fill
        chunk = (2**26,) if len(shape) == 1 else (2**18, 2**8)
        yield from both(write=only_first(packed_first(zeros(256, 15), chunk, shape)))
    many = packed_as(zeros(1, 15), chunks=(2**18,), shape=(2**18 * 64,), compression="gzip")
    yield from both(write=only_first(many))
    good = zlib.compress(values("lstm/kernel").tobytes())
    for spoilt in (good[:-4], good[:10], good + b"x", b"x", zlib.compress(good * 2), zlib.compress(b"short")):
        yield from both(write=only_first(packed_as(spoilt, compression="gzip")))
    yield from both(write=only_first(packed_as(good, compression="gzip", mask=1)))
    yield from both(write=only_first(packed_as(good + b"\0\0\0\0", compression="gzip", fletcher32=True)))
    yield from both(write=only_first(packed_as(b"\0" * 5, shuffle=True)))
    yield from both(write=only_first(lambda f, p, n: f.create_dataset(p, ARRAYS[n], np.float32, chunks=(1, 8))))


def packed_first(data, chunk, shape):
    def write(file, path, name):
        dataset = file.create_dataset(path, shape, np.float32, chunks=chunk, compression="gzip")
        dataset.id.write_direct_chunk((0,) * len(shape), data)

    return write


@case
def promises():
    """Shapes that promise more than the bytes hold."""
    old = struct.pack("<QQ", 3, 8)
    for dims in (
        (3, 9),
        (4, 8),
        (3, 2**20),
        (2**20, 8),
        (3, 2**40),
        (2**61, 8),
        (2**63, 2),
        (2**63, 2**63),
        (2**32, 2**32),
        (0, 8),
    ):
        for name, data in both():
            if name == "model.h5":
                yield name, replaced(data, old, struct.pack("<QQ", *dims))
            else:
                yield name, keras(weights=replaced(weights3(), old, struct.pack("<QQ", *dims)))
    for shape in ((3, 8), (2**30,), (2**40, 2**10)):  # nothing was ever written
        never = lambda f, p, n, shape=shape: (  # noqa: E731
            f.create_dataset(p, shape, np.float32) if n == "lstm/kernel" else put(f, p, n)
        )
        yield from both(write=never)
    data = h5()
    address = data.index(values("lstm/kernel").tobytes())
    for place in (len(data) - 8, len(data), 2**40, 2**64 - 1, 2**63):
        yield "model.h5", replaced(data, struct.pack("<Q", address), struct.pack("<Q", place))


def replaced(data: bytes, old: bytes, new: bytes) -> bytes:
    assert old in data
    return data.replace(old, new)


@case
def absurd():
    """Counts, depths and sizes."""
    data = h5()
    for old, new, most in (
        (b"TREE\0\0", b"TREE\0\xff", 9),
        (b"TREE\0\0\x01\0", b"TREE\0\0\xff\xff", 9),
        (b"SNOD\x01\0\x01\0", b"SNOD\x01\0\xff\xff", 9),
        (b"SNOD\x01\0\x02\0", b"SNOD\x01\0\xff\xff", 9),
        (b"HEAP\0\0\0\0X\0\0\0", b"HEAP\0\0\0\0\xff\xff\xff\xff", 9),
        (b"GCOL\x01\0\0\0\0\x10", b"GCOL\x01\0\0\0\xff\xff\xff\x7f", 9),
    ):
        if old in data:
            yield "model.h5", data.replace(old, new, most)
    yield "model.h5", replaced(data, struct.pack("<BBHII", 1, 0, 1, 1, 24), struct.pack("<BBHII", 1, 0, 65535, 1, 24))
    yield "model.h5", replaced(data, struct.pack("<BBHII", 1, 0, 1, 1, 24), struct.pack("<BBHII", 1, 0, 1, 1, 2**31))
    for names in ([b"lstm/kernel"] * 3000, [b"x" * 50000], [], [b"lstm/kernel"] * 2):
        yield "model.h5", h5(lambda f, names=names: f["model_weights/lstm"].attrs.__setitem__("weight_names", names))
    for value in (5, "lstm", np.zeros((3, 3)), np.zeros(2**12), h5py.Empty("f")):
        yield "model.h5", h5(lambda f, value=value: f["model_weights/lstm"].attrs.__setitem__("weight_names", value))
    deep = "/".join(["x"] * 1000)
    yield "model.h5", h5(lambda f: f["model_weights/lstm"].move("lstm/kernel", f"{deep}/kernel") or f[
        "model_weights/lstm"].attrs.__setitem__("weight_names", [f"{deep}/kernel"]))  # fmt: skip
    yield "model.h5", h5(model_config=config(lstm={"name": "lstm/" * 20000}))
    for units in (10**9, 2**63, 10**300, -1, 0, 1.5, "2", None, [2], {}):
        yield "model.h5", h5(model_config=config(lstm={"units": units}))
    for shape in ([None, 7, 10**12], [None, 7, -3], [None] * 1000, [None, 7, 3.5], "x", [[]]):
        yield "model.h5", h5(model_config=config(lstm={"batch_input_shape": shape}))

    def cycle(file):
        file["model_weights/lstm/lstm/again"] = file["model_weights/lstm"]
        file["model_weights/lstm"].attrs["weight_names"] = [("lstm/again/" * 100 + "lstm/kernel")]

    yield "model.h5", h5(cycle)
    yield "model.h5", h5(lambda f: f["model_weights/lstm"].move("lstm", "gone") or f[
        "model_weights/lstm"].__setitem__("lstm", f["model_weights"]))  # fmt: skip
    for depth, calls in ((12, 2), (16, 2), (10, 10), (3, 1000)):
        yield "model.keras", keras(nested(depth, calls))
    many = [{"class_name": "LeakyReLU", "config": {"name": f"x{i}"}} for i in range(6000)]
    yield "model.h5", h5(model_config={"class_name": "Sequential", "config": {"name": "s", "layers": many}})
    yield from loops()


def nested(depth: int, calls: int) -> dict:
    """Models inside each other, each called several times: calls ** depth layers in a few kilobytes."""

    def tensor(name, node=0):
        history = [name, node, 0]
        return {
            "class_name": "__keras_tensor__",
            "config": {"shape": [None, 7, 3], "dtype": "float32", "keras_history": history},
        }

    own = f"in{depth}"
    entry = {
        "class_name": "InputLayer",
        "name": own,
        "config": {"name": own, "batch_shape": [None, 7, 3]},
        "inbound_nodes": [],
    }
    inner = nested(depth - 1, calls) if depth else {"class_name": "LeakyReLU", "config": {"name": "leaf"}}
    name = inner["config"]["name"]
    found = [tensor(name, n - 1) if n else tensor(own) for n in range(calls if depth else 1)]
    inner |= {"name": name, "module": "keras", "inbound_nodes": [{"args": [x], "kwargs": {}} for x in found]}
    body = {
        "name": f"model{depth}", "layers": [entry, inner], "input_layers": [[own, 0, 0]],
        "output_layers": [[name, len(found) - 1, 0]],
    }  # fmt: skip
    return {"class_name": "Functional", "config": body}


def loops():
    """Headers whose pieces lead back to themselves, by hand: one root object in a file of version 2."""

    def file(root: bytes) -> bytes:
        size = 48 + len(root)
        return b"\x89HDF\r\n\x1a\n" + struct.pack("<BBBBQQQQI", 2, 8, 8, 0, 0, 2**64 - 1, size, 48, 0) + root

    back = struct.pack("<BHBQQ", 16, 16, 0, 48 + 28, 28)  # to the piece that holds it
    piece = b"OCHK" + back + bytes(4)
    yield (
        "model.h5",
        file(b"OHDR" + struct.pack("<BBB", 2, 0, 21) + struct.pack("<BHBQQ", 16, 16, 0, 79, 28) + bytes(1) + piece),
    )
    whole = b"OHDR" + struct.pack("<BBB", 2, 0, 20) + back + bytes(4)
    yield "model.h5", file(whole + bytes(len(whole) % 4) + piece)
    old = struct.pack("<BBHIII", 1, 0, 65535, 1, 24, 0) + struct.pack("<HHBBBBQQ", 16, 16, 0, 0, 0, 0, 64, 24)
    yield "model.h5", file(old)
    info = struct.pack("<BHBBBQQ", 2, 18, 0, 0, 0, 48, 48)  # a heap and an index that are the header
    yield "model.h5", file(b"OHDR" + struct.pack("<BBB", 2, 0, len(info) + 4) + info + bytes(8))
    tree = struct.pack("<4sBBIHHBBQHQI", b"BTHD", 0, 5, 2**32 - 1, 11, 65535, 100, 40, 48, 65535, 2**63, 0)
    info = struct.pack("<BHBBBQQ", 2, 18, 0, 0, 0, 200, 100)
    header = b"OHDR" + struct.pack("<BBB", 2, 0, len(info) + 4) + info + bytes(8)
    heap = struct.pack("<4sBHHBIQQQQQQQQQQQQHQQHHQH", b"FRHP", 0, 8, 0, 2, 4096, 0, *[0] * 11, 65535 // 2 + 1, 512,
                       65536, 40, 1, 48, 65535)  # fmt: skip
    root = header + bytes(52 - len(header)) + tree
    yield "model.h5", file(root + bytes(152 - len(root)) + heap + bytes(600))


def own_h5(model_config: dict, arrays: dict[str, list[tuple[int, ...]]]) -> bytes:
    """Any model as Keras 2 writes it, with zeros, which pack well, for weights: {layer: shapes}."""
    image = io.BytesIO()
    with h5py.File(image, "w") as file:
        file.attrs.create("model_config", json.dumps(model_config), dtype=h5py.string_dtype())
        file.attrs["keras_version"], file.attrs["backend"] = "2.15.0", "tensorflow"
        root = file.create_group("model_weights")
        for layer, shapes in arrays.items():
            group = root.create_group(layer)
            group.attrs["weight_names"] = [f"w{n}".encode() for n in range(len(shapes))]
            for n, shape in enumerate(shapes):
                group.create_dataset(
                    f"w{n}", data=np.zeros(shape, np.float32), **({"compression": "gzip"} if all(shape) else {})
                )
    return image.getvalue()


def functional(shape: list, *layers: tuple, outputs=None) -> dict:
    """A model as Keras 2 writes it. layers: (class, name, configuration, calls), a call being a list of tensors."""
    entries = [{"class_name": "InputLayer", "name": "x", "config": {"batch_input_shape": [None, *shape], "name": "x"},
                "inbound_nodes": []}]  # fmt: skip
    for kind, name, inner, calls in layers:
        nodes = [[[*t, {}] if isinstance(t, tuple) else [t, 0, 0, {}] for t in call] for call in calls]
        entries.append({"class_name": kind, "name": name, "config": {"name": name, **inner}, "inbound_nodes": nodes})
    found = [[layers[-1][1], 0, 0]] if outputs is None else outputs
    body = {"name": "m", "layers": entries, "input_layers": [["x", 0, 0]], "output_layers": found}
    return {"class_name": "Functional", "config": body}


def chain(kind: str, count: int, inner: dict, source: str, tensors=1) -> list[tuple]:
    """One layer after the other, each with so many times the one before."""
    names = [source, *(f"{kind}{n}" for n in range(count))]
    return [(kind, own, inner, [[before] * tensors]) for before, own in itertools.pairwise(names)]


@case
def growth():
    """A few kilobytes that call for much time or memory. Some are sound models, and load as fast as others."""
    for depth in (5, 6, 7):
        unnamed = re.sub(r'"config": {"name": "[^"]*"(, )?', '"config": {', json.dumps(nested(depth, 5)))
        yield "model.keras", keras(unnamed.encode())
    dense = ("Dense", "y", {"units": 1}, [["x"]])
    weights = {"y": [(3, 1), (1,)]}
    for count in (900, 3000, 100_000):
        yield "model.h5", own_h5(functional([7, 3], dense, outputs=[["y", 0, 0]] * count), weights)
    names = ", ".join(f'"{n}": 0' for n in range(100_000))
    yield "model.keras", keras(f'{{{names}, "99999": 1}}'.encode())
    for count in (27, 60):
        yield "model.keras", keras(doubled_masks(count))
    for count in (12, 23, 40):
        twice = chain("Concatenate", count, {}, "f", 2)
        layers = [("Flatten", "f", {}, [["x"]]), *twice, ("Dense", "y", {"units": 1}, [[twice[-1][1]]])]
        kernel = (21 * 2 ** min(count, 12), 1)
        yield "model.h5", own_h5(functional([7, 3], *layers), {"y": [kernel, (1,)]})
        layers = [*chain("Concatenate", count, {}, "x", 2), ("LeakyReLU", "y", {}, [[twice[-1][1]]])]
        yield "model.h5", own_h5(functional([7, 3], *layers), {})
    for count in (50, 200, 1000):
        calls = [["x"], *([("r", n, 0)] for n in range(count - 1))]
        shapes = {"r": [(600, 2400), (600, 2400), (4800,)], "n": [(2**20,)] * 4}
        cudnn = ("CuDNNLSTM", "r", {"units": 600, "return_sequences": True}, calls)
        yield "model.h5", own_h5(functional([7, 600], cudnn, outputs=[["r", count - 1, 0]]), shapes)
        calls = [["x"], *([("n", n, 0)] for n in range(count - 1))]
        norm = ("BatchNormalization", "n", {}, calls)
        yield "model.h5", own_h5(functional([7, 2**20], norm, outputs=[["n", count - 1, 0]]), shapes)
    for count in (900, 8000):
        inner = functional([7, 3], ("LeakyReLU", "l", {}, [["x"]]), outputs=[["l", 0, 0]] * count)["config"]
        outer = [("Functional", "m", inner, [["x"]]), ("Add", "y", {}, [[("m", 1, n) for n in range(count)]])]
        yield "model.h5", own_h5(functional([7, 3], *outer), {})
    for units in (0, 1):
        tanh = chain("Activation", 2, {"activation": "tanh"}, "f")
        layers = [("Flatten", "f", {}, [["x"]]), *tanh, ("Dense", "y", {"units": units}, [["Activation1"]])]
        for size in (200, 300) if units else (200, 20_000):
            yield "model.h5", own_h5(functional([10_000, size], *layers), {"y": [(10_000 * size, units), (units,)]})


def doubled_masks(count: int) -> dict:
    """A mask laid beside itself again and again, in the words of Keras 3."""

    def tensor(name):
        return {"class_name": "__keras_tensor__", "config": {"keras_history": [name, 0, 0]}}

    def operation(kind, name, *args):
        nodes = [{"args": list(args), "kwargs": {}}]
        return {"module": "keras.src.ops.numpy", "class_name": kind, "name": name, "inbound_nodes": nodes,
                "config": {"name": name, "axis": -1, "keepdims": True}}  # fmt: skip

    layers = [
        {"class_name": "InputLayer", "name": "x", "config": {"name": "x", "batch_shape": [None, 7, 3]}},
        operation("NotEqual", "differs", tensor("x"), 0.0),
        operation("Any", "c0", tensor("differs")),
    ]
    layers += [operation("Concatenate", f"c{n + 1}", [tensor(f"c{n}")] * 2) for n in range(count)]
    layers.append(operation("Any", "y", tensor(f"c{count}")))
    body = {"name": "m", "layers": layers, "input_layers": [["x", 0, 0]], "output_layers": [["y", 0, 0]]}
    return {"class_name": "Functional", "config": body}


def alone(kind: str, options: dict, shapes=(), shape=(7, 3)) -> bytes:
    """A model of one layer."""
    return own_h5(functional(list(shape), (kind, "l", options, [["x"]])), {"l": list(shapes)})


@case
def sizes():
    """Shapes that no memory holds, and products that do not fit 64 bits."""
    yield "model.h5", alone("LeakyReLU", {}, shape=(7, 2**40))
    flat = ("TimeDistributed", "y", {"layer": entry_of("Flatten", {})}, [["l"]])
    yield "model.h5", own_h5(functional([7, 2**62, 4], ("LeakyReLU", "l", {}, [["x"]]), flat), {})
    for first in (7, -1):
        target = {"target_shape": [first, 5, 7378697629483820647]}
        yield "model.h5", own_h5(functional([7, 3], ("Reshape", "l", target, [["x"]]), flat), {})
    for padding in (10**12, [10**12, 0], 2**24):
        yield "model.h5", inside("ZeroPadding1D", {"padding": padding})
    yield "model.h5", inside("MaxPooling1D", {"pool_size": 10**12, "strides": 1, "padding": "same"})
    yield "model.h5", inside("MaxPooling1D", {"pool_size": 2**24, "strides": 1, "padding": "same"})
    conv = [(2, 2, 1), (1,)]
    yield "model.h5", inside("Conv1D", {"dilation_rate": 10**12, "padding": "same"}, conv)
    yield "model.h5", inside("Conv1D", {"dilation_rate": 2**62, "padding": "same"}, conv)
    leaky = chain("LeakyReLU", 60, {}, "p")
    pad = ("TimeDistributed", "p", {"layer": entry_of("ZeroPadding1D", {"padding": 2**19})}, [["x"]])
    flat = ("TimeDistributed", "y", {"layer": entry_of("Flatten", {})}, [[leaky[-1][1]]])
    yield "model.h5", own_h5(functional([7, 4, 2], pad, *leaky, flat), {})


def entry_of(kind: str, options: dict) -> dict:
    return {"class_name": kind, "config": {"name": "inner", **options}}


def inside(kind: str, options: dict, shapes=()) -> bytes:
    """A layer on samples of 4 x 2 values, and one that makes a vector of what it gives."""
    first = ("TimeDistributed", "t", {"layer": entry_of(kind, options)}, [["x"]])
    flat = ("TimeDistributed", "y", {"layer": entry_of("Flatten", {})}, [["t"]])
    return own_h5(functional([7, 4, 2], first, flat), {"t": list(shapes)})


@case
def options():
    """Options of the wrong type or out of range, which only a step would meet."""
    gru = [(3, 12), (4, 12), (2, 12)]
    for units in (4.0, True, "4", 0, None):
        yield "model.h5", alone("GRU", {"units": units, "reset_after": True}, gru)
    for units in (0, 1.0, False):
        yield (
            "model.h5",
            alone("Dense", {"units": units}, [(3, int(units)), (int(units),)] if units else [(3, 1), (1,)]),
        )
    for kind, key in (
        ("LeakyReLU", "alpha"), ("LeakyReLU", "negative_slope"), ("ELU", "alpha"), ("ReLU", "threshold"),
        ("ReLU", "negative_slope"), ("ThresholdedReLU", "theta"),
    ):  # fmt: skip
        for value in (None, True, "1", [1.0], 1e300):
            yield "model.h5", alone(kind, {key: value})
    yield "model.h5", alone("ReLU", {"max_value": True})
    for epsilon in (None, -5, 0, True, "1"):
        yield "model.h5", alone("BatchNormalization", {"epsilon": epsilon}, [(3,)] * 4)
    for epsilon in (None, -1e-3, True):
        yield "model.h5", alone("LayerNormalization", {"epsilon": epsilon}, [(3,)] * 2)
    for groups in (1.0, True, 0, None):
        yield "model.h5", inside("Conv1D", {"groups": groups}, [(2, 2, 1), (1,)])
    for padding in (1.5, [1.0, 1], [True, 1], None, "same"):
        yield "model.h5", inside("ZeroPadding1D", {"padding": padding})
    for padding in ("bogus", 5, None, ["same"]):
        yield "model.h5", inside("MaxPooling1D", {"padding": padding})


@case
def json_bombs():
    text = json.dumps(config(3))
    bombs = {
        "deep lists": b"[" * 100_000,
        "deep objects": b'{"a":' * 100_000,
        "deep in layers": text.replace('"units": 1', '"units": ' + "[" * 500 + "]" * 500).encode(),
        "long": b'{"a": "' + b"x" * 2**24 + b'"}',
        "elements": b'{"a": [' + b"0," * 600_000 + b"0]}",
        "empty lists": b'{"a": [' + b"[]," * 400_000 + b"0]}",
        "quotes": b'{"a": "' + b'\\"' * 10**6,
        "NaN": text.replace('"units": 1', '"units": NaN').encode(),
        "Infinity": text.replace('"units": 1', '"units": Infinity').encode(),
        "-Infinity": text.replace('"units": 1', '"units": -Infinity').encode(),
        "1e999": text.replace('"units": 1', '"units": 1e999').encode(),
        "digits": text.replace('"units": 1', '"units": 1' + "0" * 10**6).encode(),
        "4000 digits": text.replace('"units": 1', '"units": 1' + "0" * 4000).encode(),
        "fraction": text.replace('"units": 1', '"units": 0.' + "1" * 10**6).encode(),
        "twice": text.replace('"units": 1', '"units": 1, "units": 2').encode(),
        "surrogate": text.replace('"dense"', '"\\ud800"').encode(),
        "latin-1": text.replace('"dense"', '"d\xe4nse"').encode("latin-1"),
        "utf-16": text.encode("utf-16"),
        "cut": text[:-1].encode(),
        "more": text.encode() + b"{}",
        "list": b"[1]",
        "string": b'"x"',
        "number": b"1",
        "null": b"null",
        "empty": b"",
        "zeros": bytes(100),
        "brackets": b"]" * 1000,
    }
    for data in bombs.values():
        yield "model.keras", keras(data)
    for name in ("deep objects", "NaN", "digits", "twice", "cut", "elements"):
        yield "model.h5", h5(model_config=bombs[name].replace(b'"batch_shape"', b'"batch_input_shape"'))
        metadata = entry("metadata.json", bombs[name])
        yield "model.keras", archive(metadata, *parts()[1:])


@case
def not_finite():
    for value in (np.nan, np.inf, -np.inf):

        def write(file, path, name, value=value):
            array = values(name)
            array.flat[-1] = value
            file.create_dataset(path, data=array)

        yield from each_array(write)
    yield from each_array(lambda file, path, name: file.create_dataset(path, data=np.full(ARRAYS[name], 1e300)))


def bytecode_text() -> str:
    """Code that leaves a trace, as Keras 2 keeps the code of a Lambda."""
    return base64.b64encode(
        marshal.dumps(compile("open('canary', 'w').write('executed')", "<canary>", "exec"))
    ).decode()


@case
def code():
    """Whatever could make a reader run, import or call something. A model that loads with a blocker was refused."""
    bytecode = bytecode_text()
    function = {"class_name": "__lambda__", "config": {"value": [bytecode, None, None], "code": bytecode}}
    layers = [
        ("Lambda", {"function": [bytecode, None, None], "function_type": "lambda"}),
        ("Lambda", {"function": function}),
        ("Lambda", {"function": "eval", "function_type": "function", "module": "builtins"}),
        ("TFOpLambda", {"function": "io.write_file"}),
        ("TFOpLambda", {"function": "py_function"}),
        ("SlicingOpLambda", {"function": "__operators__.getitem"}),
        ("Custom", {}),
        ("os.system", {"command": "touch canary"}),
        ("eval", {"expression": "open('canary', 'w')"}),
        ("__import__", {"name": MODULE}),
        ("__reduce__", {}),
        ("Layer", {"__class__": "os._wrap_close"}),
        (f"{MODULE}.Layer", {}),
        (f"{MODULE}>Layer", {}),
        ("TFSMLayer", {"filepath": "/etc"}),
        ("TorchModuleWrapper", {"module": bytecode}),
        ("JaxLayer", {"call_fn": function}),
        ("FlaxLayer", {"module": function}),
        ("PyTorch", {"pickle": base64.b64encode(b"cos\nsystem\n(S'touch canary'\ntR.").decode()}),
    ]
    for kind, inner in layers:
        made = config(3)
        made["config"]["layers"].insert(2, {"class_name": kind, "config": {"name": "x", **inner}, "module": MODULE})
        yield "model.keras", keras(made)
        made = config(2)
        made["config"]["layers"].insert(1, {"class_name": kind, "config": {"name": "x", **inner}})
        yield "model.h5", h5(model_config=made)
    for around in (
        {"module": MODULE, "registered_name": "Dense"},
        {"module": "builtins", "registered_name": "eval"},
        {"module": "os", "registered_name": "os>system"},
        {"module": None, "registered_name": f"{MODULE}>Dense"},
    ):
        yield "model.keras", keras(config(3, entry=around))
    for activation in (
        "eval", "os.system", f"{MODULE}.run", "__import__", "lambda x: x", function, bytecode, ["eval"], 5,
        {"class_name": "function", "config": "eval", "module": "builtins", "registered_name": "function"},
        {"class_name": "function", "config": "run", "module": MODULE, "registered_name": f"{MODULE}>run"},
        {"class_name": "Lambda", "config": {"function": function}},
    ):  # fmt: skip
        yield "model.keras", keras(config(3, dense={"activation": activation}))
        yield "model.h5", h5(model_config=config(lstm={"activation": activation}))
    for kind in ("Lambda", "os.system", f"{MODULE}>Model", "CustomModel"):
        yield "model.keras", keras({**config(3), "class_name": kind})


@case
def truncated():
    for name, data in (
        ("model.h5", h5()),
        ("model.keras", keras()),
        ("state.h5", state()),
        ("state-columns.h5", columns()),
    ):
        for part in (0.05, 0.3, 0.6, 0.9):
            yield name, data[: int(len(data) * part)]
        yield name, data[:-1] if name != "model.h5" else data[:-1000]
    weights = weights3()
    for part in (0.01, 0.1, 0.5, 0.99):
        yield "model.keras", keras(weights=weights[: int(len(weights) * part)])


@case
def wrong_magic():
    npz = io.BytesIO()
    np.savez(npz, a=np.zeros(3))
    for data in (
        b"", b"\0", b"P", b"PK\x03\x04", b"PK\x05\x06" + bytes(18), b"\x89HDF\r\n\x1a\n", b"\x89HDF\n\n\x1a\n" + bytes(500),
        b"\x0e\x03\x13\x01" + bytes(500), b"\x7fELF" + bytes(500), b"\x1f\x8b\x08" + bytes(500), b"%PDF-1.7\n", b"{}",
        b"cos\nsystem\n(S'touch canary'\ntR.", b"\x80\x04\x95" + bytes(50), b"CDF\x01" + bytes(100), npz.getvalue(),
        b"\x89HDF\r\n\x1a\n" + bytes(1000), bytes(512) + h5(), b"\x89HDF\r\n\x1a\n" + b"\xff" * 1000, b"<html>",
    ):  # fmt: skip
        yield "model.keras", data
        yield "state.h5", data


@case
def types():
    """References, records and other things that are no numbers where numbers belong."""
    record = np.zeros(3, [("a", "f4"), ("b", "f4")])
    odd = h5py.h5t.IEEE_F32LE.copy()
    odd.set_ebias(100)
    short = h5py.h5t.STD_I32LE.copy()
    short.set_precision(20)

    def low(kind):
        def write(file, path, name):
            group = file.require_group(path.rpartition("/")[0])
            space = h5py.h5s.create_simple(ARRAYS[name])
            h5py.h5d.create(group.id, path.rpartition("/")[2].encode(), kind, space)
            file[path].id.write(h5py.h5s.ALL, h5py.h5s.ALL, values(name))

        return write

    def committed(file, path, name):
        file["type"] = np.dtype("f4")
        file.create_dataset(path, data=values(name), dtype=file["type"])

    writers = [
        lambda f, p, n: f.create_dataset(p, (3,), h5py.ref_dtype),
        lambda f, p, n: f.create_dataset(p, (3,), h5py.regionref_dtype),
        lambda f, p, n: f.create_dataset(p, data=record),
        lambda f, p, n: f.create_dataset(p, (3,), h5py.vlen_dtype(np.float32)),
        lambda f, p, n: f.create_dataset(p, (3,), np.dtype("(3,8)f4")),
        lambda f, p, n: f.create_dataset(p, data=np.zeros(ARRAYS[n], "V4")),
        lambda f, p, n: f.create_dataset(p, data=np.full(ARRAYS[n], b"eval")),
        lambda f, p, n: f.create_dataset(p, data=np.full(ARRAYS[n], "eval", object), dtype=h5py.string_dtype()),
        lambda f, p, n: f.create_dataset(p, data=values(n).astype(np.complex64)),
        lambda f, p, n: f.create_dataset(p, data=h5py.Empty("f4")),
        lambda f, p, n: f.create_group(p),
        lambda f, p, n: f.__setitem__(p, np.dtype("f4")),
        low(odd),
        low(short),
        committed,
    ]
    for write in writers:
        yield from both(write=lambda f, p, n, write=write: (write if n == "lstm/kernel" else put)(f, p, n))
    for make in (
        lambda a, f: a.create("weight_names", [f.ref, f.ref], dtype=h5py.ref_dtype),
        lambda a, f: a.create("weight_names", record),
        lambda a, f: a.create("weight_names", np.array([b"\xff\xfe"])),
        lambda a, f: a.create("weight_names", np.zeros(2, "V7")),
    ):
        yield "model.h5", h5(lambda f, make=make: make(f["model_weights/lstm"].attrs, f))


@case
def state_files():
    yield from (
        ("state.h5", state(write=write))
        for write in (
            lambda f, p: f.__setitem__(p, h5py.SoftLink("/states_0_1")),
            lambda f, p: f.__setitem__(p, h5py.ExternalLink("/etc/passwd", "/x")),
            lambda f, p: f.create_dataset(p, (1, 2), "f4", external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)]),
            lambda f, p: f.create_dataset(p, (1, 2), "f4"),
            lambda f, p: f.create_dataset(p, data=np.zeros((1, 2), "f4"), compression="lzf"),
            lambda f, p: f.create_dataset(p, data=[[b"x", b"y"]]),
            lambda f, p: f.create_dataset(p, data=[[1, 2]]),
            lambda f, p: f.create_dataset(p, data=[[np.nan, 0.0]]),
            lambda f, p: f.create_dataset(p, data=[[1e300, 0.0]]),
            lambda f, p: f.create_dataset(p, (1, 2**40), "f4"),
            lambda f, p: f.create_dataset(p, data=np.zeros((1, 2, 1), "f4")),
            lambda f, p: f.create_group(p),
            lambda f, p: None,
            lambda f, p: f.create_dataset(p, (1, 2), h5py.ref_dtype),
        )
    )
    for name, value in itertools.product(
        ("age", "samples", "time", "layout"), ("x", [1, 2], -7, np.inf, h5py.Empty("f"))
    ):
        if (name, value) != ("time", -7):
            yield "state.h5", state(**{name: value})
    for changes in (
        {"keys": [b"a", b"b"], "age": [3, 3], "samples": [3, 3], "time": [0.0, 0.0]}, {"keys": [b"a", b"a"]},
        {"keys": [1]}, {"keys": [[b"a"]]}, {"keys": b"a"}, {"keys": []}, {"keys": [b"\xff"]}, {"age": [-7]},
        {"age": [0.5]}, {"age": [b"a"]}, {"age": [1, 2, 3]}, {"samples": [-1]}, {"time": [np.inf]}, {"time": [b"a"]},
        {"time": [[0.0]]},
    ):  # fmt: skip
        yield "state-columns.h5", columns(**changes)
    yield "state-columns.h5", columns(lambda f: f.__delitem__("time"))
    yield "state-columns.h5", columns(lambda f: f["state/lstm"].__setitem__("again", f["state"]))


@case
def scale_files():
    for data in (
        b"", b"[]", b"null", b"{}", b'{"mean": 1}', b'{"mean": [1, 2, 3], "std": NaN}', b'{"mean": Infinity, "std": 1}',
        b'{"mean": [1, 2, 3], "std": [1, 2]}', b'{"mean": [1, 2, 3], "std": [1, 2, 0]}', b'{"mean": "1", "std": 1}',
        b'{"mean": true, "std": 1}', b'{"mean": {"a": 1}, "std": 1}', b'{"mean": [[1, 2, 3]], "std": [[1, 1, 1]]}',
        b'{"mean": [1, 2, 1e999], "std": 1}', b'{"mean": 0, "mean": 0, "std": 1}', b'{"mean": 0, "std": 1', b"\xff\xfe{}",
        b'{"mean": 0, "std": 1' + b"0" * 10**5 + b"}", b"[" * 10**6, b'{"mean": [' + b"0," * 10**5 + b'0], "std": 1}',
        b'{"mean": 0, "std": 1}' + b" " * 2**20, b'{"mean": [1e39, 0, 0], "std": 1}', b'{"mean": null, "std": null}', SCALE * 2,
    ):  # fmt: skip
        yield "scale.json", data


def all_cases() -> Iterator[Case]:
    for kind, make in CASES.items():
        for n, (name, data) in enumerate(make()):
            stem, dot, suffix = name.partition(".")
            yield kind, f"{stem}-{kind}-{n}{dot}{suffix}", data


# -- random damage ----------------------------------------------------------------------------------------------------


def damage(data: bytes, rng: random.Random) -> bytes:
    """Bytes changed, cut out, doubled, moved or cut off; counts and sizes are hit by special numbers."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        at, length = rng.randrange(max(len(out), 1)), rng.choice((1, 1, 2, 4, 8, 64))
        kind = rng.randrange(8)
        if kind < 2:
            out[at : at + 1] = bytes([rng.randrange(256)])
        elif kind < 3:
            out[at : at + 1] = bytes([(out[at] ^ (1 << rng.randrange(8))) if at < len(out) else 0])
        elif kind < 5:
            width = rng.choice((1, 2, 4, 8))
            number = rng.choice(
                (0, 1, 2**7, 2**8 - 1, 2**15, 2**16 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1, at, len(out))
            )
            out[at : at + width] = (number % 2 ** (8 * width)).to_bytes(width, "little")
        elif kind < 6:
            del out[at : at + length]
        elif kind < 7:
            other = rng.randrange(max(len(out), 1))
            out[at : at + length] = out[other : other + length]
        else:
            del out[at : len(out) if rng.random() < 0.2 else at + 1]
    return bytes(out)


ODD = (
    None,
    True,
    False,
    0,
    1,
    -1,
    2,
    7,
    2**31,
    2**63,
    1.5,
    -0.0,
    1e30,
    "",
    "x",
    "tanh",
    "lstm",
    [],
    {},
    [[]],
    [None],
    [1, 2],
    {"x": 1},
)


def damage_json(text: bytes, rng: random.Random) -> bytes:
    """Values exchanged, left out, doubled, or of another type: still JSON, and no longer a configuration."""
    top = [json.loads(text)]
    for _ in range(rng.choice((1, 1, 2, 4))):
        places, stack = [], [top]
        while stack:
            value = stack.pop()
            keys = list(value) if isinstance(value, dict) else range(len(value))
            places += [(value, key) for key in keys]
            stack += [value[key] for key in keys if isinstance(value[key], dict | list)]
        (owner, key), (other, from_key) = rng.choice(places), rng.choice(places)
        kind = rng.randrange(5)
        if kind < 2:
            owner[key] = json.loads(json.dumps(rng.choice(ODD)))
        elif kind < 3:
            owner[key] = json.loads(json.dumps(other[from_key]))
        elif kind < 4 and owner is not top:
            del owner[key]
        elif isinstance(owner, list) and owner is not top:
            owner.insert(key, json.loads(json.dumps(owner[key])))
    return json.dumps(top[0]).encode()


def reconfigured(data: bytes, rng: random.Random) -> bytes:
    """A model in HDF5 with its configuration damaged so."""
    image = io.BytesIO(data)
    with h5py.File(image, "r+") as file:
        text = file.attrs["model_config"]
        text = text if isinstance(text, bytes) else text.encode()
        file.attrs.create("model_config", damage_json(text, rng), dtype=h5py.string_dtype())
    return image.getvalue()


def mutations(seeds: dict[str, bytes], count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """Archives are damaged as they are, and inside, with right sizes and sums around the damage."""
    rng = random.Random(seed)
    names = sorted(seeds)
    for n in range(count):
        name = names[n % len(names)]
        data = seeds[name]
        if name.endswith(".keras") and rng.random() < 0.75:
            with zipfile.ZipFile(io.BytesIO(data)) as file:
                inside = {i: file.read(i) for i in file.namelist()}
            hit = rng.choice(sorted(inside))
            as_json = hit.endswith(".json") and rng.random() < 0.5
            inside[hit] = (damage_json if as_json else damage)(inside[hit], rng)
            data = archive(*(entry(i, content) for i, content in inside.items()))
        elif name.startswith("model") and name.endswith(".h5") and rng.random() < 0.4:
            data = reconfigured(data, rng)
        else:
            data = damage(data, rng)
        stem, dot, suffix = name.rpartition(".")
        yield f"{stem}-{n}{dot}{suffix}", data
