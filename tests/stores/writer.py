"""A process that writes until it is killed: `python writer.py PATH`. Says the number of each commit once it is made.

Entry n adds one to the key n % KEYS; a record holds the sum at its number. So whatever was lost or applied twice shows.
"""

import sys
from threading import Thread

from stepstream.stores.sqlite import SqliteStore

KEYS = 5


def expected(key, number):
    """The sum of a key once all entries up to a number are applied."""
    return (number - key) // KEYS + (key > 0) if number >= key else 0


def recovered(store):
    """(newest number, sums) as an engine would find them. Raises AssertionError at damage."""
    sums, included = dict.fromkeys(range(KEYS), 0), dict.fromkeys(range(KEYS), 0)
    last = 0
    for stored in store.records():
        assert stored.record is not None
        if stored.key.startswith(b"sum "):
            key = int(stored.key[4:])
            sums[key], included[key] = int(stored.record), stored.number
        last = max(last, stored.number)
    for number, entry in store.journal():
        key = int(entry.split()[0])
        assert key == number % KEYS
        if number > included[key]:
            sums[key] += 1
        last = number
    return last, sums


def main(path):
    store = SqliteStore(path)
    store.open({"fingerprint": "f00d"})
    last, sums = recovered(store)
    while True:
        for _ in range(20):
            key = (last + 1) % KEYS
            last = store.commit(b"%d %s" % (key, b"x" * 3000), lambda: (), ())
            sums[key] += 1
            print(last, flush=True)
        filler = [(b"other %d" % n, b"y" * 100) for n in range(600)]
        records = [(b"sum %d" % key, b"%d" % total) for key, total in sums.items()] + filler
        snapshot = Thread(target=lambda n=last, r=records: (store.put(n, r), store.trim(n)))
        snapshot.start()
        for _ in range(7):
            key = (last + 1) % KEYS
            last = store.commit(b"%d" % key, lambda: (), ())
            sums[key] += 1
            print(last, flush=True)
        snapshot.join()


if __name__ == "__main__":
    main(sys.argv[1])
