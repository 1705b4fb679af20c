"""Write which of AudioSet's names count as right for each label of the vocabulary, for judges of AudioSet's classes.

python -m training.audioset [--out assets/audioset.json]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from dear.evaluation.judge.answers import AUDIOSET
from dear.files import write_json
from training.runtime.commands import guarded

VOCABULARY = Path(__file__).parent / "data" / "vocabulary"


def audioset_names(folder: Path = VOCABULARY) -> dict[str, list[str]]:
    """``{label: [names]}`` of each sound in the YAML files of ``folder``, and of each label of its recordings.

    Sounds without a name in AudioSet are left out.
    """
    found: dict[str, list[str]] = {}
    for path in sorted(folder.glob("*.yaml")):
        for sound, entry in yaml.safe_load(path.read_text(encoding="utf-8")).items():
            for label in dict.fromkeys((sound, *entry.get("labels", ()))):
                names = found.setdefault(label, [])
                names += [name for name in entry.get("audioset", ()) if name not in names]
    return {label: names for label, names in sorted(found.items()) if names}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m training.audioset", description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=AUDIOSET, help="the JSON file to write")
    options = parser.parse_args(arguments)
    return guarded(lambda: write_json(options.out, audioset_names()))


if __name__ == "__main__":
    sys.exit(main())
