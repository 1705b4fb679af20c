"""Estimate the duration of a generation on this machine from the last ones."""

from __future__ import annotations

from dataclasses import dataclass

from dear.output import Output


@dataclass(frozen=True)
class SpeedEstimate:
    """Seconds that the latest generations took. Before the first one, a guess."""

    rendering: float = 0.25  # from tokens to one sound
    iterations: tuple[tuple[float, float], ...] = ()  # (steps of the head, seconds per iteration and sound)

    def iteration(self, steps: float) -> float:
        """Seconds of one iteration over one sound."""
        return dict(self.iterations).get(steps, 0.01 * (1 + steps / 10))

    def remaining(self, out: Output, elapsed: float) -> float:
        """Seconds that a generation will still take if its iterations so far took ``elapsed``."""
        return elapsed * (out.iterations / out.iteration - 1) + self.rendering * len(out)

    def updated(self, out: Output) -> SpeedEstimate:
        """The estimate after one more result."""
        seconds = out.timings["decode"] / out.iterations / len(out)
        iterations = dict(self.iterations) | {out.settings["steps"]: seconds}
        return SpeedEstimate((out.timings["codec"] + out.timings["vocoder"]) / len(out), tuple(iterations.items()))
