"""Caches of the tokens and conditioning of composed scenes, the training data of the teacher and the student.

A cache is a folder: ``tokens.npy`` [N, L, D] float16, ``conditioning.safetensors`` (the unique captions: tokens
[U, T, E] float16, mask [U, T]), ``captions.json`` and, written last, ``stamp.json`` with the settings of the cache.
The file is long because writing and reading a cache share its format.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from dear.codec.base import Codec
from dear.codec.mel import MelSpectrogram
from dear.conditioning import Conditioning
from dear.files import DamagedError, read_json, read_sealed, sealed, sha256, write_atomically, write_json
from training.runtime.lock import locked
from training.runtime.progress import Progress
from training.runtime.stamps import StampError, difference
from training.runtime.workers import one_thread, process_pool

BLOCK = 32  # scenes that are encoded together; a killed run loses at most one block per worker
FILES = ("tokens.npy", "conditioning.safetensors", "captions.json")  # whose digests are in the stamp
CAPTIONS = 64  # captions that are encoded together
SAMPLE = 4  # scenes at the start whose content goes into the stamp


class CacheError(StampError):
    """A cache that is unfinished, damaged, or made from other settings."""


class Scene(Protocol):
    """A waveform [S] float32 in [-1, 1], its caption, its labels, and how they are composed."""

    @property
    def waveform(self) -> np.ndarray: ...

    @property
    def caption(self) -> str: ...

    @property
    def labels(self) -> Sequence[str]: ...

    @property
    def kind(self) -> str: ...


class Scenes(Protocol):
    """A source of scenes. It can be pickled if several workers are used."""

    def scene(self, index: int) -> Scene:
        """A pure function of ``index``."""

    def captions(self, labels: tuple[str, ...], kind: str, count: int) -> list[str]:
        """Up to ``count`` captions of scenes of a kind with these labels; only needed where a cache asks for them."""


class TextEncoder(Protocol):
    """A frozen text encoder, as in ``dear.conditioning``; ``digest`` identifies its weights."""

    @property
    def digest(self) -> str: ...

    def encode(self, prompts: Sequence[str]) -> Conditioning: ...


def weights_digest(module: nn.Module) -> str:
    """First 12 hex digits of a sha256 over the names, shapes, types and bytes of a module's parameters and buffers."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:12]


def build(
    folder: str | Path,
    scenes: Scenes,
    count: int,
    vae: Codec,
    mel: MelSpectrogram,
    text_encoder: TextEncoder,
    stamps: Mapping[str, Any],
    workers: int = 1,
    wordings: int = 0,
) -> Cache:
    """Encode scenes 0 to ``count`` - 1 into ``folder``, resuming where an earlier call was stopped or killed.

    ``stamps``: plain data that distinguishes sources of scenes, such as seed, folds and kinds. The rest of the stamp is
    computed here: the digests of both encoders, the mel configuration, and a digest of the first scenes.
    ``wordings``: further captions for the scenes of each kind with the same labels, which :class:`Recaptioned` draws.
    ``workers``: processes, each with one thread; the bytes do not depend on it. ``vae`` and ``mel`` are on the CPU.

    A finished cache with the same stamp is returned as it is. Raises :class:`CacheError` where ``folder`` holds one
    with another stamp (the field is named), and where tokens exceed half precision;
    :class:`~training.runtime.lock.BusyError` where another process builds in it.
    """
    folder = Path(folder)
    for name, value in (("count", count), ("workers", workers)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value!r}")
    with one_thread():
        sample = _scenes_digest(scenes, count)
    stamp = {
        **stamps,
        "count": count,
        "token_shape": list(vae.token_shape),
        "vae": weights_digest(vae),
        "text_encoder": text_encoder.digest,
        "mel": dataclasses.asdict(mel.config),
        "scenes": sample,
        "more": wordings,
    }
    stamp = json.loads(json.dumps(stamp))  # tuples become lists, as in a saved stamp
    job = _Job(folder, scenes, count, vae.eval(), mel, wordings)
    with locked(folder):
        if (folder / "stamp.json").exists():
            _check_stamp(folder / "stamp.json", stamp)
        else:
            job.prepare(stamp)
            with one_thread():
                job.run(workers)
                job.gather(text_encoder)
            digests = {"files": {name: sha256(folder / name) for name in FILES}}
            write_json(folder / "stamp.json", sealed(stamp | digests))
        shutil.rmtree(job.blocks, ignore_errors=True)
    return Cache(folder)


@dataclasses.dataclass(frozen=True)
class _Job:
    """The data that a worker needs to encode a block of scenes. A block is done when its file in ``blocks`` exists."""

    folder: Path
    scenes: Scenes
    count: int
    vae: Codec
    mel: MelSpectrogram
    wordings: int

    @property
    def blocks(self) -> Path:
        return self.folder / "blocks"

    def path(self, block: int) -> Path:
        return self.blocks / f"{block:06d}.json"

    def prepare(self, stamp: dict[str, Any]) -> None:
        """Allocate the file of tokens, or check that an existing one has this stamp."""
        begun = self.blocks / "stamp.json"
        if begun.exists():
            _check_stamp(begun, stamp)
            return
        self.blocks.mkdir(parents=True, exist_ok=True)
        shape, path = (self.count, *self.vae.token_shape), self.folder / "tokens.npy"
        np.lib.format.open_memmap(path, "w+", np.float16, shape).flush()
        if hasattr(os, "posix_fallocate"):  # an error if the disk is full, where a mapped page ends the process
            with open(path, "r+b") as file:
                try:
                    os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
                except OSError as error:
                    path.unlink()
                    raise OSError(error.errno, error.strerror, str(path)) from None
        write_json(begun, stamp)

    def done(self, block: int) -> bool:
        """Whether a block is encoded, and its tokens are still those that were written."""
        try:
            saved = read_sealed(self.path(block), "rows", "tokens")
        except (FileNotFoundError, DamagedError):
            return False
        span = self.range(block)
        try:
            tokens = np.load(self.folder / "tokens.npy", mmap_mode="r")
        except (OSError, ValueError) as error:
            raise CacheError(f"{self.folder} is a damaged cache ({error}); remove it and build it again") from None
        return hashlib.sha256(tokens[span.start : span.stop].tobytes()).hexdigest() == saved["tokens"]

    def run(self, workers: int) -> None:
        """Encode all blocks that are not done."""
        total = -(-self.count // BLOCK)
        missing = [block for block in range(total) if not self.done(block)]
        done = self.count - sum(len(self.range(block)) for block in missing)
        with contextlib.closing(Progress("tokens", self.count, done, "scene")) as progress:
            for block in self._encoded(missing, workers):
                progress.update(len(self.range(block)))

    def range(self, block: int) -> range:
        return range(block * BLOCK, min(self.count, (block + 1) * BLOCK))

    def _encoded(self, blocks: list[int], workers: int) -> Iterator[int]:
        if workers == 1 or len(blocks) < 2:
            yield from map(self.encode, blocks)
            return
        with process_pool(min(workers, len(blocks)), _start_worker, (self,)) as pool:
            for future in as_completed([pool.submit(_encode_in_worker, block) for block in blocks]):
                yield future.result()

    @torch.no_grad()
    def encode(self, block: int) -> int:
        """Write the tokens of a block, then the file that marks it as done. Returns the block."""
        span = self.range(block)
        scenes = [self.scenes.scene(index) for index in span]
        # One spectrogram at a time is faster than a batch and takes a tenth of the memory.
        mels = torch.cat([self.mel.clip(torch.as_tensor(scene.waveform)[None]) for scene in scenes])
        values = self.vae.encode(mels).half().numpy()
        if not np.isfinite(values).all():
            raise CacheError(f"tokens of scenes {span[0]} to {span[-1]} exceed half precision")
        tokens = np.lib.format.open_memmap(self.folder / "tokens.npy", "r+")
        tokens[span.start : span.stop] = values
        tokens.flush()
        rows = [[scene.caption, list(scene.labels), scene.kind] for scene in scenes]
        write_json(self.path(block), sealed({"rows": rows, "tokens": hashlib.sha256(values.tobytes()).hexdigest()}))
        return block

    def gather(self, text_encoder: TextEncoder) -> None:
        """Write the captions of all blocks, and the conditioning of the unique captions in order of appearance."""
        rows = [row for block in range(-(-self.count // BLOCK)) for row in read_sealed(self.path(block))["rows"]]
        alike = dict.fromkeys((kind, *labels) for _, labels, kind in rows) if self.wordings else {}
        more = {each: self.scenes.captions(each[1:], each[0], self.wordings) for each in alike}
        captions = list(dict.fromkeys([row[0] for row in rows] + [text for texts in more.values() for text in texts]))
        position = {caption: index for index, caption in enumerate(captions)}
        encoded: dict[int, Tensor] = {}  # [T, E] each, without padding
        order = sorted(range(len(captions)), key=lambda index: len(captions[index]))  # little padding within a batch
        with contextlib.closing(Progress("conditioning", len(captions), unit="caption")) as progress:
            for start in range(0, len(order), CAPTIONS):
                chosen = order[start : start + CAPTIONS]
                conditioning = text_encoder.encode([captions[index] for index in chosen])
                for index, tokens, mask in zip(chosen, conditioning.tokens.cpu(), conditioning.mask.cpu(), strict=True):
                    encoded[index] = tokens[mask].half()
                progress.update(len(chosen))
        ordered = [encoded[index] for index in range(len(captions))]
        tokens = nn.utils.rnn.pad_sequence(ordered, batch_first=True)
        lengths = torch.tensor([len(item) for item in ordered])
        tensors = {"tokens": tokens, "mask": torch.arange(tokens.shape[1]) < lengths[:, None]}
        write_atomically(self.folder / "conditioning.safetensors", lambda file: file.write(save(tensors)))
        table = {
            "captions": captions,
            "caption": [position[row[0]] for row in rows],
            "labels": [row[1] for row in rows],
            "kind": [row[2] for row in rows],
            "more": [[list(each), [position[text] for text in texts]] for each, texts in more.items()],
        }
        write_json(self.folder / "captions.json", table)


class Cache:
    """A finished cache, read from disk on demand. Safe to share between threads.

    ``stamp``: its settings; ``captions`` [U], ``caption`` [N] (index into them), ``labels`` [N], ``kind`` [N].
    Raises :class:`CacheError` where ``folder`` holds none, or a damaged one.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        if not (self.folder / "stamp.json").exists():
            raise CacheError(f"{folder} is not a finished cache; build it with training.cache.tokens.build")
        try:
            self.stamp: dict[str, Any] = read_sealed(self.folder / "stamp.json", "count")
            for name, digest in self.stamp.pop("files", {}).items():
                if sha256(self.folder / name) != digest:
                    raise DamagedError(f"the sha256 of {name} is not that of its stamp")
            table = read_json(self.folder / "captions.json")
            self.tokens = np.load(self.folder / "tokens.npy", mmap_mode="r")  # [N, L, D] float16
            self.conditioning = load_file(self.folder / "conditioning.safetensors")  # tokens [U, T, E], mask [U, T]
            self.captions: list[str] = table["captions"]
            self.caption = torch.tensor(table["caption"])
            self.labels: list[list[str]] = table["labels"]
            self.kind: list[str] = table["kind"]
            # Further captions (indices into ``captions``) by kind and labels.
            self.more = {tuple(each): texts for each, texts in table.get("more", ())}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
            raise CacheError(f"{folder} is a damaged cache ({error}); remove it and build it again") from error

    def __len__(self) -> int:
        return len(self.tokens)

    def batch(self, indices: Sequence[int] | np.ndarray) -> dict[str, Tensor]:
        """B items -> ``tokens`` [B, L, D] float32, ``conditioning`` [B, T, E] float32, ``mask`` [B, T] bool.

        T is the same in every batch, the longest caption of the cache.
        """
        indices = np.asarray(indices, dtype=np.int64)
        return self._batch(indices, self.caption[torch.from_numpy(indices)])

    def _batch(self, indices: np.ndarray, captions: Tensor) -> dict[str, Tensor]:
        return {
            "tokens": torch.from_numpy(self.tokens[indices].astype(np.float32)),
            "conditioning": self.conditioning["tokens"][captions].float(),
            "mask": self.conditioning["mask"][captions],
        }

    def indices(self, step: int, batch_size: int, seed: int) -> np.ndarray:
        """Items of step ``step``, from 0: [batch_size] int64, a pure function of the arguments.

        Consecutive steps run through one random permutation of the cache after another, without dropping any item.
        """
        positions = np.arange(step * batch_size, (step + 1) * batch_size)
        epochs = positions // len(self)
        parts = [
            np.random.default_rng([seed, epoch]).permutation(len(self))[positions[epochs == epoch] % len(self)]
            for epoch in np.unique(epochs)
        ]
        return np.concatenate(parts)


class Recaptioned(Cache):
    """A cache whose items have, at each use, a random caption of those that fit their labels and kind: the captions of
    all such items, and the further ones that the cache was built with.

    If every scene kept its one caption, a model would memorise which scene a caption means, and not learn its words.
    """

    def __init__(self, folder: str | Path):
        super().__init__(folder)
        self.stamp = self.stamp | {"recaptioned": True}
        self._alike: dict[tuple[str, ...], list[int]] = {each: list(texts) for each, texts in self.more.items()}
        for index, caption in enumerate(self.caption.tolist()):
            self._alike.setdefault(self._sounds(index), []).append(caption)

    def _sounds(self, index: int) -> tuple[str, ...]:
        return self.kind[index], *self.labels[index]

    def indices(self, step: int, batch_size: int, seed: int) -> np.ndarray:
        """Items of step ``step`` and their captions, as indices: [batch_size, 2] int64."""
        items = super().indices(step, batch_size, seed)
        rng = np.random.default_rng([seed, step, 1])
        alike = [self._alike[self._sounds(index)] for index in items]
        return np.stack([items, [group[rng.integers(len(group))] for group in alike]], axis=1)

    def batch(self, indices: Sequence[int] | np.ndarray) -> dict[str, Tensor]:
        """Like :meth:`Cache.batch`, for items [B] with their own captions, or for items and captions [B, 2] from
        :meth:`indices`."""
        indices = np.asarray(indices, dtype=np.int64)
        if indices.ndim == 1:
            return super().batch(indices)
        return self._batch(indices[:, 0], torch.from_numpy(indices[:, 1]))


def _scenes_digest(scenes: Scenes, count: int) -> str:
    """Digest of the first scenes, which detects changes of the recordings and of the code that composes them."""
    digest = hashlib.sha256()
    for index in range(min(count, SAMPLE)):
        scene = scenes.scene(index)
        digest.update(np.ascontiguousarray(scene.waveform, dtype=np.float32).tobytes())
        digest.update(json.dumps([scene.caption, list(scene.labels), scene.kind]).encode())
    return digest.hexdigest()[:12]


def _check_stamp(path: Path, wanted: dict[str, Any]) -> None:
    # Caches made before these two were stamped are accepted.
    saved = {"wordings": wanted.get("wordings"), "more": 0} | read_sealed(path)
    saved.pop("files", None)
    clause = difference(saved, wanted)
    if clause:
        raise CacheError(
            f"{path} belongs to another cache: {clause}; remove that cache to build it again, or choose another folder"
        )


_job: _Job  # of this process, where it is a worker


def _start_worker(job: _Job) -> None:
    global _job
    _job = job
    torch.set_num_threads(1)


def _encode_in_worker(block: int) -> int:
    return _job.encode(block)
