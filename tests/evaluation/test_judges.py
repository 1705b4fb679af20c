"""The contract of every kind of judge, and EfficientAT against an independent reader of its published weights."""

import json
import math
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from published_networks import cnn14_weights

from dear.audio import resample
from dear.evaluation.judge import JUDGES, JudgeError, load_judge
from dear.evaluation.judge.answers import AUDIOSET, Choices, choices, load_answers, nameable
from dear.evaluation.judge.efficientat import STRIDES, EfficientAT, _doubled, load_efficientat
from training.audioset import audioset_names

SHARED = Path(__file__).resolve().parents[3] / "shared" / "judge"


def published() -> Path:
    """EfficientAT's published file: the one that AUDIODEAR_JUDGE names, or that of ../shared/judge."""
    path = os.environ.get("AUDIODEAR_JUDGE")
    found = Path(path) if path else next(SHARED.glob("*.pt"), SHARED / "mn04_as_mAP_432.pt")
    if not found.is_file():
        pytest.skip(f"EfficientAT's weights are absent: AUDIODEAR_JUDGE names none, and {found} does not exist")
    return found


def random_weights(names=7, seed=0):
    """A state of EfficientAT's layout with random values: eight channels throughout, squeezing in one block."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}

    def convolution(name, outputs, inputs, size):
        weights[f"{name}.0.weight"] = torch.randn(outputs, inputs, size, size, generator=generator) / size
        for part in ("weight", "running_var"):
            weights[f"{name}.1.{part}"] = torch.rand(outputs, generator=generator) + 0.5
        for part in ("bias", "running_mean"):
            weights[f"{name}.1.{part}"] = torch.randn(outputs, generator=generator) / 4
        weights[f"{name}.1.num_batches_tracked"] = torch.tensor(1)

    def linear(name, outputs, inputs):
        weights[f"{name}.weight"] = torch.randn(outputs, inputs, generator=generator) / inputs**0.5
        weights[f"{name}.bias"] = torch.randn(outputs, generator=generator) / 4

    convolution("features.0", 8, 1, 3)
    for index in range(1, len(STRIDES) + 1):
        part = 0
        if index > 1:
            convolution(f"features.{index}.block.0", 8, 8, 1)
            part = 1
        convolution(f"features.{index}.block.{part}", 8, 1, 3)
        if index == 4:
            part += 1
            linear(f"features.{index}.block.{part}.conc_se_layers.0.fc1", 8, 8)
            linear(f"features.{index}.block.{part}.conc_se_layers.0.fc2", 8, 8)
        convolution(f"features.{index}.block.{part + 1}", 8, 8, 1)
    convolution(f"features.{len(STRIDES) + 1}", 12, 8, 1)
    linear("classifier.2", 16, 12)
    linear("classifier.5", names, 16)
    return weights


@pytest.fixture
def folder(tmp_path):
    """A folder with files as EfficientAT and AudioSet publish them."""
    torch.save(random_weights(), tmp_path / "mn01_as_mAP_1.pt")
    rows = [f'{i},/m/{i},"Name, {i}"' for i in range(7)]
    (tmp_path / "class_labels_indices.csv").write_text("\n".join(["index,mid,display_name", *rows[::-1]]))
    return tmp_path


@pytest.fixture(params=JUDGES)
def judge(request, folder):
    torch.save({"model": cnn14_weights(classes=7)}, folder / "Cnn14.pth")
    paths = {"efficientat": f":{folder / 'mn01_as_mAP_1.pt'}", "panns": f":{folder / 'Cnn14.pth'}"}
    return load_judge(request.param + paths.get(request.param, ""))


def test_the_contract_of_every_judge(judge):
    generator = torch.Generator().manual_seed(3)
    waveform = torch.randn(3, judge.samples, generator=generator) * 0.1
    features, probabilities = judge.hear(waveform)
    assert features.shape == (3, features.shape[1]) and features.dtype == torch.float32 and features.isfinite().all()
    assert probabilities.shape == (3, len(judge.names)) and probabilities.min() >= 0 and probabilities.max() <= 1
    assert judge.exclusive == torch.allclose(probabilities.sum(1), torch.ones(3), atol=1e-5)
    assert len(set(judge.names)) == len(judge.names) and judge.name and len(judge.digest) == 12
    assert judge.sample_rate == 16_000 and judge.samples == 160_000
    alone = torch.cat([judge.hear(each[None]).features for each in waveform])
    torch.testing.assert_close(alone, features, rtol=1e-4, atol=1e-4)
    assert judge.hear(torch.zeros(1, judge.samples)).features.isfinite().all()


def test_the_published_network_hears_what_its_reader_hears():
    path = published()
    if not (path.parent / "mn04.py").is_file():
        pytest.skip(f"the independent reader mn04.py is absent from {path.parent}")
    pytest.importorskip("soxr")
    sys.path.insert(0, str(path.parent))
    try:
        mn04 = pytest.importorskip("mn04")
    finally:
        sys.path.remove(str(path.parent))
    judge, reader = load_efficientat(path), mn04.MN04(path)
    generator, time = np.random.default_rng(0), np.arange(80_000) / 16_000
    sounds = {
        "noise": generator.normal(size=80_000) * 0.1,
        "tone": 0.5 * np.sin(2 * np.pi * 440 * time),
        "sweep": 0.5 * np.sin(2 * np.pi * (100 + 700 * time) * time),
        "clicks": (np.arange(80_000) % 8000 < 40) * generator.normal(size=80_000) * 0.5,
    }
    for sound in sounds.values():
        features, probabilities = judge.hear(torch.tensor(sound[None], dtype=torch.float32))
        wanted, embedding = reader(sound.astype(np.float32))
        np.testing.assert_allclose(probabilities[0], wanted, rtol=0, atol=1e-4)
        np.testing.assert_allclose(features[0], embedding, rtol=0, atol=1e-4)
    assert judge.names == tuple(mn04.NAMES) and judge.name == f"EfficientAT {path.stem.partition('_mAP')[0]}"


def test_folded_norms_are_the_norms(folder):
    weights = random_weights()
    judge = EfficientAT(weights, tuple("abcdefg"), "a", "b")
    x = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    plain = torch.nn.functional.conv2d(x, weights["features.0.0.weight"], stride=2, padding=1)
    parts = (weights[f"features.0.1.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
    torch.testing.assert_close(judge.stem(x), torch.nn.functional.batch_norm(plain, *parts, eps=1e-3))


def test_a_pure_tone_lies_in_the_bands_around_it():
    judge = EfficientAT(random_weights(), tuple("abcdefg"), "a", "b")
    tone = torch.sin(2 * math.pi * 1000 / 32_000 * torch.arange(32_000))[None]
    mel = judge.log_mel(tone)
    assert mel.shape == (1, 128, 100)
    band = 129 * math.log1p(1000 / 700) / math.log1p(15_000 / 700) - 1
    assert abs(int(mel[0, :, 50].argmax()) - band) < 1


def test_damaged_weights_are_named(folder):
    path = folder / "mn01_as_mAP_1.pt"
    with pytest.raises(JudgeError, match=r"nowhere\.pt can't be read"):
        load_efficientat(folder / "nowhere.pt")
    weights = random_weights()
    for change, words in (
        ({"features.9.block.1.0.weight": None}, "got none named 'features.9.block.1.0.weight'"),
        ({"more": torch.zeros(1)}, "got more, too"),
    ):
        torch.save({name: tensor for name, tensor in (weights | change).items() if tensor is not None}, path)
        with pytest.raises(JudgeError, match=words):
            load_efficientat(path)
    torch.save([1], path)
    with pytest.raises(JudgeError, match="must hold tensors by name, got list"):
        load_efficientat(path)
    path.write_bytes(b"not weights")
    with pytest.raises(JudgeError, match="is not a file of weights"):
        load_efficientat(path)
    torch.save(weights, path)
    (folder / "class_labels_indices.csv").write_text("index,mid,display_name\n0,/m/0,Dog\n")
    with pytest.raises(JudgeError, match="names must be 7, one for each class, got 1"):
        load_efficientat(path)
    (folder / "class_labels_indices.csv").unlink()
    with pytest.raises(JudgeError, match="must hold AudioSet's names as class_labels_indices.csv"):
        load_efficientat(path)


@pytest.mark.parametrize("text", ["ear", "ear:x", "efficientat", "efficientat:", ""])
def test_unknown_judges_are_named(text):
    with pytest.raises(JudgeError, match=r"^judge must .*got"):
        load_judge(text)


class Names:
    name, names = "names", ("Rain", "Raindrop", "Dog", "Bark", "Music", "cat")


ANSWERS = {"rain": ["Rain", "Raindrop"], "dog": ["Dog", "Bark", "Wolf"], "storm": ["Rain"], "sea": ["Ocean"]}


def test_the_best_name_of_a_label_counts():
    chosen = choices(Names, ["rain", "dog", "rain", "cat"], ANSWERS)
    assert chosen == Choices({"rain": (0, 1), "dog": (2, 3), "cat": (5,)})
    heard = np.array([[0.1, 0.6, 0.5, 0.2, 0.9, 0.05], [0.1, 0.6, 0.5, 0.2, 0.9, 0.01], [0.8, 0.7, 0.1, 0, 0.9, 0.6]])
    np.testing.assert_allclose(chosen.scores(heard), [[0.6, 0.5, 0.05], [0.6, 0.5, 0.01], [0.8, 0.1, 0.6]])
    verdicts = chosen.judge(heard, ["rain", "cat", "cat"])
    assert verdicts.heard == ("rain", "rain", "rain") and verdicts.right.tolist() == [True, False, False]
    assert verdicts.top.tolist() == [True, False, True]  # cat is the least of six in the second
    np.testing.assert_allclose(verdicts.score, [0.6, 0.01, 0.6])
    with pytest.raises(JudgeError, match="labels must be among rain, dog, cat, got 'sea'"):
        chosen.judge(heard[:1], ["sea"])


def test_labels_that_share_names_tie():
    chosen = choices(Names, ["rain", "storm", "dog"], ANSWERS)
    verdicts = chosen.judge(np.array([[0.9, 0.1, 0.2, 0, 0, 0], [0.1, 0.9, 0.2, 0, 0, 0]]), ["storm", "storm"])
    assert verdicts.right.tolist() == [True, False]


def test_labels_without_a_name_are_refused_or_left_out():
    assert nameable(Names, ["sea", "dog", "sea", "dog", "cat"], ANSWERS) == ("dog", "cat")
    with pytest.raises(JudgeError, match="names has a name for, got 'sea'"):
        choices(Names, ["sea", "dog"], ANSWERS)
    with pytest.raises(JudgeError, match="at least two for names to choose from, got dog"):
        choices(Names, ["dog", "dog"], ANSWERS)


def test_answers_are_read_or_refused(tmp_path):
    assert load_answers() == json.loads(AUDIOSET.read_text()) and load_answers()["rain"][0] == "Rain"
    for text in ("[]", '{"a": "b"}', '{"a": [1]}', "{"):
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(JudgeError, match=r"a\.json"):
            load_answers(tmp_path / "a.json")


def test_the_answers_in_assets_are_those_of_the_vocabulary():
    assert load_answers() == audioset_names()


def test_every_answer_is_a_name_of_audioset():
    names = set(load_efficientat(published()).names)
    assert {name for answers in load_answers().values() for name in answers} <= names


def test_doubling_the_rate_leaves_no_image_above_8_khz():
    time = np.arange(16_000) / 16_000
    high, passed = (torch.tensor(np.sin(2 * np.pi * hertz * time)[None]) for hertz in (7900, 7000))
    assert _doubled(high)[0, 1000:-1000].square().mean() < 1e-4
    assert np.square(resample(high[0].numpy(), 16_000, 32_000)[1000:-1000]).mean() > 0.1  # SciPy's default filter
    assert _doubled(passed)[0, 1000:-1000].square().mean() == pytest.approx(0.5, rel=1e-3)
