"""The parts of a card that describe recordings: sounds and families, collections, origins, licences and authors."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from training.data.clips import Clip
from training.data.vocabulary import SOUNDS

ESC = 'K. J. Piczak, "ESC: Dataset for Environmental Sound Classification", 2015'
CITATIONS = {"esc10": ESC, "esc50": ESC}  # by the name of a folder of recordings


def collections(clips: Iterable[Clip]) -> dict[str, list[Clip]]:
    """{name of a folder of recordings: its clips}."""
    found: dict[str, list[Clip]] = {}
    for clip in clips:
        found.setdefault(clip.path.parent.parent.name, []).append(clip)
    return found


def counted(names: Iterable[str]) -> str:
    """Each name with its count, the most frequent first: "freesound.org (3), openslr.org (1)"."""
    return ", ".join(f"{name} ({count:,})" for name, count in Counter(names).most_common())


def origin(clip: Clip) -> str:
    """The host of a recording's address, or what its source names first."""
    address = re.search(r"https?://(?:www\.)?([^/\s]+)", clip.source)
    return address[1] if address else clip.source.partition(" (")[0]


def attribution(clips: Sequence[Clip]) -> str:
    """Markdown: for each collection its origins and licences, and a credit for every recording."""
    parts = [f"They were trained on {len(clips):,} recordings:"]
    for name, members in collections(clips).items():
        cited = f" ({CITATIONS[name]})" if name in CITATIONS else ""
        parts.append(
            f"{f'`{name}`' if name else 'Recordings'}{cited}: {counted(map(origin, members))}; "
            f"licences: {counted(clip.license for clip in members)}."
        )
        parts.append("\n".join(credits(members)))
    return "\n\n".join(parts)


def credits(clips: Iterable[Clip]) -> list[str]:
    """A line for each author, licence and source, with the titles of their recordings."""
    titles: dict[tuple[str, str, str], dict[str, None]] = {}
    for clip in clips:
        titles.setdefault((clip.author, clip.license, clip.source), {})[f'"{clip.title}"'] = None
    return [
        f"- {', '.join(named)}{f' by {author}' if author else ''}, {license}, {source}"
        for (author, license, source), named in titles.items()
    ]


def readable(name: str) -> str:
    return name.replace("_", " ")


def families(names: Iterable[str]) -> dict[str, list[str]]:
    """{family: its sounds among ``names``}, both as text."""
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(readable(SOUNDS[name].family), []).append(readable(name))
    return found


def vocabulary_table(names: Sequence[str]) -> str:
    """Markdown: the sounds of each family."""
    rows = "\n".join(f"| {family} | {', '.join(sounds)} |" for family, sounds in families(names).items())
    return f"| family | sounds |\n|---|---|\n{rows}"
