"""Draw the figures of docs/architecture.md: ``python docs/figures/draw.py`` writes two SVG files beside this script.

``pipeline.svg`` takes its shapes from the bundled model's config.json; ``rooms.svg`` takes its floors from the import
contract in pyproject.toml. ``make docs`` runs this script first.
"""

from __future__ import annotations

import html
import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]

INK, MUTED, PAPER, EDGE = "#1d2b2a", "#5b6b69", "#ffffff", "#9db3b0"
DATA, NETWORK, TRAINED = "#eef3f2", "#cfe6e1", "#8fcabd"  # fills: data, frozen or fixed modules, trained modules
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"


def text(x: float, y: float, words: str, size: int = 15, colour: str = INK, weight: int = 400) -> str:
    """One line of text, centred at (x, y)."""
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size}" font-weight="{weight}" fill="{colour}" '
        f'text-anchor="middle" dominant-baseline="middle">{html.escape(words)}</text>'
    )


def box(x: float, y: float, width: float, height: float, fill: str, title: str, detail: str = "") -> str:
    """A rounded box with its upper left corner at (x, y), a title, and a smaller second line."""
    middle = x + width / 2
    lines = (
        text(middle, y + height / 2 - 10, title, weight=600) + text(middle, y + height / 2 + 11, detail, 13, MUTED)
        if detail
        else text(middle, y + height / 2, title, weight=600)
    )
    shape = f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="8" fill="{fill}" stroke="{EDGE}"/>'
    return shape + lines


def arrow(*points: tuple[float, float]) -> str:
    """A line through ``points`` with a head at the last one."""
    path = "M" + " L".join(f"{x:g} {y:g}" for x, y in points)
    return f'<path d="{path}" fill="none" stroke="{MUTED}" stroke-width="1.6" marker-end="url(#head)"/>'


def picture(width: int, height: int, label: str, parts: Sequence[str]) -> str:
    """A whole SVG file. ``label`` is its text alternative."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{html.escape(label)}" font-family="{html.escape(FONT)}">\n'
        f'<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        f'<path d="M0 0L8 4L0 8z" fill="{MUTED}"/></marker></defs>\n'
        f'<rect width="{width}" height="{height}" rx="12" fill="{PAPER}"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def pipeline(config: dict[str, Any]) -> str:
    """The way from a prompt to a sound, with the shapes of ``config`` (a checkpoint's config.json)."""
    mel, vae = config["mel"], config["vae"]
    frames, bands = mel["frames"], mel["n_mels"]
    length = (frames // vae["patch_frames"]) * (bands // vae["patch_mels"])
    seconds = mel["samples"] / mel["sample_rate"]
    tokens, width = f"[{length}, {vae['token_dim']}]", config["backbone"]["width"]
    top, middle, bottom, high = 30, 150, 290, 64
    return picture(
        1000,
        410,
        "A prompt is encoded as a conditioning sequence. A masked transformer and a head fill the audio tokens in "
        "several iterations. A codec turns the tokens into a log-mel spectrogram, and a vocoder turns that into sound.",
        [
            box(30, top, 150, high, DATA, "prompt", "text"),
            arrow((180, top + 32), (230, top + 32)),
            box(230, top, 190, high, NETWORK, "text encoder", "frozen"),
            arrow((420, top + 32), (470, top + 32)),
            box(470, top, 210, high, DATA, "conditioning", f"[T, {config['conditioning']['dim']}]"),
            arrow((575, top + high), (575, top + 90), (325, top + 90), (325, middle)),
            box(30, middle, 150, high, DATA, "audio tokens", tokens),
            arrow((180, middle + 32), (230, middle + 32)),
            box(230, middle, 190, high, TRAINED, "masked transformer", "dear/backbone.py"),
            arrow((420, middle + 32), (470, middle + 32)),
            box(470, middle, 210, high, DATA, "contexts", f"[N, {width}] per branch"),
            arrow((680, middle + 32), (730, middle + 32)),
            box(730, middle, 240, high, TRAINED, "guidance and head", "dear/heads/"),
            arrow((850, middle + high), (850, middle + 100), (140, middle + 100), (140, middle + high)),
            text(495, middle + 88, f"N new tokens per iteration, until all {length} are known", 14, MUTED),
            arrow((70, middle + high), (70, bottom + 32), (110, bottom + 32)),
            text(70, bottom + 52, "all known", 13, MUTED),
            box(110, bottom, 190, high, TRAINED, "codec decoder", "dear/codec/"),
            arrow((300, bottom + 32), (350, bottom + 32)),
            box(350, bottom, 180, high, DATA, "log-mel", f"[{frames}, {bands}]"),
            arrow((530, bottom + 32), (580, bottom + 32)),
            box(580, bottom, 150, high, NETWORK, "vocoder", "dear/codec/"),
            arrow((730, bottom + 32), (780, bottom + 32)),
            box(780, bottom, 190, high, DATA, "waveform", f"{seconds:g} s at {mel['sample_rate'] // 1000} kHz"),
            text(500, 386, "dark: trained here   ·   medium: frozen or without weights   ·   light: data", 13, MUTED),
        ],
    )


def rooms(contract: dict[str, Any]) -> str:
    """The layers of an import contract, the highest on top; each line imports only from the lines below it."""
    layers = [[name.strip().removeprefix("dear.") for name in layer.split("|")] for layer in contract["layers"]]
    high, gap, wide, parts = 34, 8, 880, []
    for row, names in enumerate(layers):
        y, width = 24 + row * (high + gap), (wide - gap * (len(names) - 1)) / len(names)
        for column, name in enumerate(names):
            x = 60 + column * (width + gap)
            parts += [
                f'<rect x="{x:g}" y="{y}" width="{width:g}" height="{high}" rx="6" fill="{NETWORK}" stroke="{EDGE}"/>',
                text(x + width / 2, y + high / 2 + 1, name, 14, weight=600),
            ]
    bottom = 24 + len(layers) * (high + gap)
    parts += [arrow((36, 30), (36, bottom - gap - 6)), text(500, bottom + 10, "imports go down only", 13, MUTED)]
    return picture(1000, bottom + 30, f"The layers of the package dear, from {layers[0][0]} to {layers[-1][0]}.", parts)


def main() -> None:
    config = json.loads((ROOT / "assets" / "mini" / "config.json").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (HERE / "pipeline.svg").write_text(pipeline(config), encoding="utf-8")
    (HERE / "rooms.svg").write_text(rooms(project["tool"]["importlinter"]["contracts"][0]), encoding="utf-8")


if __name__ == "__main__":
    main()
