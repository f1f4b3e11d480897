"""Kill an engine at random moments, and look whether anything was lost or done twice: the long form of
tests/live/test_engine_kills.py.

    python bench/kill.py [--kills 200] [--store sqlite|redis|redis-server] [--durability sync|interval|none] ...

"redis": the writer is killed; "redis-server": the server, under appendfsync always, and it is started again. Every
output, every state after every kill, and every answer to a sample that is sent again is compared, bit for bit, with
streams that nobody interrupted. Prints what was seen; ends at the first difference.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from time import perf_counter

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "live")]
from kills import Killer, Options  # found by the path

from stores.server import start_redis


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--store", choices=["sqlite", "redis", "redis-server"], default="sqlite")
    parser.add_argument("--durability", choices=["sync", "interval", "none"])
    parser.add_argument("--windowing", default="carry")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keys", type=int, default=60)
    parser.add_argument("--capacity", type=int, default=16)
    parser.add_argument("--expire", type=int, default=1000, help="operations after which a stream has expired")
    parser.add_argument("--folder", help="on the disk to be used; else a temporary one")
    given = parser.parse_args()
    server = None
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        where = str(folder / "states.db")
        if given.store != "sqlite":
            server = start_redis(folder, "--appendonly", "yes", "--appendfsync", "always")
            where = server.url("kill")
        try:
            options = Options(
                where, given.durability, given.windowing, given.seed, given.keys, given.capacity, given.expire
            )
            start = perf_counter()
            figures = Killer(options, server if given.store == "redis-server" else None).run(given.kills)
        finally:
            if server is not None:
                server.kill()
    print(f"{given.store}, {given.durability or 'default'}, {given.windowing}: {perf_counter() - start:.0f} s")
    for what, n in figures.items():
        print(f"  {what:<24}{n:>10,}")


if __name__ == "__main__":
    main()
