"""Video prediction: ten frames of moving digits are seen, the next ten are predicted.

    python examples/moving_digits.py

Two digits of scikit-learn's collection move over a frame of 32 x 32 pixels and bounce off its
edges, as in Moving MNIST (Srivastava et al. 2015). An encoder of two ConvLSTM layers reads the
frames; a forecaster of two more starts from its states and draws what comes next (Shi et al. 2015,
figure 3).
Trains in a few minutes on a CPU, on digits that are not in the test, and writes a picture and an
animation: what was, what was predicted.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor, nn

from memx_fast import ConvLSTM

SEEN, PREDICTED, SIZE, DIGIT, PATCH = 10, 10, 32, 12, 4


class Forecaster(nn.Module):
    """Frames (SEEN, B, 1, H, W) to logits of the frames after them (PREDICTED, B, 1, H, W)."""

    def __init__(self, hidden: int = 48):
        super().__init__()
        # Patches of 4 x 4 pixels are channels of one: a sixteenth of the work.
        channels = PATCH * PATCH
        self.encoder = ConvLSTM(channels, hidden, 3, num_layers=2)
        self.forecaster = ConvLSTM(hidden, hidden, 3, num_layers=2)
        self.head = nn.Conv2d(2 * hidden, channels, 1)

    def forward(self, frames: Tensor) -> Tensor:
        patches = F.pixel_unshuffle(frames, PATCH)
        _, state = self.encoder(patches)
        # What the top layer saw last, at every step: there is nothing else to read.
        top = state[0][-1].expand(PREDICTED, *state[0].shape[1:])
        hidden, _ = self.forecaster(top, state)
        both = torch.cat([hidden, top], 2)
        return F.pixel_shuffle(self.head(both.flatten(0, 1)), PATCH).unflatten(0, (PREDICTED, -1))


def digit_images() -> tuple[Tensor, Tensor]:
    """Digits for training and for the test, (N, DIGIT, DIGIT) from 0 to 1."""
    images = torch.from_numpy(load_digits().images).float()[:, None] / 16
    large = F.interpolate(images, (DIGIT, DIGIT), mode="bilinear")[:, 0]
    return large[:-400], large[-400:]


def videos(digits: Tensor, batch: int, random: np.random.Generator) -> Iterator[Tensor]:
    """Endlessly: videos (SEEN + PREDICTED, batch, 1, SIZE, SIZE) of two moving digits each."""
    steps = np.arange(SEEN + PREDICTED)[:, None, None]
    room = SIZE - DIGIT
    while True:
        start = random.uniform(0, room, (batch * 2, 2))
        angle = random.uniform(0, 2 * np.pi, batch * 2)
        speed = 2.0 * np.stack([np.sin(angle), np.cos(angle)], 1)
        # A triangle wave: straight on, back from the edge.
        way = (start + steps * speed) % (2 * room)
        corners = np.rint(np.minimum(way, 2 * room - way)).astype(int)
        chosen = random.integers(len(digits), size=batch * 2)
        video = torch.zeros(len(steps), batch, 1, SIZE, SIZE)
        for t, frame in enumerate(corners):
            for number, (y, x) in enumerate(frame):
                place = video[t, number // 2, 0, y : y + DIGIT, x : x + DIGIT]
                torch.maximum(place, digits[chosen[number]], out=place)
        yield video


def error(predicted: Tensor, video: Tensor) -> float:
    """Squared error a frame, summed over its pixels, as Moving MNIST has it."""
    return (predicted - video[SEEN:]).square().sum((2, 3, 4)).mean().item()


def draw(video: Tensor, predicted: Tensor, folder: Path) -> None:
    """Write a picture of every second frame and an animation; predictions are below."""
    whole = torch.cat([video[:SEEN], predicted])
    pair = torch.stack([video, whole])[:, :, 0, 0].clamp(0, 1)
    pair = F.pad(pair, (1, 1, 1, 1), value=0.5)
    pixels = (pair * 255).byte().repeat_interleave(4, 2).repeat_interleave(4, 3)
    strip = pixels[:, ::2].transpose(1, 2).flatten(2).flatten(0, 1)
    Image.fromarray(strip.numpy()).save(folder / "moving_digits.png")
    frames = [Image.fromarray(frame.numpy()) for frame in pixels.transpose(0, 1).flatten(1, 2)]
    frames[0].save(
        folder / "moving_digits.gif", save_all=True, append_images=frames[1:], duration=150, loop=0
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=1200, help="of training (default: 1200)")
    parser.add_argument("--out", type=Path, default=Path("runs/moving_digits"), help="folder")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)

    torch.manual_seed(0)
    training, held_out = digit_images()
    test = next(videos(held_out, 200, np.random.default_rng(1)))
    model = Forecaster()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=arguments.steps)
    batches = videos(training, 16, np.random.default_rng(0))
    for step in range(1, arguments.steps + 1):
        video = next(batches)
        loss = F.binary_cross_entropy_with_logits(model(video[:SEEN]), video[SEEN:])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(f"step {step}: loss {loss.item():.4f}", flush=True)

    with torch.no_grad():
        predicted = model(test[:SEEN]).sigmoid()
    copied = test[SEEN - 1].expand(PREDICTED, *test.shape[1:])
    print(
        f"squared error a frame: {error(predicted, test):.1f} predicted, "
        f"{error(copied, test):.1f} copying the last frame, "
        f"{error(torch.zeros_like(copied), test):.1f} black"
    )
    draw(test, predicted, arguments.out)
    print(f"pictures: {arguments.out}/moving_digits.png and .gif")


if __name__ == "__main__":
    main()
