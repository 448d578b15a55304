"""The conditions that tests/conftest.py promises hold."""

import torch


def test_uninitialised_tensors_are_poisoned() -> None:
    """Every way to allocate without writing gives NaN, and the largest value for integers."""
    like = torch.ones(2, 3)
    allocated = {
        "empty": torch.empty(2, 3),
        "empty_like": torch.empty_like(like),
        "new_empty": like.new_empty(2, 3),
        "empty_strided": torch.empty_strided((2, 3), (1, 2)),
        "half": torch.empty(2, 3, dtype=torch.bfloat16),
        "resized": torch.ones(1).resize_(6)[1:],
    }
    for name, tensor in allocated.items():
        assert tensor.isnan().all(), name
    assert (torch.empty(4, dtype=torch.int32) == torch.iinfo(torch.int32).max).all()
