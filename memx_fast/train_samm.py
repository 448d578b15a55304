"""``train-samm``: the paper's network and protocol on SAMM, and the laboratory around it.

"Micro-expression recognition using a shallow ConvLSTM-based network" (Shukla, Rai, Verlekar 2023).
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from types import ModuleType

from memx_fast.samm.commands import compare, predict, train, validate

# By the first argument; without one of them, train.
_COMMANDS: dict[str, ModuleType] = {"compare": compare, "predict": predict, "validate": validate}
_INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns its exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    command = _COMMANDS[words.pop(0)] if words and words[0] in _COMMANDS else train
    parser = command.parser()
    if command is train:
        parser.epilog = f"Other commands, each with its own --help: {', '.join(_COMMANDS)}."
    options = parser.parse_args(words)
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    try:
        status: int = command.run(options)
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        print(f"train-samm: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            "\ntrain-samm: interrupted; finished data and epochs are kept, and the same command "
            "goes on after them",
            file=sys.stderr,
        )
        return _INTERRUPTED
    return status


if __name__ == "__main__":
    sys.exit(main())
