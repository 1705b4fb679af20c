"""Sampling in a few fixed shapes, as torch.compile and CUDA graphs want them.

Each iteration computes as many tokens as are known by then, so each has shapes of its own. Here a pass of
:meth:`Backbone.decode` is filled up with hidden tokens to one of a few lengths. Under ``masked_attention="visible"``
nobody sees them, so that the result is the same.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch
from torch import Tensor

from dear.backbone import Backbone, Memory, Prefix

LENGTHS = 8  # of a pass, beyond the short ones; more fill up less, and are compiled and recorded more often
IDLE = 4  # workspaces that wait for the next generation of their batch size

_recording = threading.Lock()  # CUDA records one graph at a time in a process

Recorder = Callable[[Callable[[], Tensor]], tuple[Callable[[], object], Tensor]]


def cuda_graph(function: Callable[[], Tensor]) -> tuple[Callable[[], object], Tensor]:
    """Record ``function``, which reads and writes at fixed addresses -> how to replay it, and where its result lies."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # libraries choose and compile their kernels before anything is recorded
        for _ in range(3):
            function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    # Other threads may use the device meanwhile: pages serve two people at once.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        result = function()
    return graph.replay, result


class StaticShapes:
    """The workspaces of one backbone, each lent to one generation at a time."""

    def __init__(self, backbone: Backbone, record: Recorder | None = None):
        """record: for passes that are recorded once and replayed, as :func:`cuda_graph`; None to call them each time.

        Raises ValueError unless attention is "visible".
        """
        if backbone.config.masked_attention != "visible":
            raise ValueError(
                'static shapes need masked_attention "visible", under which hidden tokens can fill a pass up, '
                f"got {backbone.config.masked_attention!r}"
            )
        self.backbone = backbone
        self.record = record
        self.idle: list[Workspace] = []
        self.lock = threading.Lock()

    def fit(self, count: int) -> int:
        """The length of a pass over ``count`` tokens: a power of two while it is short, then an eighth of L more."""
        step = -(-self.backbone.length // LENGTHS)
        if count <= step:
            return min(1 << (count - 1).bit_length(), step)
        return min(-(-count // step) * step, self.backbone.length)

    def lend(self, prefix: Prefix) -> Workspace:
        """A workspace that holds ``prefix``, for one generation alone until it is given back."""
        with self.lock:
            fitting = [each for each in self.idle if each.fits(prefix)]
            if not fitting:
                return Workspace(self, self.backbone.memory(prefix))
            self.idle.remove(fitting[0])
        fitting[0].memory.begin(prefix)
        return fitting[0]

    def give_back(self, workspace: Workspace) -> None:
        with self.lock:
            self.idle = [*self.idle, workspace][-IDLE:]


class Workspace:
    """Memory at fixed addresses, for one generation after the other, and the passes recorded on it."""

    def __init__(self, shapes: StaticShapes, memory: Memory):
        self.shapes = shapes
        self.memory = memory
        self.passes: dict[tuple[int, ...], Recorded] = {}

    def fits(self, prefix: Prefix) -> bool:
        keys, own = prefix.blocks[0][0], self.memory.keys[0]
        filled = prefix.mask.shape[1] == self.memory.mask.shape[1]
        return filled and len(keys) == len(own) and keys.dtype == own.dtype and keys.device == own.device

    def decode(self, tokens: Tensor, order: Tensor, first: int, start: int, end: int) -> Tensor:
        """Contexts [B, end - start, C] of the tokens ``start`` to ``end`` in decoding order; those before are known.

        tokens [B, L, D], order [B, L]: of the first B items of the memory.
        first: tokens before it are not computed again.
        """
        fit, backbone = self.shapes.fit, self.shapes.backbone
        count, wanted = fit(end - first), fit(end - start)
        reach = fit(min(first + count, backbone.length))
        device = tokens.device
        # Beyond the ends the last one is computed twice, to the same end.
        inputs = (
            tokens,
            order,
            torch.arange(first, first + count, device=device).clamp(max=backbone.length - 1),
            torch.arange(start - first, start - first + wanted, device=device).clamp(max=count - 1),
            torch.full((), start, device=device),
        )
        memory = self.memory.first(len(tokens))

        def run(tokens: Tensor, order: Tensor, places: Tensor, rows: Tensor, known: Tensor) -> Tensor:
            return backbone.decode(tokens, order, memory, places, known, rows, reach)

        if self.shapes.record is None:
            return run(*inputs)[:, : end - start]
        key = len(tokens), count, wanted, reach
        if key not in self.passes:
            with _recording:
                self.passes[key] = Recorded(run, inputs, self.shapes.record)
        return self.passes[key](*inputs)[:, : end - start]


class Recorded:
    """A function of tensors of fixed shapes, recorded once."""

    def __init__(self, function: Callable[..., Tensor], inputs: tuple[Tensor, ...], record: Recorder):
        self.inputs = [each.clone() for each in inputs]
        self.replay, self.result = record(lambda: function(*self.inputs))

    def __call__(self, *inputs: Tensor) -> Tensor:
        for own, given in zip(self.inputs, inputs, strict=True):
            own.copy_(given)
        self.replay()
        return self.result.clone()  # the next replay writes there
