"""Readers of the published datasets: one contract over all of them, and each on tables of its own format."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from training.data.captions import prompts
from training.data.datasets import audiocaps, audioset, clips, esc10, esc50, wavcaps
from training.data.manifest import Entry
from training.data.readers import READERS
from training.data.tables import DatasetError, Skipped, find_sounds


def touch(*paths: Path) -> None:
    """Readers list sounds without opening them."""
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def table(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def sort(items) -> tuple[dict[str, Entry], dict[str, Skipped]]:
    items = list(items)
    return (
        {item.id: item for item in items if isinstance(item, Entry)},
        {item.id: item for item in items if isinstance(item, Skipped)},
    )


@pytest.mark.parametrize("kind", READERS)
class TestContract:
    """What holds for each reader of the registry."""

    def test_without_a_table_no_sound_is_used(self, tmp_path, kind):
        touch(tmp_path / "a.wav")
        entries, skipped = sort(READERS[kind](tmp_path, [], 0))
        assert not entries and set(skipped) <= {"a"}

    @pytest.mark.parametrize("content", [None, b"\xff\xfe\x00", b"a,b\n1\n", b"[]"])
    def test_an_absent_or_foreign_table_is_named(self, tmp_path, kind, content):
        path = tmp_path / "table.csv"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(DatasetError, match="table.csv"):
            list(READERS[kind](tmp_path, [path], 0))

    def test_an_absent_folder_is_named(self, tmp_path, kind):
        path = table(tmp_path / "table.csv", "")
        with pytest.raises(DatasetError, match="nowhere|table.csv"):
            list(READERS[kind](tmp_path / "nowhere", [path], 0))


CAPTIONS = [f"Birds chirp, and {number} ducks quack" for number in range(5)]


def test_audiocaps_sounds_are_found_by_three_habits_of_naming(tmp_path):
    long = "a dog barks " * 100
    train = table(
        tmp_path / "train.csv",
        "audiocap_id,youtube_id,start_time,caption\n"
        '97151,vfY_TJq7n_U,130,"Rustling occurs, ducks quack"\n'
        "108945,-dWhHV3X25Q,60,An audience  gives applause\n"
        "107898,tw76HGONaKg,570,A man speaks\n"
        "107893,y2bVZ7rz-5M,280,Motor noise\n"
        f"107899,aaaaaaaaaaa,280,{long}\n",
    )
    folder = tmp_path / "some wavs"
    touch(
        folder / "97151.wav", folder / "-dWhHV3X25Q.wav", folder / "a" / "Ytw76HGONaKg.WAV", folder / "aaaaaaaaaaa.wav"
    )
    entries, skipped = sort(audiocaps(folder, [train], seed=0))
    assert {name: entry.path.name for name, entry in entries.items()} == {
        "vfY_TJq7n_U_130": "97151.wav",
        "-dWhHV3X25Q_60": "-dWhHV3X25Q.wav",
        "tw76HGONaKg_570": "Ytw76HGONaKg.WAV",
    }
    first = entries["vfY_TJq7n_U_130"]
    assert first.captions == ("Rustling occurs, ducks quack",)
    assert (first.source, first.split, first.dataset) == ("youtube:vfY_TJq7n_U", "train", "audiocaps")
    assert entries["-dWhHV3X25Q_60"].captions == ("An audience gives applause",)
    assert {name: skip.reason for name, skip in skipped.items()} == {
        "y2bVZ7rz-5M_280": "missing",
        "aaaaaaaaaaa_280": "caption",
    }


def test_one_caption_of_a_test_clip_is_drawn_whatever_else_is_there(tmp_path):
    names = [f"clip{number:07d}" for number in range(40)]
    rows = [f'{index},{name},30,"{caption}"' for name in names for index, caption in enumerate(CAPTIONS)]
    header = "audiocap_id,youtube_id,start_time,caption\n"
    whole = table(tmp_path / "test.csv", header + "\n".join(rows) + "\n")
    validation = table(tmp_path / "val.csv", header + "\n".join(rows[:5]) + "\n")
    touch(*(tmp_path / "wav" / f"{name}.wav" for name in names))
    entries, _ = sort(audiocaps(tmp_path / "wav", [whole], seed=0))
    drawn = [entry.captions for entry in entries.values()]
    assert len(drawn) == 40 and all(len(captions) == 1 for captions in drawn)
    assert {captions[0] for captions in drawn} == set(CAPTIONS)  # 40 draws miss one of five once in 1,500
    (tmp_path / "wav" / f"{names[0]}.wav").unlink()
    fewer, _ = sort(audiocaps(tmp_path / "wav", [whole], seed=0))
    assert fewer == {name: entry for name, entry in entries.items() if not name.startswith(names[0])}
    others, _ = sort(audiocaps(tmp_path / "wav", [whole], seed=1))
    assert [entry.captions for entry in others.values()] != drawn[1:]
    touch(tmp_path / "wav" / f"{names[0]}.wav")
    all_five, _ = sort(audiocaps(tmp_path / "wav", [validation], seed=0))
    assert all_five[f"{names[0]}_30"].captions == tuple(CAPTIONS)


def wavcaps_table(path: Path, rows: list[dict]) -> Path:
    rows = [{"title": "t", "description": "d", "author": "a", "href": "h", "duration": 9.9, **row} for row in rows]
    return table(path, json.dumps({"num_captions_per_audio": 1, "data": rows}))


def test_wavcaps_parts_have_their_folders_and_blacklists(tmp_path):
    strong = wavcaps_table(
        tmp_path / "json_files" / "AudioSet_SL" / "as_final.json",
        [
            {"id": "YHpnja1gcKN0.wav", "caption": "A man speaks."},
            {"id": "Y-rPLYTH6UYo.wav", "caption": "An engine idles."},
        ],
    )
    freesound = wavcaps_table(
        tmp_path / "json_files" / "FreeSound" / "fsd_final.json",
        [
            {"id": "2219", "caption": "Rain."},
            {"id": "17", "caption": "Wind."},
            {"id": "18", "caption": "\ud83d"},
            {"id": "19", "caption": "Sea."},
        ],
    )
    bible = wavcaps_table(
        tmp_path / "json_files" / "SoundBible" / "sb_final.json", [{"id": "2219", "caption": "An airplane is landing."}]
    )
    blacklist = table(
        tmp_path / "blacklist_exclude_all_ac.json",
        json.dumps({"AudioSet": ["YHpnja1gcKN0.wav"], "FreeSound": ["17"]}),
    )
    audio = tmp_path / "audio"
    touch(audio / "AudioSet_SL" / "YHpnja1gcKN0.flac", audio / "AudioSet_SL" / "Y-rPLYTH6UYo.flac")
    touch(*(audio / "FreeSound" / f"{name}.flac" for name in (2219, 17, 18)), audio / "SoundBible" / "2219.flac")
    entries, skipped = sort(wavcaps(audio, [strong, freesound, bible], 0, [blacklist]))
    assert {name: (entry.source, entry.captions) for name, entry in entries.items()} == {
        "AudioSet_SL/Y-rPLYTH6UYo": ("youtube:-rPLYTH6UYo", ("An engine idles.",)),
        "FreeSound/2219": ("freesound:2219", ("Rain.",)),
        "SoundBible/2219": ("soundbible:2219", ("An airplane is landing.",)),
    }
    assert entries["FreeSound/2219"].path == audio / "FreeSound" / "2219.flac"
    assert entries["SoundBible/2219"].path == audio / "SoundBible" / "2219.flac"
    assert {name: skip.reason for name, skip in skipped.items()} == {
        "AudioSet_SL/YHpnja1gcKN0": "blacklisted",
        "FreeSound/17": "blacklisted",
        "FreeSound/18": "caption",
        "FreeSound/19": "missing",
    }
    alone, _ = sort(wavcaps(audio / "SoundBible", [bible], 0))
    assert list(alone) == ["SoundBible/2219"]
    with pytest.raises(DatasetError, match="must hold the folder FreeSound"):
        list(wavcaps(audio / "SoundBible", [freesound, bible], 0))


def test_audioset_takes_what_is_in_the_folder(tmp_path):
    segments = table(
        tmp_path / "balanced_train_segments.csv",
        "# Segments csv created Sun Mar  5 10:54:25 2017\n"
        "# num_ytids=3, num_segs=3, num_unique_labels=527, num_positive_labels=4\n"
        "# YTID, start_seconds, end_seconds, positive_labels\n"
        '-0RWZT-miFs, 420.000, 430.000, "/m/03v3yw,/m/0k4j"\n'
        'Ybcdefghijk, 0.000, 10.000, "/m/09x0r"\n'
        'not-present, 0.000, 10.000, "/m/09x0r"\n',
    )
    touch(*(tmp_path / "wav" / name for name in ("Y-0RWZT-miFs.flac", "Ybcdefghijk.wav", "stranger.wav", "notes.txt")))
    entries, skipped = sort(audioset(tmp_path / "wav", [segments], 0))
    assert sorted(entries) == ["-0RWZT-miFs", "Ybcdefghijk"]
    keys = entries["-0RWZT-miFs"]
    assert keys.captions is None and keys.labels == ("/m/03v3yw", "/m/0k4j")
    assert (keys.source, keys.split) == ("youtube:-0RWZT-miFs", "balanced_train")
    assert list(skipped) == ["stranger"]


def test_labels_become_captions(tmp_path):
    meta = table(
        tmp_path / "meta" / "esc50.csv",
        "filename,fold,target,category,esc10,src_file,take\n"
        "1-100032-A-0.wav,1,0,dog,True,100032,A\n"
        "5-9032-A-46.wav,5,46,steam_organ,False,9032,A\n"
        "1-100038-A-14.wav,1,14,chirping_birds,False,100038,A\n",
    )
    touch(tmp_path / "audio" / "1-100032-A-0.wav", tmp_path / "audio" / "5-9032-A-46.wav")
    entries, skipped = sort(esc50(tmp_path / "audio", [meta], 0))
    dog, bells = entries["1-100032-A-0"], entries["5-9032-A-46"]
    assert len(set(dog.captions)) == 5 and set(dog.captions) <= set(prompts("dog")[0])
    assert bells.captions == ("the sound of steam organ",)
    assert (dog.licence, bells.licence, dog.source, bells.split) == ("CC-BY", "CC-BY-NC", "freesound:100032", "fold5")
    assert [skip.reason for skip in skipped.values()] == ["missing"]
    ten, _ = sort(esc10(tmp_path / "audio", [meta], 0))
    assert list(ten) == ["1-100032-A-0"] and ten["1-100032-A-0"].dataset == "esc10"


def test_a_folder_of_clips_has_its_own_table(tmp_path):
    with (tmp_path / "clips.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "fold", "label", "title", "source", "author", "license"])
        source = "http://www.freesound.org/people/nfrae/sounds/100032/"
        writer.writerow(["1-100032-A.ogg", "1", "dog", "a, b", source, "nfrae", "CC0"])
        writer.writerow(["é b.c.wav", "2", "rain", "", "https://example.org/x", "", ""])
    touch(tmp_path / "audio" / "1-100032-A.ogg", tmp_path / "audio" / "é b.c.wav")
    entries, _ = sort(clips(tmp_path / "audio", [tmp_path / "clips.csv"], 0))
    assert (entries["1-100032-A"].source, entries["1-100032-A"].licence) == ("freesound:100032", "CC0")
    assert (entries["é b.c"].source, entries["é b.c"].licence) == ("https://example.org/x", None)


@pytest.mark.parametrize(
    ("reader", "name", "text", "message"),
    [
        (audiocaps, "train.csv", "audiocap_id,youtube_id,caption\n", "start_time missing"),
        (audiocaps, "train.csv", "audiocap_id,youtube_id,start_time,caption\n1,a,0,x\n2,b,0\n", "line 3: must have 4"),
        (audiocaps, "train.csv", "", "audiocap_id, youtube_id, start_time, caption missing"),
        (audioset, "eval_segments.csv", "# YTID\nabc, 0.000, 10.000\n", "line 2: must have 4 columns, got 3"),
        (wavcaps, "sb_final.json", "[]", "must be an object with a list 'data'"),
        (wavcaps, "sb_final.json", '{"data": [{"id": "1", "caption": "x"}, {"id": "2"}]}', r"data\[1\] must be"),
        (wavcaps, "sb_final.json", '{"data": [', "not valid JSON"),
        (wavcaps, "other.json", "{}", "must be named as_final"),
        (audiocaps, "train.csv", b"audiocap_id,youtube_id,start_time,caption\n1,a,0,caf\xe9\n", "0xe9 in line 2"),
        (audioset, "eval_segments.csv", "# YTID".encode("utf-16"), "0xff in line 1; it begins as UTF-16 does"),
        (wavcaps, "sb_final.json", '{"data": "é"}'.encode("latin-1"), "0xe9 in line 1"),
        (clips, "clips.csv", "file,fold,é".encode("latin-1"), "0xe9 in line 1"),
    ],
)
def test_faults_of_tables_are_named(tmp_path, reader, name, text, message):
    touch(tmp_path / "wav" / "a.wav", tmp_path / "wav" / "b.wav", tmp_path / "wav" / "1.wav")
    with pytest.raises(DatasetError, match=message) as caught:
        list(reader(tmp_path / "wav", [table(tmp_path / name, text)], 0))
    assert name in str(caught.value)


def test_absent_folders_and_tables_are_named(tmp_path):
    with pytest.raises(DatasetError, match="audio must be a folder.*nowhere"):
        find_sounds(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match="cannot read the table .*train.csv"):
        list(audiocaps(tmp_path, [tmp_path / "train.csv"], 0))
