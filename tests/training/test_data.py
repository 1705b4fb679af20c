from __future__ import annotations

import csv
import pickle
from pathlib import Path

import numpy as np
import pytest
import soundfile

from dear.config import MelConfig
from training.data import captions
from training.data.clips import Clip, DataError, load_waveform, read_clips
from training.data.corpus import load_corpus
from training.data.scenes import SceneSource
from training.data.vocabulary import SOUNDS

MEL = MelConfig()
COLUMNS = ("file", "fold", "label", "title", "source", "author", "license")
RATE = 22050
TEN = (
    "dog", "rooster", "rain", "sea_waves", "crackling_fire", "crying_baby", "sneezing", "clock_tick", "helicopter",
    "chainsaw",
)  # fmt: skip


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
    folder = tmp_path_factory.mktemp("data") / "toy"
    (folder / "audio").mkdir(parents=True)
    rows = []
    for label in TEN:
        for take in range(2):
            name = f"{take + 1}-{label}.wav"
            soundfile.write(folder / "audio" / name, sound(label, take), RATE)
            rows.append(dict(zip(COLUMNS, (name, take + 1, label, "a, quoted", f"s{take}", "me", "CC0"), strict=True)))
    write_table(folder / "clips.csv", rows)
    return folder


def read(folder: Path) -> list[Clip]:
    return read_clips([folder], {folder.name: 9})


@pytest.fixture(scope="module")
def source(folder: Path) -> SceneSource:
    return SceneSource(read(folder), MEL, seed=3, sounds=TEN)


def envelope(waveform: np.ndarray) -> np.ndarray:
    """RMS of each 10 ms."""
    return np.sqrt(np.square(waveform.reshape(-1, 160)).mean(axis=1))


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


@pytest.mark.parametrize("label", SOUNDS)
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
        for first, second in zip(SOUNDS, [*list(SOUNDS)[1:], "dog"], strict=True):
            for number in range(1, 13):
                if SOUNDS[first].counted and number <= 6:
                    seen[held_back].add(plain(captions.caption((first,), "single", rng, held_back, count=number)))
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
    for label in SOUNDS:
        training, held_back = captions.prompts(label)
        assert not {plain(text + aside) for text in training for aside in captions._ASIDES} & set(map(plain, held_back))


def test_no_caption_of_music_says_that_there_is_none() -> None:
    rng = np.random.default_rng(0)
    texts = [captions.caption(("piano", "rain"), "while", rng) for _ in range(1500)]
    assert not any(", no music" in text for text in texts)
    assert any(", no music" in captions.caption(("rain",), "single", rng) for _ in range(1500))


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
    with pytest.raises(ValueError, match="submarine"):
        captions.caption(("submarine",), "single", rng)
    with pytest.raises(ValueError, match="kind"):
        captions.caption(("dog",), "before", rng)
    with pytest.raises(ValueError, match="names must hold 2"):
        captions.caption(("dog",), "then", rng)
    with pytest.raises(ValueError, match="count must be 0 for rain"):
        captions.caption(("rain",), "single", rng, count=2)


def test_captions_say_how_many_events_there_are() -> None:
    rng = np.random.default_rng(2)
    words = {1: ("one", "single", "once", "1"), 2: ("two", "twice", "2"), 3: ("three", "3")}
    for held_back in (False, True):
        for count, wanted in words.items():
            for _ in range(20):
                text = plain(captions.caption(("dog",), "single", rng, held_back, count=count))
                assert "dog" in text and any(word in text.split() or f"{word}:" in text for word in wanted), text
                assert ("barks" in text) or count == 1


def test_compositions_are_of_all_pairs_or_of_some() -> None:
    everything, some = captions.compositions(TEN), captions.compositions(TEN, most=12)
    assert len({row[1:] for row in everything}) == len(everything) == 90
    assert len({row[1:] for row in some}) == len(some) == 12
    assert {row[1:] for row in some} < {row[1:] for row in everything}
    assert captions.compositions(TEN, most=12) == some


def test_the_digest_of_wordings_follows_the_sounds() -> None:
    assert captions.wordings_digest(["dog"]) == captions.wordings_digest(["dog"]) != captions.wordings_digest(["cat"])


def clip_of(folder: Path, label: str, file: str, title: str, author: str = "me", seed: int = 0) -> Clip:
    """One second of noise that fades, between silences, as a recording of its own."""
    audio = np.zeros(RATE * 3 // 2)
    audio[RATE // 4 : RATE // 4 + RATE] = np.random.default_rng(seed).standard_normal(RATE) * np.geomspace(
        0.3, 3e-3, RATE
    )
    soundfile.write(folder / file, audio, RATE, format="WAV")
    return Clip(folder / file, 1, label, title, f"source {file}", author, "CC0")


@pytest.mark.parametrize("name", SOUNDS)
def test_every_sound_makes_scenes(name: str, tmp_path: Path) -> None:
    """The contract of a sound: scenes of every kind, right in length, level, caption and stamp, from any clips."""
    sound = SOUNDS[name]
    files = list(dict.fromkeys([*(sound.counted.files[:2] if sound.counted else ()), "other.wav"]))
    clips = [clip_of(tmp_path, sound.labels[0], file, "t", seed=n) for n, file in enumerate(files) if sound.labels]
    source = SceneSource(
        clips, MEL, 0, kinds=(0.8, 0.1, 0.1), sounds=[name, "white_noise" if name != "white_noise" else "beep"]
    )
    kinds = set()
    for index in range(24):
        scene = source.scene(index)
        kinds.add(scene.kind.partition(":")[0])
        assert scene.waveform.shape == (MEL.frames * MEL.hop_length,) and scene.waveform.dtype == np.float32
        assert np.isfinite(scene.waveform).all() and 0.01 < np.abs(scene.waveform).max() <= 0.99
        assert scene.caption.strip() == scene.caption and len(scene.caption.split()) > 1
        assert name in scene.labels or scene.labels == source.labels[1:]
    assert "single" in kinds
    again = SceneSource(clips, MEL, 0, kinds=(0.8, 0.1, 0.1), sounds=source.labels).scene(7)
    assert np.array_equal(again.waveform, source.scene(7).waveform) and again.caption == source.scene(7).caption


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
    told = 0
    for scene in map(source.scene, range(40)):
        kind, _, attribute = scene.kind.partition(":")
        if attribute:
            assert attribute in ("slow", "melody", "slow_melody") and kind == "single"
            wordings = [plain(text) for text in SOUNDS["piano"].attributes[attribute].wordings]
            assert any(plain(scene.caption).startswith(text) for text in wordings)
            levels = envelope(scene.waveform)
            assert np.quantile(levels, 0.1) < 0.2 * levels.max()  # it fades again and again
            told += 1
    assert 5 < told < 25
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


def test_a_source_can_be_sent_to_another_process(source: SceneSource) -> None:
    source.scene(0)
    copied = pickle.dumps(source)
    assert len(copied) < 100_000  # recordings stay behind
    assert np.array_equal(pickle.loads(copied).scene(0).waveform, source.scene(0).waveform)
