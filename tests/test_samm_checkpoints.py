"""Checkpoints: what was written comes back, what was damaged is refused, no pickle is loaded."""

import json
import pickle
from pathlib import Path

import pytest
import torch

from memx_fast.samm import checkpoints
from memx_fast.samm.checkpoints import Card

CARD = Card(
    method="convlstm",
    classes=["Positive", "Negative", "Überraschung"],
    size=90,
    frames=9,
    channels=1,
    crop=True,
    settings={"learning_rate": 1e-4, "peephole": None},
    versions={"memx_fast": "0"},
)


def weights() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "layer.weight": torch.randn(3, 4, generator=generator),
        "layer.bias": torch.randn(3, generator=generator, dtype=torch.float64),
        "steps": torch.tensor(7),
    }


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(one[name], other[name]) and one[name].dtype == other[name].dtype for name in one
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A checkpoint on disk."""
    found = tmp_path / "fold-1.safetensors"
    checkpoints.write(found, weights(), CARD)
    return found


class Exploding:
    """Whoever unpickles it fails the test."""

    def __reduce__(self) -> tuple:
        return (pytest.fail, ("a pickle was loaded",))


def test_weights_and_card_come_back(path: Path) -> None:
    """Values, types and shapes, and a card that a person can read; nothing else is left there."""
    found, card = checkpoints.read(path)
    assert same(found, weights())
    assert card == CARD
    assert {file.name for file in path.parent.iterdir()} == {
        "fold-1.safetensors",
        "fold-1.card.json",
    }
    assert "Überraschung" in (path.parent / "fold-1.card.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("damage", ["flipped bit", "cut short", "empty", "other weights", "pickle"])
def test_damaged_weights_are_refused(path: Path, damage: str) -> None:
    """The digest on the card is that of the file, whatever has become of it."""
    whole = path.read_bytes()
    broken = bytearray(whole)
    broken[-1] ^= 1
    other = path.with_name("other.safetensors")
    checkpoints.write(other, {"layer.weight": torch.zeros(1)}, CARD)
    path.write_bytes(
        {
            "flipped bit": bytes(broken),
            "cut short": whole[:-1],
            "empty": b"",
            "other weights": other.read_bytes(),
            "pickle": pickle.dumps(Exploding()),
        }[damage]
    )
    with pytest.raises(ValueError, match=r"fold-1.safetensors is damaged, or fold-1.card.json"):
        checkpoints.read(path)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": 1, "weights_sha256": ""}'])
def test_damaged_card_is_refused(path: Path, text: str) -> None:
    """It is named, and what is wrong with it."""
    checkpoints.card_path(path).write_text(text)
    with pytest.raises(ValueError, match=r"fold-1.card.json is no card of a checkpoint"):
        checkpoints.read(path)


def test_card_of_another_format_is_refused(path: Path) -> None:
    """A later version may mean something else by the same words."""
    card = checkpoints.card_path(path)
    card.write_text(json.dumps({**json.loads(card.read_text()), "format": 2}))
    with pytest.raises(ValueError, match="has format 2, expected 1"):
        checkpoints.read(path)


@pytest.mark.parametrize("gone", ["fold-1.safetensors", "fold-1.card.json"])
def test_missing_half_is_named(path: Path, gone: str) -> None:
    """A checkpoint is two files."""
    (path.parent / gone).unlink()
    with pytest.raises(FileNotFoundError, match=rf"{gone} does not exist; a checkpoint is two"):
        checkpoints.read(path)


def test_state_comes_back(tmp_path: Path) -> None:
    """In one file, infinity and all; also over an earlier one."""
    state = tmp_path / "state"
    values = {"best": float("inf"), "betas": [0.9, 0.999], "text": "ü"}
    checkpoints.write_state(state, {"a": torch.ones(2)}, {})
    checkpoints.write_state(state, weights(), values)
    found, plain = checkpoints.read_state(state)
    assert same(found, weights())
    assert plain == values
    assert list(tmp_path.iterdir()) == [state]


def test_any_flipped_bit_of_a_state_is_noticed(tmp_path: Path) -> None:
    """In the header, in the plain values, in the tensors."""
    state = tmp_path / "state"
    checkpoints.write_state(state, weights(), {"epoch": 3, "rate": 0.5})
    whole = state.read_bytes()
    for position in range(len(whole)):
        broken = bytearray(whole)
        broken[position] ^= 1
        state.write_bytes(broken)
        with pytest.raises(ValueError, match="checkpoint"):
            checkpoints.read_state(state)


def test_a_pickle_is_no_state(tmp_path: Path) -> None:
    """What torch.save wrote is refused, not unpickled."""
    state = tmp_path / "state"
    torch.save({"a": Exploding()}, state)
    with pytest.raises(ValueError, match="no whole safetensors file"):
        checkpoints.read_state(state)
