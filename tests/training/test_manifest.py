from __future__ import annotations

import contextlib
import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from training import prepare as module
from training.data.manifest import Entry, ManifestError, read_manifest, write_manifest
from training.data.probe import probe
from training.data.tables import DatasetError, Skipped
from training.prepare import main, prepare


def write_sound(path: Path, seconds: float, seed: int, rate: int = 16000, channels: int = 1, gain: float = 0.1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = gain * np.random.default_rng(seed).uniform(-1, 1, (round(seconds * rate), channels))
    soundfile.write(path, np.round(samples * 32767).astype(np.int16), rate)
    return path


def entry(path: Path, name: str | None = None, **fields) -> Entry:
    return Entry(name or path.stem, path, "test", ("a sound",), **fields)


MEASURED = {"duration": 0.2, "sample_rate": 16000, "channels": 1, "digest": "00"}


def test_a_manifest_comes_back_as_it_was(tmp_path):
    (tmp_path / "lists").mkdir()
    entries = [
        entry(tmp_path / "lists" / "wav" / "é b.c.wav", source="freesound:1", labels=("dog",), **MEASURED),
        Entry("2", tmp_path / "elsewhere.flac", "test", None, split="train", licence="CC0", **MEASURED),
    ]
    write_manifest(tmp_path / "lists" / "m.jsonl", entries)
    assert read_manifest(tmp_path / "lists" / "m.jsonl") == entries
    lines = [json.loads(line) for line in (tmp_path / "lists" / "m.jsonl").read_text("utf-8").splitlines()]
    assert lines[0]["path"] == "wav/é b.c.wav"
    assert lines[1]["path"] == str(tmp_path / "elsewhere.flac")
    (tmp_path / "lists").rename(tmp_path / "moved")
    assert read_manifest(tmp_path / "moved" / "m.jsonl")[0].path == tmp_path / "moved" / "wav" / "é b.c.wav"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": ""}, "id must be text"),
        ({"captions": []}, "captions must be null or a list"),
        ({"captions": ["x" * 1001]}, "captions must be"),
        ({"captions": "a dog"}, "captions must be"),
        ({"captions": ["a\0dog"]}, "captions must be"),
        ({"start": -1}, "start must be seconds of at least 0, got -1"),
        ({"duration": 0}, "duration must be seconds above 0, got 0"),
        ({"duration": True}, "duration must be"),
        ({"labels": None}, "labels must be a list"),
        ({"sample_rate": 16000.5}, "sample_rate must be"),
        ({"source": ""}, "source must be null or text"),
        ({"more": 1}, "unknown field 'more'"),
        ({"id": "first"}, "id 'first' is that of line 1 already"),
    ],
)
def test_the_line_of_a_fault_is_named(tmp_path, change, message):
    write_manifest(tmp_path / "m.jsonl", [entry(tmp_path / "a.wav", name, **MEASURED) for name in ("first", "second")])
    lines = (tmp_path / "m.jsonl").read_text().splitlines()
    (tmp_path / "m.jsonl").write_text("\n".join([lines[0], json.dumps(json.loads(lines[1]) | change), lines[0]]))
    with pytest.raises(ManifestError, match=message) as caught:
        read_manifest(tmp_path / "m.jsonl")
    assert "m.jsonl, line 2: " in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"), [("{", "line 1: not valid JSON"), ("[]", "line 1: a line must be an object")]
)
def test_lines_that_are_no_objects_are_named(tmp_path, text, message):
    (tmp_path / "m.jsonl").write_text(text)
    with pytest.raises(ManifestError, match=message):
        read_manifest(tmp_path / "m.jsonl")


def test_absent_fields_and_files_are_named(tmp_path):
    (tmp_path / "m.jsonl").write_text('{"id": "1"}\n')
    with pytest.raises(ManifestError, match="line 1: path is missing"):
        read_manifest(tmp_path / "m.jsonl")
    (tmp_path / "m.jsonl").write_text("")
    with pytest.raises(ManifestError, match="lists no sound"):
        read_manifest(tmp_path / "m.jsonl")
    with pytest.raises(ManifestError, match="cannot read the manifest .*none.jsonl"):
        read_manifest(tmp_path / "none.jsonl")


def broken_files(folder: Path) -> dict[str, str]:
    """Unusable files, each with its expected reason."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "zero.wav").write_bytes(b"")
    (folder / "text.wav").write_text("not a sound at all\n" * 20)
    whole = write_sound(folder / "whole.wav", 1, seed=90).read_bytes()
    (folder / "cut.wav").write_bytes(whole[: len(whole) // 2])
    whole = write_sound(folder / "whole.flac", 1, seed=91).read_bytes()
    (folder / "cut.flac").write_bytes(whole[: len(whole) // 2])
    write_sound(folder / "nothing.wav", 0, seed=0)
    write_sound(folder / "silence.wav", 1, seed=0, gain=0)
    soundfile.write(folder / "click.wav", [0.5], 16000)
    with contextlib.suppress(FileExistsError):
        os.mkfifo(folder / "pipe.wav")
    samples = np.zeros(100, dtype=np.float32)
    samples[50] = np.nan
    soundfile.write(folder / "nan.wav", samples, 16000, subtype="FLOAT")
    return {
        "zero.wav": "empty",
        "text.wav": "broken",
        "cut.wav": "broken",
        "cut.flac": "broken",
        "nothing.wav": "empty",
        "silence.wav": "silent",
        "click.wav": "short",
        "pipe.wav": "empty",
        "nan.wav": "broken",
        "absent.wav": "missing",
    }


def test_broken_files_are_distinguished_from_sound_ones(tmp_path):
    for name, reason in broken_files(tmp_path).items():
        assert probe(str(tmp_path / name)).get("reason") == reason, name
    long = write_sound(tmp_path / "long.flac", 12, seed=1, rate=44100, channels=2)
    measured = probe(str(long))
    assert (measured["sample_rate"], measured["channels"], measured["frames"]) == (44100, 2, 529200)


def test_the_digest_is_that_of_the_sound_and_not_of_its_container(tmp_path):
    wav, flac = (probe(str(write_sound(tmp_path / f"a.{kind}", 0.5, seed=1))) for kind in ("wav", "flac"))
    assert wav == flac
    assert probe(str(write_sound(tmp_path / "b.wav", 0.5, seed=2)))["digest"] != wav["digest"]
    assert probe(str(write_sound(tmp_path / "c.wav", 0.5, seed=1, rate=8000)))["digest"] != wav["digest"]


def test_a_wav_of_undeclared_length_is_whole(tmp_path):
    data = bytearray(write_sound(tmp_path / "a.wav", 0.5, seed=1).read_bytes())
    wanted = probe(str(tmp_path / "a.wav"))
    place = data.index(b"data") + 4
    data[4:8] = data[place : place + 4] = struct.pack("<I", 0xFFFFFFFF)  # as programs write it that stream their output
    (tmp_path / "a.wav").write_bytes(data)
    assert probe(str(tmp_path / "a.wav")) == wanted


@pytest.fixture
def found(tmp_path) -> list[Entry | Skipped]:
    wavs = tmp_path / "wavs"
    entries = [
        entry(write_sound(wavs / "short.wav", 0.2, seed=1), source="youtube:a"),
        entry(write_sound(wavs / "-odd name é.wav", 12, seed=2, rate=8000), source="youtube:b"),
        entry(write_sound(wavs / "stereo.flac", 1, seed=3, channels=2), source="youtube:c", split="val"),
        entry(write_sound(wavs / "copy.flac", 0.2, seed=1), source="youtube:d"),
        Skipped("lost", "", "missing"),
    ]
    return entries + [entry(wavs / name, name) for name in broken_files(wavs)]


def report(path: Path) -> dict[str, str]:
    return {line["id"]: line["reason"] for line in map(json.loads, path.read_text("utf-8").splitlines())}


def test_what_cannot_be_used_is_reported(tmp_path, found):
    prepared = prepare(found, tmp_path / "m.jsonl", workers=2)
    entries = read_manifest(tmp_path / "m.jsonl")
    assert [item.id for item in entries] == ["short", "-odd name é", "stereo"]
    assert [item.duration for item in entries] == [0.2, 12, 1]
    assert [item.channels for item in entries] == [1, 1, 2]
    reasons = {"lost": "missing", "copy": "duplicate", **broken_files(tmp_path / "wavs")}
    assert report(tmp_path / "m.report.jsonl") == reasons
    counts = "broken 4, duplicate 1, empty 3, missing 2, short 1, silent 1"
    assert str(prepared) == f"3 sounds, 0.00 h; skipped 12 ({counts})"
    assert {path.name for path in tmp_path.glob("m*")} == {"m.jsonl", "m.report.jsonl"}
    before = (tmp_path / "m.jsonl").read_bytes()
    prepare(found, tmp_path / "m.jsonl", workers=1)
    assert (tmp_path / "m.jsonl").read_bytes() == before


def test_sounds_of_an_excluded_manifest_stay_out(tmp_path, found):
    held_out = [
        entry(write_sound(tmp_path / "test" / "x.wav", 0.7, seed=8), source="youtube:c"),
        entry(write_sound(tmp_path / "test" / "y.flac", 0.2, seed=1), source="youtube:other"),
    ]
    prepare(held_out, tmp_path / "test.jsonl")
    prepare(found, tmp_path / "m.jsonl", exclude=[tmp_path / "test.jsonl"])
    assert [item.id for item in read_manifest(tmp_path / "m.jsonl")] == ["-odd name é"]
    reasons = report(tmp_path / "m.report.jsonl")
    assert [reasons[name] for name in ("stereo", "short", "copy")] == ["excluded"] * 3
    assert "youtube:c is that of x" in (tmp_path / "m.report.jsonl").read_text()


def test_a_stopped_run_measures_no_sound_twice(tmp_path, found, monkeypatch):
    prepare(found, tmp_path / "whole.jsonl")
    asked: list[str] = []

    def stopping(path: str) -> dict:
        if len(asked) == 4:
            raise KeyboardInterrupt
        asked.append(path)
        return probe(path)

    monkeypatch.setattr(module, "probe", stopping)
    with pytest.raises(KeyboardInterrupt):
        prepare(found, tmp_path / "m.jsonl")
    assert not (tmp_path / "m.jsonl").exists()
    journal = tmp_path / "m.probes.jsonl"
    journal.write_bytes(journal.read_bytes()[:-7])  # killed within a line
    first, asked[:] = asked[:], []
    monkeypatch.setattr(module, "probe", lambda path: asked.append(path) or probe(path))
    prepare(found, tmp_path / "m.jsonl")
    assert not set(first[:3]) & set(asked) and first[3] in asked
    assert (tmp_path / "m.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert not journal.exists()


def test_splits_and_hours_keep_a_part(tmp_path):
    sounds = [
        entry(write_sound(tmp_path / f"{number}.wav", 1, seed=number), split="even" if number % 2 == 0 else "odd")
        for number in range(12)
    ]
    prepare(sounds, tmp_path / "even.jsonl", splits=["even"])
    assert {item.split for item in read_manifest(tmp_path / "even.jsonl")} == {"even"}
    parts = []
    for seed in (0, 0, 1, 2):
        prepared = prepare(sounds, tmp_path / "part.jsonl", hours=5.5 / 3600, seed=seed)
        assert (len(prepared.entries), prepared.left) == (5, 7)
        parts.append([int(item.id) for item in prepared.entries])
    assert parts[0] == parts[1] == sorted(parts[0]) and not parts[0] == parts[2] == parts[3]
    with pytest.raises(DatasetError, match="no sound is left"):
        prepare(sounds, tmp_path / "none.jsonl", splits=["neither"])


def test_the_command_prepares_and_names_bad_input(tmp_path, capsys):
    write_sound(tmp_path / "wav" / "Yabcdefghijk.wav", 0.3, seed=1)
    (tmp_path / "test.csv").write_text("audiocap_id,youtube_id,start_time,caption\n1,abcdefghijk,30,A dog barks\n")
    command = ["audiocaps", "--audio", str(tmp_path / "wav"), "--out", str(tmp_path / "m.jsonl"), "--workers", "1"]
    assert main([*command, "--metadata", str(tmp_path / "test.csv")]) == 0
    assert "1 sounds" in capsys.readouterr().out
    assert read_manifest(tmp_path / "m.jsonl")[0].path == tmp_path / "wav" / "Yabcdefghijk.wav"
    assert main([*command, "--metadata", str(tmp_path / "val.csv")]) == 2
    assert "error: cannot read the table" in capsys.readouterr().err
    assert main([*command, "--metadata", str(tmp_path / "test.csv"), "--blacklist", "b.json"]) == 2
    assert "blacklist belongs to wavcaps" in capsys.readouterr().err
