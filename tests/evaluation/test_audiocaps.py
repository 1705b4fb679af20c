"""The paper's evaluation: sounds for a manifest's captions, resumable and shared, and the distances between them."""

import json
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
from encoders import tiny_clap
from factory import tiny_checkpoint, tiny_config
from published_networks import cnn14_weights, vggish_weights
from recordings import assert_same_audio
from scipy.special import softmax

from dear.evaluation import audiocaps
from dear.evaluation.captions import Recording, find_clips, generate_clips, read_clips, share
from dear.evaluation.distances import embed_recordings, measure
from dear.evaluation.judge import load_embedder
from dear.evaluation.judge.features import SoundsError
from dear.evaluation.judge.metrics import frechet_distance, inception_scores, kl_of_logits
from dear.evaluation.judge.reading import PANNS, PLAIN

COUNT = 11


@pytest.fixture(scope="module")
def long_folder(tmp_path_factory):
    """A tiny checkpoint whose sounds have 1.25 s."""
    config = tiny_config()
    config = replace(config, mel=replace(config.mel, frames=128, samples=20_000))
    return tiny_checkpoint(tmp_path_factory.mktemp("checkpoints") / "long", config)


@pytest.fixture
def manifest(tmp_path):
    """Eleven recordings of two seconds, at a rate that is resampled, with captions."""
    generator, lines = np.random.default_rng(0), []
    for index in range(COUNT):
        tone = np.sin(2 * np.pi * (200 + 150 * index) * np.arange(44_100) / 22_050)
        soundfile.write(tmp_path / f"{index}.wav", 0.3 * tone + 0.05 * generator.normal(size=44_100), 22_050)
        captions = [f"sound {index}", f"noise {index}", f"tone {index}"]
        line = {"id": f"video/{index}", "captions": captions, "path": f"{index}.wav", "start": 0.0, "duration": 2.0}
        lines.append(json.dumps(line | {"dataset": "audiocaps"}))
    path = tmp_path / "test.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def embedders(tmp_path):
    torch.save({"model": cnn14_weights()}, tmp_path / "cnn14.pth")
    torch.save(vggish_weights(), tmp_path / "vggish.pth")
    (tmp_path / "clap").mkdir()
    return [
        f"panns:{tmp_path / 'cnn14.pth'}",
        f"vggish:{tmp_path / 'vggish.pth'}",
        f"clap:{tiny_clap(tmp_path / 'clap')}",
    ]


def test_clips_are_read_with_one_caption_each(manifest):
    clips = read_clips(manifest)
    assert [clip.name for clip in clips] == [f"video_{index}" for index in range(COUNT)]
    assert clips[3].recording == Recording(manifest.parent / "3.wav", 0.0, 2.0)
    assert len({clip.caption.split()[0] for clip in clips}) > 1
    assert read_clips(manifest, seed=1) != clips
    lines = manifest.read_text().splitlines()
    manifest.write_text("\n".join(lines[4:]))
    assert read_clips(manifest) == clips[4:]  # a clip's caption does not depend on the others


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "line 2: Expecting property name"),
        ('{"captions": "a"}', "line 2: 'id' is missing"),
        ('{"id": "b"}', "line 2: 'captions' is missing"),
        ('{"id": "b", "captions": []}', r"line 2: captions must be a text or a list of texts, got \[\]"),
        ('{"id": "b", "captions": null}', "line 2: captions must be a text or a list of texts, got None"),
        ('{"id": 3, "captions": "a"}', "line 2: id must be text, got 3"),
        ('{"id": "a b", "captions": "a"}', "line 2: the file name 'a_b' is that of another clip already"),
    ],
)
def test_bad_lines_of_a_manifest_are_named(tmp_path, line, words):
    (tmp_path / "a.jsonl").write_text(f'{{"id": "a/b", "captions": "one"}}\n{line}\n')
    with pytest.raises(SoundsError, match=words):
        read_clips(tmp_path / "a.jsonl")


def test_shares_are_a_partition():
    for count, workers in ((11, 3), (2, 4), (8, 1)):
        shares = [list(share(count, (index, workers))) for index in range(workers)]
        assert [index for each in shares for index in each] == list(range(count))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def assert_same_sounds(folder, other):
    """Assert that both folders hold the same files. Samples may differ by the rounding of another batch."""
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in other.iterdir())
    for path in folder.iterdir():
        found, wanted = path.read_bytes(), (other / path.name).read_bytes()
        if path.suffix == ".wav":
            assert_same_audio(found, wanted)
        else:
            assert found == wanted


def test_sounds_do_not_depend_on_workers_batches_or_interruptions(student, manifest, tmp_path):
    clips = read_clips(manifest)[:5]
    options = {"iterations": 2}
    generate_clips(student, clips, tmp_path / "one", seed=3, batch=5, **options)
    for index in range(2):
        generate_clips(student, clips, tmp_path / "two", seed=3, batch=2, worker=(index, 2), **options)
    assert len(list((tmp_path / "one").iterdir())) == 6
    assert_same_sounds(tmp_path / "one", tmp_path / "two")
    for name in ("video_1.wav", "video_2.wav", "video_4.wav"):
        (tmp_path / "two" / name).unlink()
    generate_clips(student, clips, tmp_path / "two", seed=3, **options)
    assert_same_sounds(tmp_path / "one", tmp_path / "two")
    alone = student.generate(clips[4].caption, seed=7, **options).save(tmp_path / "alone.wav")
    assert_same_audio(alone[0].read_bytes(), (tmp_path / "one" / "video_4.wav").read_bytes())
    for changed in ({"seed": 4}, {"cfg_scale": 1.0}):
        with pytest.raises(SoundsError, match="choose another folder"):
            generate_clips(student, clips, tmp_path / "one", **{"seed": 3} | options | changed)


def test_figures_are_those_of_the_features(manifest, embedders, tmp_path):
    clips = read_clips(manifest)
    references = [clip.recording for clip in clips]
    sounds = [*references[1:], references[0]]
    embedder = load_embedder(embedders[0])
    found = measure(sounds, references, [], embedder)
    real, generated = (embed_recordings(each, embedder, PANNS) for each in (references, sounds))
    assert found["frechet"] == frechet_distance(generated.rows, real.rows) == pytest.approx(0, abs=1e-6)
    assert found["kad"] == pytest.approx(-100 * 2 / COUNT * (1 - mean_kernel(real.rows)), rel=1e-6)
    assert found["kl_softmax"] == kl_of_logits(real.logits, generated.logits) > 0
    assert found["kl_sigmoid"] == kl_of_logits(real.logits, generated.logits, "sigmoid")
    order = np.random.RandomState(2020).permutation(COUNT)
    scores = inception_scores(softmax(generated.logits.astype(float), axis=1)[order], 10)
    assert found["is"] == {"splits": 10, "mean": scores.mean(), "deviation": scores.std()}
    single = measure(sounds, references, [], embedder, splits=1)
    assert single["is"]["mean"] == pytest.approx(single["real"]["is"]["mean"])  # the same sounds in another order
    same = measure(references, references, [], embedder)
    assert same["kl_softmax"] == pytest.approx(0, abs=1e-5)
    plain = measure(sounds, references, [], embedder, "plain")
    assert plain["reading"]["channel"] == "mean" and plain["kl_softmax"] != found["kl_softmax"]


def mean_kernel(rows):
    """Mean of the kernel of kernel_distance over pairs of different rows."""
    distances = np.linalg.norm(rows[:, None].astype(float) - rows[None], axis=-1)[np.triu_indices(len(rows), 1)]
    bandwidth = np.sort(distances)[(len(distances) - 1) // 2]
    return np.exp(-(distances**2) / (2 * bandwidth**2)).mean()


def test_features_are_kept_by_what_they_depend_on(manifest, embedders, tmp_path):
    recordings = [clip.recording for clip in read_clips(manifest)][:2]
    embedder, kept = load_embedder(embedders[0]), tmp_path / "features"
    first = embed_recordings(recordings, embedder, PANNS, kept)
    embedder.embed = None
    again = embed_recordings(recordings, embedder, PANNS, kept)
    np.testing.assert_array_equal(again.rows, first.rows)
    np.testing.assert_array_equal(again.logits, first.logits)
    soundfile.write(recordings[1].path, np.zeros(44_100), 22_050)
    for changed in ((recordings, PANNS), (recordings[:1], PLAIN)):
        with pytest.raises(TypeError, match="not callable"):
            embed_recordings(changed[0], embedder, changed[1], kept)


def test_the_command_generates_and_measures(long_folder, manifest, embedders, tmp_path, capsys):
    arguments = ["--manifest", str(manifest), "--model", str(long_folder), "--iterations", "2", "--device", "cpu"]
    arguments += ["--out", str(tmp_path / "out"), "--seed", "5", "--embedders", *embedders]
    assert audiocaps.main([*arguments, "--worker", "0/2"]) == 0
    shown = capsys.readouterr()
    assert shown.out == "" and "5 sounds of this worker are there, 6 of others are not yet" in shown.err
    assert audiocaps.main([*arguments, "--worker", "1/2"]) == 0
    shown = capsys.readouterr()
    result = json.loads(shown.out)
    assert result == json.loads((tmp_path / "out" / "results.json").read_text())
    assert (result["clips"], result["candidates"], result["seeds"]) == (COUNT, 1, [5, 15])
    assert result["made_by"]["options"]["iterations"] == 2
    panns, vggish, clap = (result["embedders"][kind] for kind in ("panns", "vggish", "clap"))
    assert panns["frechet"] > 0 and panns["is"]["splits"] == 10 and panns["rows"] == [COUNT, COUNT]
    assert vggish["rows"][1] == 2 * COUNT and "kl_softmax" not in vggish
    assert -1 <= clap["similarity"] <= 1 and -1 <= clap["real"]["similarity"] <= 1
    assert result["paper"] == {
        "FD": {"ours": panns["frechet"], "paper": 18.67},
        "FAD": {"ours": vggish["frechet"], "paper": 2.79},
        "KL": {"ours": panns["kl_softmax"], "paper": 1.06},
        "IS": {"ours": panns["is"]["mean"], "paper": 9.66},
        "CLAP": {"ours": clap["similarity"], "paper": 0.334},
    }
    assert "11 clips, one candidate each, seeds 5 to 15" in shown.err and "| FAD |" in shown.err

    sounds = tmp_path / "out" / "sounds"
    other = ["--manifest", str(manifest), "--sounds", str(sounds), "--out", str(tmp_path / "other")]
    assert audiocaps.main([*other, "--embedders", embedders[0]]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["embedders"]["panns"] == panns and again["seeds"] is None


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (["--limit", "5"], "must list at least 10 clips, got 5"),
        (["--worker", "2/2"], "must be i/n with i from 0 to n - 1, got '2/2'"),
        (["--embedders", "clap:a", "clap:b"], "--embedders must be of different kinds"),
        (["--splits", "3"], "--splits"),
        (["--sounds", "nowhere"], "nowhere is not a folder of sounds"),
        (["--sounds", "nowhere", "--worker", "0/2"], "--worker has no effect with --sounds"),
        (["--sounds", "nowhere", "--cfg-scale", "2"], "--cfg-scale has no effect with --sounds"),
    ],
)
def test_bad_use_is_refused(manifest, tmp_path, capsys, extra, words):
    assert audiocaps.main(["--manifest", str(manifest), "--out", str(tmp_path / "out"), *extra]) == 2
    assert words in capsys.readouterr().err


def test_absent_sounds_are_named(manifest):
    with pytest.raises(SoundsError, match="got none for 11, such as video_0"):
        find_clips(read_clips(manifest), manifest.parent)
