"""Write into a checkpoint what its model was trained on, and measure how well it tells known prompts from others.

    python -m training.vocabulary CHECKPOINT [--sounds NAME ...] [--prompts FILE]

The sounds are those of the vocabulary, or those named, which may be families. Their wordings and embeddings are what
``AudioDEAR.nearest`` compares prompts with. The table shows the share of prompts below each threshold, of held-back
wordings, of plain prompts of ``training/data/probes.yaml`` for these sounds, and of prompts for other sounds.
``--prompts`` writes prompts that training never showed, plain ones first, for ``python -m dear.evaluation.score``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml
from torch import Tensor

from dear.checkpoint import load_config
from dear.conditioning import build_text_encoder
from dear.files import write_json
from dear.vocabulary import Vocabulary, save_vocabulary
from training.data.vocabulary import SOUNDS, embedded, known_sounds, select
from training.runtime.commands import guarded

PROBES = Path(__file__).parent / "data" / "probes.yaml"
THRESHOLDS = (0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75)


def unseen(names: Sequence[str]) -> dict[str, list[str]]:
    """Prompts by sound that training never showed: plain ones, then the held-back wordings."""
    plain = yaml.safe_load(PROBES.read_text(encoding="utf-8"))["plain"]
    return {name: [*plain.get(name, ()), *SOUNDS[name].wordings.held_back] for name in names}


def probes(names: Sequence[str]) -> dict[str, list[str]]:
    """Prompts by kind that training never showed to a model of the sounds ``names``."""
    stored = yaml.safe_load(PROBES.read_text(encoding="utf-8"))
    plain = {label: prompts for label, prompts in stored["plain"].items() if label in names}
    others = [prompt for label, prompts in stored["plain"].items() if label not in names for prompt in prompts]
    return {
        "held-back wordings": [text for name in names for text in SOUNDS[name].wordings.held_back],
        "plain prompts": [prompt for prompts in plain.values() for prompt in prompts],
        "other sounds": [*others, *stored["unknown"]],
    }


def table(vocabulary: Vocabulary, similarities: dict[str, Tensor]) -> str:
    """Markdown: the share of prompts below each threshold. similarities: of each prompt to its nearest wording."""
    titles = [f"{name} ({len(values)})" for name, values in similarities.items()]
    lines = [f"| threshold | {' | '.join(titles)} |", "|---|" + "---|" * len(titles)]
    for threshold in THRESHOLDS:
        shares = " | ".join(f"{(values < threshold).float().mean():.0%}" for values in similarities.values())
        mark = "**" if threshold == vocabulary.threshold else ""
        lines.append(f"| {mark}{threshold:g}{mark} | {shares} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training.vocabulary", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path, help="its folder")
    parser.add_argument("--sounds", nargs="+", default=[], metavar="NAME", help="sounds or families; all by default")
    parser.add_argument("--prompts", type=Path, metavar="FILE", help="write unseen prompts there, as JSON")
    options = parser.parse_args(arguments)

    def run() -> None:
        names = select(options.sounds) or tuple(SOUNDS)
        encoder = build_text_encoder(load_config(options.checkpoint).conditioning)
        vocabulary = embedded(known_sounds(names), encoder)
        save_vocabulary(options.checkpoint, vocabulary)
        if options.prompts is not None:
            write_json(options.prompts, unseen(names))
        assert vocabulary.embeddings is not None
        known = vocabulary.embeddings.vectors.T
        found = {name: (encoder.embed(texts) @ known).amax(dim=1) for name, texts in probes(names).items() if texts}
        print(table(vocabulary, found))

    return guarded(run)


if __name__ == "__main__":
    sys.exit(main())
