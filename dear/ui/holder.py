"""The one model that all visitors of a page share, and how it is exchanged."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from dear.checkpoint import CheckpointError
from dear.pipeline import AudioDEAR


@dataclass(frozen=True, eq=False)
class _Held:
    model: AudioDEAR
    source: str | None
    revision: str | None
    others: dict[str, AudioDEAR] = field(default_factory=dict)


class Holder:
    """Who needs the model asks for it once per request, so that an exchange never reaches a request in flight."""

    def __init__(self, model: AudioDEAR, source: str | None = None, revision: str | None = None):
        """source, revision: where ``model`` came from, as in :meth:`AudioDEAR.from_pretrained`."""
        self._held = _Held(model, source, revision)
        self._loading = threading.Lock()

    @property
    def model(self) -> AudioDEAR:
        return self._held.model

    @property
    def source(self) -> str:
        """Where the model came from, in words."""
        held = self._held
        if held.source is None:
            return "the bundled weights"
        return held.source + (f" at {held.revision}" if held.revision else "")

    @property
    def bundled(self) -> bool:
        return self._held.source is None

    def variant(self, name: str) -> AudioDEAR:
        """Another variant of the same checkpoint, loaded when it is first asked for. Raises CheckpointError."""
        return self.variants(name)[0]

    def variants(self, *names: str) -> list[AudioDEAR]:
        """Several variants of one checkpoint, whatever takes its place meanwhile. Raises CheckpointError."""
        held = self._held
        known = held.model.config.variants
        for name in names:
            if not isinstance(name, str) or name not in known:
                raise CheckpointError(f"variant must be one of {', '.join(known)}, got {name!r:.60}")
        return [self._variant(held, name) for name in names]

    def _variant(self, held: _Held, name: str) -> AudioDEAR:
        if name == held.model.variant:
            return held.model
        if name not in held.others:  # what is loaded needs not wait for somebody else's download
            with self._loading:
                if name not in held.others:
                    # Of the same commit, wherever a branch has moved since.
                    held.others[name] = self._load(held.source, held.model.commit or held.revision, name)
        return held.others[name]

    def exchange(self, source: str | None, revision: str | None, variant: str | None) -> AudioDEAR:
        """Load another model and take it for all later requests. Where that fails the old one stays.

        Raises ValueError as :meth:`AudioDEAR.from_pretrained` does.
        """
        model = self._load(source, revision, variant)
        self._held = _Held(model, source, revision)
        return model

    def _load(self, source: str | None, revision: str | None, variant: str | None) -> AudioDEAR:
        return AudioDEAR.from_pretrained(source, revision=revision, variant=variant, device=self.model.device)
