"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that takes the place of ``path`` when the block ends without an error.

    It is written beside ``path`` under another name, so that a crash leaves the old file or none.
    """
    with tempfile.NamedTemporaryFile(
        dir=path.parent, prefix=f".{path.name}-", delete=False
    ) as file:
        unfinished = Path(file.name)
        try:
            yield file
            file.flush()
            os.fchmod(file.fileno(), 0o666 & ~_mask())
            os.fsync(file.fileno())
            os.replace(unfinished, path)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise


def _mask() -> int:
    """What new files are kept from by the user's settings."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
