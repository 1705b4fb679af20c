"""A checkpoint on disk: ``config.json``, one ``<variant>.safetensors`` each, ``codec/``, ``README.md`` as model card.

Weights are float16 on disk and float32 (or what the caller asks for) in memory; the buffers of the codec stay float32.
Files are checked before a network is built, loaded strictly, and written beside their target before they replace it.
The file is long because what finds, checks, loads and writes a checkpoint shares its layout.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from dear.budget import current
from dear.bundled import bundled
from dear.card import model_card
from dear.codec import CODECS, VOCODERS, build_vae, build_vocoder
from dear.codec.base import Codec, Vocoder
from dear.config import Config, ConfigError
from dear.files import errors_naming, read_text, regular_size, sha256
from dear.hub import REPOSITORY, SCHEME, CheckpointError, UnavailableError, fetch, kept_reference, upload
from dear.kinds import KINDS
from dear.layers import shapes_alone
from dear.model import MaskedModel
from dear.vocabulary import EMBEDDINGS, SOUNDS, Vocabulary, save_vocabulary
from dear.vocabulary import FOLDER as VOCABULARY

BUNDLED = bundled("mini")
CARD = "README.md"
SOURCES = ("source", "t5", "clap")  # fields of a configuration that name a folder or repository
MAX_TEXT = 2**20  # bytes of a configuration or a card
MAX_HEADER = 2**23  # bytes of the header of a file of weights


def resolve(
    source: str | Path | None,
    *,
    variants: Sequence[str] | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
) -> Path:
    """The local folder of a checkpoint.

    source: None for the bundled one; a folder; or "owner/name", downloaded from the Hub (or taken from its cache), as
        "hf://owner/name" even where a folder has that name.
    variants: those whose weights are needed; None: the configuration's default one; empty: none, and no codec.
    revision, token: branch, tag or commit, and access token, of a Hub repository.
    Raises CheckpointError.
    """
    if revision is not None and not (isinstance(revision, str) and revision):
        raise CheckpointError(f"revision must be a branch, tag or commit of a Hub repository, got {revision!r}")
    if source is not None and not isinstance(source, str | Path):
        raise CheckpointError(f"model must be a checkpoint's folder or owner/name on the Hub, got {source!r}")
    folder = BUNDLED if source is None else Path(source)
    on_hub = isinstance(source, str) and source.startswith(SCHEME)
    if not on_hub and folder.is_dir():
        if revision is not None:
            raise CheckpointError(
                f"revision applies to a Hub repository only, got {revision!r} for the folder {folder}"
            )
        return folder
    if source is None:
        raise CheckpointError(
            f"the bundled weights are missing: there is no folder {folder}; clone the repository whole"
        )
    name = source.removeprefix(SCHEME) if isinstance(source, str) else ""
    if not re.fullmatch(REPOSITORY, name) or (not on_hub and folder.exists()):
        raise CheckpointError(f"model must be a checkpoint's folder or owner/name on the Hub, got {str(source)!r}")
    try:
        with kept_reference(name, revision):  # the cache keeps an older commit until the new one is whole
            return _fetch(name, variants, revision, token)
    except UnavailableError as error:
        try:
            return _fetch(name, variants, revision, token, local=True)
        except CheckpointError:
            raise error from None


def _fetch(
    name: str,
    variants: Sequence[str] | None,
    revision: str | None,
    token: str | bool | None,
    local: bool = False,
) -> Path:
    """Download the configuration and the other files that :func:`resolve` needs, from one commit."""
    downloaded = fetch(name, ["config.json"], revision, token, local=local)
    config = load_config(downloaded)
    names = [_weights(variant, config) for variant in ((config.default_variant,) if variants is None else variants)]
    if not names:
        return downloaded
    # The commit that the configuration came from, wherever a branch has moved since.
    wanted = ["config.json", *names, "codec/*", f"{VOCABULARY}/*", CARD]
    return fetch(name, wanted, downloaded.name, token, local=local)


def load_config(folder: str | Path) -> Config:
    """Read ``config.json``. Raises CheckpointError if it is missing, and ConfigError, which names the file, if it is
    wrong.
    """
    path = Path(folder) / "config.json"
    try:
        text = read_text(path, MAX_TEXT)
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing: {folder} is not a checkpoint") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({error})") from None
    try:
        return Config.from_json(text, KINDS)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def check_sources(config: Config) -> None:
    """Raises CheckpointError where the budget wants published sources and the configuration names others.

    A configuration from elsewhere would else learn which folders exist here, and choose networks that fit no budget.
    """
    if not current().published:
        return
    for settings in (config.vae, config.vocoder, config.conditioning):
        for field in dataclasses.fields(settings):
            value = getattr(settings, field.name)
            if field.name in SOURCES and value != field.default:
                name = f"{settings.section}.{field.name}"
                raise CheckpointError(f"{name} must be {field.default!r} for a model of the Hub, got {value!r:.80}")


def load_card(folder: str | Path) -> str | None:
    """Read the model card, or return None if there is none. Raises CheckpointError if it cannot be read."""
    path = Path(folder) / CARD
    try:
        return read_text(path, MAX_TEXT)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({error})") from None


def load_model(
    folder: str | Path,
    config: Config,
    variant: str,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> MaskedModel:
    """The masked model of ``variant`` with its weights. Raises CheckpointError, which names the file and the fault."""
    path = Path(folder) / _weights(variant, config)
    _open(path)
    with shapes_alone():  # the tensors become those of the file
        model = MaskedModel(config, variant)
    model.load_state_dict(_read(path, model, dtype), assign=True)
    return model.eval().to(device)


def load_codec(folder: str | Path, config: Config, device: torch.device | str = "cpu") -> tuple[Codec, Vocoder]:
    """(vae, vocoder) with their weights in float32, from the checkpoint or from the source that it names.

    Raises CheckpointError as :func:`load_model` does, and if a source cannot be downloaded or does not fit.
    """
    codec = Path(folder) / "codec"
    sources = {part: _source(part, *named) for part, named in _named(config).items()}
    # Their tables (filters, windows) follow from the configuration, so they are built in place, without disturbing
    # the caller's random state, once their sizes are known to be those of the files.
    blueprints: list[tuple[str, Callable[[], nn.Module]]] = [("vae", lambda: build_vae(config.vae, config.mel))]
    if not VOCODERS[config.vocoder.kind].weightless:
        blueprints.append(("vocoder", lambda: build_vocoder(config.vocoder, config.mel)))
    try:
        with torch.random.fork_rng(devices=[]):
            for name, build in blueprints:
                if name not in sources:
                    _open(codec / f"{name}.safetensors")
                    with shapes_alone():
                        blueprint = build()
                    if blueprint.state_dict():
                        _compare(codec / f"{name}.safetensors", blueprint)
            vae = build_vae(config.vae, config.mel, sources.get("vae"))
            vocoder = build_vocoder(config.vocoder, config.mel, sources.get("vocoder"))
    except ValueError as error:
        raise error if isinstance(error, CheckpointError) else CheckpointError(str(error)) from error
    parts: dict[str, nn.Module] = {"vae": vae, "vocoder": vocoder}
    for name, part in parts.items():
        if name not in sources and part.state_dict():
            part.load_state_dict(_read(codec / f"{name}.safetensors", part, torch.float32), assign=True)
        part.eval().to(device, torch.float32)
    try:
        vae.check_weights()
    except ValueError as error:
        raise CheckpointError(f"{codec / 'vae.safetensors'} is damaged: {error}") from None
    return vae, vocoder


def _named(config: Config) -> dict[str, tuple[str, tuple[str, ...]]]:
    """{part: (source, files)} of the parts of the codec whose weights a checkpoint references and does not hold."""
    parts: dict[str, tuple[Any, type[Codec] | type[Vocoder]]] = {
        "vae": (config.vae, CODECS[config.vae.kind]),
        "vocoder": (config.vocoder, VOCODERS[config.vocoder.kind]),
    }
    return {name: (settings.source, kind.files) for name, (settings, kind) in parts.items() if kind.files}


def _source(part: str, source: str, names: tuple[str, ...]) -> Path:
    """The local folder with the files ``names`` of ``part``: ``source`` itself, or the folder of its download."""
    folder = Path(source)
    if not folder.is_dir():
        if not re.fullmatch(REPOSITORY, source):
            raise CheckpointError(f"{part}.source must be a folder or owner/name on the Hub, got {source!r}")
        folder = fetch(source, names)
    for name in names:
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder / name} is missing: {part}.source must hold {' and '.join(names)}")
    for name in names:
        if name.endswith(".safetensors"):
            _open(folder / name)
        current().charge(folder / name, (folder / name).stat().st_size)
    return folder


def digest(folder: str | Path, variant: str) -> str:
    """First 12 hexadecimal digits of the sha256 of the variant's weight file."""
    return sha256(Path(folder) / f"{variant}.safetensors")[:12]


def fingerprint(folder: str | Path) -> str:
    """First 12 hexadecimal digits of a sha256 over the configuration and all weights of a checkpoint.

    Raises CheckpointError if a file cannot be read, or is larger than its content.
    """
    folder, digest = Path(folder), hashlib.sha256()
    for path in sorted([folder / "config.json", *folder.glob("*.safetensors"), *folder.glob("codec/*.safetensors")]):
        try:
            if path.suffix == ".safetensors":
                _open(path)  # compares the size with the header
            elif (size := regular_size(path)) > MAX_TEXT:
                raise CheckpointError(f"{path} must be at most {MAX_TEXT} bytes, got {size}")
            digest.update(f"{path.relative_to(folder)} {sha256(path)}\n".encode())
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read ({error.strerror})") from None
    return digest.hexdigest()[:12]


def save_checkpoint(
    folder: str | Path,
    config: Config,
    models: Mapping[str, MaskedModel],
    vae: nn.Module,
    vocoder: nn.Module,
    card: str | None = None,
    vocabulary: Vocabulary | None = None,
) -> Path:
    """Write a whole checkpoint. It replaces an earlier one in ``folder``, which is kept if anything fails.

    models: one per variant of the configuration. card: the text of README.md. vocabulary: what the models were trained
        on.
    A codec that comes from AudioLDM is not written: the configuration names its source.
    Raises CheckpointError if variants and models differ, if ``folder`` holds something else, or if a weight does not
    fit half precision.
    """
    folder = Path(folder)
    if set(models) != set(config.variants):
        raise CheckpointError(f"models must be those of variants {sorted(config.variants)}, got {sorted(models)}")
    if folder.exists() and not (folder / "config.json").is_file() and (folder.is_file() or any(folder.iterdir())):
        raise CheckpointError(f"folder must be new, empty, or an earlier checkpoint, got {str(folder)!r}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        new = work / "new"
        with errors_naming(folder):
            (new / "codec").mkdir(parents=True)
            (new / "config.json").write_text(config.to_json(), encoding="utf-8")
            if card is not None:
                (new / CARD).write_text(card, encoding="utf-8")
            if vocabulary is not None:
                save_vocabulary(new, vocabulary)
            for variant, model in models.items():
                _write(new / _weights(variant, config), model)
            for name, part in (("vae", vae), ("vocoder", vocoder)):
                if name not in _named(config) and part.state_dict():
                    _write(new / "codec" / f"{name}.safetensors", part)
        if folder.exists():
            os.rename(folder, work / "old")
        try:
            os.rename(new, folder)
        except BaseException:  # Ctrl-C, too
            if (work / "old").exists():
                os.rename(work / "old", folder)
            raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return folder


def push(
    folder: str | Path,
    repository: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    commit_message: str | None = None,
) -> str:
    """Publish a checkpoint with all its variants, as one commit of a Hub repository. Returns the commit's address.

    The checkpoint is loaded once to check it. If neither it nor the repository has a model card, one is generated.
    The other arguments are those of :meth:`dear.pipeline.AudioDEAR.push_to_hub`. Raises CheckpointError and
    ConfigError.
    """
    folder = Path(folder)
    config = load_config(folder)
    for variant in config.variants:
        load_model(folder, config, variant)
    load_codec(folder, config)
    names = ["config.json", CARD, *(_weights(variant, config) for variant in config.variants)]
    names += [f"codec/{name}.safetensors" for name in ("vae", "vocoder") if name not in _named(config)]
    names += [f"{VOCABULARY}/{name}" for name in (SOUNDS, EMBEDDINGS)]
    return upload(
        {name: folder / name for name in names if (folder / name).is_file()},
        repository,
        commit_message or f"Upload {config.name}: {', '.join(config.variants)}",
        defaults={CARD: model_card(config)},
        private=private,
        revision=revision,
        token=token,
    )


def _weights(variant: str, config: Config) -> str:
    if variant not in config.variants:
        raise CheckpointError(f"variant must be one of {', '.join(config.variants)}, got {variant!r}")
    if not re.fullmatch(r"\w[\w-]*", variant):  # a configuration from elsewhere must not name files outside its folder
        raise CheckpointError(f"variant must be a plain name of letters, digits, _ and -, got {variant!r}")
    return f"{variant}.safetensors"


def _open(path: Path) -> safe_open:
    """Open a file. Its header is parsed and compared with its size."""
    try:
        regular_size(path)
        with open(path, "rb") as file:
            header = int.from_bytes(file.read(8), "little")
        if header > MAX_HEADER:
            raise CheckpointError(f"{path} must have a header of at most {MAX_HEADER} bytes, got {header}")
        return safe_open(str(path), "pt")
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing: download or train the checkpoint again") from None
    except (OSError, MemoryError, SafetensorError) as error:
        raise CheckpointError(f"{path} is truncated or damaged ({error}): download or train it again") from None


def _read(path: Path, part: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    """Read the weights of ``path`` as ``dtype``, after a check of their names and shapes against those of ``part``."""
    _compare(path, part)
    sizes = {name: value.numel() * dtype.itemsize for name, value in part.state_dict().items()}
    current().charge(path, sum(sizes.values()))
    weights: dict[str, Tensor] = {}
    try:
        with _open(path) as file:
            for name in sizes:
                weights[name] = file.get_tensor(name).to(dtype)
                current().check()
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} is truncated or damaged ({error}): download or train it again") from None
    for name, value in weights.items():
        if not value.isfinite().all():
            raise CheckpointError(f"{path} is damaged: {name} holds infinite or NaN values; download or train it again")
    return weights


def _compare(path: Path, part: nn.Module) -> None:
    """Raise CheckpointError unless the tensors of ``path`` have the names and shapes of those of ``part``."""
    wanted = {name: list(value.shape) for name, value in part.state_dict().items()}
    with _open(path) as file:
        found = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 - not a dict
        wrong = [f"{name} is missing" for name in wanted if name not in found]
        wrong += [f"{name} is unknown" for name in found if name not in wanted]
        wrong += [f"{n} has shape {found[n]}, not {wanted[n]}" for n in wanted if n in found and found[n] != wanted[n]]
        if wrong:
            more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
            raise CheckpointError(f"{path} does not fit its configuration: {'; '.join(wrong[:3])}{more}")


def _write(path: Path, part: nn.Module) -> None:
    """Parameters in float16, buffers in float32."""
    parameters = {name for name, _ in part.named_parameters()}
    weights = {}
    for name, value in part.state_dict().items():
        value = value.detach().to("cpu", torch.float16 if name in parameters else torch.float32)
        if not value.isfinite().all():
            raise CheckpointError(f"{path.name}: {name} must be finite in {value.dtype}, got infinite or NaN values")
        weights[name] = value.contiguous().clone()
    path.write_bytes(save(weights))
