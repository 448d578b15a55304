"""Padding, stride and dilation of the input convolution, against PyTorch's own."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from memx_fast import reference
from memx_fast.geometry import InputConvolution
from tests.reference_cases import assert_close


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_padding_same_is_that_of_conv2d() -> None:
    """Even kernels too: the odd row or column of zeros lies below and right."""
    torch.manual_seed(0)
    for kernel, dilation in itertools.product(((3, 5), (2, 4), (4, 3)), (1, 2, (3, 1))):
        x = torch.randn(2, 1, 2, 7, 6, dtype=torch.float64)
        weight = torch.randn(4, 2, *kernel, dtype=torch.float64)
        convolution = InputConvolution.of(kernel, "same", dilation=dilation)
        expected = F.conv2d(x.flatten(0, 1), weight, padding="same", dilation=dilation)
        found = reference.input_gates(x, weight, None, convolution)
        assert_close(found.flatten(0, 1), expected)


def test_sizes_are_those_of_conv2d() -> None:
    """output_size is the size conv2d gives, and an error where conv2d has one."""
    kernels = ((1, 1), (2, 3), (3, 2), (4, 1))
    paddings = ("same", "valid", 0, 1, (0, 2), (3, 1))
    strides, dilations = (1, 2, (1, 3)), (1, (2, 1), 3)
    frames = ((7, 5), (2, 9), (1, 1))
    refused = 0
    for kernel, padding, stride, dilation in itertools.product(
        kernels, paddings, strides, dilations
    ):
        if padding == "same" and stride != 1:
            continue
        convolution = InputConvolution.of(kernel, padding, stride, dilation)
        weight = torch.zeros(1, 1, *kernel)
        for frame in frames:
            try:
                expected = F.conv2d(
                    torch.zeros(1, 1, *frame), weight, None, stride, padding, dilation
                ).shape[2:]
            except RuntimeError:
                refused += 1
                with pytest.raises(ValueError, match=f"x: got frames of {frame[0]} x {frame[1]} "):
                    convolution.output_size(*frame)
            else:
                assert convolution.output_size(*frame) == expected
    assert refused > 0


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"padding": "full"}, ValueError, 'padding: got \'full\', expected "same", "valid" or'),
        ({"padding": "same", "stride": 2}, ValueError, r'padding: got "same" with stride \(2, 2\)'),
        ({"padding": -1}, ValueError, "padding: got -1, expected at least 0"),
        ({"padding": (1, 2, 3)}, ValueError, r"padding: got \(1, 2, 3\), expected one whole"),
        ({"padding": 1.5}, TypeError, "padding: got 1.5, expected a whole number"),
        ({"padding": (1, 2.0)}, TypeError, "padding: got 2.0, expected a whole number"),
        ({"padding": True}, TypeError, "padding: got True, expected a whole number"),
        ({"padding": None}, TypeError, "padding: got None, expected a whole number"),
        ({"stride": 0}, ValueError, "stride: got 0, expected at least 1"),
        ({"stride": "2"}, TypeError, "stride: got '2', expected a whole number"),
        ({"stride": (1,)}, ValueError, r"stride: got \(1,\), expected one whole number or two"),
        ({"dilation": (1, 0)}, ValueError, "dilation: got 0, expected at least 1"),
        ({"dilation": 2.0}, TypeError, "dilation: got 2.0, expected a whole number"),
    ],
    ids=str,
)
def test_geometry_refuses(options: dict, error: type[Exception], message: str) -> None:
    """The message names the argument, what came and what was expected."""
    with pytest.raises(error, match=message):
        InputConvolution.of((3, 3), **{"padding": "valid", **options})
