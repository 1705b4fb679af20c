"""The model card of a checkpoint: Markdown under the Hub's front matter."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dear.codec import CODECS, VOCODERS
from dear.conditioning import ENCODERS
from dear.config import Config
from dear.heads import HEADS
from dear.layers import shapes_alone
from dear.model import MaskedModel


@dataclass(frozen=True)
class Facts:
    """Facts about a checkpoint that its configuration does not hold. A card omits unknown facts."""

    license: str | None = None  # of the weights, as the Hub spells it: cc-by-4.0
    datasets: Sequence[str] = ()  # trained on, as the Hub names them: owner/name
    about: str | None = None  # a paragraph: what it can do and what not
    data: str | None = None  # a paragraph: what it was trained on
    licences: str | None = None  # a paragraph: of the weights and the data, and whom to thank
    metrics: Mapping[str, float] = field(default_factory=dict)  # {name: value}
    measured_with: str | None = None  # the command that measured them
    made_with: str | None = None  # the command that made the weights
    git_commit: str | None = None  # the commit of this code that made them


def model_card(config: Config, facts: Facts | None = None) -> str:
    """The text of README.md. Without ``facts`` it describes the configuration."""
    facts, mel = facts or Facts(), config.mel
    heads = dict.fromkeys(_head(config, variant).replace(" ", "-") for variant in config.variants)
    front = front_matter(("text-to-audio", *heads), facts.license, facts.datasets, tuple(facts.metrics))
    rows = "\n".join(f"| {name} | {value:.4g} |" for name, value in facts.metrics.items())
    sections = {
        f"# AudioDEAR {config.name}": (
            f"Text to {mel.samples / mel.sample_rate:g} seconds of sound ({mel.sample_rate / 1000:g} kHz, mono): a "
            f"masked transformer fills {config.length} tokens of {config.vae.token_dim} values in a few iterations; a "
            "head draws each token.",
            facts.about,
            anatomy(config),
        ),
        "## Data": (facts.data,),
        "## Licences": (facts.licences,),
        "## Measured": (
            rows and f"| metric | value |\n|---|---|\n{rows}",
            facts.measured_with and f"    {facts.measured_with}",
        ),
        "## How it was made": (
            facts.made_with and f"    {facts.made_with}",
            facts.git_commit and f"Commit of the code: {facts.git_commit}.",
        ),
    }
    text = ("\n\n".join((title, *filter(None, parts))) for title, parts in sections.items() if any(parts))
    return front + "\n" + "\n\n".join(text) + "\n"


def front_matter(
    tags: Sequence[str], license: str | None = None, datasets: Sequence[str] = (), metrics: Sequence[str] = ()
) -> str:
    """The front matter that the Hub reads from a card, in YAML."""
    lines = [f"license: {_yaml(license)}"] if license else []
    lines += ["library_name: audiodear", "pipeline_tag: text-to-audio"]
    for key, values in (("tags", tags), ("datasets", datasets), ("metrics", metrics)):
        if values:
            lines.append(f"{key}: [{', '.join(map(_yaml, values))}]")
    return "\n".join(["---", *lines, "---"]) + "\n"


def anatomy(config: Config) -> str:
    """The table of variants, and what makes sound and conditioning."""
    rows = []
    for name, variant in config.variants.items():
        with shapes_alone():
            size = sum(p.numel() for p in MaskedModel(config, name).parameters()) / 1e6
        title = f"{name} (default)" if name == config.default_variant else name
        steps = f"{variant.sampling.steps} step" + ("s" if variant.sampling.steps > 1 else "")
        rows.append(f"| {title} | {size:.2f} M | {_head(config, name)}, {steps} | `{name}.safetensors` |")
    vae, vocoder = config.vae, config.vocoder
    codec = _named(vae, CODECS[vae.kind].files) or " on log-mel patches"
    sound = _named(vocoder, VOCODERS[vocoder.kind].files)
    table = "\n".join(["| variant | parameters | head | file |", "|---|---|---|---|", *rows])
    return (
        f"{table}\n\nCodec: `{vae.kind}`{codec}; vocoder: `{vocoder.kind}`{sound}. "
        f"Text: {ENCODERS[config.conditioning.kind].title} (not part of\nthese files). Weights are float16 on disk."
    )


def _named(settings: Any, files: tuple[str, ...]) -> str:
    return f" of {settings.source} (not part of these files)" if files else ""


def _head(config: Config, variant: str) -> str:
    return HEADS[config.variants[variant].head.kind].title.lower()


def _yaml(text: str) -> str:
    """A plain scalar if that is safe, otherwise a quoted one. JSON strings are valid YAML."""
    return text if re.fullmatch(r"[A-Za-z][\w./-]*", text) else json.dumps(text)
