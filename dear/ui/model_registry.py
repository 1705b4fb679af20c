"""The models of a page. Each visitor chooses one, and no visitor changes the model of another."""

from __future__ import annotations

import json
import math
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial

from dear.budget import Budget, limited
from dear.checkpoint import BUNDLED, fingerprint
from dear.config import from_dict
from dear.hub import REPOSITORY, SCHEME, CheckpointError, Progress
from dear.pipeline import AudioDEAR
from dear.ui.callers import current_caller
from dear.ui.turns import stop_if_left

MAX_CHECKPOINTS = 2  # kept in memory beside the page's own; others are loaded again when they are asked for
MAX_LOADS = 2  # models loaded at the same time
MAX_BYTES = 4e9  # of one model in memory, and of its download
LOAD_SECONDS = 600.0  # of one load, with its download
RELOAD_SECONDS = 60.0  # within a run, whose turn others wait for


@dataclass(frozen=True)
class ModelChoice:
    """The model of a visitor. Equal choices name the same weights, bit for bit."""

    source: str | None  # a folder, or owner/name on the Hub; None: the bundled weights
    revision: str | None  # the commit of a repository on the Hub
    variant: str
    files: str  # the fingerprint of a folder; empty for a repository, which its commit identifies

    @property
    def origin(self) -> str:
        """The source of the model, for people."""
        if self.source is None:
            return "the bundled weights"
        return self.source + (f" at {self.revision[:12]}" if self.revision else "")

    @classmethod
    def from_json(cls, text: str) -> ModelChoice:
        """Read what :meth:`to_json` wrote. Raises CheckpointError for any other text."""
        try:
            return from_dict(cls, json.loads(text))
        except (TypeError, ValueError, RecursionError):
            raise CheckpointError(f"the model must be one that was loaded on this page, got {text!r:.60}") from None

    def to_json(self) -> str:
        """The choice as text, which the visitor's browser stores."""
        return json.dumps(asdict(self))


class ModelRegistry:
    """Models by choice. A request keeps its model, even if other models are loaded or dropped meanwhile."""

    def __init__(
        self,
        model: AudioDEAR,
        source: str | None = None,
        revision: str | None = None,
        fixed: bool = False,
        folders: bool = False,
    ):
        """``model`` is the page's own: visitors have it by default, and the endpoints use it.

        source, revision: where it came from, as in :meth:`AudioDEAR.from_pretrained`. fixed: all visitors use it,
        whatever their browsers ask for. folders: visitors may name folders of this machine; else they cannot learn
        which ones exist.
        """
        self.own = _choice(model, source, revision)
        self.fixed = fixed
        self.folders = folders
        self._own = {model.variant: model}
        self._others: dict[ModelChoice, dict[str, AudioDEAR]] = {}  # by variant; least recently used first
        self._lock = threading.Lock()
        self._load_locks: dict[tuple[ModelChoice, str], threading.Lock] = {}
        self._places = _Places()
        self._device = model.device

    def choice(self, chosen: str | None) -> ModelChoice:
        """The choice stored in a visitor's browser; empty or None: the page's own. Raises CheckpointError."""
        return ModelChoice.from_json(chosen) if chosen and not self.fixed else self.own

    def get(self, chosen: str | ModelChoice | None, variant: str | None = None) -> AudioDEAR:
        """A visitor's model, or another variant of the same checkpoint. Loads it if it isn't in memory.

        chosen: as in :meth:`choice`. Raises CheckpointError, also where the files of the choice have changed, and
        BudgetError.
        """
        choice = chosen if isinstance(chosen, ModelChoice) else self.choice(chosen)
        model = self._get(choice, choice.variant)
        if variant is None or variant == choice.variant:
            return model
        if not isinstance(variant, str) or variant not in model.config.variants:
            raise CheckpointError(f"variant must be one of {', '.join(model.config.variants)}, got {variant!r:.60}")
        return self._get(choice, variant)

    def load(
        self,
        source: str | None,
        revision: str | None,
        variant: str | None,
        progress: Progress | None = None,
        caller: str | None = None,
    ) -> ModelChoice:
        """Load a model for one visitor. The other arguments are those of :meth:`AudioDEAR.from_pretrained`.

        progress: is called with (0, 0), too, outside of downloads; what it raises ends the load.
        caller: the visitor, who may load one model at a time.
        Raises the errors of :meth:`AudioDEAR.from_pretrained`, CheckpointError for a caller's second load, and
        BudgetError for a model above ``MAX_BYTES`` or a load above ``LOAD_SECONDS``.
        """
        model = self._load(source, revision, variant, LOAD_SECONDS, progress, caller)
        choice = _choice(model, source, revision)
        self._store(choice, model)
        return choice

    def in_memory(self, choice: ModelChoice, variant: str | None = None) -> bool:
        """Whether :meth:`get` returns this model without loading it."""
        return self._cached(choice, choice.variant if variant is None else variant) is not None

    def _get(self, choice: ModelChoice, variant: str) -> AudioDEAR:
        model = self._cached(choice, variant)
        if model is None:  # one lock per model: a visitor never waits for somebody else's download
            with self._load_locks.setdefault((choice, variant), threading.Lock()):
                try:
                    model = self._cached(choice, variant) or self._reload(choice, variant)
                finally:
                    self._load_locks.pop((choice, variant), None)
        return model

    def _reload(self, choice: ModelChoice, variant: str) -> AudioDEAR:
        if choice == self.own:  # another variant of what the host has chosen: without limits
            model = self._load(choice.source, choice.revision, variant, math.inf, None, None)
        else:
            caller = current_caller()
            model = self._load(choice.source, choice.revision, variant, RELOAD_SECONDS, stop_if_left, caller)
        if _choice(model, choice.source, choice.revision).files != choice.files:
            raise CheckpointError(f"{choice.origin} has other files than when it was loaded: load it again")
        self._store(choice, model)
        return model

    def _cached(self, choice: ModelChoice, variant: str) -> AudioDEAR | None:
        if choice == self.own:  # no lock: a process forked under ZeroGPU might inherit it locked
            return self._own.get(variant)
        with self._lock:
            if choice in self._others:
                self._others[choice] = self._others.pop(choice)  # most recently used last
            return self._others.get(choice, {}).get(variant)

    def _store(self, choice: ModelChoice, model: AudioDEAR) -> None:
        if choice == self.own:
            self._own.setdefault(model.variant, model)
            return
        with self._lock:
            variants = self._others.pop(choice, {})
            variants.setdefault(model.variant, model)
            self._others[choice] = variants
            for each in list(self._others)[:-MAX_CHECKPOINTS]:
                del self._others[each]

    def _load(
        self,
        source: str | None,
        revision: str | None,
        variant: str | None,
        seconds: float,
        progress: Progress | None,
        caller: str | None,
    ) -> AudioDEAR:
        hosts = source == self.own.source  # the host has chosen it
        if source is not None and not hosts and not self.folders:
            if not re.fullmatch(REPOSITORY, source):
                raise CheckpointError(f"model must be owner/name on the Hub, got {source!r:.60}")
            source = f"{SCHEME}{source}"
        still_wanted = partial(progress, 0, 0) if progress is not None else lambda: None
        size = math.inf if math.isinf(seconds) else MAX_BYTES
        with (
            self._places.taken(caller, still_wanted),
            limited(Budget(size, seconds, not (hosts or self.folders), still_wanted)),
        ):
            return AudioDEAR.from_pretrained(
                source, revision=revision, variant=variant, device=self._device, progress=progress
            )


class _Places:
    """At most ``MAX_LOADS`` loads at a time, and one of each caller."""

    def __init__(self) -> None:
        self._free = threading.Semaphore(MAX_LOADS)
        self._callers: set[str] = set()
        self._lock = threading.Lock()

    @contextmanager
    def taken(self, caller: str | None, still_wanted: Callable[[], object]) -> Iterator[None]:
        """Wait for a place, and hold it for the time of the block. What ``still_wanted()`` raises ends the wait."""
        with self._lock:
            if caller in self._callers:
                raise CheckpointError("One of your models is being loaded. Wait for it to end, or stop it.")
            if caller:
                self._callers.add(caller)
        try:
            while not self._free.acquire(timeout=0.2):
                still_wanted()
            try:
                yield
            finally:
                self._free.release()
        finally:
            with self._lock:
                self._callers.discard(caller or "")


def _choice(model: AudioDEAR, source: str | None, revision: str | None) -> ModelChoice:
    if model.commit is not None:
        return ModelChoice(source, model.commit, model.variant, "")
    return ModelChoice(source, revision, model.variant, fingerprint(BUNDLED if source is None else source))
