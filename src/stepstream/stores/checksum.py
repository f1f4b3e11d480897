"""How a store knows that bytes are still those that it wrote.

CRC-32: it finds what disks and memory do (any burst of up to 32 bits, and all but one in four thousand million of other
damages), and costs less than a microsecond a record; a keyed or cryptographic hash would guard against forgers, who
can as well write a record with the right hash.
"""

from __future__ import annotations

from zlib import crc32

_MASK = (1 << 64) - 1  # a damaged number may be any that SQLite can hold


def checksum(key: bytes, number: int, record: bytes) -> int:
    """Covers all three, and where one ends and the next begins."""
    head = (number & _MASK).to_bytes(8, "little") + len(key).to_bytes(4, "little") + key
    return crc32(record, crc32(head))
