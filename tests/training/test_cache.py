from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from small_caches import MEL, Letters, Tones, codec, make

from dear.codec.mel import MelSpectrogram
from training.cache.tokens import BLOCK, Cache, CacheError, Recaptioned, weights_digest

ROOT = Path(__file__).resolve().parents[2]
PATHS = (ROOT, ROOT / "tests" / "helpers")
FILES = ("tokens.npy", "captions.json", "conditioning.safetensors", "stamp.json")


def content(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in FILES]


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("cache") / "built").folder


def test_items_are_what_the_encoders_give(built):
    cache, scenes, vae, mel, text = Cache(built), Tones(), codec(), MelSpectrogram(MEL), Letters()
    assert len(cache) == 70
    assert sorted(path.name for path in built.iterdir()) == sorted([*FILES, "lock"])
    indices = [69, 0, 33, 33]
    batch = cache.batch(indices)
    assert batch["tokens"].shape == (4, 4, 8)
    assert batch["tokens"].dtype == torch.float32
    assert batch["conditioning"].dtype == torch.float32
    assert batch["mask"].dtype == torch.bool
    longest = max(len(scenes.scene(index).caption.encode()) for index in range(70))
    assert batch["conditioning"].shape == (4, longest, 6)
    for row, index in enumerate(indices):
        scene = scenes.scene(index)
        tokens = vae.encode(mel.clip(torch.from_numpy(scene.waveform)[None]))[0]
        assert torch.allclose(batch["tokens"][row], tokens, rtol=1e-3, atol=1e-3)
        wanted = text.encode([scene.caption]).tokens[0]
        mask = batch["mask"][row]
        assert torch.equal(mask, torch.arange(longest) < len(wanted))
        assert torch.allclose(batch["conditioning"][row, mask], wanted, rtol=1e-3)
        assert not batch["conditioning"][row, ~mask].any()
        assert cache.captions[cache.caption[index]] == scene.caption
        assert cache.labels[index] == list(scene.labels)
        assert cache.kind[index] == "single"
    assert len(set(cache.captions)) == len(cache.captions) == len({scenes.scene(i).caption for i in range(70)})
    assert cache.stamp["seed"] == 0
    assert cache.stamp["vae"] == weights_digest(vae)
    assert cache.stamp["count"] == 70


def test_every_epoch_visits_every_item_once(built):
    cache = Cache(built)
    stream = np.concatenate([cache.indices(step, 16, seed=3) for step in range(14)])  # 224 items: three epochs and more
    epochs = [stream[start : start + 70] for start in (0, 70, 140)]
    assert all(sorted(epoch) == list(range(70)) for epoch in epochs)
    assert not np.array_equal(epochs[0], epochs[1])
    assert np.array_equal(cache.indices(9, 16, seed=3), stream[144:160])  # independent of earlier calls
    assert not np.array_equal(cache.indices(9, 16, seed=4), stream[144:160])
    assert sorted(cache.indices(0, 140, seed=3)) == sorted([*range(70), *range(70)])


def test_a_recaptioned_item_has_the_caption_of_one_that_sounds_alike(built):
    plain, cache = Cache(built), Recaptioned(built)
    assert cache.stamp == plain.stamp | {"recaptioned": True}
    pairs = np.concatenate([cache.indices(step, 16, seed=3) for step in range(14)])
    assert np.array_equal(pairs[:, 0], np.concatenate([plain.indices(step, 16, seed=3) for step in range(14)]))
    assert np.array_equal(pairs[:16], cache.indices(0, 16, seed=3))
    labels = np.array([cache.labels[index][0] for index in range(70)])
    said = {int(caption): cache.labels[index][0] for index, caption in enumerate(cache.caption)}
    assert [labels[item] for item in pairs[:, 0]] == [said[caption] for caption in pairs[:, 1]]
    batch, own = cache.batch(pairs[:16]), plain.batch(pairs[:16, 0])
    assert torch.equal(batch["tokens"], own["tokens"])
    assert torch.equal(batch["conditioning"], plain.conditioning["tokens"][pairs[:16, 1]].float())
    assert all(torch.equal(one, own[name]) for name, one in cache.batch(pairs[:16, 0]).items())


def test_a_recaptioned_item_has_one_of_the_further_captions_of_its_sounds(tmp_path, built):
    cache = Recaptioned(make(tmp_path, wordings=3).folder)
    assert cache.stamp["more"] == 3
    assert (tmp_path / "tokens.npy").read_bytes() == (built / "tokens.npy").read_bytes()
    pairs = np.concatenate([cache.indices(step, 70, seed=3) for step in range(200)])
    for item in (0, 33, 69):
        label, kind = cache.labels[item][0], cache.kind[item]
        found = {cache.captions[caption] for place, caption in pairs.tolist() if place == item}
        assert found == {cache.captions[cache.caption[item]], *(f"{kind} {label} {i}" for i in range(3))}
    with pytest.raises(CacheError, match="its more is 3, wanted is 0"):
        make(tmp_path)


def test_a_stopped_build_goes_on_where_it_was(tmp_path, built):
    class Failing(Tones):
        def scene(self, index):
            if index == BLOCK + 5:
                raise KeyboardInterrupt
            return super().scene(index)

    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, Failing())
    with pytest.raises(CacheError, match="not a finished cache"):
        Cache(tmp_path)
    with pytest.raises(CacheError, match=r"its seed is 0, wanted is 1"):  # even before it is finished
        make(tmp_path, stamps={"seed": 1})
    (tmp_path / "blocks" / "000001.json.tmp").write_text("half a bl")
    asked = []

    class Watched(Tones):
        def scene(self, index):
            asked.append(index)
            return super().scene(index)

    make(tmp_path, Watched())
    assert set(asked) == {*range(4), *range(BLOCK, 70)}  # the first four only for the stamp
    assert content(tmp_path) == content(built)


SCRIPT = """
import sys
from pathlib import Path
from small_caches import Tones, make
make(Path(sys.argv[1]), Tones(delay=0.003), count=320, workers=2)
"""


def test_a_killed_build_ends_with_the_same_bytes(tmp_path):
    make(tmp_path / "whole", count=320)
    folder, deadline = tmp_path / "killed", time.monotonic() + 600
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, PATHS)), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SCRIPT, str(folder)]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE)
    while len(list(folder.glob("blocks/0*.json"))) < 3:
        assert process.poll() is None, process.communicate()[1].decode()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    process.communicate(timeout=600)  # returns when the two workers, which share its stderr, have ended as well
    assert process.returncode == -signal.SIGKILL
    assert not (folder / "stamp.json").exists()
    make(folder, count=320)  # one process finishes what two workers began
    assert content(folder) == content(tmp_path / "whole")


def test_a_finished_cache_is_used_again_and_never_under_another_stamp(built):
    before = content(built)
    times = [(built / name).stat().st_mtime_ns for name in FILES]
    make(built)
    assert times == [(built / name).stat().st_mtime_ns for name in FILES]
    with pytest.raises(CacheError, match="its seed is 0, wanted is 1"):
        make(built, stamps={"seed": 1})
    with pytest.raises(CacheError, match="its count is 70, wanted is 71"):
        make(built, count=71)
    with pytest.raises(CacheError, match=r"its vae is .*; remove that cache to build it again"):
        make(built, vae=codec(scale=2.0))
    with pytest.raises(CacheError, match="its scenes is "):  # the same stamps, but other sound
        make(built, Tones(gain=0.4))
    assert content(built) == before


def test_a_cache_of_other_wordings_is_refused_and_one_that_names_none_is_taken(built, tmp_path):
    make(built, stamps={"seed": 0, "wordings": "a"})
    make(tmp_path, count=3, stamps={"seed": 0, "wordings": "a"})
    with pytest.raises(CacheError, match="its wordings is 'a', wanted is 'b'"):
        make(tmp_path, count=3, stamps={"seed": 0, "wordings": "b"})


def test_a_damaged_cache_is_named(tmp_path):
    make(tmp_path, count=3)
    tokens = (tmp_path / "tokens.npy").read_bytes()
    (tmp_path / "tokens.npy").write_bytes(tokens[:-10])
    with pytest.raises(CacheError, match="damaged"):
        Cache(tmp_path)
    (tmp_path / "tokens.npy").write_bytes(tokens)
    conditioning = (tmp_path / "conditioning.safetensors").read_bytes()
    (tmp_path / "conditioning.safetensors").write_bytes(conditioning[:-10])
    with pytest.raises(CacheError, match="damaged"):
        Cache(tmp_path)


def test_a_flipped_bit_of_any_file_is_noticed(tmp_path):
    make(tmp_path, count=3)
    for name in FILES:
        data = (tmp_path / name).read_bytes()
        place = len(data) - 7  # in the tokens, the mask, a caption's kind, and the digest
        (tmp_path / name).write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises(CacheError, match="is a damaged cache"):
            Cache(tmp_path)
        (tmp_path / name).write_bytes(data)
    Cache(tmp_path)


def test_json_that_holds_something_else_is_named(tmp_path):
    make(tmp_path, count=3)
    for name in ("stamp.json", "captions.json"):
        data = (tmp_path / name).read_bytes()
        for wrong in (b"", b"null", b"[]", b"{}", b"[" * 5_000, b"\xff"):
            (tmp_path / name).write_bytes(wrong)
            with pytest.raises(CacheError, match="is a damaged cache"):
                Cache(tmp_path)
        (tmp_path / name).write_bytes(data)


def test_a_damaged_block_is_encoded_again(built, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:  # stopped when all blocks are done
        patch.setattr("training.cache.tokens._Job.gather", lambda *_: sys.exit(1))
        with pytest.raises(SystemExit):
            make(tmp_path)
    tokens = bytearray((tmp_path / "tokens.npy").read_bytes())
    tokens[200] ^= 1
    (tmp_path / "tokens.npy").write_bytes(tokens)
    (tmp_path / "blocks" / "000001.json").write_text("{}")
    make(tmp_path)
    assert content(tmp_path) == content(built)


def test_tokens_beyond_half_precision_are_refused(tmp_path):
    with pytest.raises(CacheError, match="scenes 0 to 31 exceed half precision"):
        make(tmp_path, vae=codec(scale=1e6))


@pytest.mark.parametrize("name", ["count", "workers"])
def test_bad_numbers_are_named(tmp_path, name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        make(tmp_path, **{name: 0})
