"""Tables of recordings, their folds, and their waveforms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from recordings import COLUMNS, RATE, TEN, read, sound, ten_sounds, write_table

from dear.config import MelConfig
from training.data.clips import Clip, DataError, load_waveform, read_clips
from training.data.corpus import load_corpus
from training.data.scenes import SceneSource
from training.data.vocabulary import SOUNDS

MEL = MelConfig()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ten_sounds(tmp_path_factory.mktemp("data") / "toy")


@pytest.fixture(scope="module")
def source(folder: Path) -> SceneSource:
    return SceneSource(read(folder), MEL, seed=3, sounds=TEN)


def test_clips_are_read_with_quoted_commas(folder: Path) -> None:
    clips = read(folder)
    assert len(clips) == 20 and {clip.fold for clip in clips} == {1, 2}
    assert clips[0].title == "a, quoted" and clips[0].license == "CC0" and clips[0].path.is_file()


def test_esc50_table_is_read_and_keeps_the_sounds_of_the_vocabulary(tmp_path: Path) -> None:
    (tmp_path / "audio").mkdir()
    rows = []
    for number, (category, esc10) in enumerate(
        (("dog", "True"), ("steam_organ", "False"), ("door_wood_knock", "False"))
    ):
        soundfile.write(tmp_path / "audio" / f"{number}.wav", sound(category, 0), RATE)
        rows.append(
            {"filename": f"{number}.wav", "fold": "5", "target": "0", "category": category, "esc10": esc10}
            | {"src_file": "77", "take": "A"}
        )
    write_table(tmp_path / "meta" / "esc50.csv", rows)
    clips = read(tmp_path)
    assert [(clip.label, clip.fold) for clip in clips] == [("dog", 5), ("door_wood_knock", 5)]
    assert [clip.sound for clip in clips] == ["dog", "door_knock"]
    assert "77" in clips[0].source


def test_several_folders_each_hold_out_their_own_fold(tmp_path: Path) -> None:
    for name, labels in (("old", ("dog", "rain")), ("new", ("doorbell", "steam_organ", "crickets"))):
        rows = []
        for number, label in enumerate(labels):
            dropped = SOUNDS["crickets"].drop[0] if label == "crickets" else f"{number}.wav"
            (tmp_path / name / "audio").mkdir(parents=True, exist_ok=True)
            (tmp_path / name / "audio" / dropped).touch()
            rows.append(dict(zip(COLUMNS, (dropped, str(number + 1), label, "t", "s", "a", "CC0"), strict=True)))
        write_table(tmp_path / name / "clips.csv", rows)
    clips = read_clips([tmp_path / "old", tmp_path / "new"], {"old": 2, "new": 1})
    assert [(clip.sound, clip.held_out) for clip in clips] == [("dog", False), ("rain", True), ("bell", True)]
    with pytest.raises(DataError, match="the folder 'new', got it for old"):
        read_clips([tmp_path / "old", tmp_path / "new"], {"old": 2})
    with pytest.raises(DataError, match="'old' twice"):
        read_clips([tmp_path / "old", tmp_path / "new" / ".." / "old"], {"old": 2})


def test_a_corpus_tells_what_is_on_either_side_of_the_held_out_folds(folder: Path) -> None:
    extra = folder.parent / "extra"
    (extra / "audio").mkdir(parents=True)
    soundfile.write(extra / "audio" / "a.wav", sound("piano", 0), RATE)
    write_table(extra / "clips.csv", [dict(zip(COLUMNS, ("a.wav", "1", "piano", "t", "s", "a", "CC0"), strict=True))])
    held_out = {"toy": 2, "extra": 5}
    corpus = load_corpus([folder, extra], held_out)
    assert len(corpus.split(held_out=True)) == 10 and len(corpus.split(held_out=False)) == 11
    computed = {name for name, one in SOUNDS.items() if one.synthesis}
    assert set(corpus.sounds(held_out=True)) == {*TEN, *computed}
    assert set(corpus.sounds(held_out=False)) == {*TEN, *computed, "piano"}
    assert set(corpus.judged) == set(TEN)
    assert [clip.sound for clip in corpus.recordings(held_out=False)].count("piano") == 0
    chosen = load_corpus([folder, extra], held_out, ["synthetic", "piano", "dog"])
    assert chosen.sounds(held_out=False) == (*(name for name in SOUNDS if name in computed), "piano", "dog")
    assert {clip.sound for clip in chosen.clips} == {"piano", "dog"} and chosen.judged == ("dog",)
    with pytest.raises(DataError, match="got none of cat"):
        load_corpus([folder, extra], held_out, ["dog", "cat"])


def test_bad_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere"):
        read(tmp_path / "nowhere")
    with pytest.raises(DataError, match="clips.csv or meta/esc50.csv"):
        read(tmp_path)
    row = dict(zip(COLUMNS, ("x.wav", "1", "dog", "t", "s", "a", "l"), strict=True))
    write_table(tmp_path / "clips.csv", [row])
    with pytest.raises(DataError, match="x.wav"):
        read(tmp_path)
    write_table(tmp_path / "clips.csv", [row | {"fold": "two"}])
    with pytest.raises(DataError, match="fold.*'two'"):
        read(tmp_path)
    write_table(tmp_path / "clips.csv", [{"file": "x.wav", "label": "dog"}])
    with pytest.raises(DataError, match="fold, title, source, author, license missing"):
        read(tmp_path)
    (tmp_path / "clips.csv").write_text(",".join(COLUMNS) + "\nx.wav,1,dog\n")
    with pytest.raises(DataError, match="row 2"):
        read(tmp_path)


def test_a_waveform_is_mono_resampled_and_right_in_pitch(tmp_path: Path) -> None:
    time = np.arange(RATE) / RATE
    tone = 0.5 * np.sin(2 * np.pi * 1000 * time)
    soundfile.write(tmp_path / "a.wav", np.stack([tone, np.zeros_like(tone)], axis=1), RATE)
    audio = load_waveform(Clip(tmp_path / "a.wav", 1, "dog", "", "", "", ""), 16000)
    assert audio.shape == (16000,) and audio.dtype == np.float32
    assert np.argmax(np.abs(np.fft.rfft(audio))) == 1000
    assert np.abs(audio[2000:-2000]).max() == pytest.approx(0.25, abs=0.01)


def test_broken_recordings_are_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.wav"
    clip = Clip(path, 1, "dog", "", "", "", "")
    path.write_bytes(b"not a sound")
    with pytest.raises(DataError, match="broken.wav"):
        load_waveform(clip, 16000)
    soundfile.write(path, np.zeros(0), RATE)
    with pytest.raises(DataError, match="broken.wav must hold a finite sound of at least one sample"):
        load_waveform(clip, 16000)
    soundfile.write(path, np.zeros(1000), RATE)
    with pytest.raises(DataError, match="broken.wav is silent"):
        SceneSource([clip], MEL, 0, kinds=(1, 0, 0), sounds=["dog"]).scene(0)
