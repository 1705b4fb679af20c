"""Run the cases of an attack in a process that is ended where one of them hangs or takes too much memory."""

from __future__ import annotations

import contextlib
import importlib
import io
import multiprocessing
import os
import resource
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path

SECONDS, MEGABYTES = 60, 300  # of one case, in wall-clock time and above the memory at rest
HARD = 2_000  # megabytes of address space beyond that, after which an allocation fails
SET_UP_SECONDS = 900
ROOT = Path(__file__).resolve().parents[2]


class Outcome(StrEnum):
    SOUND = "sound"  # taken
    REFUSED = "refused"  # with a sentence of this repository
    TRACEBACK = "traceback"  # any other exception, or a process that died
    HANG = "hang"  # longer than the limit
    MEMORY = "memory"  # above the limit


class Skipped(Exception):
    """Raised by ``cases`` before its first pair where an attack is not possible on this machine; it says why."""


class Refused(ValueError):
    """The sentence with which a command or a server refused a case that ran in another process."""


@dataclass(frozen=True)
class Try:
    name: str
    outcome: Outcome
    detail: str  # the sentence, or the last lines of the traceback
    megabytes: float  # peak above rest

    @property
    def is_fault(self) -> bool:
        return self.outcome not in (Outcome.SOUND, Outcome.REFUSED)


@dataclass
class Table:
    """The outcomes of one attack."""

    attack: str
    tries: list[Try] = field(default_factory=list)
    skipped: str = ""  # why there are no tries

    def count(self, outcome: Outcome) -> int:
        return sum(each.outcome == outcome for each in self.tries)

    @property
    def faults(self) -> list[Try]:
        return [each for each in self.tries if each.is_fault]

    @property
    def megabytes(self) -> float:
        return max((each.megabytes for each in self.tries), default=0.0)


def run(module: str, large: bool = False, every: int = 1, tell: Callable[[Try], object] = lambda _: None) -> Table:
    """Try each ``every``-th case of a module, in order. One that ends the process is followed by the next in a new one.

    tell: is called after each. Raises RuntimeError where the set-up fails.
    """
    table = Table(module.rpartition(".")[2])
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="attack-") as folder:
        while True:
            parent, child = context.Pipe()
            process = context.Process(
                target=_work, args=(module, large, len(table.tries), every, folder, child), daemon=False
            )
            process.start()
            child.close()
            try:
                if _follow(parent, table, tell):
                    return table
            finally:
                process.kill()
                process.join()


def _follow(connection: Connection, table: Table, tell: Callable[[Try], object]) -> bool:
    """Collect the outcomes of one process. Returns whether all cases have been tried."""
    seconds: float = SET_UP_SECONDS
    name = ""

    def ended(each: Try) -> None:
        table.tries.append(each)
        tell(each)

    while True:
        try:
            if not connection.poll(seconds):
                if not name:
                    raise RuntimeError(f"{table.attack}: no case after {seconds} seconds of set-up")
                ended(Try(name, Outcome.HANG, f"longer than {seconds} seconds", 0.0))
                return False
            kind, content = connection.recv()
        except EOFError:
            if not name:
                raise RuntimeError(f"{table.attack}: the process ended before a case") from None
            ended(Try(name, Outcome.TRACEBACK, "the process died", 0.0))
            return False
        match kind:
            case "failed":
                raise RuntimeError(f"{table.attack}: {content}")
            case "skipped":
                table.skipped = content
                return True
            case "done":
                return True
            case "begin":
                name, seconds = content
            case "end":
                ended(content)
                name, seconds = "", SET_UP_SECONDS


def _work(module: str, large: bool, first: int, every: int, folder: str, connection: Connection) -> None:
    """In the child: try each ``every``-th case, without the ``first`` of them that have been tried."""
    import torch

    torch.set_num_threads(1)
    sys.path[1:1] = [str(ROOT / "tests" / "helpers")]
    tempfile.tempdir = folder
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        try:
            loaded = importlib.import_module(module)
            seconds = getattr(loaded, "SECONDS", SECONDS)
            memory = getattr(loaded, "MEGABYTES", MEGABYTES), getattr(loaded, "HARD", HARD)
            for name, case in islice(loaded.cases(large), first * every, None, every):
                connection.send(("begin", (name, seconds)))
                connection.send(("end", attempt(name, case, *memory)))
        except Skipped as reason:
            connection.send(("skipped", str(reason)))
        except Exception:
            connection.send(("failed", traceback.format_exc()))
        else:
            connection.send(("done", None))


def attempt(name: str, case: Callable[[], object], megabytes: float = MEGABYTES, hard: float = HARD) -> Try:
    """Try one case in this process, without a limit of time."""
    rest = _reset_peak()
    try:
        with _bounded(megabytes + hard):
            case()
        outcome, detail = Outcome.SOUND, ""
    except MemoryError as error:
        outcome, detail = Outcome.MEMORY, _last_lines(error)
    except Exception as error:
        outcome, detail = _judge(error)
    used = max(0.0, _status("VmHWM") - rest)
    if used > megabytes and outcome in (Outcome.SOUND, Outcome.REFUSED):
        outcome, detail = Outcome.MEMORY, f"{used:.0f} MB above rest. {detail}"
    return Try(name, outcome, detail, used)


def run_command(main: Callable[[list[str]], int], arguments: list[str], names: str = "") -> None:
    """Call a command of this repository in this process; the sentence of status 2 is raised.

    names: what that sentence must hold, such as the file that is at fault.
    """
    heard = io.StringIO()
    with contextlib.redirect_stderr(heard):
        status = main(arguments)
    if status == 2:
        sentence = heard.getvalue().strip().splitlines()[-1]
        assert names in sentence, sentence
        raise Refused(sentence[:1000])
    assert status == 0, (status, heard.getvalue()[-1000:])


def _judge(error: Exception) -> tuple[Outcome, str]:
    """A refusal is a ValueError or ArithmeticError of a ``raise`` statement of this repository, with a sentence.

    An exception from inside a library, however worded, is a traceback.
    """
    last = traceback.extract_tb(error.__traceback__)[-1]
    inside = Path(last.filename).resolve()
    own = any(inside.is_relative_to(ROOT / room) for room in ("dear", "training", "tests"))
    own = own and (last.line or "").startswith("raise")
    if isinstance(error, ValueError | ArithmeticError) and own and 0 < len(str(error)) <= 1000:
        return Outcome.REFUSED, str(error)
    return Outcome.TRACEBACK, _last_lines(error)


def _last_lines(error: Exception) -> str:
    return "".join(traceback.format_exception(error)[-3:])[-1500:]


def _status(field: str) -> float:
    """Megabytes of a field of this process's status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"this kernel reports no {field}")


def _reset_peak() -> float:
    """Set the peak of memory to what is in use, and return it, in megabytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


@contextlib.contextmanager
def _bounded(megabytes: float) -> Iterator[None]:
    """Let this process map at most so much more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (int((_status("VmSize") + megabytes) * 2**20), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
