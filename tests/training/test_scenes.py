"""Scenes composed from recordings."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import soundfile
from recordings import RATE, TEN, clip_of, read, sound, ten_sounds

from dear.config import MelConfig
from training.data import captions
from training.data.clips import Clip, DataError
from training.data.scenes import SceneSource
from training.data.vocabulary import SOUNDS

MEL = MelConfig()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ten_sounds(tmp_path_factory.mktemp("data") / "toy")


@pytest.fixture(scope="module")
def source(folder: Path) -> SceneSource:
    return SceneSource(read(folder), MEL, seed=3, sounds=TEN)


def envelope(waveform: np.ndarray) -> np.ndarray:
    """RMS of each 10 ms."""
    return np.sqrt(np.square(waveform.reshape(-1, 160)).mean(axis=1))


def test_scenes_depend_on_seed_and_index_alone(folder: Path, source: SceneSource) -> None:
    forwards = [source.scene(index) for index in range(6)]
    again = SceneSource(read(folder), MEL, seed=3, sounds=TEN)
    for index in reversed(range(6)):
        scene = again.scene(index)
        assert np.array_equal(scene.waveform, forwards[index].waveform)
        assert (scene.caption, scene.labels, scene.kind) == (
            forwards[index].caption,
            forwards[index].labels,
            forwards[index].kind,
        )
    other = SceneSource(read(folder), MEL, seed=4, sounds=TEN).scene(0)
    assert not np.array_equal(other.waveform, forwards[0].waveform)
    assert not np.array_equal(forwards[0].waveform, forwards[1].waveform)


def test_scenes_have_their_length_and_never_clip(source: SceneSource) -> None:
    kinds = set()
    for index in range(80):
        scene = source.scene(index)
        kinds.add(scene.kind.partition(":")[0])
        assert scene.waveform.shape == (MEL.frames * MEL.hop_length,) and scene.waveform.dtype == np.float32
        assert 0.02 < np.abs(scene.waveform).max() <= 0.99
        assert len(scene.labels) == (2 if scene.kind in ("then", "while") else 1) == len(set(scene.labels))
        assert len(scene.caption.split()) > 1
    assert kinds == {"single", "distant", "then", "while"}


def test_every_class_is_equally_frequent(folder: Path) -> None:
    single = SceneSource(read(folder), MEL, seed=0, kinds=(1, 0, 0), sounds=TEN)
    labels = [single.scene(index).labels[0] for index in range(20)]
    assert sorted(labels[:10]) == sorted(labels[10:]) == sorted(TEN)
    assert labels[:10] != labels[10:]


def test_some_classes_come_more_often_in_each_turn(folder: Path) -> None:
    single = SceneSource(read(folder), MEL, seed=0, kinds=(1, 0, 0), sounds=TEN, often={"rain": 3, "dog": 1})
    turns = [sorted(single.scene(index).labels[0] for index in range(start, start + 12)) for start in (0, 12)]
    assert turns[0] == turns[1] == sorted([*TEN, "rain", "rain"])


def scenes_of(folder: Path, labels: tuple[str, ...], kinds: tuple[float, float, float], count: int) -> list:
    source = SceneSource(read(folder), MEL, seed=1, kinds=kinds, sounds=labels)
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
    agreement, lag = [], 30 * 1280 // 160
    for beat in (1280, 0):
        source = SceneSource(read(folder), MEL, 1, kinds=(1, 0, 0), beat=beat, sounds=["clock_tick"])
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
    clips = read(folder)
    with pytest.raises(DataError, match="got none of rain, cat"):
        SceneSource(clips[:1], MEL, 0, sounds=["dog", "rain", "cat"])
    with pytest.raises(DataError, match="got 'steam_organ'"):
        SceneSource([Clip(clips[0].path, 1, "steam_organ", "", "", "", "")], MEL, 0)
    with pytest.raises(ValueError, match="got 'submarine'"):
        SceneSource(clips, MEL, 0, sounds=["submarine"])
    with pytest.raises(DataError, match="two at least"):
        SceneSource(clips, MEL, 0, sounds=["dog"])
    for often in ({"rain": 0}, {"submarine": 2}):
        with pytest.raises(DataError, match=f"often .*{next(iter(often))}"):
            SceneSource(clips, MEL, 0, often=often)
    for kinds in ((0, 0, 0), (1, -1, 0), (1, 0), (float("nan"), 1, 1)):
        with pytest.raises(DataError, match="kinds"):
            SceneSource(clips, MEL, 0, kinds=kinds)
    with pytest.raises(DataError, match="index"):
        source.scene(-1)


def plain(text: str) -> str:
    return text.lower().rstrip(".")


@pytest.mark.parametrize("name", SOUNDS)
def test_every_sound_makes_scenes(name: str, tmp_path: Path) -> None:
    """The contract of a sound: scenes of every kind, right in length, level, caption and stamp, from any clips."""
    sound = SOUNDS[name]
    files = list(dict.fromkeys([*(sound.counted.files[:2] if sound.counted else ()), "other.wav"]))
    clips = [clip_of(tmp_path, sound.labels[0], file, "t", seed=n) for n, file in enumerate(files) if sound.labels]
    source = SceneSource(
        clips, MEL, 0, kinds=(0.8, 0.1, 0.1), sounds=[name, "white_noise" if name != "white_noise" else "beep"]
    )
    scenes = [source.scene(index) for index in range(12)]
    for scene in scenes:
        assert scene.waveform.shape == (MEL.frames * MEL.hop_length,) and scene.waveform.dtype == np.float32
        assert np.isfinite(scene.waveform).all() and 0.01 < np.abs(scene.waveform).max() <= 0.99
        assert scene.caption.strip() == scene.caption and len(scene.caption.split()) > 1
        assert name in scene.labels or scene.labels == source.labels[1:]
    assert any(scene.kind.partition(":")[0] == "single" for scene in scenes)
    again = SceneSource(clips, MEL, 0, kinds=(0.8, 0.1, 0.1), sounds=source.labels).scene(7)
    assert np.array_equal(again.waveform, scenes[7].waveform) and again.caption == scenes[7].caption


def bursts(waveform: np.ndarray) -> int:
    """How often the level rises from below a twentieth of the loudest 10 ms to above a quarter of it."""
    levels = envelope(waveform) / envelope(waveform).max()
    count, low = 0, True
    for level in levels:
        if low and level > 0.25:
            count, low = count + 1, False
        elif level < 0.05:
            low = True
    return count


def test_counted_scenes_hold_as_many_events_as_their_caption_says(tmp_path: Path) -> None:
    clips = [clip_of(tmp_path, "dog", SOUNDS["dog"].counted.files[0], "bark")]
    source = SceneSource(clips, MEL, 0, kinds=(1, 0, 0), sounds=["dog"])
    counts = []
    for scene in map(source.scene, range(60)):
        kind, _, count = scene.kind.partition(":")
        if kind == "count":
            assert bursts(scene.waveform) == int(count)
            number, times = (
                captions.NUMBERS[int(count) - 1],
                ("once", "twice", f"{captions.NUMBERS[int(count) - 1]} times"),
            )
            words = (number, count, "single" if count == "1" else number, times[min(int(count), 3) - 1])
            assert any(word in scene.caption.lower() for word in words), scene.caption
            counts.append(count)
    assert len(set(counts)) > 3 and 8 < len(counts) < 30


def test_attributes_are_said_of_matching_clips_alone(tmp_path: Path) -> None:
    """A slow piano is a click train, a fast one is noise: what the caption says is what is heard."""
    clips = [
        clip_of(tmp_path, "piano", "slow.wav", "piano melody, 70 bpm"),
        clip_of(tmp_path, "piano", "plain.wav", "piano"),
    ]
    soundfile.write(clips[1].path, sound("rain", 0), RATE, format="WAV")
    source = SceneSource(clips, MEL, 0, kinds=(1, 0, 0), sounds=["piano"])
    attributed = 0
    for scene in map(source.scene, range(40)):
        kind, _, attribute = scene.kind.partition(":")
        if attribute:
            assert attribute in ("slow", "melody", "slow_melody") and kind == "single"
            wordings = [plain(text) for text in SOUNDS["piano"].attributes[attribute].wordings]
            assert any(plain(scene.caption).startswith(text) for text in wordings)
            levels = envelope(scene.waveform)
            assert np.quantile(levels, 0.1) < 0.2 * levels.max()  # it fades again and again
            attributed += 1
    assert 5 < attributed < 25
    held_back = SceneSource(clips, MEL, 0, True, kinds=(1, 0, 0), sounds=["piano"])
    assert {held_back.scene(index).kind for index in range(20)} <= {"single", "distant"}


def test_an_attribute_of_a_computed_sound_narrows_its_ranges() -> None:
    source = SceneSource([], MEL, 0, kinds=(1, 0, 0), sounds=["sine_tone"])
    pitches: dict[str, list[float]] = {}
    for scene in map(source.scene, range(30)):
        peak = np.abs(np.fft.rfft(scene.waveform)).argmax() / 10.24
        pitches.setdefault(scene.kind, []).append(peak)
    assert all(2000 <= pitch <= 4000 for pitch in pitches["single:high"])
    assert all(60 <= pitch <= 200 for pitch in pitches["single:low"])
    assert all(150 <= pitch <= 3000 for pitch in pitches["single"])


def test_what_one_clip_counts_is_not_repeated(tmp_path: Path) -> None:
    files = SOUNDS["door_knock"].attributes["four"].files
    source = SceneSource(
        [clip_of(tmp_path, "door_wood_knock", files[0], "knock")], MEL, 0, kinds=(1, 0, 0), sounds=["door_knock"]
    )
    scenes = [source.scene(index) for index in range(40)]
    assert {bursts(scene.waveform) for scene in scenes if scene.kind == "single:four"} == {1}
    assert max(bursts(scene.waveform) for scene in scenes if scene.kind == "single") > 1


def test_speech_goes_on_with_the_same_reader_and_music_with_the_same_clip(tmp_path: Path) -> None:
    """Ann's clips are noise above 4 kHz, Bob's below; scenes of one hold nothing of the other."""
    for label in ("man_speaking", "piano"):
        clips = []
        for number, author in enumerate(("Ann", "Ann", "Bob", "Bob")):
            clip = clip_of(tmp_path, label, f"{label}-{number}.wav", "t", author)
            spectrum = np.fft.rfft(np.random.default_rng(number).standard_normal(RATE))
            high = np.fft.rfftfreq(RATE, 1 / RATE) > 4000
            voice = author == "Ann" if label == "man_speaking" else number % 2 == 0
            soundfile.write(
                clip.path, 0.1 * np.fft.irfft(spectrum * (high if voice else ~high), RATE), RATE, format="WAV"
            )
            clips.append(clip)
        source = SceneSource(clips, MEL, 0, kinds=(1, 0, 0), sounds=[label])
        heard = set()
        for scene in map(source.scene, range(12)):
            power = np.square(np.abs(np.fft.rfft(scene.waveform)))
            share = power[int(4300 * 10.24) :].sum() / power.sum()
            assert share < 0.15 or share > 0.85
            assert np.quantile(envelope(scene.waveform), 0.8) > 0.2 * envelope(scene.waveform).max()  # to the end
            heard.add(share > 0.5)
        assert heard == {True, False}


def test_further_captions_fit_the_kind_and_the_sounds(folder: Path, source: SceneSource) -> None:
    found = source.captions(("rain", "dog"), "while", 12)
    assert found == source.captions(("rain", "dog"), "while", 12)
    assert 6 < len(found) == len(set(found)) <= 12
    assert found != source.captions(("dog", "rain"), "then", 12)
    held_back = SceneSource(read(folder), MEL, seed=3, held_back_captions=True, sounds=TEN)
    assert not set(found) & set(held_back.captions(("rain", "dog"), "while", 12))


def test_a_source_can_be_sent_to_another_process(source: SceneSource) -> None:
    source.scene(0)
    copied = pickle.dumps(source)
    assert len(copied) < 100_000  # recordings stay behind
    assert np.array_equal(pickle.loads(copied).scene(0).waveform, source.scene(0).waveform)
