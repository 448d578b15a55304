"""Results kept on disk: looked up by content, written whole or not at all, checked when read.

An entry is one file: the SHA-256 digest of all that follows, then an ``.npz`` archive with the
array and, as JSON text, the record that goes with it. Entries can be deleted at any time.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from memx_fast.files import replacing

Array = npt.NDArray[Any]

_DIGEST_BYTES = hashlib.sha256().digest_size

_log = logging.getLogger(__name__)


def default_folder() -> Path:
    """``$XDG_CACHE_HOME/memx_fast``, or ``~/.cache/memx_fast``."""
    # The specification of that variable says to ignore a path that is not absolute.
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".cache") / "memx_fast"


def read(path: Path) -> tuple[Array, dict[str, Any]] | None:
    """The array and the record of an entry, or None if it is not there or not as it was written."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        _log.warning("cannot read the cache: %s", error)
        return None
    digest, archive = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    if hashlib.sha256(archive).digest() != digest:
        _log.warning("%s is damaged and is made anew", path)
        return None
    with np.load(io.BytesIO(archive), allow_pickle=False) as stored:
        record: dict[str, Any] = json.loads(stored["record"].tobytes())
        return stored["array"], record


def kept(
    folder: Path | None, kind: str, facts: str, content: Array, compute: Callable[[], Array]
) -> Array:
    """What ``compute`` makes of an array, computed once and looked up ever after.

    Args:
        folder: where to keep it; None keeps nothing.
        kind: the beginning of the entry's name, and its suffix.
        facts: everything but ``content`` that the result depends on.
        content: what the result is computed from.
    """
    if folder is None:
        return compute()
    digest = hashlib.sha256(f"{facts} {content.dtype} {content.shape} ".encode())
    digest.update(content.tobytes())
    entry = folder / f"{kind}-{digest.hexdigest()[:32]}.{kind}"
    stored = read(entry)
    if stored is not None:
        return stored[0]
    found = compute()
    write(entry, found, {})
    return found


def write(path: Path, array: Array, record: dict[str, Any]) -> None:
    """Write an entry, in one step for everyone who reads it.

    A folder that cannot be written to costs the entry and a warning, no more.
    """
    archive = io.BytesIO()
    np.savez(archive, array=array, record=np.frombuffer(json.dumps(record).encode(), np.uint8))
    content = archive.getbuffer()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            file.write(hashlib.sha256(content).digest())
            file.write(content)
    except OSError as error:
        _log.warning("cannot write the cache: %s", error)
