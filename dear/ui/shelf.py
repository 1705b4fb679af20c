"""The models that the visitors of a page use: each visitor has one of them, and nobody changes another one's."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from dear.hub import CheckpointError, Progress
from dear.pipeline import AudioDEAR

MOST = 2  # checkpoints that are kept in memory beside the page's own; who comes back to an older one has it loaded anew


@dataclass(frozen=True)
class Choice:
    """Which model a visitor uses, as plain data: a browser can keep it, and it says whether it still is the same."""

    source: str | None  # a folder, or owner/name on the Hub; None: the bundled weights
    revision: str | None  # of a repository on the Hub: its commit
    variant: str
    digest: str  # of the variant's weights

    @property
    def words(self) -> str:
        """Where the model came from."""
        if self.source is None:
            return "the bundled weights"
        return self.source + (f" at {self.revision[:12]}" if self.revision else "")


class Shelf:
    """Models by choice. What a request was given stays its own, whatever is loaded or dropped meanwhile."""

    def __init__(self, model: AudioDEAR, source: str | None = None, revision: str | None = None):
        """``model``: the page's own, for visitors who choose none, and for the endpoints.

        source, revision: where it came from, as in :meth:`AudioDEAR.from_pretrained`.
        """
        self.own = Choice(source, model.commit or revision, model.variant, model.digest)
        self.device = model.device
        self._models = {self.own: {model.variant: model}}  # by choice, the longest unused first; by variant
        self._changing = threading.Lock()
        self._loading: dict[tuple[Choice, str], threading.Lock] = {}

    def get(self, chosen: Choice | None, variant: str | None = None) -> AudioDEAR:
        """A visitor's model, or another variant of the same checkpoint, loaded where it is not there yet.

        chosen: None for the page's own. Raises CheckpointError, also where other weights have taken the place of those
        that were chosen.
        """
        chosen = chosen or self.own
        model = self._get(chosen, chosen.variant)
        if variant is None or variant == chosen.variant:
            return model
        if not isinstance(variant, str) or variant not in model.config.variants:
            raise CheckpointError(f"variant must be one of {', '.join(model.config.variants)}, got {variant!r:.60}")
        return self._get(chosen, variant)

    def load(
        self, source: str | None, revision: str | None, variant: str | None, progress: Progress | None = None
    ) -> Choice:
        """Load a model for one visitor. Arguments and errors are those of :meth:`AudioDEAR.from_pretrained`."""
        model = self._load(source, revision, variant, progress)
        chosen = Choice(source, model.commit or revision, model.variant, model.digest)
        self._keep(chosen, model)
        return chosen

    def _get(self, chosen: Choice, variant: str) -> AudioDEAR:
        model = self._held(chosen, variant)
        if model is None:  # who has theirs needs not wait for somebody else's download
            with self._loading.setdefault((chosen, variant), threading.Lock()):
                model = self._held(chosen, variant)
                if model is None:
                    model = self._load(chosen.source, chosen.revision, variant)
                    if variant == chosen.variant and model.digest != chosen.digest:
                        raise CheckpointError(
                            f"{chosen.words} holds other weights than when it was loaded: load it again"
                        )
                    self._keep(chosen, model)
        return model

    def _held(self, chosen: Choice, variant: str) -> AudioDEAR | None:
        with self._changing:
            if chosen in self._models:
                self._models[chosen] = self._models.pop(chosen)  # the last used is the last dropped
            return self._models.get(chosen, {}).get(variant)

    def _keep(self, chosen: Choice, model: AudioDEAR) -> None:
        with self._changing:
            self._models[chosen] = self._models.pop(chosen, {}) | {model.variant: model}
            others = [each for each in self._models if each != self.own]
            for each in others[:-MOST]:
                del self._models[each]

    def _load(
        self, source: str | None, revision: str | None, variant: str | None, progress: Progress | None = None
    ) -> AudioDEAR:
        return AudioDEAR.from_pretrained(
            source, revision=revision, variant=variant, device=self.device, progress=progress
        )
