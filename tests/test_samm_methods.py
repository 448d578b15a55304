"""Every method against an independent computation of its features, and against its interface."""

import itertools
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F

from memx_fast.samm import flow, vgg
from memx_fast.samm.methods import METHODS, Machine, Method, create
from memx_fast.samm.methods.bi_woof import weighted_histograms
from memx_fast.samm.methods.by_svm import GRID
from memx_fast.samm.methods.dssn import Dssn
from memx_fast.samm.methods.elrcn import Elrcn
from memx_fast.samm.methods.lbp_top import LbpTop, block_histograms, patterns
from memx_fast.samm.methods.lbp_top import Settings as LbpSettings
from memx_fast.samm.methods.off_apexnet import OffApexNet, mirrored
from memx_fast.samm.training import Examples

SMALL: dict[str, dict[str, object]] = {
    "convlstm": {"size": 16, "frames": 3, "epochs": 25, "learning_rate": 1e-2},
    "lbp-top": {"size": 32, "frames": 5, "radius_t": 1, "blocks": 2},
    "bi-woof": {"size": 32, "blocks": 2},
    "off-apexnet": {"size": 32, "epochs": 12, "learning_rate": 1e-3},
    "dssn": {"size": 32, "side": 67, "epochs": 6, "learning_rate": 1e-3},
    "elrcn": {
        "size": 32,
        "frames": 3,
        "side": 32,
        "units": 16,
        "epochs": 12,
        "learning_rate": 1e-3,
    },
    "apex-cnn": {"size": 16, "epochs": 40, "patience": 40},
    "majority": {},
}
"""Settings under which every method is quick."""


def small(name: str, classes: int = 2, **options: object) -> Method:
    return create(name, classes, {**SMALL[name], **options})


def drifting(method: Method, clips: int = 16) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
    """Frames, apexes, labels: a texture that drifts left (0) or right (1), apex in the middle."""
    random = np.random.default_rng(0)
    wanted = method.input
    apex = wanted.frames // 2
    frames = np.zeros((clips, wanted.frames, 1, wanted.size, wanted.size), np.uint8)
    labels = np.tile([0, 1], clips // 2)
    for clip, label in zip(frames, labels, strict=True):
        wide = np.repeat(np.repeat(random.integers(0, 256, (48, 56)), 4, 0), 4, 1)
        for step in range(wanted.frames):
            start = 30 + (-1 if label else 1) * min(step, 2 * apex - step)
            clip[step, 0] = wide[30 : 30 + wanted.size, start : start + wanted.size]
    return torch.from_numpy(frames), np.full(clips, apex), labels


def test_names_and_settings() -> None:
    """Eight methods; text is read by the default's type, and what is wrong is named."""
    assert list(METHODS) == list(SMALL)
    method = create("lbp-top", 3, {"blocks": "4", "c": "2.5"})
    assert asdict(method.settings) == asdict(LbpSettings(blocks=4, c=2.5))
    for name, settings, message in (
        ("svm", {}, "method: got 'svm', expected one of convlstm, lbp-top"),
        ("majority", {"epochs": 3}, "epochs: majority has no such setting; .* are: none"),
        ("lbp-top", {"blocks": "many"}, "blocks: got 'many', expected a whole number"),
        ("lbp-top", {"c": "inf"}, "c: got inf"),
        ("lbp-top", {"neighbours": 6}, "neighbours: got 6, expected 4 or 8"),
        ("lbp-top", {"frames": 8}, "frames: got 8, expected more than 8"),
        ("bi-woof", {"blocks": 0}, "blocks: got 0"),
        ("dssn", {"side": 66}, "side: got 66, expected at least 67"),
        ("elrcn", {"side": 31}, "side: got 31"),
        ("apex-cnn", {"size": 20}, "size: got 20, expected a multiple of 8"),
    ):
        with pytest.raises(ValueError, match=message):
            create(name, 3, settings)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", list(METHODS))
def test_every_method_learns_repeats_itself_and_is_kept(name: str) -> None:
    """Features, fit and predictions have their shapes; the same seed gives the same bits; what
    another instance loads predicts the same. What was shown is known, but to the constant guess.
    """
    method = small(name)
    frames, apexes, labels = drifting(method)
    features = method.features(frames, apexes)
    assert len(features) == len(labels)
    assert torch.equal(features, small(name).features(frames, apexes))
    examples = Examples(features, labels)
    training, test = examples.part(np.arange(12)), examples.part(np.arange(12, 16))
    fit = method.fit(training, training, seed=(1, 2))
    probabilities = method.predict(test.features)
    assert probabilities.shape == (4, 2)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(4), check_dtype=False)
    assert bool(fit.history) == bool(fit.best_epoch)
    learnt = method.predict(training.features).argmax(1).numpy() == training.labels
    assert learnt.mean() == (0.5 if name == "majority" else 1)

    again = small(name)
    assert again.fit(training, training, seed=(1, 2)).chosen == fit.chosen
    assert torch.equal(again.predict(test.features), probabilities)
    loaded = small(name)
    loaded.load_state(method.state())
    assert torch.equal(loaded.predict(test.features), probabilities)
    with pytest.raises(ValueError, match="state: "):
        loaded.load_state({"something": torch.zeros(1)})


@pytest.mark.parametrize("neighbours", [4, 8])
@pytest.mark.parametrize(("plane", "axes"), [("xy", (2, 1)), ("xt", (2, 0)), ("yt", (1, 0))])
def test_patterns_by_hand(plane: str, axes: tuple[int, int], neighbours: int) -> None:
    """One loop a centre and a neighbour, interpolated by hand, against the arrays."""
    random = np.random.default_rng(3)
    cube = random.integers(0, 8, (7, 6, 5), dtype=np.uint8)
    radii = (2, 1, 1)  # t, y, x
    found = patterns(cube, axes, radii, neighbours)
    assert found.shape == (3, 4, 3)
    for t, y, x in itertools.product(range(3), range(4), range(3)):
        centre = (t + 2, y + 1, x + 1)
        code = 0
        for bit in range(neighbours):
            angle = 2 * np.pi * bit / neighbours
            point = list(map(float, centre))
            point["tyx".index(plane[0])] += np.cos(angle) * radii["tyx".index(plane[0])]
            point["tyx".index(plane[1])] += np.sin(angle) * radii["tyx".index(plane[1])]
            value = 0.0
            for corner in itertools.product(
                *(sorted({int(p // 1), int(-(-p // 1))}) for p in np.round(point, 9))
            ):
                value += cube[corner] * np.prod(
                    [1 - abs(p - c) for p, c in zip(point, corner, strict=True)]
                )
            code |= int(round(value, 9) >= cube[centre]) << bit
        assert found[t, y, x] == code


def test_histograms_of_blocks() -> None:
    """Shares of each code in each block; 3 planes, 25 blocks and 16 codes make 1,200 numbers."""
    codes = np.array([[[0, 1, 2, 2], [0, 0, 2, 3]]])
    found = block_histograms(codes, 2, 4)
    assert [list(cell) for cell in found] == [
        [0.5, 0.5, 0, 0],
        [0, 0, 1, 0],
        [1, 0, 0, 0],
        [0, 0, 0.5, 0.5],
    ]
    method = LbpTop(3)
    clip = torch.randint(0, 256, (1, 10, 1, 128, 128), dtype=torch.uint8)
    features = method.features(clip, np.zeros(1, np.int64))
    assert features.shape == (1, 1200)
    torch.testing.assert_close(features.sum(), torch.tensor(75.0))
    assert torch.equal(LbpTop(3).features(clip, np.ones(1, np.int64)), features)


def test_bi_woof_by_hand() -> None:
    """One loop a pixel against the arrays; a block at rest is zeros, and a still face too."""
    random = np.random.default_rng(5)
    motion = random.normal(size=(3, 11, 13)).astype(np.float32)
    motion[2] = np.abs(motion[2])
    rows, columns = np.array_split(np.arange(11), 3), np.array_split(np.arange(13), 3)
    motion[:, :4, :5] = 0
    expected = []
    for row, column in itertools.product(rows, columns):
        histogram, stretched = np.zeros(8), 0.0
        for y, x in itertools.product(row, column):
            u, v, strain = map(float, motion[:, y, x])
            angle = np.degrees(np.arctan2(v, u))
            bin_ = next(k for k in range(8) if -180 + 45 * k <= angle < -135 + 45 * k or k == 7)
            histogram[bin_] += np.hypot(u, v)
            stretched += strain
        if histogram.sum():
            histogram *= stretched / histogram.sum()
        expected.append(histogram)
    whole = np.concatenate(expected)
    found = weighted_histograms(motion, 3, 8)
    np.testing.assert_allclose(found, whole / np.sqrt((whole**2).sum()), rtol=1e-6)
    assert not found[:8].any()
    assert not weighted_histograms(np.zeros_like(motion), 5, 8).any()


def test_price_of_mistakes_is_chosen_on_validation() -> None:
    """C is the smallest with the best validation recall, or the one asked for."""
    random = np.random.default_rng(0)
    labels = np.tile([0, 1, 2], 10)
    features = torch.from_numpy(np.eye(3)[labels] + 0.3 * random.normal(size=(30, 3)))
    examples = Examples(features, labels)
    method = small("bi-woof", 3)
    chosen = method.fit(examples.part(np.arange(21)), examples.part(np.arange(21, 30))).chosen["C"]
    assert chosen in GRID
    fixed = small("bi-woof", 3, c=5.0)
    assert fixed.fit(examples, examples).chosen == {"C": 5.0}
    two = Examples(features[labels < 2], labels[labels < 2])
    probabilities = (fixed.fit(two, two), fixed.predict(features))[1]
    assert not probabilities[:, 2].any()
    with pytest.raises(RuntimeError, match="bi-woof has learnt nothing yet"):
        small("bi-woof").predict(features)


def test_off_apexnet() -> None:
    """2,664,475 parameters; each stream sees its own channel, no one strain."""
    method = OffApexNet(3)
    assert sum(method.parameters().values()) == 2_664_475
    network = method.network.eval()
    motion = torch.rand(2, 3, 28, 28)
    streams = []
    for stream, channel in ((network.horizontal, 0), (network.vertical, 1)):
        image = motion[:, channel : channel + 1]
        for layer in (stream[0], stream[3]):
            image = F.max_pool2d(F.relu(F.conv2d(image, layer.weight, layer.bias, padding=2)), 2)
        assert image.shape == (2, 16, 7, 7)
        streams.append(image.flatten(1))
    hidden = torch.cat(streams, 1)
    for layer in (network.dense[0], network.dense[3]):
        hidden = F.relu(F.linear(hidden, layer.weight, layer.bias))
    expected = F.linear(hidden, network.dense[6].weight, network.dense[6].bias)
    torch.testing.assert_close(network(motion), expected)


def test_mirrored_scaled_flow() -> None:
    """Scaling and mirroring may be exchanged: the change of sign of u becomes 1 - u."""
    motion = torch.randn(3, 8, 8)
    torch.testing.assert_close(mirrored(flow.scaled(motion)), flow.scaled(flow.mirrored(motion)))


def test_dssn() -> None:
    """57,600 features at 227 x 227 pixels; the product of two streams of AlexNet's first blocks."""
    method = Dssn(5, replace(Dssn.Settings(), side=227))
    assert method.network.output.in_features == 57_600
    convolutions = 96 * (3 * 11**2 + 1) + 256 * (48 * 5**2 + 1)
    assert method.parameters() == {
        "magnitude": convolutions,
        "strain": convolutions,
        "output": 57_601 * 5,
    }
    assert "not 227" not in " ".join(method.notes())
    network = Dssn(2).network.eval()
    motion = torch.rand(1, 4, 115, 115)
    streams = []
    for stream, channels in ((network.magnitude, (0, 1, 2)), (network.strain, (0, 1, 3))):
        image = motion[:, channels] - torch.tensor([123.68, 116.779, 103.939])[:, None, None] / 255
        for layer, stride, padding, groups in ((stream[0], 4, 0, 1), (stream[4], 1, 2, 2)):
            image = F.relu(
                F.conv2d(image, layer.weight, layer.bias, stride, padding, groups=groups)
            )
            image = F.local_response_norm(F.max_pool2d(image, 3, 2), 5)
        streams.append(F.pad(image, (1, 1, 1, 1)))
    product = (streams[0] * streams[1]).flatten(1)
    expected = F.linear(product, network.output.weight, network.output.bias)
    torch.testing.assert_close(network(motion), expected)


def test_dssn_channels() -> None:
    """u, v, magnitude and strain in this order, each scaled by itself."""
    method = small("dssn")
    frames, apexes, _ = drifting(method, 2)
    features = method.features(frames, apexes)
    motion = flow.onset_to_apex(frames, apexes)
    magnitude = motion[:, 0].square().add(motion[:, 1].square()).sqrt()
    for channel, image in enumerate((motion[:, 0], motion[:, 1], magnitude, motion[:, 2])):
        large = F.interpolate(image[:, None], (67, 67), mode="bilinear")
        torch.testing.assert_close(features[:, channel], flow.scaled(large)[:, 0])


@pytest.fixture(scope="module")
def tiny_vgg(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of VGG-16, all of them, as torchvision names them, with its last layer."""
    torch.manual_seed(7)
    state = dict(vgg.Vgg16().state_dict())
    state["classifier.6.weight"], state["classifier.6.bias"] = (
        torch.zeros(10, 4096),
        torch.zeros(10),
    )
    path = tmp_path_factory.mktemp("weights") / "vgg16.safetensors"
    safetensors.torch.save_file(state, path)
    return path


@pytest.mark.usefixtures("one_thread")
def test_vgg_weights(tiny_vgg: Path, tmp_path: Path) -> None:
    """13 convolutions and two dense layers; other weights are other features, and another run.
    What is no such file is refused; of a pickle not even tensors are loaded.
    """
    network = vgg.load(tiny_vgg)
    counts = [value.numel() for name, value in network.state_dict().items() if "weight" in name]
    assert len(counts) == 15
    assert sum(value.numel() for value in network.parameters()) == 138_357_544 - 4_097_000
    state = safetensors.torch.load_file(tiny_vgg)
    for name, value in network.state_dict().items():
        assert torch.equal(value, state[name])

    plain, loaded = small("elrcn"), small("elrcn", weights=str(tiny_vgg))
    frames, apexes, _ = drifting(plain, 2)
    one, other = plain.features(frames, apexes), loaded.features(frames, apexes)
    assert one.shape == other.shape == (2, 2, 8192)
    assert not torch.equal(one, other)
    assert plain.identity()["weights_sha256"] == ""
    assert len(loaded.identity()["weights_sha256"]) == 64
    assert "random" in plain.notes()[0]
    assert loaded.notes()[0] == "Weights of VGG-16: vgg16.safetensors."

    torch.save(state, tmp_path / "vgg16.pth")
    with pytest.raises(ValueError, match=r"weights: .*vgg16.pth is no whole .* s.save_file\(torch"):
        vgg.load(tmp_path / "vgg16.pth")
    (tmp_path / "short.safetensors").write_bytes(tiny_vgg.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"weights: .*short.safetensors is no whole safetensors"):
        vgg.load(tmp_path / "short.safetensors")
    safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"weights: .*other.safetensors is no state dict of VGG"):
        vgg.load(tmp_path / "other.safetensors")
    with pytest.raises(FileNotFoundError, match=r"weights: .*none.pth does not exist"):
        vgg.load(tmp_path / "none.pth")


@pytest.mark.usefixtures("one_thread")
def test_elrcn(tmp_path: Path) -> None:
    """Features against VGG applied by hand to flow scaled over the clip; kept on disk; the LSTM
    sees them standardised.
    """
    method = create("elrcn", 2, SMALL["elrcn"], Machine(cache_dir=tmp_path))
    frames, apexes, _ = drifting(method, 2)
    features = method.features(frames, apexes)
    assert len(list(tmp_path.glob("vgg-*.vgg"))) == 2  # one a clip
    assert torch.equal(method.features(frames.flip(0), apexes), features.flip(0))
    assert len(list(tmp_path.glob("vgg-*.vgg"))) == 2
    torch.set_num_threads(2)  # may round differently, and does not take what one thread has kept
    torch.testing.assert_close(method.features(frames, apexes), features, rtol=1e-4, atol=1e-5)
    torch.set_num_threads(1)
    assert len(list(tmp_path.glob("vgg-*.vgg"))) == 4
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = vgg.Vgg16().eval()
    motion = flow.frame_to_frame(frames)[1]
    channels = [motion[:, 0], motion[:, 1], torch.hypot(motion[:, 0], motion[:, 1]), motion[:, 2]]
    u, v, magnitude, strain = ((c - c.min()) / (c.max() - c.min()) for c in channels)
    for images, half in (
        (torch.stack([u, v, magnitude], 1), slice(0, 4096)),
        (torch.stack([strain] * 3, 1), slice(4096, None)),
    ):
        with torch.no_grad():
            expected = network(images)
        torch.testing.assert_close(features[1][:, half], expected, rtol=1e-4, atol=1e-5)

    trainer = method.trainer(
        Examples(features, np.array([0, 1])), Examples(features, np.array([0, 1]))
    )
    flat = (features - trainer.network.mean) / trainer.network.deviation
    torch.testing.assert_close(flat.mean((0, 1)), torch.zeros(8192), rtol=0, atol=1e-4)
    units, inputs = 256, 8192
    assert Elrcn(3).parameters() == {
        "recurrent": 4 * units * (inputs + units + 2),
        "dense": 257 * 128 + 129 * 3,
    }


def test_mirrored_copies_of_flow() -> None:
    """About half of the altered clips, and nothing else."""
    random = np.random.default_rng(0)
    example = torch.rand(3, 28, 28)
    altered = [OffApexNet(3).alter(example, random) for _ in range(200)]
    turned = sum(torch.equal(found, mirrored(example)) for found in altered)
    assert turned + sum(torch.equal(found, example) for found in altered) == 200
    assert 70 < turned < 130
