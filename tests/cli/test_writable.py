"""Outputs that cannot be written are refused before the work, whoever asks."""

import os
from pathlib import Path

import pytest

from stepstream import InputError
from stepstream.cli.files import folder, writable
from stepstream.formats.bundle import target

ENDINGS = {"--png": (".png",)}


def test_what_may_be_written_passes(tmp_path):
    (tmp_path / "there.png").write_text("old")
    writable({"--out": tmp_path / "new", "--png": tmp_path / "there.png", "--html": None}, ENDINGS)
    folder("--folder", tmp_path / "to" / "be" / "made")
    writable({"--png": tmp_path / "UPPER.PNG"}, ENDINGS)


@pytest.mark.skipif(os.name != "posix", reason="needs its devices")
def test_a_device_takes_a_picture_but_no_bundle(tmp_path):
    writable({"--png": Path(os.devnull)}, ENDINGS)
    with pytest.raises(InputError, match="--out: expected a file, got a pipe or a device"):
        writable({"--out": Path(os.devnull)})


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    for check in (lambda: writable({"--out": tmp_path / "new"}), lambda: folder("--folder", tmp_path / "new")):
        with pytest.raises(InputError, match="permission denied"):
            check()


@pytest.mark.parametrize("name", ["model.keras", "model.h5", "model.KERAS"])
def test_a_bundle_has_no_name_of_a_keras_file(name, model, tmp_path):
    with pytest.raises(InputError, match="expected a bundle's name"):
        model.save(tmp_path / name)
    with pytest.raises(InputError):
        target(name)
    assert not list(tmp_path.iterdir())
