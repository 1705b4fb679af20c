"""Progress of a stage: a bar on a terminal, occasional lines in a log."""

from __future__ import annotations

import sys
import time

from tqdm import tqdm

QUIET_SECONDS = 60.0  # least time between lines where stderr is not a terminal


class Progress:
    """A bar with the remaining time on a terminal; elsewhere at most one line a minute, to keep logs short."""

    def __init__(self, name: str, total: int, done: int = 0, unit: str = "step", enabled: bool = True):
        self.name, self.total, self.unit, self.enabled = name, total, unit, enabled
        self.first = self.done = done
        self.started = self.printed = time.monotonic()
        self.note: str | None = None
        terminal = enabled and sys.stderr.isatty()
        self.bar = tqdm(total=total, initial=done, desc=name, unit=unit, dynamic_ncols=True) if terminal else None

    def update(self, count: int = 1, note: str | None = None) -> None:
        """Add ``count`` units. ``note``, such as the loss, is shown until the next note."""
        self.done += count
        self.note = note or self.note
        if self.bar is not None:
            self.bar.set_postfix_str(self.note or "", refresh=False)
            self.bar.update(count)
            return
        now = time.monotonic()
        if self.enabled and (now - self.printed >= QUIET_SECONDS or self.done >= self.total):
            self.printed = now
            left = (now - self.started) / max(1, self.done - self.first) * (self.total - self.done)
            parts = [
                f"{self.name}: {self.unit} {self.done}/{self.total}",
                self.note,
                f"{tqdm.format_interval(left)} left",
            ]
            print(", ".join(part for part in parts if part), file=sys.stderr, flush=True)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
