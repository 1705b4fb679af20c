"""Check the content of a sound file. It is decoded once in blocks, so that hours of sound need little memory."""

from __future__ import annotations

import hashlib
import os
import re
from typing import Any

import numpy as np
import soundfile

from dear.audio import AudioError, blocks, open_sound

SHORTEST = 0.01  # seconds; a shorter sound is at most a click
SILENCE = 1e-4  # a sound whose peak is lower is silent
UNKNOWN_LENGTH = 0x7FFFFFFF  # a WAV that declares at least this length was written without knowing it


def probe(path: str) -> dict[str, Any]:
    """``sample_rate``, ``channels``, ``frames`` (samples per channel) and ``digest`` of the file's sound.

    For an unusable file, ``reason`` (missing, empty, broken, short or silent) and ``detail``. The digest is that
    of the decoded samples: lossless copies in other containers have the same.
    """
    try:
        if not os.path.getsize(path):
            return _unusable("empty", "0 bytes")
        with open_sound(path, os.path.basename(path)) as file:
            return _measure(file)
    except FileNotFoundError:
        return _unusable("missing", "no such file")
    except (OSError, AudioError) as error:
        return _unusable("broken", str(error))


def _measure(file: soundfile.SoundFile) -> dict[str, Any]:
    if not (cut := _missing_bytes(file.extra_info)):
        digest = hashlib.sha256(f"{file.samplerate} {file.channels}\n".encode())
        frames, peak = 0, 0.0
        for block in blocks(file, file.frames):
            if not np.isfinite(block).all():
                return _unusable("broken", "infinite or undefined samples")
            frames += len(block)
            peak = max(peak, float(np.abs(block).max(initial=0.0)))
            digest.update(np.ascontiguousarray(block).tobytes())
        if frames < file.frames:
            return _unusable("broken", f"{frames} of {file.frames} samples")
        if not frames:
            return _unusable("empty", "no samples")
        if frames < SHORTEST * file.samplerate:
            return _unusable("short", f"{frames} samples")
        if peak < SILENCE:
            return _unusable("silent", f"peak {peak:.1e}")
        return {
            "sample_rate": file.samplerate,
            "channels": file.channels,
            "frames": frames,
            "digest": digest.hexdigest()[:16],
        }
    return _unusable("broken", f"cut short by {cut} bytes")


def _missing_bytes(log: str) -> int:
    """Bytes by which a WAV ends before its declared length. libsndfile reads such a file as a shorter one."""
    found = re.search(r"^data : (\d+) \(should be (\d+)\)", log, re.MULTILINE)
    if found is None or int(found[1]) >= UNKNOWN_LENGTH:
        return 0
    missing = int(found[1]) - int(found[2])
    return missing if missing > 1 else 0  # one: the byte that pads an odd chunk


def _unusable(reason: str, detail: str) -> dict[str, Any]:
    return {"reason": reason, "detail": detail}
