"""Measure a training step at the paper's size: ``python tests/helpers/full_size.py DIR``.

Runs the real commands on stand-ins: the codec has AudioLDM's full size and random weights, the text encoders are tiny
ones with embeddings of the real width. A few sounds of noise are encoded, then the teacher is trained for some steps
and the student under it, each in a process of its own, which reports its memory and speed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import soundfile
import torch
import yaml
from diffusers import AutoencoderKL
from encoders import tiny_clap, tiny_t5

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from dear.codec import audioldm  # noqa: E402
from training.data.manifest import Entry, write_manifest  # noqa: E402

SOUNDS, RATE = 8, 16000


def stand_ins(folder: Path) -> dict[str, dict[str, str]]:
    """Encoders written to ``folder``, and where the recipe's model finds them."""
    torch.manual_seed(0)
    AutoencoderKL(**audioldm.AUTOENCODER).save_pretrained(folder / "audioldm" / "vae")
    for name in ("t5", "clap"):
        (folder / name).mkdir(exist_ok=True)
    conditioning = {"t5": str(tiny_t5(folder / "t5", width=1024)), "clap": str(tiny_clap(folder / "clap", width=512))}
    return {"vae": {"source": str(folder / "audioldm")}, "conditioning": conditioning}


def manifest(folder: Path) -> Path:
    noise = np.random.default_rng(0)
    entries = []
    for i in range(SOUNDS):
        path = folder / f"{i}.wav"
        soundfile.write(path, noise.normal(0, 0.1, 10 * RATE), RATE)
        entries.append(
            Entry(str(i), path, "noise", ("a dog barks",), duration=10.0, sample_rate=RATE, channels=1, digest=str(i))
        )
    write_manifest(folder / "sounds.jsonl", entries)
    return folder / "sounds.jsonl"


def recipe(name: str, folder: Path, sources: dict[str, dict[str, str]], batch_size: int, precision: str) -> Path:
    settings = yaml.safe_load((ROOT / "training" / "configs" / name).read_text(encoding="utf-8"))
    for section, values in sources.items():
        settings["model"][section] |= values
    settings["train"] |= {"batch_size": batch_size, "micro_batch": batch_size, "precision": precision}
    settings["samples"] = {"prompts": ["a dog barks"], "every": 0}
    (folder / name).write_text(json.dumps(settings), encoding="utf-8")
    return folder / name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a new folder")
    parser.add_argument("--form", choices=("base", "base-visible"), default="base")
    parser.add_argument("--batch-size", type=int, default=2, help="sounds in each step")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--precision", choices=("no", "bf16"), default="no")
    options = parser.parse_args()
    folder = options.folder.absolute()
    folder.mkdir(parents=True)
    sources, sounds = stand_ins(folder), manifest(folder)
    recipes = [
        str(recipe(name, folder, sources, options.batch_size, options.precision))
        for name in (f"{options.form}-teacher.yaml", f"{options.form}-student.yaml")
    ]
    cache, taught, learned = (str(folder / name) for name in ("cache", "teacher", "student"))
    data = ["--data", cache, "--max-steps", str(options.steps)]
    run("encode", "--manifest", str(sounds), "--config", recipes[0], "--out", cache)
    run("teacher", "--config", recipes[0], *data, "--out", taught)
    run("distill", "--config", recipes[1], *data, "--out", learned, "--teacher", f"{taught}/checkpoint")
    for name in (taught, learned):
        summary = json.loads((Path(name) / "summary.json").read_text(encoding="utf-8"))
        print(f"{name}: {summary['seconds'] / summary['steps']:.3g} s a step of {options.batch_size} sounds")


def run(name: str, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", f"training.{name}", *arguments], check=True, cwd=ROOT)


if __name__ == "__main__":
    main()
