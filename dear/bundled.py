"""Find the files that ship with the package: the bundled model, the classifier and the evaluation prompts."""

from __future__ import annotations

from pathlib import Path


def bundled(name: str) -> Path:
    """Path of ``name`` in ``assets``, which lies inside an installed package and beside the package in a checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "assets"
    return (inside if inside.is_dir() else package.with_name("assets")) / name
