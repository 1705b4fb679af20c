"""The table of where sound is lost, on a tiny checkpoint and recordings whose class is obvious."""

import csv
import json

import numpy as np
import pytest
import soundfile
import torch
from factory import tiny_config

from dear.codec import VOCODERS
from dear.evaluation import score
from dear.evaluation.flicker import flicker
from dear.evaluation.judge.features import SoundsError
from dear.evaluation.losses import TONE, main, markdown, measure
from dear.evaluation.sources import recorded, split, tone, vocoders
from dear.evaluation.texture import harmonic_ratio_db
from dear.judge.base import Heard
from dear.judge.classifier import ClassifierConfig, SoundClassifier, save_classifier
from dear.pipeline import AudioDEAR

PROMPTS = {"rain": ["rain on a roof"], "dog": ["a dog barking"], "sea_waves": ["the sea"]}


class Ears:
    """A judge that hears rain in a waveform that crosses zero often, and a dog in any other."""

    name, hears, digest, measured = "ears", "waveforms", "0" * 12, {}
    names, exclusive = ("Rain", "Dog", "Music", "Speech", "Bell", "Car"), False
    sample_rate, samples = 16_000, 10_000

    def hear(self, waveform):
        crossings = (waveform.sign().diff(dim=1) != 0).float().mean(dim=1)
        rain = (crossings > 0.2).float()
        rest = torch.full((len(waveform), 4), 0.5)
        features = torch.stack((crossings, waveform.square().mean(dim=1)), dim=1)
        return Heard(features, torch.cat((rain[:, None], 1 - rain[:, None], rest), dim=1))


@pytest.fixture
def recordings(tmp_path):
    """A folder named esc10: three clips of noise and three of a low tone in folds 1 and 4, and one of an engine."""
    folder = tmp_path / "esc10"
    (folder / "audio").mkdir(parents=True)
    rng, time = np.random.default_rng(0), np.arange(12_000) / 16_000
    rows = []
    for fold in (1, 4):
        for label in ("rain", "dog", "unheard_of"):
            for i in range(1 if label == "unheard_of" else 3):
                wave = rng.normal(size=12_000) * 0.1 if label == "rain" else 0.5 * np.sin(2 * np.pi * (300 + i) * time)
                name = f"{fold}-{label}-{i}.wav"
                soundfile.write(folder / "audio" / name, wave, 16_000)
                rows.append((name, fold, label))
    with open(folder / "clips.csv", "w", newline="") as file:
        csv.writer(file).writerows([("file", "fold", "label"), *rows])
    return folder


def test_the_first_clips_of_each_label_in_the_measuring_fold(recordings):
    measured, others = split([recordings], [4], 2)
    assert [(s.label, s.fold) for s in measured] == [
        ("rain", 4),
        ("rain", 4),
        ("dog", 4),
        ("dog", 4),
        ("unheard_of", 4),
    ]
    assert len(others) == 5 and {s.fold for s in others} == {1}
    with pytest.raises(SoundsError, match=r"fold must be one of \[1, 4\] in .*esc10, got 7"):
        split([recordings], [7], 2)


def test_every_vocoder_without_weights_and_the_checkpoints_own(student):
    found = vocoders(student.config, student.vocoder)
    assert found["griffin-lim"] is student.vocoder and next(iter(found)) == "griffin-lim"
    assert all(not network.state_dict() for network in found.values())
    assert set(found) == {kind for kind, network in VOCODERS.items() if network.weightless} >= {"mel-gain"}
    assert (found["mel-gain"].iterations, found["mel-gain"].momentum) == (24, 0.9)


def test_rows_classes_and_floor(recordings, tiny_folder, student):
    teacher = AudioDEAR.from_pretrained(tiny_folder, variant="teacher", device="cpu")
    result = measure([recordings], [4], Ears(), [student, teacher], count=2, seed=1, prompts=PROMPTS)
    rows = {row["name"]: row for row in result["rows"]}
    kinds = ("griffin-lim", "mel-gain")
    assert list(rows) == ["recordings"] + [
        f"{way}, {kind}" for way in ("mel", "codec", "student", "teacher") for kind in kinds
    ]
    assert result["choices"] == ["rain", "dog"] and result["nameless"] == ["unheard_of"] and result["candidates"] == 1
    assert {row["clips"] for row in rows.values()} == {4} and result["floor_clips"] == 4
    real = rows["recordings"]
    assert real["all"] == {"best": 1, "top5": 1, "score": 1}
    assert real["fd"] is real["seconds"] is real["mel_error"] is None
    for kind in kinds:
        assert rows[f"mel, {kind}"]["all"]["best"] == 1  # noise stays noise, and a tone a tone
        assert 0 < rows[f"mel, {kind}"]["mel_error"] <= rows[f"codec, {kind}"]["mel_error"] + 1e-3
        assert rows[f"student, {kind}"]["fd"] > result["floor_fd"] >= 0
    assert set(rows["student, mel-gain"]["per_class"]) == {"rain", "dog"}  # no recordings of the sea, so no score
    assert set(result["flicker"]) == {"mel", "codec", "student", "teacher"}
    source = recorded(split([recordings], [4], 2)[0][:4], student.config)
    assert result["flicker"]["mel"] == flicker(source.mels, source.labels)
    assert real["harmonics"].keys() == rows["mel, mel-gain"]["harmonics"].keys() == {TONE}
    assert rows["student, mel-gain"]["harmonics"] == {}
    text = markdown(json.loads(json.dumps(result, allow_nan=False)))
    assert "Judge: ears 000000000000 (6 names), which hears waveforms. 4 recordings of 2 labels; 2 choices" in text
    assert "| recordings | 4 | 1.00 | 1.00 | 1.00 |  |  |  |" in text and "unheard_of" in text
    again = measure([recordings], [4], Ears(), [student], count=2, seed=1, prompts=PROMPTS)["rows"]
    assert again[5]["per_class"] == rows["student, griffin-lim"]["per_class"]


def test_the_synthetic_tone_is_clean():
    assert harmonic_ratio_db(tone(tiny_config())).item() > 60
    assert tone(tiny_config()).abs().max() < 1


def test_command_line(recordings, tiny_folder, tmp_path, capsys):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = ClassifierConfig(labels=("rain", "dog"), mel=tiny_config().mel, channels=(8, 16), width=16)
        save_classifier(tmp_path / "c", SoundClassifier(config))
    arguments = ["--clips", str(recordings), "--judge", f"classifier:{tmp_path / 'c'}", "--model", str(tiny_folder)]
    assert main([*arguments, "--count", "1", "--variants", "student", "--out", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert out == (tmp_path / "out" / "losses.md").read_text() and "student, mel-gain" in out and "teacher" not in out
    result = json.loads((tmp_path / "out" / "losses.json").read_text())
    assert result["judge"]["name"] == "SoundClassifier" and result["judge"]["hears"] == "mels"
    assert result["recordings"] == {str(recordings): 4}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--variants", "nobody"], "--variants must be some of student, teacher, got 'nobody'"),
        (["--folds", "4", "5"], "--folds must be 1, one for each folder of --clips, got 2"),
        (["--folds", "3"], "fold must be one of [1, 4]"),
        (["--count", "0"], "--count must be"),
        (["--judge", "nobody"], "judge must be KIND:PATH"),
        (["--out", "nowhere/at/all"], "--out must lie in an existing directory"),
    ],
)
def test_bad_arguments_end_in_one_sentence(recordings, tiny_folder, tmp_path, capsys, arguments, words):
    with torch.random.fork_rng():
        config = ClassifierConfig(labels=("rain", "dog"), mel=tiny_config().mel, channels=(8, 16), width=16)
        save_classifier(tmp_path / "c", SoundClassifier(config))
    usual = ["--clips", str(recordings), "--judge", f"classifier:{tmp_path / 'c'}", "--model", str(tiny_folder)]
    assert main([*usual, *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and words in err and len(err.strip().splitlines()) == 1


def test_a_folder_of_another_name_needs_its_fold(tmp_path, capsys):
    assert main(["--clips", str(tmp_path), "--judge", "classifier"]) == 2
    assert "--folds must name the measuring fold of" in capsys.readouterr().err


def test_a_judge_scores_those_labels_that_it_can_name(tmp_path, tiny_folder, capsys, monkeypatch):
    monkeypatch.setattr(score, "load_judge", lambda spec: Ears())
    asked = {"rain": ["rain on a roof"], "unheard_of": ["something else"], "dog": ["a dog barking"]}
    (tmp_path / "p.json").write_text(json.dumps(asked))
    arguments = ["--model", str(tiny_folder), "--device", "cpu", "--prompts", str(tmp_path / "p.json")]
    assert score.main([*arguments, "--clips-per-class", "1", "--iterations", "1"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["clips"] == 2 and set(result["per_class"]) == {"rain", "dog"}
    assert result["made_by"]["nameless"] == ["unheard_of"]
