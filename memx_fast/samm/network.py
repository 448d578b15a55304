"""The paper's network: one ConvLSTM layer, its last hidden state pooled, two dense layers."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from memx_fast import ConvLSTM
from memx_fast.arguments import share, whole

_KERAS_2_SLOPE = 0.2


class ShallowConvLSTM(nn.Module):
    """The network of "Micro-expression recognition using a shallow ConvLSTM-based network".

    A ConvLSTM of 32 kernels of 3 x 3 runs over the frames; its last hidden state is max-pooled over
    2 x 2 pixels with a stride of 1, flattened, and passed through a dense layer of 48 sigmoid
    units, dropout, and a dense layer to the classes. At 90 x 90 pixels, without padding, nearly all
    parameters are in the first dense layer: 11,626,032, beside 38,144 of the ConvLSTM.

    Weights of the dense layers start as Glorot and Bengio (2010) have it, biases at 0.

    Args:
        classes: number of classes.
        size: height and width of the frames.
        channels: channels of the frames.
        hidden_channels: kernels of the ConvLSTM.
        padding: ``"valid"`` or ``"same"``, of its convolution over the frames.
        peephole: None, ``"channel"`` or ``"spatial"``.
        output_peephole: ``"previous"``, as in the paper's equation (4), or ``"current"``.
        gates: ``"sigmoid"``, or ``"hard_sigmoid"``: 0.2 x + 0.5 within 0..1, which was Keras's
            default when the paper was written.
        pool_stride: stride of the pooling.
        dropout: probability.
        backend: engine of the ConvLSTM.

    Inputs: ``(B, T, channels, size, size)``, values in [0, 1].
    Outputs: logits ``(B, classes)``.

    Raises:
        TypeError, ValueError: an argument is wrong, or the frames are too small.
    """

    def __init__(
        self,
        classes: int,
        size: int = 90,
        channels: int = 1,
        *,
        hidden_channels: int = 32,
        padding: Literal["valid", "same"] = "valid",
        peephole: str | None = None,
        output_peephole: str = "previous",
        gates: str = "sigmoid",
        pool_stride: int = 1,
        dropout: float = 0.3,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        whole("classes", classes, 2)
        if whole("size", size, 1) < 4:
            raise ValueError(f"size: got {size}, expected at least 4")
        self.recurrent = ConvLSTM(
            channels,
            hidden_channels,
            3,
            batch_first=True,
            peephole=peephole,
            spatial_size=size if peephole == "spatial" else None,
            output_peephole=output_peephole,
            recurrent_activation=gates,
            hard_sigmoid_slope=_KERAS_2_SLOPE,
            padding=padding,
            backend=backend,
        )
        self.pool = nn.MaxPool2d(2, whole("pool_stride", pool_stride, 1))
        state = size - 2 if padding == "valid" else size
        pooled = (state - 2) // pool_stride + 1
        self.hidden = nn.Linear(hidden_channels * pooled**2, 48)
        self.dropout = nn.Dropout(share("dropout", dropout))
        self.output = nn.Linear(48, classes)
        for dense in (self.hidden, self.output):
            nn.init.xavier_uniform_(dense.weight)
            nn.init.zeros_(dense.bias)

    def forward(self, frames: Tensor) -> Tensor:
        """Logits of the classes; see the class for shapes."""
        _, (last, _) = self.recurrent(frames)
        features = self.pool(last[0]).flatten(1)
        logits: Tensor = self.output(self.dropout(self.hidden(features).sigmoid()))
        return logits

    def parameter_counts(self) -> dict[str, int]:
        """Number of parameters of each part, by its name."""
        return {
            name: sum(parameter.numel() for parameter in part.parameters())
            for name, part in (
                ("ConvLSTM", self.recurrent),
                ("dense 48", self.hidden),
                ("dense to classes", self.output),
            )
        }
