"""ConvLSTM as ndrplz/ConvLSTM_pytorch and its relatives have it: code moves by one import line.

Signature, return values, names and initialisation of the parameters are theirs, so checkpoints
and optimiser states go both ways as they are; what runs underneath is :func:`memx_fast.conv_lstm`.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from .arguments import check_shape, described, flag, odd_kernel, per_layer, whole
from .checkpoint_entries import reordered
from .functional import conv_lstm


class ConvLSTMCell(nn.Module):
    """One layer's parameters, and its step: a convolution over input and hidden state, i, f, o, g.

    Args:
        input_dim: channels of the input.
        hidden_dim: hidden channels.
        kernel_size: rows and columns, odd.
        bias: whether the convolution has a bias.
    """

    def __init__(
        self, input_dim: int, hidden_dim: int, kernel_size: tuple[int, int], bias: bool = True
    ) -> None:
        super().__init__()
        self.input_dim = input_dim
        self.hidden_dim = hidden_dim
        self.kernel_size = kernel_size
        self.padding = kernel_size[0] // 2, kernel_size[1] // 2
        self.bias = bias
        self.conv = nn.Conv2d(
            input_dim + hidden_dim, 4 * hidden_dim, kernel_size, padding=self.padding, bias=bias
        )

    def forward(
        self, input_tensor: Tensor, cur_state: Sequence[Tensor] | None
    ) -> tuple[Tensor, Tensor]:
        """One step over (B, C, H, W) from the state (h, c); gives the next one."""
        _, (h, c) = self.run(input_tensor.unsqueeze(0), cur_state)
        return h, c

    def init_hidden(self, batch_size: int, image_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """The state (h, c) that sequences start from: zeros ``(B, hidden_dim, H, W)``."""
        zeros = self.conv.weight.new_zeros(batch_size, self.hidden_dim, *image_size)
        return zeros, zeros.clone()

    def run(
        self, x: Tensor, state: Sequence[Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """All steps of (T, B, C, H, W): the outputs, and the last state."""
        weight = reordered(self.conv.weight, "ifog")
        bias = None if self.conv.bias is None else reordered(self.conv.bias, "ifog")
        weight_ih, weight_hh = weight.split((self.input_dim, self.hidden_dim), 1)
        pair = None if state is None else (state[0], state[1])
        return conv_lstm(x, weight_ih, weight_hh, bias, None, pair)


class ConvLSTM(nn.Module):
    """Stacked ConvLSTM with the interface of ndrplz/ConvLSTM_pytorch.

    Also that of the package conv-lstm and of TorchGeo, which takes an initial state.

    Args:
        input_dim: channels of the input.
        hidden_dim: hidden channels; a list gives one number a layer.
        kernel_size: odd; a number, or a tuple of rows and columns; a list gives one a layer.
        num_layers: layers, each running over the output of the one before.
        batch_first: the input is ``(B, T, C, H, W)`` instead of ``(T, B, C, H, W)``. The output is
            ``(B, T, ...)`` either way.
        bias: whether the convolutions have a bias.
        return_all_layers: return the outputs and states of all layers, not of the last alone.

    Inputs: input_tensor, hidden_state

    - **hidden_state**: one pair (h, c) a layer, each ``(B, hidden_dim, H, W)``; None for zeros.

    Outputs: layer_output_list, last_state_list

    - **layer_output_list**: one tensor ``(B, T, hidden_dim, H, W)`` a layer, contiguous.
    - **last_state_list**: one list ``[h, c]`` a layer, each ``(B, hidden_dim, H, W)``.

    Parameters, for each layer l, rows in gate order i, f, o, g:

    - **cell_list.l.conv.weight** ``(4 hidden_dim, channels + hidden_dim, kh, kw)``
    - **cell_list.l.conv.bias** ``(4 hidden_dim,)``

    Raises:
        TypeError, ValueError: an argument is wrong; the message names it, what came and what was
            expected.
    """

    def __init__(
        self,
        input_dim: int,
        hidden_dim: int | Sequence[int],
        kernel_size: int | tuple[int, int] | list[int | tuple[int, int]],
        num_layers: int,
        batch_first: bool = False,
        bias: bool = True,
        return_all_layers: bool = False,
    ) -> None:
        super().__init__()
        self.input_dim = whole("input_dim", input_dim, 1)
        self.num_layers = whole("num_layers", num_layers, 1)
        self.hidden_dim = [
            whole("hidden_dim", size, 1)
            for size in per_layer("hidden_dim", hidden_dim, list | tuple, num_layers)
        ]
        self.kernel_size = [
            (rows, columns)
            for size in per_layer("kernel_size", kernel_size, list, num_layers)
            for rows, columns in [odd_kernel(size, 2)]
        ]
        self.batch_first = flag("batch_first", batch_first)
        self.bias = flag("bias", bias)
        self.return_all_layers = flag("return_all_layers", return_all_layers)
        channels = (self.input_dim, *self.hidden_dim[:-1])
        self.cell_list = nn.ModuleList(
            ConvLSTMCell(*sizes, self.bias)
            for sizes in zip(channels, self.hidden_dim, self.kernel_size, strict=True)
        )

    def forward(
        self,
        input_tensor: Tensor,
        hidden_state: Sequence[Sequence[Tensor]] | None = None,
    ) -> tuple[list[Tensor], list[list[Tensor]]]:
        """Run over a sequence; see the class for shapes."""
        x = self._steps_first(input_tensor)
        states = self._initial_states(hidden_state, x)
        outputs, last_states = [], []
        for cell, state in zip(self.cell_list, states, strict=True):
            assert isinstance(cell, ConvLSTMCell)
            x, last_state = cell.run(x, state)
            outputs.append(x)
            last_states.append(list(last_state))
        if not self.return_all_layers:
            outputs, last_states = outputs[-1:], last_states[-1:]
        # Code written for the original may view them in any shape.
        return (
            [output.transpose(0, 1).contiguous() for output in outputs],
            [[part.contiguous() for part in state] for state in last_states],
        )

    def _steps_first(self, input_tensor: Tensor) -> Tensor:
        """The input as (T, B, C, H, W)."""
        if not isinstance(input_tensor, Tensor):
            raise TypeError(f"input_tensor: got {described(input_tensor)}, expected a tensor")
        shape = tuple(input_tensor.shape)
        if len(shape) != 5 or shape[2] != self.input_dim or 0 in shape:
            axes = "(B, T, C, H, W)" if self.batch_first else "(T, B, C, H, W)"
            raise ValueError(
                f"input_tensor: got shape {shape}, expected {axes} with C = {self.input_dim}"
            )
        return input_tensor.transpose(0, 1) if self.batch_first else input_tensor

    def _initial_states(
        self, hidden_state: Sequence[Sequence[Tensor]] | None, x: Tensor
    ) -> Sequence[Sequence[Tensor] | None]:
        """One pair (h, c) a layer for x (T, B, C, H, W), or None for zeros."""
        if hidden_state is None:
            return [None] * self.num_layers
        if not isinstance(hidden_state, list | tuple) or len(hidden_state) != self.num_layers:
            raise TypeError(
                f"hidden_state: got {described(hidden_state)}, "
                f"expected a list of {self.num_layers} pairs (h, c)"
            )
        for layer, (state, hidden) in enumerate(zip(hidden_state, self.hidden_dim, strict=True)):
            name = f"hidden_state[{layer}]"
            if not isinstance(state, list | tuple) or len(state) != 2:
                raise TypeError(f"{name}: got {described(state)}, expected (h, c)")
            for part, tensor in zip("hc", state, strict=True):
                check_shape(f"{name}, {part}", tensor, (x.shape[1], hidden, *x.shape[3:]))
        return hidden_state
