"""Writing of sharded caches (see ``training.store.shards``) by any number of workers, each with shards of its own."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from dear.codec.base import Codec
from dear.codec.mel import MelSpectrogram
from dear.conditioning import Conditioning
from dear.config import ConfigError
from dear.files import read_sealed, sealed, sha256, write_atomically
from training.cache.tokens import CacheError, TextEncoder, weights_digest
from training.data.manifest import Entry, composition
from training.runtime.progress import Progress
from training.runtime.stamps import difference
from training.runtime.workers import one_thread
from training.store.segments import load_segment
from training.store.shards import Item, shard_name, write_shard

CAPTIONS = 64  # captions that are encoded together
LOADERS = 4  # threads that decode and resample
PART = ("items", "longest", "bytes", "digest", "token_shape", "conditioning_dim")  # what is recorded about a shard


@dataclass(frozen=True)
class EncodeConfig:
    """Settings of the shards, beside the encoders. An unfinished cache resumes only under equal settings."""

    variants: int = 1  # items per sound, with different segments of a long sound and different captions
    shard_items: int = 512  # items of a shard
    batch_size: int = 16  # items that are encoded together
    seed: int = 0  # of parts, captions, and of the order of items

    def __post_init__(self) -> None:
        for name in ("variants", "shard_items", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)!r}")
        if self.seed < 0:
            raise ConfigError(f"seed must be at least 0, got {self.seed!r}")


def encode(
    entries: Sequence[Entry],
    folder: str | Path,
    vae: Codec,
    mel: MelSpectrogram,
    text_encoder: TextEncoder,
    config: EncodeConfig,
    worker: tuple[int, int] = (0, 1),
    peak: float = 0.0,
) -> bool:
    """Encode this worker's part of the entries into ``folder``, resuming where an earlier call was stopped.

    vae: any module with ``encode(mel [B, F, M]) -> [B, L, D]``, on the same device as ``mel``. text_encoder: for
    entries without captions also with ``encode_audio(waveforms [B, S], sample_rate) -> Conditioning`` (Appendix J.1).
    worker: (i, n) encodes every n-th shard, from shard i on. On a CPU it uses one thread, since the number of threads
    changes the last bits; start a worker per core.
    peak: of sounds, as in :func:`~training.store.segments.load_segment`; 0: unchanged.

    Returns whether the cache is finished, with the parts of all workers. Raises :class:`CacheError` where the folder
    holds another cache (naming the field that differs), where sounds without captions need an encoder of sound, and
    where values exceed half precision.
    """
    folder = Path(folder)
    if not entries:
        raise CacheError("entries must hold at least one sound, got none")
    if not 0 <= worker[0] < worker[1]:
        raise CacheError(f"worker must be i/n with i from 0 to n - 1, got {worker[0]}/{worker[1]}")
    silent = [entry for entry in entries if entry.captions is None]
    if silent and not isinstance(text_encoder, AudioEncoder):
        raise CacheError(
            f"{len(silent)} of {len(entries)} sounds have no caption (the first is {silent[0].dataset} "
            f"{silent[0].id!r}), and {type(text_encoder).__name__} cannot encode sound; leave them out, or use the "
            "encoder of conditioning.kind 'paper'"
        )
    stamp = {
        "format": 1,
        **dataclasses.asdict(config),
        "sounds": len(entries),
        "captioned": len(entries) - len(silent),
        "items": len(entries) * config.variants,
        "manifest": _digest(entries),
        "peak": peak or None,
        "vae": weights_digest(vae),
        "text_encoder": text_encoder.digest,
        "mel": dataclasses.asdict(mel.config),
    }
    job = _Job(entries, folder, vae.eval(), mel, text_encoder, config, worker, stamp)
    if not job.finished():
        with one_thread():
            job.run()
    return job.gather()


@runtime_checkable
class AudioEncoder(Protocol):
    """An encoder that takes sounds without captions (Appendix J.1)."""

    def encode_audio(self, waveforms: Tensor, sample_rate: int) -> Conditioning: ...


@dataclass(frozen=True)
class _Job:
    """The part of one worker. A shard is done when the file with its digest exists in ``parts``."""

    entries: Sequence[Entry]
    folder: Path
    vae: Codec
    mel: MelSpectrogram
    text_encoder: TextEncoder
    config: EncodeConfig
    worker: tuple[int, int]
    stamp: dict[str, Any]

    @property
    def parts(self) -> Path:
        return self.folder / "parts"

    @property
    def shards(self) -> int:
        return -(-self.stamp["items"] // self.config.shard_items)

    def part(self, shard: int) -> Path:
        return self.parts / f"{shard:06d}.json"

    def range(self, shard: int) -> range:
        size = self.config.shard_items
        return range(shard * size, min((shard + 1) * size, self.stamp["items"]))

    def finished(self) -> bool:
        """Whether the cache is finished. Raises CacheError where it is another one."""
        path = self.folder / "stamp.json"
        if path.exists():
            saved = read_sealed(path)
            self._check(path, {name: saved.get(name) for name in self.stamp})
        return path.exists()

    def _check(self, path: Path, saved: dict[str, Any]) -> None:
        if clause := difference(saved, self.stamp):
            raise CacheError(f"{path} belongs to another cache: {clause}; remove that cache, or choose another folder")

    def run(self) -> None:
        """Encode the shards of this worker that are not done."""
        self.parts.mkdir(parents=True, exist_ok=True)
        begun = self.parts / "stamp.json"
        if begun.exists():
            self._check(begun, read_sealed(begun))
        else:
            self._write(begun, sealed(self.stamp))
        own = range(self.worker[0], self.shards, self.worker[1])
        missing = [shard for shard in own if not self.part(shard).exists()]
        total = sum(len(self.range(shard)) for shard in own)
        done = total - sum(len(self.range(shard)) for shard in missing)
        order = np.random.default_rng(self.config.seed).permutation(self.stamp["items"])
        with (
            contextlib.closing(Progress("items", total, done, "item")) as progress,
            ThreadPoolExecutor(LOADERS, "sounds") as loaders,
        ):
            for shard in missing:
                self._encode(shard, order, loaders, progress)

    def _encode(self, shard: int, order: np.ndarray, loaders: ThreadPoolExecutor, progress: Progress) -> None:
        """Write a shard, then the file that marks it as done."""
        shapes: list[tuple[tuple[int, ...], tuple[int, ...]]] = []

        def items() -> Iterator[Item]:
            for item in self._items(shard, order, loaders):
                shapes.append((item.tokens.shape, item.conditioning.shape))
                yield item
                progress.update()

        path = self.folder / shard_name(shard)
        write_atomically(path, lambda file: write_shard(file, items()))
        digest = sha256(path)
        part: dict[str, Any] = {
            "items": len(shapes),
            "longest": max(condition[0] for _, condition in shapes),
            "bytes": path.stat().st_size,
            "digest": digest,
            "token_shape": list(shapes[0][0]),
            "conditioning_dim": shapes[0][1][1],
        }
        self._write(self.part(shard), sealed(part))

    @torch.no_grad()
    def _items(self, shard: int, order: np.ndarray, loaders: ThreadPoolExecutor) -> Iterator[Item]:
        """The items of a shard, which do not depend on other shards."""
        numbers = self.range(shard)
        chosen = [divmod(int(order[number]), self.config.variants) for number in numbers]  # entry, variant
        captions = [self._caption(index, variant) for index, variant in chosen]
        conditions = self._conditions(captions)
        starts = range(0, len(chosen), self.config.batch_size)
        batches = [chosen[start : start + self.config.batch_size] for start in starts]
        loading = [loaders.submit(self._load, *place) for place in batches[0]]
        for start, following in zip(starts, [*batches[1:], []], strict=True):
            waveforms = torch.from_numpy(np.stack([future.result() for future in loading]))
            loading = [loaders.submit(self._load, *place) for place in following]
            waveforms = waveforms.to(self.mel.filters.device)
            # On a CPU, one spectrogram at a time is faster than a batch and takes a tenth of the memory.
            mels = torch.cat([self.mel.clip(waveform[None]) for waveform in waveforms])
            tokens = _half(self.vae.encode(mels), shard_name(shard))
            wordless = [i for i in range(len(waveforms)) if captions[start + i] is None]
            heard = dict(zip(wordless, self._heard(waveforms, wordless), strict=True))
            for i in range(len(waveforms)):
                (index, variant), caption = chosen[start + i], captions[start + i]
                entry = self.entries[index]
                yield Item(
                    key=f"{numbers[start + i]:09d}",
                    tokens=tokens[i],
                    conditioning=heard[i] if caption is None else conditions[caption],
                    about={
                        "caption": caption,
                        "dataset": entry.dataset,
                        "id": entry.id,
                        "source": entry.source,
                        "labels": list(entry.labels),
                        "variant": variant,
                    },
                )

    def _load(self, index: int, variant: int) -> np.ndarray:
        config = self.mel.config
        seed, peak = self.config.seed, self.stamp["peak"] or 0.0
        return load_segment(self.entries[index], config.sample_rate, config.samples, seed, index, variant, peak)

    def _caption(self, index: int, variant: int) -> str | None:
        """The caption of a variant. Variants use the sound's captions in turn, starting at a random one."""
        captions = self.entries[index].captions
        if captions is None:
            return None
        first = int(np.random.default_rng([self.config.seed, index]).integers(len(captions)))
        return captions[(first + variant) % len(captions)]

    def _conditions(self, captions: Sequence[str | None]) -> dict[str, np.ndarray]:
        """{caption: conditioning [T, E] without padding} of the unique captions."""
        unique = sorted({caption for caption in captions if caption is not None}, key=lambda text: (len(text), text))
        encoded: dict[str, np.ndarray] = {}
        for start in range(0, len(unique), CAPTIONS):
            chosen = unique[start : start + CAPTIONS]
            conditioning = self.text_encoder.encode(chosen)
            encoded |= zip(chosen, _trimmed(conditioning.tokens, conditioning.mask), strict=True)
        return encoded

    def _heard(self, waveforms: Tensor, rows: Sequence[int]) -> list[np.ndarray]:
        """Conditioning of the sounds without captions, from the waveforms [B, S] at ``rows``."""
        if not rows:
            return []
        assert isinstance(self.text_encoder, AudioEncoder)  # checked before the first shard
        conditioning = self.text_encoder.encode_audio(waveforms[rows], self.mel.config.sample_rate)
        return _trimmed(conditioning.tokens, conditioning.mask)

    def gather(self) -> bool:
        """Write index and stamp if all shards are done. Returns whether the cache is finished."""
        if not self.finished():
            try:
                parts = [read_sealed(self.part(shard), *PART) for shard in range(self.shards)]
            except FileNotFoundError:  # not done, or removed by the worker that just wrote the stamp
                return self.finished()
            index = self._write(
                self.folder / "index.json",
                {"shards": [{n: part[n] for n in ("items", "bytes")} | {"sha256": part["digest"]} for part in parts]},
            )
            stamp = self.stamp | {
                "datasets": composition(self.entries),
                "longest": max(part["longest"] for part in parts),
                "token_shape": parts[0]["token_shape"],
                "conditioning_dim": parts[0]["conditioning_dim"],
                "shards": self.shards,
                "index": index,
            }
            self._write(self.folder / "stamp.json", sealed(stamp))
        shutil.rmtree(self.parts, ignore_errors=True)
        return True

    def _write(self, path: Path, data: Any) -> str:
        """Write plain data that several workers may write at once with the same content. Returns the sha256."""
        text = (json.dumps(data, indent=2) + "\n").encode()
        own = path.with_name(f"{path.name}.{self.worker[0]}")
        write_atomically(own, lambda file: file.write(text))
        os.replace(own, path)
        return hashlib.sha256(text).hexdigest()


def _digest(entries: Sequence[Entry]) -> str:
    """Digest of everything that the items depend on, without paths, which may differ between machines."""
    digest = hashlib.sha256()
    for entry in entries:
        fields = (entry.dataset, entry.id, entry.digest, entry.start, entry.duration, entry.captions)
        digest.update(json.dumps([*fields, entry.source, entry.labels]).encode() + b"\n")
    return digest.hexdigest()[:12]


def _half(values: Tensor, where: str) -> np.ndarray:
    halves = values.half().cpu().numpy()
    if not np.isfinite(halves).all():
        raise CacheError(f"{where}: values exceed half precision")
    return halves


def _trimmed(tokens: Tensor, mask: Tensor) -> list[np.ndarray]:
    """tokens [B, T, E], mask [B, T] -> [T', E] float16 each, without padding."""
    return [_half(item[real], "conditioning") for item, real in zip(tokens, mask, strict=True)]
