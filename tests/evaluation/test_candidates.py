"""The gain from candidates, by a judge that hears rain in a sound that crosses zero often."""

import json

import pytest
import torch
from factory import tiny_checkpoint, tiny_config

from dear import AudioDEAR
from dear.evaluation import candidates
from dear.evaluation.candidates import main, markdown, measure
from dear.evaluation.judge import Heard
from dear.ranking import scores

PROMPTS = {"rain": ["rain on a roof", "drizzle"], "dog": ["a dog barking"]}


class Ears:
    name, hears, measured = "ears", "waveforms", {}
    names, exclusive = ("rain", "dog", "music", "speech", "bell", "car"), True
    sample_rate, samples = 16_000, 10_000

    def __init__(self, digest):
        self.digest = digest

    def hear(self, waveform):
        rain = (waveform.sign().diff(dim=1) != 0).float().mean(dim=1)
        rest = torch.zeros(len(waveform), 4)
        return Heard(rain[:, None], torch.cat((rain[:, None], 1 - rain[:, None], rest), dim=1))


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):

    return AudioDEAR.from_pretrained(
        tiny_checkpoint(tmp_path_factory.mktemp("candidates") / "tiny", tiny_config()), device="cpu"
    )


def test_the_best_of_more_candidates_is_heard_more_surely(pipeline, monkeypatch):
    judge, chooser = Ears("a" * 12), Ears("b" * 12)
    result = measure(pipeline, judge, PROMPTS, most=4, count=3, seed=5, chooser=chooser)
    assert [(row["candidates"], row["clips"]) for row in result["rows"]] == [(1, 6), (2, 6), (4, 6)]
    items = [(label, texts[i % len(texts)]) for label, texts in PROMPTS.items() for i in range(3)]
    for row in result["rows"]:
        right = 0
        for number, (label, text) in enumerate(items):
            sound = pipeline.generate(text, seed=5 + 4 * number, num_samples=4).sound[: row["candidates"]]
            best = sound[scores(chooser, sound, [label]).argmax()][None]
            right += judge.hear(best).probabilities[0].argmax().item() == judge.names.index(label)
        assert row["right"] == round(right / 6, 4)
    assert result["rows"][0]["right"] <= result["rows"][2]["right"]  # here the judge agrees with the one that chooses
    assert (result["judge"]["digest"], result["chooser"]["digest"]) == ("a" * 12, "b" * 12)
    assert markdown(result).splitlines()[2].startswith("| 1 | 6 | ")


def test_a_judge_must_not_have_chosen_what_it_judges(pipeline, capsys):
    with pytest.raises(ValueError, match="judge must not be the one that chooses, ears"):
        measure(pipeline, Ears("a" * 12), PROMPTS, chooser=Ears("a" * 12))
    assert main(["--judge", "classifier", "--most", "1", "--count", "1"]) == 2
    assert "judge must not be the one that chooses, SoundClassifier" in capsys.readouterr().err


def test_the_command_writes_its_figures(pipeline, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(candidates, "load_judge", lambda _: Ears("a" * 12))
    monkeypatch.setattr(candidates, "default_judge", lambda: Ears("b" * 12))
    monkeypatch.setattr(candidates, "named_prompts", lambda *_: PROMPTS)
    monkeypatch.setattr(AudioDEAR, "from_pretrained", lambda *_, **__: pipeline)
    path = tmp_path / "figures.json"
    assert main(["--judge", "ears", "--most", "2", "--count", "1", "--json", str(path)]) == 0
    rows = json.loads(path.read_text())["rows"]
    assert [row["candidates"] for row in rows] == [1, 2] and "| 2 | 2 |" in capsys.readouterr().out
