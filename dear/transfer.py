"""Downloads in threads, so that the caller can abandon a download that does not end."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from dear.budget import Budget, current

SLOWEST = 50_000  # bytes per second of a whole download
PATIENCE = 120.0  # seconds beyond that
INTERVAL = 0.1  # seconds between reports
T = TypeVar("T")
# Called with the number of bytes that have arrived, and the number of bytes of all files known so far. An exception
# that it raises ends the download.
Progress = Callable[[int, int], object]
_transfers: list[Transfer] = []  # that callers in this process wait for


class GivenUpError(Exception):
    """Ends the threads of an abandoned download."""


class Transfer:
    """One download. Once it is abandoned, its thread ends at its next report."""

    def __init__(self) -> None:
        self.bars: list[Any] = []  # of bytes
        self.left = False  # the download is abandoned
        self.given_up = False  # the caller's progress function or budget raised an exception

    def run(self, download: Callable[[], T], progress: Progress | None) -> T:
        """Return what ``download()`` returns, or raise what it raises. Raises TimeoutError if it is too slow, and
        BudgetError.
        """
        from huggingface_hub.utils import close_session

        ended, outcome, budget = threading.Event(), Future[T](), current()

        def work() -> None:
            try:
                outcome.set_result(download())
            except BaseException as error:
                outcome.set_exception(error)
            ended.set()

        began = time.monotonic()
        _transfers.append(self)
        threading.Thread(target=work, daemon=True).start()
        try:
            while not ended.wait(INTERVAL):
                self._report(progress, budget)
                limit = PATIENCE + self._bytes()[1] / SLOWEST
                if time.monotonic() - began > limit:
                    raise TimeoutError(f"slower than {SLOWEST // 1000} kB a second, given up after {limit:.0f} seconds")
            self._report(progress, budget)
            return outcome.result()
        finally:
            self.left = True
            _transfers.remove(self)
            if not ended.is_set() and not _transfers:
                # End a thread that waits for bytes, because it holds a lock of the cache. Other downloads continue.
                close_session()

    def _bytes(self) -> tuple[int, int]:
        """Bytes that have arrived, and bytes in total. If there are several bars, those of the bar that is ahead."""
        return max(((int(bar.n), int(bar.total or 0)) for bar in list(self.bars)), default=(0, 0))

    def _report(self, progress: Progress | None, budget: Budget) -> None:
        done, total = self._bytes()
        try:
            if progress is not None and total:
                progress(done, total)
            budget.check_download(total)
        except BaseException:
            self.given_up = True
            raise


def progress_bar(transfer: Transfer, visible: bool) -> type:
    """A class of progress bars that report their bytes to ``transfer``."""
    from huggingface_hub.utils import tqdm as hub_bar
    from tqdm.std import tqdm as plain_bar

    base: Any = hub_bar if visible else plain_bar

    class Counted(base):
        def __init__(self, *arguments: Any, **options: Any):
            super().__init__(*arguments, **options | ({} if visible else {"file": io.StringIO(), "disable": False}))
            if options.get("unit") == "B":
                transfer.bars.append(self)

        def update(self, n: float | None = 1) -> bool | None:
            if transfer.left:
                raise GivenUpError
            return super().update(n)

    return Counted
