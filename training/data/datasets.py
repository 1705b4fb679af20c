"""Readers of published audio datasets on disk, which yield entries of a manifest.

Each reader takes the folder of the sounds (searched with its subfolders) and the dataset's own tables, and yields an
:class:`~training.data.manifest.Entry` for each sound that is there, and a :class:`Skipped` for each that is not, in the
order of the tables. Sound files are only listed here, never opened. Tables that are not of the published format raise
:class:`DatasetError` naming file and line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from training.data.manifest import Entry, clean_caption
from training.data.tables import (
    DatasetError,
    Skipped,
    find_sounds,
    label_captions,
    read_json,
    read_plain_rows,
    read_rows,
    sound_generator,
    with_captions,
)

# WavCaps' four parts: name of the table's file -> (folder, prefix of a source, key in a blacklist)
WAVCAPS = {
    "as_final": ("AudioSet_SL", "youtube", "AudioSet"),
    "bbc_final": ("BBC_Sound_Effects", "bbc", "BBC_Sound_Effects"),
    "fsd_final": ("FreeSound", "freesound", "FreeSound"),
    "sb_final": ("SoundBible", "soundbible", "SoundBible"),
}


def audiocaps(audio: Path, metadata: Sequence[Path], seed: int) -> Iterator[Entry | Skipped]:
    """AudioCaps: ``train.csv``, ``val.csv``, ``test.csv``; sounds named by caption id, YouTube id or ``Y`` + that.

    Rows of one clip become one entry with all its captions; of ``test.csv`` one of them is drawn, by ``seed`` and the
    clip alone.
    """
    sounds = find_sounds(audio)
    for table in metadata:
        clips: dict[tuple[str, str], list[dict[str, str]]] = {}
        for _, row in read_rows(table, ("audiocap_id", "youtube_id", "start_time", "caption")):
            clips.setdefault((row["youtube_id"], row["start_time"]), []).append(row)
        for (video, start), rows in clips.items():
            name = f"{video}_{start}"
            places = [*(row["audiocap_id"] for row in rows), video, f"Y{video}"]
            path = next((sounds[place] for place in places if place in sounds), None)
            if path is None:
                yield Skipped(name, "", "missing", f"no {', '.join(dict.fromkeys(places))} below {audio}")
                continue
            captions = [caption for row in rows if (caption := clean_caption(row["caption"]))]
            if table.stem == "test" and captions:
                captions = [captions[sound_generator(seed, name).integers(len(captions))]]
            entry = Entry(name, path, "audiocaps", tuple(captions), source=f"youtube:{video}", split=table.stem)
            yield with_captions(entry)


def wavcaps(
    audio: Path, metadata: Sequence[Path], seed: int, blacklists: Sequence[Path] = ()
) -> Iterator[Entry | Skipped]:
    """WavCaps: ``as_final.json``, ``bbc_final.json``, ``fsd_final.json``, ``sb_final.json``; sounds ``<id>.flac``.

    The sounds of a part lie in its own folder below ``audio`` (``FreeSound``, say), or in ``audio`` itself where only
    one table is given. ``blacklists``: WavCaps' own, as ``blacklist_exclude_all_ac.json``.
    """
    banned: set[tuple[str, str]] = set()
    for blacklist in blacklists:
        lists = read_json(blacklist)
        if not (isinstance(lists, dict) and all(isinstance(names, list) for names in lists.values())):
            raise DatasetError(f"{blacklist} must hold lists of ids by part, as WavCaps' blacklists do")
        banned |= {(part, str(name).removesuffix(".wav")) for part, names in lists.items() for name in names}
    for table in metadata:
        part = next((value for key, value in WAVCAPS.items() if table.stem.startswith(key)), None)
        if part is None:
            raise DatasetError(f"a table of WavCaps must be named {', '.join(WAVCAPS)} (.json), got {table}")
        folder, prefix, key = part
        if len(metadata) > 1 and not (audio / folder).is_dir():
            raise DatasetError(f"{audio} must hold the folder {folder}, as several tables are given; it does not")
        sounds = find_sounds(audio / folder if (audio / folder).is_dir() else audio)
        data = read_json(table)
        if not (isinstance(data, dict) and isinstance(data.get("data"), list)):
            raise DatasetError(f"{table} must be an object with a list 'data'")
        for number, row in enumerate(data["data"]):
            if not (isinstance(row, dict) and isinstance(row.get("id"), str | int) and "caption" in row):
                raise DatasetError(f"{table}: data[{number}] must be an object with id and caption, got {row!r}")
            stem = str(row["id"]).removesuffix(".wav")
            name, path = f"{folder}/{stem}", sounds.get(stem)
            if (key, stem) in banned:
                yield Skipped(name, str(path or ""), "blacklisted")
            elif path is None:
                yield Skipped(name, "", "missing", f"no {stem} below {audio}")
            else:
                recording = stem.removeprefix("Y") if prefix == "youtube" else stem
                caption = clean_caption(row["caption"])
                yield with_captions(
                    Entry(
                        name,
                        path,
                        "wavcaps",
                        (caption,) if caption else (),
                        source=f"{prefix}:{recording}",
                        licence="academic use",
                        split="train",
                    )
                )


def audioset(audio: Path, metadata: Sequence[Path], seed: int) -> Iterator[Entry | Skipped]:
    """AudioSet, without captions: ``*_segments.csv``; sounds named by YouTube id or ``Y`` + that, cut to the segment.

    The folder decides: rows without a sound are ignored, since few people have all two million; a sound without a row
    is skipped. Labels are the ontology's ids.
    """
    segments: dict[str, tuple[str, tuple[str, ...]]] = {}
    for table in metadata:
        for line, row in read_plain_rows(table):
            if row and not row[0].startswith("#"):
                if len(row) != 4:
                    raise DatasetError(f"{table}, line {line}: must have 4 columns, got {len(row)}")
                segments[row[0]] = (table.stem.removesuffix("_segments"), tuple(filter(None, row[3].split(","))))
    for stem, path in find_sounds(audio).items():
        video = stem if stem in segments else stem.removeprefix("Y")
        if video not in segments:
            yield Skipped(stem, str(path), "missing", "no row in the tables")
            continue
        split, labels = segments[video]
        yield Entry(video, path, "audioset", None, source=f"youtube:{video}", labels=labels, split=split)


def esc50(audio: Path, metadata: Sequence[Path], seed: int) -> Iterator[Entry | Skipped]:
    """ESC-50: ``meta/esc50.csv``; splits are its folds; captions come from the classes."""
    yield from _esc(audio, metadata, seed, "esc50")


def esc10(audio: Path, metadata: Sequence[Path], seed: int) -> Iterator[Entry | Skipped]:
    """The CC-BY part of ESC-50: the rows of ``meta/esc50.csv`` that belong to ESC-10."""
    yield from _esc(audio, metadata, seed, "esc10")


def _esc(audio: Path, metadata: Sequence[Path], seed: int, dataset: str) -> Iterator[Entry | Skipped]:
    sounds = find_sounds(audio)
    for table in metadata:
        for _, row in read_rows(table, ("filename", "fold", "category", "esc10", "src_file")):
            cleared = row["esc10"] == "True"
            if cleared or dataset == "esc50":
                licence = "CC-BY" if cleared else "CC-BY-NC"
                source = f"freesound:{row['src_file']}"
                yield _labelled(sounds, row["filename"], row["category"], dataset, source, licence, row["fold"], seed)


def clips(audio: Path, metadata: Sequence[Path], seed: int) -> Iterator[Entry | Skipped]:
    """A folder of labelled clips: ``clips.csv`` with ``file,fold,label,title,source,author,license``."""
    sounds = find_sounds(audio)
    for table in metadata:
        for _, row in read_rows(table, ("file", "fold", "label", "source", "license")):
            found = re.search(r"freesound\.org/(?:.*/)?(?:sounds|s)/(\d+)", row["source"])
            source = f"freesound:{found[1]}" if found else row["source"] or None
            licence = row["license"] or None
            yield _labelled(sounds, row["file"], row["label"], "clips", source, licence, row["fold"], seed)


def _labelled(
    sounds: dict[str, Path],
    file: str,
    label: str,
    dataset: str,
    source: str | None,
    licence: str | None,
    fold: str,
    seed: int,
) -> Entry | Skipped:
    """The entry of a sound that has a class in place of a caption."""
    name = Path(file).stem
    if name not in sounds:
        return Skipped(name, "", "missing", f"no {file}")
    captions = label_captions(label, sound_generator(seed, name))
    return with_captions(Entry(name, sounds[name], dataset, captions, source, (label,), licence, f"fold{fold}"))
