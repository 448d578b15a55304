"""Whether a video file is whole, by the sizes that its container writes into the file itself.

Decoders show what they can of a file that was cut short, and say nothing. The outermost elements of
the usual containers each begin with their size: if one reaches past the end of the file, the rest
is missing.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import IO

_EBML = bytes.fromhex("1a45dfa3")  # Matroska, WebM


def recognised(path: Path) -> str | None:
    """The kind of container, such as ``"MP4"``; None if it is none of those that are known here."""
    with path.open("rb") as file:
        head = file.read(12)
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        return "MP4"
    if head[:4] == b"RIFF" and head[8:] == b"AVI ":
        return "AVI"
    return "Matroska" if head[:4] == _EBML else None


def missing_bytes(path: Path) -> int:
    """How many bytes, at least, the file is short of what it says it holds.

    Returns:
        0 for a whole file, one that does not say how long it is, and one of no known kind.
    """
    ends = {"MP4": _mp4_end, "AVI": _avi_end, "Matroska": _matroska_end}
    kind = recognised(path)
    if kind is None:
        return 0
    size = path.stat().st_size
    with path.open("rb") as file:
        return max(0, ends[kind](file, size) - size)


def _mp4_end(file: IO[bytes], size: int) -> int:
    """Where the last box ends: 32 bits of size, a name, and 64 bits if the 32 say 1."""
    place = 0
    while place < size:
        file.seek(place)
        head = file.read(16)
        if len(head) < 8:
            return place + 8
        length = struct.unpack_from(">I", head)[0]
        if length == 1 and len(head) == 16:
            length = struct.unpack_from(">Q", head, 8)[0]
        if length < 8:  # to the end of the file, whatever that is
            return size
        place += length
    return place


def _avi_end(file: IO[bytes], size: int) -> int:
    """Where the last RIFF chunk ends; files above a gigabyte have several."""
    place = 0
    while place < size:
        file.seek(place)
        head = file.read(8)
        if head[:4] != b"RIFF" or len(head) < 8:  # something was appended
            return place
        length = struct.unpack_from("<I", head, 4)[0]
        if length == 0:  # never finished
            return size
        place += 8 + length + length % 2
    # The last chunk of an odd length may do without its padding.
    return place - 1 if place == size + 1 else place


def _matroska_end(file: IO[bytes], size: int) -> int:
    """Where the last element ends: an identifier and a size, both of variable length."""
    place = 0
    while place < size:
        file.seek(place)
        head = file.read(12)
        name = _length_of(head[0])
        if len(head) <= name:
            return place + name + 1
        length = _length_of(head[name])
        if len(head) < name + length:
            return place + name + length
        value = int.from_bytes(head[name : name + length], "big") & ((1 << 7 * length) - 1)
        if value == (1 << 7 * length) - 1:  # unknown, as in a live recording
            return size
        place += name + length + value
    return place


def _length_of(first: int) -> int:
    """Bytes of a number of variable length, by the zeros that its first byte begins with."""
    return 9 - max(first.bit_length(), 1)
