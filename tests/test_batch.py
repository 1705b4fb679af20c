from __future__ import annotations

import itertools
import json
import tarfile

import pytest
import soundfile

from dear.batch import BatchConfig, generate_batch, read_items
from dear.cli import main

PROMPTS = ["a dog barks", "rain", "waves on a beach", "a rooster", "rain on tin", "a clock ticks", "a siren"]


@pytest.fixture
def prompts(tmp_path):
    """A prompt file of seven lines; the second has a name and a further field."""
    path = tmp_path / "prompts.jsonl"
    lines = [{"prompt": prompt} for prompt in PROMPTS]
    lines[1] |= {"id": "rain-1", "label": "rain"}
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def contents(folder):
    """The bytes of every file, by its path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_line_is_a_sound_with_its_metadata_that_its_seed_gives_alone(student, prompts, tmp_path):
    out = tmp_path / "out"
    config = BatchConfig(seed=5, batch=2, shard=4, audio="wav")
    done = generate_batch(student, read_items(prompts), out, config, cfg_scale=2.0)
    assert (done.sounds, done.finished) == (7, True)
    names = {f"00000{k}/{i:09d}" for k, i in ((0, 0), (0, 2), (0, 3), (1, 4), (1, 5), (1, 6))} | {"000000/rain-1"}
    assert set(contents(out)) == {"batch.json"} | {f"{name}.{suffix}" for name in names for suffix in ("wav", "json")}
    facts = json.loads((out / "000000" / "rain-1.json").read_text())
    assert (facts["id"], facts["prompt"], facts["label"], facts["seed"]) == ("rain-1", "rain", "rain", 6)
    assert facts["settings"]["cfg_scale"] == 2.0
    alone = student.generate("rain", seed=6, cfg_scale=2.0).sound[0]
    found, rate = soundfile.read(out / "000000" / "rain-1.wav", dtype="float32")
    assert rate == 16_000
    assert abs(found - alone.numpy()).max() < 2 / 32768


@pytest.mark.parametrize("tar", [False, True])
def test_a_stopped_run_goes_on_to_the_same_bytes_in_any_number_of_workers(student, prompts, tmp_path, monkeypatch, tar):
    config = BatchConfig(batch=2, shard=3, tar=tar)
    items = read_items(prompts)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert generate_batch(student, items, whole, config).sounds == 7
    assert generate_batch(student, items, whole, config).sounds == 0
    generate_many = student.generate_many

    def interrupted(*arguments, **options):
        yield from itertools.islice(generate_many(*arguments, **options), 2)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(student, "generate_many", interrupted)
        with pytest.raises(KeyboardInterrupt):
            generate_batch(student, items, parts, config)
    assert sorted(path.name for path in parts.glob("*/*.json")) == ["000000000.json", "rain-1.json"]
    other = generate_batch(student, items, parts, config, worker=(1, 2))
    assert (other.sounds, other.finished) == (3, False)
    first = generate_batch(student, items, parts, config, worker=(0, 2))
    assert (first.sounds, first.finished) == (2, True)  # one more of shard 0, and shard 2
    assert contents(parts) == contents(whole)


def test_a_shard_as_tar_is_a_webdataset(student, prompts, tmp_path):
    out = tmp_path / "out"
    generate_batch(student, read_items(prompts), out, BatchConfig(shard=4, tar=True))
    assert set(contents(out)) == {"batch.json", "000000.tar", "000001.tar"}
    with tarfile.open(out / "000000.tar") as tar:
        names = tar.getnames()
        facts = json.load(tar.extractfile("rain-1.json"))
        sound, rate = soundfile.read(tar.extractfile("rain-1.flac"))
    # WebDataset takes neighbours of one name, up to the first dot, for one sample.
    assert names == [
        f"{name}.{suffix}" for name in ("000000000", "rain-1", "000000002", "000000003") for suffix in ("flac", "json")
    ]
    assert (facts["prompt"], facts["label"]) == ("rain", "rain")
    assert (len(sound), rate) == (10_000, 16_000)


def test_a_folder_goes_on_with_equal_settings_only(student, prompts, tmp_path):
    items, out = read_items(prompts), tmp_path / "out"
    generate_batch(student, items[:2], out, BatchConfig(), iterations=1)
    for changed, options, name in (
        (BatchConfig(seed=1), {"iterations": 1}, "seed 0, got 1"),
        (BatchConfig(), {"iterations": 2}, "iterations 1, got 2"),
        (BatchConfig(audio="wav"), {"iterations": 1}, "audio 'flac', got 'wav'"),
    ):
        with pytest.raises(ValueError, match=f"was begun with {name}: use another folder"):
            generate_batch(student, items[:2], out, changed, **options)
    with pytest.raises(ValueError, match="was begun with prompts"):
        generate_batch(student, items, out, BatchConfig(), iterations=1)
    for worker in ((1, 1), (-1, 2), (0, 0)):
        with pytest.raises(ValueError, match="worker must be i/n"):
            generate_batch(student, items[:2], out, BatchConfig(), worker, iterations=1)


def test_a_line_ends_at_a_line_feed_alone(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text('\ufeff{"prompt": "a dog\u2028barks"}\r\n{"prompt": "rain"}', encoding="utf-8", newline="")
    assert [item.prompt for item in read_items(path)] == ["a dog\u2028barks", "rain"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "at least one line"),
        ("a dog\n", "line 1: "),
        ('{"prompt": "a"}\n\n', "line 2: "),
        ('{"text": "a"}\n', "line 1: a line must be a JSON object with the field prompt"),
        ('["a"]\n', "line 1: a line must be a JSON object"),
        ('{"prompt": ""}\n', "line 1: prompt must"),
        ('{"prompt": "a", "id": "a.b"}\n', "line 1: id must be 1 to 100 letters, digits, _ and -, got 'a.b'"),
        ('{"prompt": "a", "id": 3}\n', "line 1: id must be"),
        ('{"prompt": "a", "id": "A"}\n{"prompt": "b", "id": "a"}\n', "line 2: id 'a' must be unique, see line 1"),
    ],
)
def test_lines_that_are_wrong_are_named(tmp_path, text, message):
    path = tmp_path / "prompts.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError, match="prompts.jsonl") as error:
        read_items(path)
    assert message in str(error.value)
    with pytest.raises(ValueError, match="cannot be read"):
        read_items(tmp_path / "none.jsonl")


def test_the_command_prints_how_many_sounds_a_minute(tiny_folder, prompts, tmp_path, capsys):
    arguments = ["batch", str(prompts), "--out", str(tmp_path / "out"), "--model", str(tiny_folder), "--device", "cpu"]
    arguments += ["--shard", "4", "--iterations", "1"]
    assert main([*arguments, "--worker", "1/2"]) == 0
    printed = capsys.readouterr().out
    assert "out: 3 sounds in " in printed
    assert " sounds a minute; this part is done, others are not\n" in printed
    assert main(arguments) == 0
    assert "out: 4 sounds in " in (printed := capsys.readouterr().out)
    assert printed.endswith(" sounds a minute; finished\n")
    for wrong, said in (
        (["--worker", "2"], "must be i/n"),
        (["--worker", "2/2"], "worker must be i/n"),
        (["--audio", "aiff"], "audio must be"),
        (["--cfg-scale", "99"], "cfg_scale must"),
        (["--batch", "65"], "batch must be a whole number from 1 to 64"),
    ):
        assert main([*arguments, *wrong]) == 2
        assert said in capsys.readouterr().err
