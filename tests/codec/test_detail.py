"""The codec whose decoder draws the detail that its tokens leave out."""

import pytest
import torch
from small_codecs import Noises, improve

from dear.codec.detail import DetailConfig, DetailVAE, place_noise
from dear.codec.lapped import LappedConfig
from dear.config import ConfigError, MelConfig
from training.engine.codec import fit_patch_vae, leading, linear_part
from training.engine.detail import TrainDetail

MEL = MelConfig(frames=64, samples=10_000)
SMALL = DetailConfig(token_dim=2, detail_dim=4, width=16, depth=1, noisy_depth=1)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def mels(generator):
    return (torch.randn(24, 64, 64, generator=generator) - 5).clamp_min(-11.5)


@pytest.fixture
def linear(mels):
    return fit_patch_vae(mels, linear_part(SMALL), MEL)


def test_tokens_are_the_leading_channels_of_the_lapped_codec(linear, mels):
    codec = DetailVAE.from_linear(linear, SMALL, MEL)
    assert linear.token_shape == (8, 6) and codec.token_shape == (8, 2)
    assert torch.equal(codec.encode_all(mels), linear.encode(mels))
    assert torch.equal(codec.encode(mels), linear.encode(mels)[..., :2])
    short = leading(linear, LappedConfig(token_dim=2), MEL)
    torch.testing.assert_close(short.encode(mels), codec.encode(mels))
    whole = torch.cat((short.encode(mels), torch.zeros(24, 8, 4)), dim=-1)
    torch.testing.assert_close(short.decode(short.encode(mels)), linear.decode(whole))


def test_the_noise_of_a_place_does_not_depend_on_the_length():
    device = torch.device("cpu")
    long = place_noise(384, 80, device)
    assert torch.equal(place_noise(5, 80, device), long[:5])
    assert long.mean().abs() < 0.02 and abs(long.std() - 1) < 0.02


@torch.no_grad()
def test_the_same_tokens_give_the_same_mel_wherever_they_lie_in_a_batch(generator):
    codec = DetailVAE(SMALL, MEL)
    tokens = torch.randn(2, 8, 2, generator=generator)
    assert torch.equal(codec.decode(tokens), codec.decode(tokens))
    torch.testing.assert_close(codec.decode(tokens[1:]), codec.decode(tokens)[1:])


def test_weights_do_not_depend_on_the_global_random_state():
    first, second = DetailVAE(SMALL, MEL), DetailVAE(SMALL, MEL)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_training_learns_how_much_the_detail_fluctuates(generator):
    # Two loud directions, and four quieter ones whose strength is that of the first.
    basis = torch.linalg.qr(torch.randn(512, 6, generator=generator)).Q
    codec = DetailVAE(SMALL, MEL)

    def mels(count: int) -> torch.Tensor:
        values = torch.randn(count, 8, 6, generator=generator) * torch.tensor([10, 8, 2, 2, 2, 2.0])
        values[..., 2:] *= (values[..., :1] > 0) + 0.1
        return codec.unpatch(values @ basis.T - 5)

    codec = DetailVAE.from_linear(fit_patch_vae(mels(64), linear_part(SMALL), MEL), SMALL, MEL)
    task = TrainDetail(codec, Noises(), MEL, batch_size=16, held_out=mels(16))
    before = task.validate()
    improve(task, lambda: mels(16), generator)
    after = task.validate()
    assert after["loss"] < 0.9 * before["loss"]
    assert 0.6 < after["variance"] < 1.4
    with torch.no_grad():
        tokens = codec.encode(mels(64))
        drawn = codec.detail(tokens, torch.randn(1, *tokens.shape[:2], 4, generator=generator))[0]
    # The leading channel carries the strength, with either sign.
    loud, quiet = (drawn[tokens[..., 0] * sign > 0].std() for sign in (1, -1))
    assert max(loud, quiet) > 2 * min(loud, quiet)


def test_batches_are_a_pure_function_of_the_step():
    task = TrainDetail(DetailVAE(SMALL, MEL), Noises(), MEL, batch_size=2, held_out=torch.zeros(1, 64, 64))
    first, again, other = task.batch(3)["mel"], task.batch(3)["mel"], task.batch(4)["mel"]
    assert first.shape == (2, 64, 64)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_sizes_are_checked():
    with pytest.raises(ConfigError, match=r"token_dim \+ detail_dim must be at most 512 \(one patch\), got 640"):
        DetailVAE(DetailConfig(token_dim=320, detail_dim=320), MEL)
    with pytest.raises(ConfigError, match="patch_mels must be n_mels 64 for kind detail, got 32"):
        DetailVAE(DetailConfig(patch_mels=32), MEL)
