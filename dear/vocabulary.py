"""The sounds that a checkpoint was trained on, by families, and their wordings nearest to a prompt.

A checkpoint may hold ``vocabulary/sounds.json``, the wordings, and ``vocabulary/embeddings.safetensors``, their
embeddings by its own text encoder. ``python -m training.vocabulary`` writes both.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from dear.files import write_atomically, write_json
from dear.hub import CheckpointError
from dear.settings import ConfigError, Range, Settings, from_dict

FOLDER, SOUNDS, EMBEDDINGS = "vocabulary", "sounds.json", "embeddings.safetensors"
MAX_BYTES = 8 << 20  # of the wordings
MAX_WORDINGS = 50_000
# Where a prompt is this similar to one wording, it is not cut into parts: "thunder and lightning".
WHOLE = 0.8
SEPARATORS = re.compile(
    r"[,;]?\s*\b(?:and then|then|while|followed by|and afterwards|after that|and at the same time|and|before|plus)\b\s*"
    r"|\s*;\s*",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class KnownSound:
    """Wordings of one sound, as training showed them."""

    nouns: tuple[str, ...]  # "a dog barking"
    clauses: tuple[str, ...]  # "a dog barks"
    free: tuple[str, ...] = ()  # other wordings

    @property
    def wordings(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.nouns, *self.clauses, *self.free)))


@dataclass(frozen=True)
class Wording:
    """A wording of training, its sound, and the cosine similarity of its embedding to that of a prompt."""

    text: str
    label: str
    similarity: float


@dataclass(frozen=True)
class Part:
    """A prompt or, of a composition, one of its sounds."""

    text: str
    wordings: tuple[Wording, ...]  # the nearest ones, each of another sound, the most similar first
    known: bool  # whether the first of them is similar enough


@dataclass(frozen=True)
class Nearest:
    """What training knew of a prompt: its parts, and the wordings nearest to them."""

    parts: tuple[Part, ...]  # the prompt as a whole, or the parts of a composition

    @property
    def known(self) -> bool:
        """Whether every part is similar to a wording of training."""
        return all(part.known for part in self.parts)

    @property
    def wordings(self) -> tuple[Wording, ...]:
        """The wordings nearest to the least similar part."""
        return min(self.parts, key=lambda part: part.wordings[0].similarity).wordings

    def sentence(self) -> str:
        """One line for people, or an empty string if the prompt is known."""
        unknown = [part for part in self.parts if not part.known]
        if not unknown:
            return ""
        names = " and ".join(repr(part.text) for part in unknown)
        nearest = ", ".join(repr(wording.text) for part in unknown for wording in part.wordings)
        return f"nothing like {names} was in training; nearest: {nearest}"


@dataclass(frozen=True, eq=False)
class Embeddings:
    """The embeddings of all wordings of a vocabulary, in the order of :attr:`Vocabulary.entries`."""

    vectors: Tensor  # [N, E] float32 of unit norm
    encoder: str  # the digest of the text encoder that made them


@dataclass(frozen=True)
class Vocabulary(Settings):
    """Families of sounds with their wordings.

    threshold: the least cosine similarity of a known prompt to its nearest wording. embeddings: None if a checkpoint
        has none; they are then computed on demand.
    """

    threshold: Annotated[float, Range(0, 1)]
    families: Mapping[str, Mapping[str, KnownSound]]
    embeddings: Embeddings | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= len(self.entries) <= MAX_WORDINGS:
            raise ConfigError(f"families must hold 1 to {MAX_WORDINGS:,} wordings, got {len(self.entries):,}")
        for label, sound in self.sounds.items():
            if not (sound.nouns and sound.clauses) or not all(text.strip() for text in sound.wordings):
                raise ConfigError(f"{label} must have nouns and clauses, none of them empty, got {sound!r:.80}")

    @cached_property
    def sounds(self) -> dict[str, KnownSound]:
        return {label: sound for family in self.families.values() for label, sound in family.items()}

    @cached_property
    def entries(self) -> tuple[tuple[str, str], ...]:
        """(wording, label) of all sounds, in the order of the embeddings."""
        return tuple((text, label) for label, sound in self.sounds.items() for text in sound.wordings)

    def parts(self, prompt: str) -> list[str]:
        """The parts of a composition, split at words such as "then" and "while", or the prompt itself.

        "First" and "to begin with" are removed.
        """
        cut = [re.sub(r"(?i)^(first|to begin with),?\s+", "", text).strip(" ,.;") for text in SEPARATORS.split(prompt)]
        found = [text for text in cut if text]
        return found if len(found) > 1 else [prompt.strip()]

    def nearest(self, texts: Sequence[str], vectors: Tensor, embeddings: Tensor, count: int) -> Nearest:
        """The wordings nearest to ``texts``: a prompt, followed by its parts if it is a composition.

        vectors [P, E] of the texts and embeddings [N, E] of the wordings have unit norm. count: sounds of each text.
        """
        similarity = vectors.float() @ embeddings.float().T  # [len(texts), N]
        parts = [self._part(text, row, count) for text, row in zip(texts, similarity, strict=True)]
        whole = len(parts) == 1 or parts[0].wordings[0].similarity >= max(WHOLE, self.threshold)
        return Nearest((parts[0],) if whole else tuple(parts[1:]))

    def _part(self, text: str, similarity: Tensor, count: int) -> Part:
        found: dict[str, Wording] = {}
        for i in similarity.argsort(descending=True).tolist():
            wording, label = self.entries[i]
            found.setdefault(label, Wording(wording, label, round(float(similarity[i]), 4)))
            if len(found) == count:
                break
        return Part(text, tuple(found.values()), float(similarity.max()) >= self.threshold)


def load_vocabulary(checkpoint: str | Path) -> Vocabulary | None:
    """The vocabulary of a checkpoint, or None. Raises CheckpointError, which names the file."""
    folder = Path(checkpoint) / FOLDER
    path = folder / SOUNDS
    if not path.is_file():
        return None
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(f"it must have at most {MAX_BYTES:,} bytes, got {path.stat().st_size:,}")
        vocabulary = from_dict(Vocabulary, json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is no vocabulary: {error}") from None
    path = folder / EMBEDDINGS
    if not path.is_file():
        return vocabulary
    try:
        with safe_open(str(path), "pt") as file:
            shape = file.get_slice("embeddings").get_shape()
            if len(shape) != 2 or shape[0] != len(vocabulary.entries):
                raise CheckpointError(
                    f"{path} must hold embeddings [{len(vocabulary.entries)}, E], got {shape}: write it again with "
                    "python -m training.vocabulary"
                )
            encoder = (file.metadata() or {}).get("encoder", "")
            return dataclasses.replace(
                vocabulary, embeddings=Embeddings(file.get_tensor("embeddings").float(), encoder)
            )
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} is truncated or damaged ({error}): download it again") from None


def save_vocabulary(checkpoint: str | Path, vocabulary: Vocabulary) -> None:
    """Write what :func:`load_vocabulary` reads, the embeddings in float16."""
    folder = Path(checkpoint) / FOLDER
    folder.mkdir(exist_ok=True)
    families = {
        name: {label: dataclasses.asdict(sound) for label, sound in family.items()}
        for name, family in vocabulary.families.items()
    }
    write_json(folder / SOUNDS, {"threshold": vocabulary.threshold, "families": families})
    if vocabulary.embeddings is None:
        (folder / EMBEDDINGS).unlink(missing_ok=True)
        return
    vectors = vocabulary.embeddings.vectors.to("cpu", torch.float16).contiguous()
    data = save({"embeddings": vectors}, {"encoder": vocabulary.embeddings.encoder})
    write_atomically(folder / EMBEDDINGS, lambda file: file.write(data))
