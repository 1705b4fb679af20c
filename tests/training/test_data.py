from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import soundfile

from dear.config import MelConfig
from training.data import captions
from training.data.scenes import CLASSES, Clip, DataError, SceneSource, load_waveform, read_clips

MEL = MelConfig()
COLUMNS = ("file", "fold", "label", "title", "source", "author", "license")
RATE = 22050


def sound(label: str, seed: int) -> np.ndarray:
    """Two seconds that behave like a class: short bursts in digital silence, regular ticks, or noise."""
    rng = np.random.default_rng(seed)
    time = np.arange(2 * RATE) / RATE
    if label == "clock_tick":
        return 0.3 * rng.standard_normal(2 * RATE) * (time % 0.25 < 0.01) + 1e-4 * rng.standard_normal(2 * RATE)
    if label in ("dog", "rooster", "crying_baby", "sneezing"):
        burst = (time > 0.5) & (time < 0.9)
        return 0.5 * np.sin(2 * np.pi * 440 * time) * burst
    return 0.2 * rng.standard_normal(2 * RATE)


def write_table(path: Path, rows: list[dict[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    (folder / "audio").mkdir()
    rows = []
    for label in CLASSES:
        for take in range(2):
            name = f"{take + 1}-{label}.wav"
            soundfile.write(folder / "audio" / name, sound(label, take), RATE)
            rows.append(dict(zip(COLUMNS, (name, take + 1, label, "a, quoted", f"s{take}", "me", "CC0"), strict=True)))
    write_table(folder / "clips.csv", rows)
    return folder


@pytest.fixture(scope="module")
def source(folder: Path) -> SceneSource:
    return SceneSource(read_clips(folder), MEL, seed=3)


def envelope(waveform: np.ndarray) -> np.ndarray:
    """RMS of each 10 ms."""
    return np.sqrt(np.square(waveform.reshape(-1, 160)).mean(axis=1))


def test_clips_are_read_with_quoted_commas(folder: Path) -> None:
    clips = read_clips(folder)
    assert len(clips) == 20 and {clip.fold for clip in clips} == {1, 2}
    assert clips[0].title == "a, quoted" and clips[0].license == "CC0" and clips[0].path.is_file()


def test_esc50_table_is_read_and_keeps_the_ten_classes(tmp_path: Path) -> None:
    (tmp_path / "audio").mkdir()
    rows = []
    for number, (category, esc10) in enumerate((("dog", "True"), ("clapping", "False"), ("rain", "True"))):
        soundfile.write(tmp_path / "audio" / f"{number}.wav", sound(category, 0), RATE)
        rows.append(
            {"filename": f"{number}.wav", "fold": "5", "target": "0", "category": category, "esc10": esc10}
            | {"src_file": "77", "take": "A"}
        )
    write_table(tmp_path / "meta" / "esc50.csv", rows)
    clips = read_clips(tmp_path)
    assert [(clip.label, clip.fold) for clip in clips] == [("dog", 5), ("rain", 5)]
    assert "77" in clips[0].source


def test_bad_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere"):
        read_clips(tmp_path / "nowhere")
    with pytest.raises(DataError, match="clips.csv or meta/esc50.csv"):
        read_clips(tmp_path)
    row = dict(zip(COLUMNS, ("x.wav", "1", "dog", "t", "s", "a", "l"), strict=True))
    write_table(tmp_path / "clips.csv", [row])
    with pytest.raises(DataError, match="x.wav"):
        read_clips(tmp_path)
    write_table(tmp_path / "clips.csv", [row | {"fold": "two"}])
    with pytest.raises(DataError, match="fold.*'two'"):
        read_clips(tmp_path)
    write_table(tmp_path / "clips.csv", [{"file": "x.wav", "label": "dog"}])
    with pytest.raises(DataError, match="fold, title, source, author, license missing"):
        read_clips(tmp_path)
    (tmp_path / "clips.csv").write_text(",".join(COLUMNS) + "\nx.wav,1,dog\n")
    with pytest.raises(DataError, match="row 2"):
        read_clips(tmp_path)


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
        SceneSource([clip], MEL, 0, kinds=(1, 0, 0))


def test_scenes_depend_on_seed_and_index_alone(folder: Path, source: SceneSource) -> None:
    forwards = [source.scene(index) for index in range(6)]
    again = SceneSource(read_clips(folder), MEL, seed=3)
    for index in reversed(range(6)):
        scene = again.scene(index)
        assert np.array_equal(scene.waveform, forwards[index].waveform)
        assert (scene.caption, scene.labels, scene.kind) == (
            forwards[index].caption,
            forwards[index].labels,
            forwards[index].kind,
        )
    other = SceneSource(read_clips(folder), MEL, seed=4).scene(0)
    assert not np.array_equal(other.waveform, forwards[0].waveform)
    assert not np.array_equal(forwards[0].waveform, forwards[1].waveform)


def test_scenes_have_their_length_and_never_clip(source: SceneSource) -> None:
    kinds = set()
    for index in range(80):
        scene = source.scene(index)
        kinds.add(scene.kind)
        assert scene.waveform.shape == (MEL.frames * MEL.hop_length,) and scene.waveform.dtype == np.float32
        assert 0.02 < np.abs(scene.waveform).max() <= 0.99
        assert len(scene.labels) == (1 if scene.kind in ("single", "distant") else 2) == len(set(scene.labels))
        assert len(scene.caption.split()) > 1
    assert kinds == {"single", "distant", "then", "while"}


def test_every_class_is_equally_frequent(folder: Path) -> None:
    single = SceneSource(read_clips(folder), MEL, seed=0, kinds=(1, 0, 0))
    labels = [single.scene(index).labels[0] for index in range(20)]
    assert sorted(labels[:10]) == sorted(labels[10:]) == sorted(CLASSES)
    assert labels[:10] != labels[10:]


def test_some_classes_come_more_often_in_each_turn(folder: Path) -> None:
    single = SceneSource(read_clips(folder), MEL, seed=0, kinds=(1, 0, 0), often={"rain": 3, "dog": 1})
    turns = [sorted(single.scene(index).labels[0] for index in range(start, start + 12)) for start in (0, 12)]
    assert turns[0] == turns[1] == sorted([*CLASSES, "rain", "rain"])


def scenes_of(folder: Path, labels: tuple[str, ...], kinds: tuple[float, float, float], count: int) -> list:
    clips = [clip for clip in read_clips(folder) if clip.label in labels]
    source = SceneSource(clips, MEL, seed=1, kinds=kinds)
    return [source.scene(index) for index in range(count)]


def test_textures_fill_the_scene_without_holes_or_seams(folder: Path) -> None:
    for scene in scenes_of(folder, ("rain",), (1, 0, 0), 5):
        levels = np.sqrt(np.square(scene.waveform.reshape(-1, 1280)).mean(axis=1))
        assert levels.min() > 0.6 * np.median(levels) and levels.max() < 1.6 * np.median(levels)


def test_clocks_keep_their_period_across_the_loop(folder: Path) -> None:
    for scene in scenes_of(folder, ("clock_tick",), (1, 0, 0), 5):
        levels = envelope(scene.waveform)
        # Sixteen ticks later (0.25 s apart, at some speed) a tick falls on a tick; the loops in between are shorter.
        agreement = [np.corrcoef(levels[lag:], levels[:-lag])[0, 1] for lag in range(16 * 23, 16 * 27 + 2)]
        assert max(agreement) > 0.65
        assert min(agreement) < 0.1


def test_clocks_tick_in_time_with_a_beat(folder: Path) -> None:
    """Ticks 0.25 s apart come to lie 3 beats of 0.08 s apart, or 10 for every 3; without a beat they lie anywhere."""
    clips, beat = [clip for clip in read_clips(folder) if clip.label == "clock_tick"], 1280
    agreement = []
    for source in (SceneSource(clips, MEL, 1, kinds=(1, 0, 0), beat=beat), SceneSource(clips, MEL, 1, kinds=(1, 0, 0))):
        lag = 30 * beat // 160
        scenes = [envelope(source.scene(index).waveform) for index in range(6)]
        agreement.append(np.mean([np.corrcoef(levels[lag:], levels[:-lag])[0, 1] for levels in scenes]))
    assert agreement[0] > 0.6 and agreement[1] < 0.4


def test_events_repeat_with_pauses_on_a_quiet_floor(folder: Path) -> None:
    for scene in scenes_of(folder, ("dog",), (1, 0, 0), 6):
        levels = envelope(scene.waveform)
        there = levels > 0.1 * levels.max()
        assert 0.03 < there.mean() < 0.8
        assert np.quantile(levels, 0.05) < 0.03 * levels.max()
        assert levels[2:-2].min() > 0  # no digital silence


def test_then_changes_from_the_first_to_the_second_sound(folder: Path) -> None:
    orders = set()
    for scene in scenes_of(folder, ("rain", "dog"), (0, 1, 0), 8):
        orders.add(scene.labels)
        levels = envelope(scene.waveform)
        quiet = [np.quantile(half, 0.02) for half in (levels[:380], levels[620:])]
        steady = 0 if scene.labels[0] == "rain" else 1  # rain never pauses
        assert quiet[steady] > 5 * quiet[1 - steady]
    assert len(orders) == 2


def test_while_lays_an_event_over_a_texture_throughout(folder: Path) -> None:
    for scene in scenes_of(folder, ("rain", "dog"), (0, 0, 1), 6):
        assert scene.labels == ("rain", "dog") and scene.kind == "while"
        levels = envelope(scene.waveform)
        assert np.quantile(levels, 0.02) > 0.05 * levels.max()  # the rain goes on
        # The tone of the bark stands out of the noise.
        spectrum = np.abs(np.fft.rfft(scene.waveform))
        tone = spectrum[int(400 * 10.24) : int(480 * 10.24)].max()
        assert tone > 8 * np.median(spectrum[int(600 * 10.24) : int(3000 * 10.24)])


def test_bad_sources_are_refused(folder: Path, source: SceneSource) -> None:
    clips = read_clips(folder)
    with pytest.raises(DataError, match="at least one clip"):
        SceneSource([], MEL, 0)
    with pytest.raises(DataError, match="got piano"):
        SceneSource([Clip(clips[0].path, 1, "piano", "", "", "", "")], MEL, 0)
    with pytest.raises(DataError, match="two classes"):
        SceneSource(clips[:1], MEL, 0)
    for often in ({"rain": 0}, {"piano": 2}):
        with pytest.raises(DataError, match=f"often .*{next(iter(often))}"):
            SceneSource(clips, MEL, 0, often=often)
    for kinds in ((0, 0, 0), (1, -1, 0), (1, 0), (float("nan"), 1, 1)):
        with pytest.raises(DataError, match="kinds"):
            SceneSource(clips, MEL, 0, kinds=kinds)
    with pytest.raises(DataError, match="index"):
        source.scene(-1)


def plain(text: str) -> str:
    return text.lower().rstrip(".")


@pytest.mark.parametrize("label", CLASSES)
def test_wordings_are_many_and_the_held_back_ones_apart(label: str) -> None:
    training, held_back = (tuple(map(plain, part)) for part in captions.prompts(label))
    assert len(set(training)) == len(training) >= 15 and len(set(held_back)) == len(held_back) >= 4
    assert not set(training) & set(held_back)
    for text in training + held_back:
        assert len(text.split()) > 1
        assert text not in (label, label.replace("_", " "))


def test_captions_of_training_and_held_back_never_meet() -> None:
    rng = np.random.default_rng(0)
    seen: dict[bool, set[str]] = {False: set(), True: set()}
    for held_back in seen:
        for first in CLASSES:
            second = CLASSES[(CLASSES.index(first) + 1) % len(CLASSES)]
            for _ in range(60):
                seen[held_back] |= {
                    plain(captions.caption((first,), "single", rng, held_back)),
                    plain(captions.caption((first,), "single", rng, held_back, distant=True)),
                    plain(captions.caption((first, second), "then", rng, held_back)),
                    plain(captions.caption((first, second), "while", rng, held_back)),
                }
    assert not seen[False] & seen[True]
    assert len(seen[False]) > 1000


def test_captions_of_training_sometimes_end_in_an_aside_and_never_become_held_back_ones_by_it() -> None:
    rng = np.random.default_rng(0)
    texts = [plain(captions.caption(("rain",), "single", rng)) for _ in range(400)]
    assert 0.15 < np.mean([text.endswith(captions._ASIDES) for text in texts]) < 0.4
    held_back = [plain(captions.caption(("rain", "dog"), "then", rng, held_back=True)) for _ in range(100)]
    assert not any(text.endswith(captions._ASIDES) for text in held_back)
    for label in CLASSES:
        training, held_back = captions.prompts(label)
        assert not {plain(text + aside) for text in training for aside in captions._ASIDES} & set(map(plain, held_back))


def test_captions_name_both_sounds_in_order() -> None:
    rng = np.random.default_rng(1)
    for held_back in (False, True):
        for _ in range(40):
            text = captions.caption(("helicopter", "rooster"), "then", rng, held_back).lower()
            crow = min(text.find(word) for word in ("rooster", "cock") if word in text)
            flight = min(text.find(word) for word in ("copter", "chopper", "whirlybird", "rotor") if word in text)
            assert flight < crow, text


def test_bad_captions_are_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="piano"):
        captions.caption(("piano",), "single", rng)
    with pytest.raises(ValueError, match="kind"):
        captions.caption(("dog",), "before", rng)
    with pytest.raises(ValueError, match="labels must hold 2"):
        captions.caption(("dog",), "then", rng)
