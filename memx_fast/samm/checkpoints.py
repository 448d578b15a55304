"""Weights and states on disk: tensors as safetensors, everything else as JSON, never a pickle.

A trained network is two files: ``NAME.safetensors`` with its weights, which every tool that knows
the format can open, and ``NAME.card.json``, which says what they are and holds their SHA-256
digest. The state of unfinished training is one file, so that it can be replaced in one step: its
plain values and a digest of everything are text in the header of the safetensors format.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from memx_fast.files import replacing

FORMAT = 1
"""Version of the card, raised when an older reader could misunderstand it."""


@dataclass(frozen=True)
class Card:
    """What a network's weights are for, and where they come from.

    Attributes:
        method: name of the method whose network this is, such as ``"convlstm"``.
        classes: names of its outputs, in order.
        size: height and width of its input, pixels.
        frames: frames a clip.
        channels: 1 (grey) or 3 (red, green, blue).
        crop: whether it was trained on faces cut out, or on whole frames.
        settings: everything that decided the outcome of training, as plain values.
        versions: of the packages that trained it.
        data: what it was trained on, for people.
        test: how it did on its test clips: ``clips``, ``accuracy`` and ``uar``, and
            ``majority_accuracy``, that of the class most frequent in training; shares from 0 to 1.
    """

    method: str
    classes: list[str]
    size: int
    frames: int
    channels: int
    crop: bool
    settings: dict[str, Any]
    versions: dict[str, str]
    data: str = ""
    test: dict[str, float] = field(default_factory=dict)


def card_path(weights: Path) -> Path:
    """Where the card of a file of weights is: ``fold-1.card.json`` for ``fold-1.safetensors``."""
    return weights.with_suffix(".card.json")


def write(path: Path, weights: Mapping[str, Tensor], card: Card) -> None:
    """Write a trained network: ``path`` and its card, the card last."""
    content = safetensors.torch.save(dict(weights))
    record = {
        "format": FORMAT,
        **asdict(card),
        "weights_sha256": hashlib.sha256(content).hexdigest(),
    }
    with replacing(path) as file:
        file.write(content)
    with replacing(card_path(path)) as file:
        file.write((json.dumps(record, indent=2, ensure_ascii=False) + "\n").encode())


def read(path: Path) -> tuple[dict[str, Tensor], Card]:
    """Read what :func:`write` has written.

    Args:
        path: the file of weights, ``NAME.safetensors``; its card lies beside it.

    Returns:
        The weights, on the CPU, and their card.

    Raises:
        FileNotFoundError: one of the two files is missing.
        ValueError: one of them is damaged or is something else, or they do not belong together.
    """
    if path.suffix != ".safetensors":
        raise ValueError(f"checkpoint: got {path}, expected NAME.safetensors")
    for needed in (path, card_path(path)):
        if not needed.is_file():
            raise FileNotFoundError(
                f"checkpoint: {needed} does not exist; a checkpoint is two files, "
                f"{path.name} and {card_path(path).name}"
            )
    card, digest = _read_card(card_path(path))
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != digest:
        raise ValueError(
            f"checkpoint: {path} is damaged, or {card_path(path).name} belongs to other weights "
            "(their SHA-256 digests differ); copy both files again"
        )
    try:
        return safetensors.torch.load(content), card
    except SafetensorError as error:
        raise ValueError(f"checkpoint: {path} is no safetensors file: {error}") from error


def write_state(path: Path, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
    """Write a state of training as one file, in place of what is there.

    Args:
        path: the file.
        tensors: by name.
        values: all the rest, as JSON knows it.
    """
    text = json.dumps(values)
    header = {"values": text, "sha256": _state_digest(dict(tensors), text)}
    content = safetensors.torch.save(dict(tensors), metadata=header)
    with replacing(path) as file:
        file.write(content)


def read_state(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what :func:`write_state` has written.

    Raises:
        ValueError: the file is damaged, or is something else.
        OSError: it cannot be read.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            # Copies: what get_tensor returns is the mapped file itself, and changes with it.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"checkpoint: {path} is no whole safetensors file: {error}") from error
    text = header.get("values", "")
    if header.get("sha256") != _state_digest(tensors, text):
        raise ValueError(f"checkpoint: {path} is not as it was written")
    values: dict[str, Any] = json.loads(text)
    return tensors, values


def _state_digest(tensors: dict[str, Tensor], text: str) -> str:
    """Of all tensors, with their names and shapes, and of the text."""
    return hashlib.sha256(safetensors.torch.save(tensors) + text.encode()).hexdigest()


def _read_card(path: Path) -> tuple[Card, str]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        version, digest = record.pop("format"), record.pop("weights_sha256")
        if version != FORMAT:
            raise ValueError(
                f"checkpoint: {path} has format {version}, expected {FORMAT}: it was written by "
                "another version of memx_fast"
            )
        return Card(**record), str(digest)
    except (AttributeError, KeyError, TypeError, json.JSONDecodeError, UnicodeError) as error:
        raise ValueError(f"checkpoint: {path} is no card of a checkpoint: {error!r}") from error
