"""The HDF5 reader: the same as the HDF5 library on honest files, and a reason by name on others."""

import io

import h5py
import hostile
import numpy as np
import pytest

from stepstream import ModelFileError, StateError, limits
from stepstream.formats import hdf5


def written(write, **options):
    image = io.BytesIO()
    with h5py.File(image, "w", **options) as file:
        write(file)
    return image.getvalue()


def everything(file):
    file.attrs["text"] = "ü" * 50_000
    file.attrs["fixed"] = np.bytes_(b"abc")
    file.attrs["names"] = np.array([b"a", b"bb"])
    file.attrs["strings"] = ["a", "ü", ""]
    file.attrs["integer"] = -3
    file.attrs["number"] = 0.25
    file.attrs["flag"] = True
    file.attrs["none"] = np.zeros(0)
    file.attrs["empty"] = h5py.Empty("f4")
    for i in range(40):
        file[f"group{i}/x/0"] = np.arange(6.0).reshape(2, 3) + i
    file["half"] = np.linspace(-1, 1, 7).astype(np.float16)
    file["big"] = np.linspace(-1, 1, 7).astype(">f8")
    file["byte"] = np.arange(-3, 3, dtype=np.int8)
    file["scalar"] = 3
    file["nothing"] = np.zeros((0, 3), np.float32)
    file["texts"] = np.array(["a", "ü", ""], object)
    file["fixed"] = np.array([b"a", b"bb"])


@pytest.mark.parametrize("libver", ["earliest", "latest", ("earliest", "v108"), ("v110", "v110")])
def test_it_reads_what_the_hdf5_library_reads(libver):
    data = written(everything, libver=libver)
    with hdf5.opened(data, "file") as ours, h5py.File(io.BytesIO(data)) as theirs:
        assert sorted(ours.names()) == sorted(theirs)
        assert sorted(ours.attr_names()) == sorted(theirs.attrs)
        for name in theirs.attrs:
            expected = theirs.attrs[name]
            expected = [] if isinstance(expected, h5py.Empty) else np.asarray(expected).astype(object).tolist()
            plain = [v.decode() if isinstance(v, bytes) else v for v in np.ravel(np.array(expected, object))]
            assert np.ravel(np.array(ours.attr(name), object)).tolist() == plain, name
        paths = list(ours.datasets())
        assert len(paths) == 47
        for path in paths:
            expected = theirs[path][()]
            if expected.dtype.kind in "SO":
                expected = np.vectorize(bytes.decode, otypes=[object])(expected)
            np.testing.assert_array_equal(ours.raw(path), expected)
            if expected.dtype != object:
                assert ours.array(path).dtype == np.float32


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"compression": "gzip"},
        {"compression": "gzip", "shuffle": True},
        {"compression": "gzip", "shuffle": True, "fletcher32": True},
        {"fletcher32": True},
        {"shuffle": True, "fletcher32": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<i2", "u1"])
def test_chunks_and_filters(options, dtype):
    values = (np.random.default_rng(2).normal(size=(61, 13)) * 50).clip(0, 200).astype(dtype)
    data = written(lambda file: file.create_dataset("x", data=values, chunks=(7, 5), **options))
    with hdf5.opened(data, "file") as root:
        np.testing.assert_array_equal(root.raw("x"), values)


def test_attributes_that_keras_has_split():
    names = [f"layer_{i}" for i in range(10)]

    def write(file):
        for i in range(5):
            file.attrs[f"layer_names{i}"] = [n.encode() for n in names[2 * i : 2 * i + 2]]
        file.attrs["other0"] = "text"

    with hdf5.opened(written(write), "file") as root:
        assert root.attr("layer_names") == names
        assert root.attr("other") is None
        assert root.attr("nowhere") is None


def test_bfloat16_in_both_forms():
    """Two opaque bytes, or a float of the library's own making: the upper half of a float32."""
    values = np.array([1.0, -2.5, 3e38], np.float32)
    upper = (values.view(np.uint32) >> 16).astype("<u2")
    exact = (upper.astype(np.uint32) << 16).view(np.float32)
    kind = h5py.h5t.IEEE_F16LE.copy()
    kind.set_fields(15, 7, 8, 0, 7)
    kind.set_ebias(127)

    def write(file):
        file["opaque"] = upper.view("V2")
        dataset = h5py.h5d.create(file.id, b"float", kind, h5py.h5s.create_simple((3,)))
        dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, upper, kind)

    with hdf5.opened(written(write), "file") as root:
        for name in ("opaque", "float"):
            np.testing.assert_array_equal(root.array(name), exact)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: f.__setitem__("x", h5py.SoftLink("/a")), r"root group: expected data, got a soft link 'x' to '/a'"),
        (lambda f: f.__setitem__("x", h5py.ExternalLink("a.h5", "/a")), "an external link 'x'"),
        (
            lambda f: f.create_dataset("x", data=[1.0, 2.0], chunks=(1,), compression="lzf"),
            r"x: .*filter lzf.*h5repack",
        ),
        (lambda f: f.create_dataset("x", (2**40,), "f4"), r"x: expected arrays of at most \d+ bytes"),
        (lambda f: f.create_dataset("x", (2, 3), "f4"), r"x: expected 24 bytes for shape \(2, 3\), got fewer"),
        (lambda f: f.create_dataset("x", (2,), "f4", external=[("a", 0, 8)]), "x: .*external storage"),
        (lambda f: f.create_dataset("x", (2,), h5py.ref_dtype), "x: expected numbers or texts, got references"),
        (lambda f: f.create_dataset("x", data=[b"a"]), "x: expected numbers, got texts"),
        (lambda f: f.create_group("x"), "x: expected an array, got a group"),
        (lambda f: f.create_group("y"), r"root group: expected 'x' in it, got 'y'"),
    ],
)
def test_refusals_name_the_place_and_the_reason(spoil, message):
    with pytest.raises(ModelFileError, match=f"^file: .*{message}"), hdf5.opened(written(spoil), "file") as root:
        root.array("x")
    with pytest.raises(StateError), hdf5.opened(written(spoil), "file", StateError) as root:
        root.array("x")


def test_a_group_that_contains_itself():
    def write(file):
        file["a/b"] = file.create_group("c")
        file["a/b/again"] = file["a"]

    with pytest.raises(ModelFileError, match=r"a/b/again: .*contains itself"), hdf5.opened(written(write), "f") as root:
        list(root.datasets())


def test_one_array_under_many_names_is_counted_every_time(monkeypatch):
    """Hard links cost nothing in the file, and each would be an array in memory."""
    monkeypatch.setattr(limits, "FREE_BYTES", 2**20)

    def write(file):
        file["x0"] = np.zeros(2**14, np.float32)
        for i in range(1, 500):
            file[f"x{i}"] = file["x0"]

    def read_all(data):
        with hdf5.opened(data, "file") as root:
            for name in root.names() * 100:
                root.array(name)

    with pytest.raises(ModelFileError, match="at most"):
        read_all(written(write))


def test_a_group_is_listed_once_however_often_it_is_asked(monkeypatch):
    monkeypatch.setattr(limits, "MAX_LINKS", 127)  # 47 in the root, two in each of 40
    with hdf5.opened(written(everything), "file") as root:
        for i in range(40):
            assert root.group(f"group{i}").has("x/0")
            assert root.array(f"group{i}/x/0").shape == (2, 3)


def test_pipes_are_not_waited_for(tmp_path):
    import os

    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ModelFileError, match="a pipe"), hdf5.opened(tmp_path / "pipe", "file"):
        pass


def test_pieces_that_lead_back_to_themselves_end():
    """pyfive alone would follow them for ever, and the file is a hundred bytes long."""
    for _, data in hostile.loops():
        with pytest.raises(ModelFileError), hdf5.opened(data, "file") as root:
            root.names()
