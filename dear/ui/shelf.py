"""The models that the visitors of a page use: each visitor has one of them, and nobody changes another one's."""

from __future__ import annotations

import json
import threading
from dataclasses import asdict, dataclass

from dear.checkpoint import BUNDLED, fingerprint
from dear.config import from_dict
from dear.hub import CheckpointError, Progress
from dear.pipeline import AudioDEAR

MOST = 2  # checkpoints that are kept in memory beside the page's own; who comes back to an older one has it loaded anew
AT_ONCE = 2  # models that are loaded at the same time


@dataclass(frozen=True)
class Choice:
    """Which model a visitor uses. Equal choices are the same model, bit for bit."""

    source: str | None  # a folder, or owner/name on the Hub; None: the bundled weights
    revision: str | None  # of a repository on the Hub: its commit
    variant: str
    files: str  # the fingerprint of a folder; empty for a repository, of which the commit says it all

    @property
    def words(self) -> str:
        """Where the model came from."""
        if self.source is None:
            return "the bundled weights"
        return self.source + (f" at {self.revision[:12]}" if self.revision else "")

    @classmethod
    def read(cls, text: str) -> Choice:
        """From what :meth:`write` wrote, or somebody else did. Raises CheckpointError."""
        try:
            return from_dict(cls, json.loads(text))
        except (TypeError, ValueError, RecursionError):  # not JSON, or no Choice
            raise CheckpointError(f"the model must be one that was loaded on this page, got {text!r:.60}") from None

    def write(self) -> str:
        """The choice as text, which a browser keeps."""
        return json.dumps(asdict(self))


class Shelf:
    """Models by choice. What a request was given stays its own, whatever is loaded or dropped meanwhile."""

    def __init__(self, model: AudioDEAR, source: str | None = None, revision: str | None = None, fixed: bool = False):
        """``model``: the page's own, for visitors who choose none, and for the endpoints.

        source, revision: where it came from, as in :meth:`AudioDEAR.from_pretrained`. fixed: it is all visitors' model,
        whatever their browsers ask for.
        """
        self.own = _choice(model, source, revision)
        self.fixed = fixed
        self._own = {model.variant: model}
        self._others: dict[Choice, dict[str, AudioDEAR]] = {}  # by variant; the longest unused first
        self._changing = threading.Lock()
        self._waiting: dict[tuple[Choice, str], threading.Lock] = {}
        self._loading = threading.Semaphore(AT_ONCE)
        self._device = model.device

    def choice(self, chosen: str | None) -> Choice:
        """What a visitor's browser keeps, as it counts here; empty or None: the page's own. Raises CheckpointError."""
        return Choice.read(chosen) if chosen and not self.fixed else self.own

    def get(self, chosen: str | Choice | None, variant: str | None = None) -> AudioDEAR:
        """A visitor's model, or another variant of the same checkpoint, loaded where it is not there yet.

        chosen: as in :meth:`choice`. Raises CheckpointError, also where other files have taken the place of those that
        were chosen.
        """
        choice = chosen if isinstance(chosen, Choice) else self.choice(chosen)
        model = self._get(choice, choice.variant)
        if variant is None or variant == choice.variant:
            return model
        if not isinstance(variant, str) or variant not in model.config.variants:
            raise CheckpointError(f"variant must be one of {', '.join(model.config.variants)}, got {variant!r:.60}")
        return self._get(choice, variant)

    def load(
        self, source: str | None, revision: str | None, variant: str | None, progress: Progress | None = None
    ) -> Choice:
        """Load a model for one visitor. Arguments and errors are those of :meth:`AudioDEAR.from_pretrained`."""
        model = self._load(source, revision, variant, progress)
        choice = _choice(model, source, revision)
        self._keep(choice, model)
        return choice

    def _get(self, choice: Choice, variant: str) -> AudioDEAR:
        model = self._held(choice, variant)
        if model is None:  # who has theirs needs not wait for somebody else's download
            with self._waiting.setdefault((choice, variant), threading.Lock()):
                try:
                    model = self._held(choice, variant) or self._loaded(choice, variant)
                finally:
                    self._waiting.pop((choice, variant), None)
        return model

    def _loaded(self, choice: Choice, variant: str) -> AudioDEAR:
        model = self._load(choice.source, choice.revision, variant)
        if _choice(model, choice.source, choice.revision).files != choice.files:
            raise CheckpointError(f"{choice.words} has other files than when it was loaded: load it again")
        self._keep(choice, model)
        return model

    def _held(self, choice: Choice, variant: str) -> AudioDEAR | None:
        if choice == self.own:  # without a lock, which a process forked under ZeroGPU might find locked for ever
            return self._own.get(variant)
        with self._changing:
            if choice in self._others:
                self._others[choice] = self._others.pop(choice)  # the last used is the last dropped
            return self._others.get(choice, {}).get(variant)

    def _keep(self, choice: Choice, model: AudioDEAR) -> None:
        if choice == self.own:
            self._own.setdefault(model.variant, model)
            return
        with self._changing:
            held = self._others.pop(choice, {})
            held.setdefault(model.variant, model)
            self._others[choice] = held
            for each in list(self._others)[:-MOST]:
                del self._others[each]

    def _load(
        self, source: str | None, revision: str | None, variant: str | None, progress: Progress | None = None
    ) -> AudioDEAR:
        with self._loading:
            return AudioDEAR.from_pretrained(
                source, revision=revision, variant=variant, device=self._device, progress=progress
            )


def _choice(model: AudioDEAR, source: str | None, revision: str | None) -> Choice:
    if model.commit is not None:
        return Choice(source, model.commit, model.variant, "")
    return Choice(source, revision, model.variant, fingerprint(BUNDLED if source is None else source))
