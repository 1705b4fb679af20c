import json

import numpy as np
import pytest
import torch

from dear.config import ConfigError, MelConfig
from dear.judge.classifier import (
    ClassifierConfig,
    ClassifierError,
    SoundClassifier,
    load_classifier,
    save_classifier,
)
from training.engine.recipe import RECIPES, Recipe, load_recipe
from training.engine.schedule import TrainConfig
from training.engine.sounds import CROP, SoundTask, distort, mask_spectrogram
from training.engine.trainer import train

LABELS = ("hum", "hiss", "click")


def small(seed=0, mel=None):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return SoundClassifier(
            ClassifierConfig(labels=LABELS, mel=mel or MelConfig(), channels=(8, 16, 16), width=24)
        ).eval()


@pytest.fixture
def mel():
    return torch.randn(3, 100, 64, generator=torch.Generator().manual_seed(1)) * 2 - 5


def test_shapes_for_any_number_of_frames_and_logits_from_the_features(mel):
    model = small()
    for frames in (1, 37, 100):
        features = model.features(mel[:, :frames])
        assert features.shape == (3, 24)
        torch.testing.assert_close(model(mel[:, :frames]), model.head(features))
    assert model(mel).shape == (3, 3) and model.labels == LABELS


def test_loudness_changes_nothing_and_silence_is_finite(mel):
    model = small()
    torch.testing.assert_close(model(mel - 3), model(mel), rtol=1e-4, atol=1e-5)
    assert model(torch.full((1, 50, 64), -11.5)).isfinite().all()


def test_an_item_does_not_depend_on_its_batch_nor_on_the_mode(mel):
    model = small()
    together = model(mel)
    torch.testing.assert_close(torch.cat([model(item[None]) for item in mel]), together, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.train()(mel), together)


def test_frequency_matters(mel):
    model = small()
    tone = torch.full((2, 60, 64), -11.0)
    tone[0, :, 10], tone[1, :, 50] = 0, 0
    assert not torch.allclose(*model(tone), atol=1e-3)


def test_the_default_network_keeps_to_its_size():
    model = SoundClassifier(ClassifierConfig(labels=tuple("abcdefghij")))
    assert sum(p.numel() for p in model.parameters()) <= 600_000
    assert model.config.width == 128


def test_round_trip(tmp_path, mel):
    model = small()
    save_classifier(tmp_path / "c", model, {"held_out_recordings": 0.9}, card="# A card\n")
    loaded = load_classifier(tmp_path / "c", MelConfig(frames=64, samples=1000))
    assert loaded.labels == LABELS and loaded.config.measured == {"held_out_recordings": 0.9}
    assert (tmp_path / "c" / "README.md").read_text() == "# A card\n"
    assert sorted(p.name for p in (tmp_path / "c").iterdir()) == ["README.md", "config.json", "model.safetensors"]
    torch.testing.assert_close(loaded(mel), model(mel), rtol=0.02, atol=0.02)  # float16 on disk
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
    save_classifier(tmp_path / "again", loaded)
    assert load_classifier(tmp_path / "again").config == loaded.config  # float16 weights and measurements survive


def test_the_bundled_classifier_is_whole_and_says_how_good_it_is():
    model = load_classifier(mel=MelConfig())
    assert model.labels == load_recipe(RECIPES / "mini.yaml", Recipe).scenes.sounds
    assert sum(p.numel() for p in model.parameters()) <= 600_000
    assert model.config.measured["held_out_recordings"] > 0.8 and model.config.measured["held_out_scenes"] > 0.8


def test_a_damaged_folder_is_named(tmp_path):
    with pytest.raises(ClassifierError, match=r"nowhere.config\.json can't be read"):
        load_classifier(tmp_path / "nowhere")
    save_classifier(tmp_path, small())
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    with pytest.raises(ClassifierError, match=r"model\.safetensors is damaged"):
        load_classifier(tmp_path)
    weights.unlink()
    with pytest.raises(ClassifierError, match=r"model\.safetensors can't be read"):
        load_classifier(tmp_path)
    weights.write_bytes(whole)
    config = tmp_path / "config.json"
    text = config.read_text()
    config.write_text("{")
    with pytest.raises(ClassifierError, match=r"config\.json is not a classifier's configuration"):
        load_classifier(tmp_path)
    config.write_text(json.dumps(json.loads(text) | {"colour": 1}))
    with pytest.raises(ClassifierError, match="unknown field colour"):
        load_classifier(tmp_path)
    config.write_text(json.dumps(json.loads(text) | {"width": 25}))
    with pytest.raises(ClassifierError, match="does not fit its config.json"):
        load_classifier(tmp_path)


def test_another_spectrogram_is_refused(tmp_path, mel):
    save_classifier(tmp_path, small())
    with pytest.raises(ClassifierError, match=r"mel\.hop_length must be 160.*got 320"):
        load_classifier(tmp_path, MelConfig(hop_length=320, frames=512))
    with pytest.raises(ClassifierError, match=r"mel must have shape \[B, F, 64\]"):
        small()(mel[:, :, :32])


@pytest.mark.parametrize("change", [{"labels": ("one",)}, {"labels": ("a", "a")}, {"channels": (8, 12)}, {"width": 0}])
def test_bad_configurations_are_refused(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        ClassifierConfig(**({"labels": LABELS} | change))


def test_distortions_are_pure_finite_and_change_the_sound(mel):
    for change in (distort, mask_spectrogram):
        first, second, other = (change(mel, torch.Generator().manual_seed(seed)) for seed in (5, 5, 6))
        assert first.shape == mel.shape and first.isfinite().all()
        assert torch.equal(first, second) and not torch.equal(first, other) and not torch.equal(first, mel)


def test_a_batch_is_a_pure_function_of_its_step_and_balances_classes():
    mels = torch.randn(30, CROP + 200, 64, generator=torch.Generator().manual_seed(0)).half()
    targets = torch.tensor([0] * 25 + [1] * 3 + [2] * 2)
    task = SoundTask(small(), mels, targets, batch_size=16, seed=3)
    one, same, another = task.batch(4), task.batch(4), task.batch(5)
    assert one["mel"].shape == (16, CROP, 64) and one["mel"].isfinite().all()
    torch.testing.assert_close(one["target"].sum(1), torch.ones(16))
    assert all(torch.equal(one[name], same[name]) for name in one) and not torch.equal(one["mel"], another["mel"])
    shares = torch.stack([task.batch(step)["target"].mean(0) for step in range(8)]).mean(0)
    assert shares.min() > 0.2  # the rare classes come as often as the common one


def test_training_learns_to_tell_noise_from_tones(tmp_path):
    rng = np.random.default_rng(0)
    mels = torch.full((12, 600, 64), -9.0)
    mels[4:8] = torch.from_numpy(rng.normal(-3, 0.5, size=(4, 600, 64))).float()
    for i in range(4):
        mels[i, :, 8 + i] = 0  # a hum
        mels[8 + i, :: 40 + i] = 0  # clicks
    targets = torch.tensor([0] * 4 + [1] * 4 + [2] * 4)
    torch.manual_seed(0)  # of the initial weights
    task = SoundTask(small(), mels, targets, batch_size=8, seed=0, held_out=(mels, targets))
    config = TrainConfig(steps=100, batch_size=8, lr=5e-3, warmup=10, ema=0.9)
    model = train(task, config, tmp_path, "test")
    task.module.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert task.validate()["held_out_accuracy"] > 0.7  # chance is 0.33
