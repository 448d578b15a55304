"""The layer over sequences, :class:`ConvLSTM`, with the interface of ``torch.nn.LSTM``."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from . import lengths as variable
from .arguments import (
    Sizes,
    check_shape,
    described,
    flag,
    odd_kernel,
    per_layer,
    share,
    share_or_flag,
    whole,
)
from .functional import AXES
from .geometry import Padding
from .recurrence import Recurrence, repr_of_arguments
from .reference import State

States = tuple[Tensor, Tensor] | tuple[list[Tensor], list[Tensor]]
"""(h, c) of all layers: two tensors, or two lists where the layers differ in hidden channels."""


class ConvLSTM(Recurrence):
    r"""A convolutional LSTM over sequences of frames, with the interface of ``torch.nn.LSTM``.

    With ``*`` a convolution and ``o`` the product of elements, each layer computes for every t:

        i_t = sigmoid(W_xi * X_t + W_hi * H_{t-1} + W_ci o C_{t-1} + b_i)
        f_t = sigmoid(W_xf * X_t + W_hf * H_{t-1} + W_cf o C_{t-1} + b_f)
        g_t = tanh   (W_xg * X_t + W_hg * H_{t-1}                  + b_g)
        C_t = f_t o C_{t-1} + i_t o g_t
        o_t = sigmoid(W_xo * X_t + W_ho * H_{t-1} + W_co o C_?     + b_o)
        H_t = o_t o tanh(C_t)

    (Shi et al. 2015, "Convolutional LSTM Network"). ``C_?`` is C_{t-1} or C_t.

    Args:
        input_channels: channels of x.
        hidden_channels: channels C of the states; a list or tuple gives one number a layer.
        kernel_size: odd size of the input and recurrent kernels: a number, or a tuple of rows and
            columns; a list gives one of these a layer.
        num_layers: layers, each running over the output of the one before.
        bias: whether gates have a bias.
        batch_first: x and output are ``(B, T, C, H, W)`` instead of ``(T, B, C, H, W)``. The states
            are not affected.
        dropout: probability with which elements of the output of every layer but the last are set
            to 0 in training.
        recurrent_dropout: probability with which elements of H_{t-1} are set to 0 on their way into
            the recurrent convolution in training, the others being divided by one minus it (Gal &
            Ghahramani 2016; Keras's argument of this name). Each call draws one mask a recurrence,
            of the shape of its state, for all steps and gates.
        bidirectional: run a second recurrence from the last frame to the first, and put its output
            after the first one's in the channels.
        peephole: what the gates see of the cell state: nothing, None; one weight a channel,
            ``"channel"``; one a channel and pixel, ``"spatial"``.
        spatial_size: height and width of the frames, for ``peephole="spatial"``.
        output_peephole: which cell state the output gate sees: that before the step,
            ``"previous"``, or that after it, ``"current"``, as in Shi et al.
        recurrent_activation: what the gates i, f and o go through: ``"sigmoid"``, the logistic
            function, or ``"hard_sigmoid"``, ``clamp(hard_sigmoid_slope * z + 0.5, 0, 1)``.
        hard_sigmoid_slope: 1/6 as in PyTorch, JAX and Keras 3; Keras up to 2 has 0.2. Unused with
            ``"sigmoid"``.
        padding: zeros around the frames of x: ``"same"`` keeps their size, ``"valid"`` adds none; a
            number, or two for rows and columns. Like ``stride`` and ``dilation``, of the input
            convolution of the first layer; all other convolutions keep the size.
        stride: step of that convolution, one number or two.
        dilation: distance of its kernel elements, one number or two.
        forget_bias: initial bias of the forget gate; unused without ``bias``.
        recompute: share of the steps, from 0 to 1, whose gates are computed again in the backward
            pass instead of being kept: less memory, more time. True is 1, False is 0.
        backend: ``"auto"`` for the fastest engine on the device of x, or one of those that
            :func:`memx_fast.backends.available` lists. Only ``"reference"`` can be differentiated
            twice; under ``torch.func`` and in forward-mode differentiation ``"auto"`` is the
            reference.
        device: of the parameters.
        dtype: of the parameters: float32, float64, bfloat16 or float16.

    Inputs: x, (h_0, c_0), lengths

    - **x** ``(T, B, input_channels, H, W)``, or unbatched ``(T, input_channels, H, W)``; any
      strides. Or a ``torch.nn.utils.rnn.PackedSequence`` of such frames, as ``nn.LSTM`` takes.
    - **h_0**, **c_0** ``(num_layers * D, B, C, H', W')``, unbatched without B; D is 2 if
      bidirectional, else 1, and H' x W' is H x W unless padding, stride or dilation change it.
      Layer l is at index ``l * D``, its reverse direction at ``l * D + 1``. If
      ``hidden_channels`` is a list, these are lists of ``num_layers * D`` tensors. Without
      them the states start at 0.
    - **lengths** for a batch of sequences of different length, padded to T steps: B whole
      numbers from 1 to T, as a tensor, list or tuple. What x has after them is ignored. A
      tensor on a GPU is used as it is, without a look at its values.

    Outputs: output, (h_n, c_n)

    - **output** ``(T, B, D * C, H', W')``: the hidden states of the last layer.
    - **h_n**, **c_n**: the states after the last step, of the shapes of h_0 and c_0. The
      reverse direction's are those after frame 0. c_n is float32 for half types, so that
      cutting a sequence in two and carrying the states over changes nothing.

    With lengths every sequence gets what it would get alone: its last state is that after its
    own last step, where the reverse direction starts. After that the output is 0. Packed
    sequences give a packed output; states are in the order before packing.

    Parameters, for each layer l, ``_reverse`` appended for the reverse direction; rows lie in gate
    order i, f, g, o, peepholes in the order i, f, o:

    - **weight_ih_l** ``(4C, Cin, kh, kw)``, where Cin is D * C of the layer before for l > 0
    - **weight_hh_l** ``(4C, C, kh, kw)``
    - **bias_l** ``(4C,)``, or None
    - **weight_ch_l** ``(3, C)`` or ``(3, C, H', W')``, or None

    Raises:
        TypeError, ValueError: an argument is wrong; the message names it, what came and what was
            expected.
        RuntimeError: the backend is known, but cannot run here.

    An example, with the shapes of its results:

        layer = ConvLSTM(1, 32, kernel_size=3)
        video = torch.randn(9, 16, 1, 90, 90)
        output, (h_n, c_n) = layer(video)  # (9, 16, 32, 90, 90), (1, 16, 32, 90, 90) twice
    """

    def __init__(
        self,
        input_channels: int,
        hidden_channels: int | Sequence[int],
        kernel_size: int | Sizes | list[int | Sizes] = 3,
        num_layers: int = 1,
        *,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        bidirectional: bool = False,
        peephole: str | None = None,
        spatial_size: int | Sizes | None = None,
        output_peephole: str = "previous",
        recurrent_activation: str = "sigmoid",
        hard_sigmoid_slope: float = 1 / 6,
        padding: Padding = "same",
        stride: int | Sizes = 1,
        dilation: int | Sizes = 1,
        forget_bias: float = 1.0,
        recompute: float = 0.5,
        backend: str = "auto",
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        layers = whole("num_layers", num_layers, 1)
        hidden = [
            whole("hidden_channels", size, 1)
            for size in per_layer("hidden_channels", hidden_channels, list | tuple, layers)
        ]
        kernels = [
            odd_kernel(size, self.axes)
            for size in per_layer("kernel_size", kernel_size, list, layers)
        ]
        super().__init__(
            input_channels,
            kernels[0],
            padding,
            stride,
            dilation,
            peephole,
            spatial_size,
            output_peephole,
            recurrent_activation,
            hard_sigmoid_slope,
            forget_bias,
            backend,
            device,
            dtype,
        )
        self.hidden_channels = hidden_channels
        self.kernel_size = kernel_size
        self.num_layers = layers
        self.bias = flag("bias", bias)
        self.batch_first = flag("batch_first", batch_first)
        self.dropout = share("dropout", dropout)
        self.recurrent_dropout = share("recurrent_dropout", recurrent_dropout)
        self.bidirectional = flag("bidirectional", bidirectional)
        self.recompute = share_or_flag("recompute", recompute)
        if self.dropout > 0 and layers == 1:
            warnings.warn(
                f"dropout: got {dropout} with num_layers=1; it applies to the output of every "
                "layer but the last, so here to none",
                stacklevel=2,
            )
        self._hidden = hidden
        channels = self.input_channels
        for layer in range(layers):
            for suffix in self._suffixes_of(layer):
                self._add_recurrence(suffix, channels, hidden[layer], kernels[layer], self.bias)
            channels = hidden[layer] * self._directions
        self.reset_parameters()

    def forward(
        self,
        x: Tensor | PackedSequence,
        state: States | None = None,
        lengths: Tensor | Sequence[int] | None = None,
    ) -> tuple[Any, States]:
        """Run over a sequence; see the class for shapes."""
        if isinstance(x, PackedSequence):
            return self._over_packed(x, state, lengths)
        frame = f"C, {AXES[self.axes]}"
        shapes = f"({'B, T' if self.batch_first else 'T, B'}, {frame}) or (T, {frame})"
        batch = 0 if self.batch_first else 1
        self._check_frames(x, shapes, (self.axes + 2, self.axes + 3), batch)
        unbatched = x.dim() == self.axes + 2
        if unbatched:
            x = x.unsqueeze(1)
        elif self.batch_first:
            x = x.transpose(0, 1)
        if lengths is not None:
            if unbatched:
                raise ValueError(
                    f"lengths: got {described(lengths)} with one sequence x of shape "
                    f"{tuple(x.squeeze(1).shape)}, expected None, or a batch of them"
                )
            lengths = variable.checked(lengths, x.shape[0], x.shape[1], x.device)
        output, (h_n, c_n) = self._over_steps(x, self._initial_states(state, x, unbatched), lengths)
        if unbatched:
            output = output.squeeze(1)
        elif self.batch_first:
            output = output.transpose(0, 1)
        return output, (self._packed(h_n, unbatched), self._packed(c_n, unbatched))

    def _over_packed(
        self, x: PackedSequence, state: States | None, lengths: object
    ) -> tuple[PackedSequence, States]:
        """As nn.LSTM: the output is packed, and batch_first makes no difference."""
        if lengths is not None:
            raise ValueError(
                f"lengths: got {described(lengths)} with a PackedSequence, expected None: "
                "it has its own"
            )
        padded, ends = pad_packed_sequence(x)
        self._check_frames(
            padded, f"a PackedSequence of (B, C, {AXES[self.axes]})", (0, self.axes + 3), 1
        )
        output, (h_n, c_n) = self._over_steps(
            padded, self._initial_states(state, padded, False), ends.to(padded.device)
        )
        states = self._packed(h_n, False), self._packed(c_n, False)
        return variable.packed_like(output, ends, x), states

    def _over_steps(
        self, x: Tensor, states: list[State | None], lengths: Tensor | None
    ) -> tuple[Tensor, tuple[list[Tensor], list[Tensor]]]:
        """All layers over (T, B, C, H, W): the last one's output, and h_n and c_n of every one."""
        output = x
        h_n: list[Tensor] = []
        c_n: list[Tensor] = []
        for layer in range(self.num_layers):
            if layer > 0 and self.training and self.dropout > 0:
                output = F.dropout(output, self.dropout)
            directions = []
            for direction, suffix in enumerate(self._suffixes_of(layer)):
                outcome, (h, c) = self._run_direction(
                    output, layer, suffix, states[layer * self._directions + direction], lengths
                )
                directions.append(outcome)
                h_n.append(h)
                c_n.append(c)
            output = directions[0] if len(directions) == 1 else torch.cat(directions, 2)
        return output, (h_n, c_n)

    def extra_repr(self) -> str:
        """The arguments that differ from their defaults."""
        return repr_of_arguments(
            self,
            ("input_channels", "hidden_channels", "kernel_size"),
            num_layers=1,
            bias=True,
            batch_first=False,
            dropout=0.0,
            recurrent_dropout=0.0,
            bidirectional=False,
            peephole=None,
            spatial_size=None,
            output_peephole="previous",
            recurrent_activation="sigmoid",
            hard_sigmoid_slope=1 / 6,
            padding="same",
            stride=1,
            dilation=1,
            forget_bias=1.0,
            recompute=0.5,
            backend="auto",
        )

    @property
    def _directions(self) -> int:
        return 2 if self.bidirectional else 1

    def _suffixes_of(self, layer: int) -> tuple[str, ...]:
        """One suffix a direction."""
        return (f"_l{layer}", f"_l{layer}_reverse")[: self._directions]

    def _suffixes(self) -> list[str]:
        return [suffix for layer in range(self.num_layers) for suffix in self._suffixes_of(layer)]

    def _run_direction(
        self, x: Tensor, layer: int, suffix: str, state: State | None, lengths: Tensor | None
    ) -> tuple[Tensor, State]:
        """One direction of one layer over (T, B, C, H, W)."""
        backwards = suffix.endswith("_reverse")
        output, states = self._run(
            suffix,
            variable.reversed_steps(x, lengths) if backwards else x,
            state,
            hidden_mask=self._hidden_mask(x, layer),
            lengths=lengths,
            over_frames=layer == 0,
            recompute=self.recompute,
        )
        return (variable.reversed_steps(output, lengths) if backwards else output), states

    def _hidden_mask(self, x: Tensor, layer: int) -> Tensor | None:
        """What recurrent dropout leaves of the hidden state in a call over x (T, B, C, H, W)."""
        if not self.training or self.recurrent_dropout == 0:
            return None
        size = self._convolution.output_size(*x.shape[3:]) if layer == 0 else x.shape[3:]
        ones = x.new_ones((x.shape[1], self._hidden[layer], *size))
        return F.dropout(ones, self.recurrent_dropout)

    def _initial_states(self, state: Any, x: Tensor, unbatched: bool) -> list[State | None]:
        """(h_0, c_0) of every layer and direction for x (T, B, C, H, W), or None for zeros."""
        total = self.num_layers * self._directions
        if state is None:
            return [None] * total
        if not isinstance(state, tuple | list) or len(state) != 2:
            raise TypeError(f"state: got {described(state)}, expected two: (h_0, c_0)")
        size = self._convolution.output_size(*x.shape[3:])
        batch = () if unbatched else (x.shape[1],)
        shapes = [
            (*batch, hidden, *size) for hidden in self._hidden for _ in range(self._directions)
        ]
        h_0, c_0 = (
            [part.unsqueeze(0) if unbatched else part for part in parts]
            for parts in (
                self._unpacked("h_0", state[0], shapes),
                self._unpacked("c_0", state[1], shapes),
            )
        )
        return list(zip(h_0, c_0, strict=True))

    def _unpacked(self, name: str, value: Any, shapes: list[tuple[int, ...]]) -> list[Tensor]:
        """The parts of h_0 or c_0, one a layer and direction, of these shapes."""
        if self._states_are_lists:
            if not isinstance(value, tuple | list) or len(value) != len(shapes):
                raise TypeError(
                    f"{name}: got {described(value)}, expected a list of {len(shapes)} tensors, "
                    "since hidden_channels is a list"
                )
            for index, (part, shape) in enumerate(zip(value, shapes, strict=True)):
                check_shape(f"{name}[{index}]", part, shape)
        else:
            check_shape(name, value, (len(shapes), *shapes[0]))
        return list(value)

    def _packed(self, parts: list[Tensor], unbatched: bool) -> Any:
        """h_n or c_n from its parts, one a layer and direction."""
        if unbatched:
            parts = [part.squeeze(0) for part in parts]
        if self._states_are_lists:
            return parts
        return parts[0].unsqueeze(0) if len(parts) == 1 else torch.stack(parts)

    @property
    def _states_are_lists(self) -> bool:
        return isinstance(self.hidden_channels, list | tuple)
