"""Encoding sounds to shards: segments, items, workers and interruptions."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from encoders import tiny_clap, tiny_t5
from factory import tiny_config
from processes import end, start, wait_until
from small_caches import MEL, Letters, codec
from small_shards import SOUNDS, Hearing, content, make, sound

from dear.audio import AudioError, read_sound
from dear.codec.mel import MelSpectrogram
from training.cache.tokens import CacheError
from training.data.datasets import esc10
from training.data.manifest import Entry, read_manifest, write_manifest
from training.encode import main
from training.prepare import prepare
from training.store.encoding import load_vae
from training.store.segments import load_segment
from training.store.sharding import EncodeConfig
from training.store.shards import ShardedCache, shard_name


def measured(path: Path, **fields) -> Entry:
    info = soundfile.info(path)
    return Entry("x", path, "test", duration=info.frames / info.samplerate, **fields)


def test_short_sounds_are_padded_with_silence(tmp_path):
    path = sound(tmp_path / "a.wav", 2.5, 0, rate=44100, channels=2)
    segment = load_segment(measured(path), 16000, 160_000, seed=0, index=0)
    whole = read_sound(path, 16000)
    assert segment.shape == (160_000,) and segment.dtype == np.float32
    assert np.allclose(segment[: len(whole)], whole, atol=1e-6) and not segment[len(whole) :].any()


def test_of_a_long_sound_a_random_part_is_taken(tmp_path):
    ramp = np.arange(12 * 16000) / (12 * 16000)
    soundfile.write(tmp_path / "a.flac", ramp, 16000, subtype="PCM_24")
    entry = measured(tmp_path / "a.flac")
    starts = {}
    for key in [(0, 0, 0), (0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), *((0, k, 0) for k in range(2, 40))]:
        segment = load_segment(entry, 16000, 160_000, *key)
        start = round(segment[0] * len(ramp))
        assert np.allclose(segment, ramp[start : start + 160_000], atol=1e-5)
        assert starts.setdefault(key, start) == start
    assert len(set(starts.values())) > 35
    assert min(starts.values()) < 8000 and max(starts.values()) > 24_000  # of 0 to 32,000
    part = Entry("x", entry.path, "test", start=3.0, duration=1.0)
    segment = load_segment(part, 16000, 160_000, 0, 0)
    assert np.allclose(segment[:16000], ramp[48_000:64_000], atol=1e-5) and not segment[16000:].any()


def test_a_peak_is_that_of_the_part_without_its_mean_and_padding_stays_silent(tmp_path):
    x = np.random.default_rng(0).uniform(0.0, 0.2, 24_000)  # all above zero
    soundfile.write(tmp_path / "a.wav", x, 16000, subtype="FLOAT")
    entry = measured(tmp_path / "a.wav")
    segment = load_segment(entry, 16000, 160_000, 0, 0, peak=0.5)
    centred = x - x.mean()
    assert np.allclose(segment[:24_000], 0.5 * centred / np.abs(centred).max(), atol=1e-6)
    assert not segment[24_000:].any()
    part = load_segment(entry, 16000, 8000, 0, 0, peak=0.5)
    assert np.abs(part).max() == pytest.approx(0.5, abs=1e-6) and abs(part.mean()) < 1e-6
    soundfile.write(tmp_path / "b.wav", np.zeros(100), 16000)
    assert not load_segment(measured(tmp_path / "b.wav"), 16000, 8000, 0, 0, peak=0.5).any()


def test_a_sound_that_broke_since_is_named(tmp_path):
    entry = measured(sound(tmp_path / "a.wav", 1, 0))
    entry.path.write_text("no sound")
    with pytest.raises(AudioError, match=r"a\.wav can't be read"):
        load_segment(entry, 16000, 160_000, 0, 0)


def stored(folder: Path) -> dict[str, dict]:
    """Items as WebDataset itself reads them, by key."""
    import webdataset

    names = sorted(str(path) for path in folder.glob("*.tar"))
    return {item["__key__"]: item for item in webdataset.WebDataset(names, shardshuffle=False).decode()}


def test_items_are_what_the_encoders_give(small_shards, small_entries):
    items = stored(small_shards)
    stamp = json.loads((small_shards / "stamp.json").read_text())
    assert list(items) == [f"{number:09d}" for number in range(2 * SOUNDS)]
    assert (stamp["items"], stamp["shards"], stamp["sounds"], stamp["captioned"]) == (42, 6, 21, 18)
    vae, mel, text = codec(), MelSpectrogram(MEL), Hearing()
    places = {entry.id: index for index, entry in enumerate(small_entries)}
    seen = {}
    for item in items.values():
        about = item["json"]
        index = places[about["id"]]
        entry = small_entries[index]
        waveform = torch.from_numpy(load_segment(entry, 16000, MEL.samples, 5, index, about["variant"]))[None]
        assert item["tokens.npy"].dtype == item["conditioning.npy"].dtype == np.float16
        wanted = vae.encode(mel.clip(waveform))[0].numpy()
        assert np.allclose(item["tokens.npy"], wanted, rtol=1e-3, atol=1e-3)
        if entry.captions is None:
            assert about["caption"] is None
            wanted = text.encode_audio(waveform, 16000).tokens[0]
        else:
            assert about["caption"] in entry.captions
            wanted = text.encode([about["caption"]]).tokens[0]
        assert np.allclose(item["conditioning.npy"], wanted.numpy(), rtol=1e-3, atol=1e-4)
        assert (about["source"], about["labels"], about["dataset"]) == (entry.source, ["class"], "test")
        seen.setdefault(index, []).append(about)
    for index, variants in seen.items():
        assert sorted(about["variant"] for about in variants) == [0, 1]
        captions = small_entries[index].captions
        assert captions is None or len({about["caption"] for about in variants}) == min(2, len(captions))
    order = [(places[item["json"]["id"]], item["json"]["variant"]) for item in items.values()]
    assert order != sorted(order)  # dealt at random, so that a shard is a sample of the whole
    assert max(len(item["conditioning.npy"]) for item in items.values()) == stamp["longest"]


def test_a_reader_agrees_with_webdataset(small_shards):
    cache, items = ShardedCache(small_shards), list(stored(small_shards).values())
    indices = [41, 0, 17, 17, 8]
    batch = cache.batch(indices)
    longest = cache.stamp["longest"]
    assert len(cache) == 42
    assert batch["tokens"].shape == (5, 4, 8) and batch["conditioning"].shape == (5, longest, 6)
    assert batch["tokens"].dtype == batch["conditioning"].dtype == torch.float32
    assert batch["mask"].dtype == torch.bool
    for row, index in enumerate(indices):
        condition = torch.from_numpy(items[index]["conditioning.npy"])
        assert torch.equal(batch["tokens"][row], torch.from_numpy(items[index]["tokens.npy"]).float())
        assert torch.equal(batch["mask"][row], torch.arange(longest) < len(condition))
        assert torch.equal(batch["conditioning"][row, : len(condition)], condition.float())
        assert not batch["conditioning"][row, len(condition) :].any()
    with pytest.raises(IndexError, match="from 0 to 41, got 0 to 42"):
        cache.batch([0, 42])


def test_a_cache_of_scaled_sounds_is_another_one(small_shards, small_entries, tmp_path):
    assert make(small_entries[:4], tmp_path, peak=0.5)
    for item in stored(tmp_path).values():
        place = next(index for index, entry in enumerate(small_entries) if entry.id == item["json"]["id"])
        about = (small_entries[place], 16000, MEL.samples, 5, place, item["json"]["variant"])
        waveform = torch.from_numpy(load_segment(*about, peak=0.5))[None]
        wanted = codec().encode(MelSpectrogram(MEL).clip(waveform))[0].numpy()
        assert np.allclose(item["tokens.npy"], wanted, rtol=1e-3, atol=1e-3)
    with pytest.raises(CacheError, match=r"its peak is 0\.5, wanted is None"):
        make(small_entries[:4], tmp_path)
    with pytest.raises(CacheError, match=r"its peak is None, wanted is 0\.5"):
        make(small_entries, small_shards, peak=0.5)


def test_two_workers_make_the_same_cache_as_one(small_shards, small_entries, tmp_path):
    assert not make(small_entries, tmp_path, worker=(0, 2))
    with pytest.raises(CacheError, match="not a finished cache"):
        ShardedCache(tmp_path)
    assert not make(small_entries, tmp_path, worker=(0, 2))
    assert make(small_entries, tmp_path, worker=(1, 2))
    assert content(tmp_path) == content(small_shards)


class Slow(Hearing):
    def encode(self, prompts):
        time.sleep(0.2)
        return super().encode(prompts)


def slow_run(manifest: Path, folder: Path) -> None:
    make(read_manifest(manifest), folder, text_encoder=Slow())


def test_a_killed_run_ends_with_the_same_bytes(small_shards, small_entries, small_sounds, tmp_path):
    folder = tmp_path / "killed"
    process = start(slow_run, small_sounds / "manifest.jsonl", folder)
    wait_until(lambda: len(list(folder.glob("parts/0*.json"))) >= 2, process)
    process.kill()
    assert end(process) == [-signal.SIGKILL]
    assert not (folder / "stamp.json").exists()
    first = (folder / shard_name(0)).stat().st_mtime_ns
    with pytest.raises(CacheError, match="its seed is 5, wanted is 6"):
        make(small_entries, folder, EncodeConfig(variants=2, shard_items=8, batch_size=3, seed=6))
    assert make(small_entries, folder)
    assert (folder / shard_name(0)).stat().st_mtime_ns == first
    assert content(folder) == content(small_shards)


def slow_worker(manifest: Path, folder: Path, rank: int) -> None:
    """One of two, which begin together."""
    ready = [folder.with_name(f"ready-{number}") for number in range(2)]
    ready[rank].touch()
    while not all(path.exists() for path in ready):
        time.sleep(0.01)
    make(read_manifest(manifest), folder, text_encoder=Slow(), worker=(rank, 2))


def test_two_workers_that_are_killed_and_resumed_leave_the_same_bytes(
    small_shards, small_entries, small_sounds, tmp_path
):
    folder = tmp_path / "killed"
    processes = [start(slow_worker, small_sounds / "manifest.jsonl", folder, rank) for rank in range(2)]
    # Each has written a shard, and is at work on another one.
    wait_until(lambda: {int(path.stem) % 2 for path in folder.glob("parts/0*.json")} == {0, 1}, *processes)
    for process in processes:
        process.kill()
    assert end(*processes) == [-signal.SIGKILL] * 2
    assert not (folder / "stamp.json").exists()
    assert [make(small_entries, folder, worker=(rank, 2)) for rank in range(2)] == [False, True]
    assert content(folder) == content(small_shards)


def test_a_run_stopped_within_a_shard_goes_on(small_shards, small_entries, tmp_path):
    class Failing(Hearing):
        calls = 0

        def encode(self, prompts):
            Failing.calls += 1
            if Failing.calls == 3:
                raise KeyboardInterrupt
            return super().encode(prompts)

    with pytest.raises(KeyboardInterrupt):
        make(small_entries, tmp_path, text_encoder=Failing())
    assert sorted(path.name for path in tmp_path.glob("*.tar")) == [shard_name(0), shard_name(1)]
    assert make(small_entries, tmp_path)
    assert content(tmp_path) == content(small_shards)


def test_a_finished_cache_is_kept_and_never_under_another_stamp(small_shards, small_entries):
    before = content(small_shards)
    times = [path.stat().st_mtime_ns for path in sorted(small_shards.iterdir())]
    assert make(small_entries, small_shards)
    assert times == [path.stat().st_mtime_ns for path in sorted(small_shards.iterdir())]
    with pytest.raises(CacheError, match=r"its vae is .*; remove that cache"):
        make(small_entries, small_shards, vae=codec(scale=2.0))
    with pytest.raises(CacheError, match="its sounds is 21, wanted is 20"):
        make(small_entries[1:], small_shards)
    assert content(small_shards) == before


def test_sound_without_captions_needs_an_encoder_that_listens(small_entries, tmp_path):
    with pytest.raises(CacheError, match=r"3 of 21 sounds have no caption .*'-6\.x'.*Letters cannot encode sound"):
        make(small_entries, tmp_path / "out", text_encoder=Letters())
    assert not (tmp_path / "out").exists()
    captioned = [entry for entry in small_entries if entry.captions]
    assert make(captioned, tmp_path / "out", text_encoder=Letters())


def test_bad_workers_and_no_sounds_are_named(small_entries, tmp_path):
    with pytest.raises(CacheError, match="worker must be i/n with i from 0 to n - 1, got 2/2"):
        make(small_entries, tmp_path, worker=(2, 2))
    with pytest.raises(CacheError, match="at least one sound, got none"):
        make([], tmp_path)


def test_tokens_beyond_half_precision_are_refused(small_entries, tmp_path):
    with pytest.raises(CacheError, match="shard-000000.tar: values exceed half precision"):
        make(small_entries, tmp_path, vae=codec(scale=1e6))


def test_the_codec_is_that_of_a_checkpoint(tiny_folder):
    config = tiny_config()
    vae = load_vae(config, tiny_folder, torch.device("cpu"))
    assert vae.token_shape == (8, 16)


def test_the_command_encodes_and_names_bad_input(tiny_folder, tmp_path, capsys, monkeypatch):
    (tmp_path / "meta.csv").write_text(
        "filename,fold,target,category,esc10,src_file,take\n"
        "1-1-A-0.wav,1,0,dog,True,1,A\n"
        "1-2-A-0.wav,1,0,rain,True,2,A\n"
    )
    for number in (1, 2):
        sound(tmp_path / f"1-{number}-A-0.wav", number, number)
    prepare(esc10(tmp_path, [tmp_path / "meta.csv"], 0), tmp_path / "m.jsonl")
    config = tmp_path / "tiny.yaml"
    model = json.loads(tiny_config().to_json())
    config.write_text(yaml.safe_dump({"model": model}))
    command = ["--manifest", str(tmp_path / "m.jsonl"), "--config", str(config), "--out", str(tmp_path / "out")]
    assert main([*command, "--device", "cpu"]) == 2
    assert "codec must name a checkpoint" in capsys.readouterr().err
    command += ["--codec", str(tiny_folder), "--device", "cpu"]
    assert main([*command, "--variants", "0"]) == 2
    assert "variants must be at least 1, got 0" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main([*command, "--variants", "3"]) == 0
    assert "finished" in capsys.readouterr().out
    cache = ShardedCache(tmp_path / "out")
    assert len(cache) == 6 and cache.batch([0])["tokens"].shape == (1, 8, 16)
    for rank in range(2):  # as a launcher starts them
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        assert main([*command, "--out", str(tmp_path / "launched"), "--variants", "3", "--shard-items", "2"]) == 0
        assert ("others are not" in capsys.readouterr().out) == (rank == 0)
    assert len(ShardedCache(tmp_path / "launched")) == 6
    monkeypatch.delenv("WORLD_SIZE")
    monkeypatch.delenv("RANK")
    assert main([*command, "--bf16"]) == 2
    assert "dtype must be torch.float32 for 'minilm'" in capsys.readouterr().err
    config.write_text(yaml.safe_dump({"model": model | {"vae": model["vae"] | {"token_dim": 32}}}))
    assert main(command) == 2
    assert "must have the mel, patch and token_dim" in capsys.readouterr().err
    config.write_text("model: {name: 1}\n")
    assert main(command) == 2
    assert "tiny.yaml: model.name must be of type str" in capsys.readouterr().err


def test_text_encoders_can_run_in_bfloat16(tiny_folder, tmp_path):
    (tmp_path / "clap").mkdir()
    (tmp_path / "t5").mkdir()
    encoders = {"t5": str(tiny_t5(tmp_path / "t5")), "clap": str(tiny_clap(tmp_path / "clap"))}
    conditioning = {"kind": "paper", "dim": 8, "max_tokens": 8} | encoders
    model = json.loads(tiny_config().to_json()) | {"conditioning": conditioning}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump({"model": model}))
    sound(tmp_path / "dog.wav", 1, 1)
    known = {"duration": 1.0, "sample_rate": 16_000, "channels": 1, "digest": "1"}
    write_manifest(tmp_path / "m.jsonl", [Entry("1", tmp_path / "dog.wav", "test", ("a dog barks",), **known)])
    command = ["--manifest", str(tmp_path / "m.jsonl"), "--config", str(tmp_path / "tiny.yaml"), "--device", "cpu"]
    command += ["--codec", str(tiny_folder)]
    assert main([*command, "--out", str(tmp_path / "exact")]) == 0
    assert main([*command, "--out", str(tmp_path / "half"), "--bf16"]) == 0
    exact, half = (ShardedCache(tmp_path / name).batch([0])["conditioning"] for name in ("exact", "half"))
    assert 0 < (exact - half).abs().max() < 0.1 * exact.abs().max()
    assert main([*command, "--out", str(tmp_path / "exact"), "--bf16"]) == 2  # another cache
