"""What befalls the files of a SQLite store."""

import shutil


def crashed(path, folder):
    """What a crash at this moment would leave behind: a copy of the files, without their claim."""
    for end in ("", "-wal"):
        shutil.copy(f"{path}{end}", folder / f"copy.db{end}")
    return folder / "copy.db"


def flip(path, at):
    with path.open("r+b") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 0x10]))
