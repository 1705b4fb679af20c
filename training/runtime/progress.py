"""How far a stage is, for people: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time

from tqdm import tqdm

QUIET_SECONDS = 60.0  # where stderr is not a terminal, progress is at most one line in this time


class Progress:
    """A bar with the time left on a terminal; elsewhere a line at most once a minute, to keep logs short."""

    def __init__(self, name: str, total: int, done: int = 0, unit: str = "step", enabled: bool = True):
        self.name, self.total, self.unit, self.enabled = name, total, unit, enabled
        self.first = self.done = done
        self.started = self.printed = time.monotonic()
        self.note: str | None = None
        terminal = enabled and sys.stderr.isatty()
        self.bar = tqdm(total=total, initial=done, desc=name, unit=unit, dynamic_ncols=True) if terminal else None

    def update(self, count: int = 1, note: str | None = None) -> None:
        """``count`` more units are done; ``note`` (the loss, say) is shown beside them until the next one."""
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
