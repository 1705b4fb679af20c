"""Decoding in a few fixed shapes, which torch.compile and CUDA graphs need.

The number of known tokens grows, so each iteration has its own shapes. Here a pass of :meth:`Backbone.decode` is
padded with hidden tokens to one of a few lengths. Under ``masked_attention="visible"`` no other token attends to them,
so the result is the same.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from dear.attended import Prefix
from dear.backbone import Backbone
from dear.conditioning import Conditioning
from dear.decoding import DecodingSession

LENGTHS = 8  # padded lengths besides short ones; more of them need less padding, but more compilations
IDLE = 4  # idle workspaces that are kept for later generations
MOST_SHAPES = 128  # limit on the shapes of a compiled block; torch's own is 8

_recording = threading.Lock()  # CUDA records one graph at a time in a process

Recorder = Callable[[Callable[[], Tensor]], tuple[Callable[[], object], Tensor]]


class CUDAGraphs:
    """Records functions that read and write at fixed addresses as graphs of the current device.

    The graphs share memory, so they must be replayed one after another, with each result read before the next replay.
    """

    @cached_property
    def stream(self) -> torch.cuda.Stream:
        return torch.cuda.Stream()

    @cached_property
    def pool(self) -> Any:
        return torch.cuda.graph_pool_handle()

    def __call__(self, function: Callable[[], Tensor]) -> tuple[Callable[[], object], Tensor]:
        """Record ``function``. Returns a function that replays it, and the tensor that holds its result."""
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):  # libraries choose and compile their kernels before anything is recorded
            for _ in range(3):
                function()
        torch.cuda.current_stream().wait_stream(self.stream)
        graph = torch.cuda.CUDAGraph()
        # Other threads may use the device meanwhile, such as another request of the page.
        with torch.cuda.graph(graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"):
            result = function()
        return graph.replay, result


def fit(count: int, length: int) -> int:
    """The padded length of a pass over ``count`` of L = ``length`` tokens: a power of two, then in steps of L / 8."""
    step = -(-length // LENGTHS)
    if count <= step:
        return min(1 << (count - 1).bit_length(), step)
    return min(-(-count // step) * step, length)


class StaticDecoding:
    """Forward passes in fixed shapes, in workspaces of a backbone. A workspace serves one generation at a time."""

    def __init__(self, backbone: Backbone, recorder: Callable[[], Recorder] | None = None):
        """recorder: creates a recorder for each workspace, such as :class:`CUDAGraphs`, which records a forward pass
        once and replays it. None calls the backbone each time.

        Raises ValueError unless attention is "visible".
        """
        if backbone.config.masked_attention != "visible":
            raise ValueError(
                'static shapes need masked_attention "visible", under which hidden tokens can fill a pass up, '
                f"got {backbone.config.masked_attention!r}"
            )
        self.backbone = backbone
        self.recorder = recorder
        self.idle: list[Workspace] = []
        self.lock = threading.Lock()

    def fit(self, conditioning: Conditioning, longest: int) -> Conditioning:
        return conditioning.pad(max(conditioning.mask.shape[1], longest))

    def begin(self, prefix: Prefix) -> DecodingSession:
        """Reserve a workspace until it is closed."""
        with self.lock:
            fitting = [each for each in self.idle if each.fits(prefix)]
            if fitting:
                self.idle.remove(fitting[0])
        if not fitting:
            return StaticSession(self, Workspace(self.backbone, prefix, self.recorder and self.recorder()))
        fitting[0].cache.begin(prefix)
        return StaticSession(self, fitting[0])

    def give_back(self, workspace: Workspace) -> None:
        with self.lock:
            idle = [*self.idle, workspace]
            self.idle, dropped = idle[-IDLE:], idle[:-IDLE]
        del workspace, idle
        if dropped:
            with _recording:
                dropped.clear()


class StaticSession:
    def __init__(self, decoding: StaticDecoding, workspace: Workspace):
        self.decoding = decoding
        self.workspace = workspace

    def __call__(self, tokens: Tensor, known: Tensor, order: Tensor, first: int, start: int, end: int) -> Tensor:
        return self.workspace.decode(tokens, order, first, start, end)

    def close(self) -> None:
        workspace = self.workspace
        del self.workspace
        self.decoding.give_back(workspace)


class Workspace:
    """A cache at fixed addresses and the forward passes recorded on it, for consecutive generations."""

    def __init__(self, backbone: Backbone, prefix: Prefix, record: Recorder | None):
        # Nothing here refers to StaticDecoding: a cycle would be collected, and its graphs destroyed, at any moment,
        # also while another one is recorded, which CUDA may forbid.
        self.backbone = backbone
        self.cache = backbone.cache(prefix)
        self.record = record
        self.recorded: dict[tuple[int, ...], Recorded] = {}

    def fits(self, prefix: Prefix) -> bool:
        keys, own = prefix.blocks[0][0], self.cache.keys[0]
        filled = prefix.mask.shape[1] == self.cache.mask.shape[1]
        return filled and len(keys) == len(own) and keys.dtype == own.dtype and keys.device == own.device

    def decode(self, tokens: Tensor, order: Tensor, first: int, start: int, end: int) -> Tensor:
        """Contexts [B, end - start, C] of the tokens ``start`` to ``end`` in decoding order; those before are known.

        tokens [B, L, D], order [B, L]: of the first B items of the cache.
        first: tokens before it are not computed again.
        """
        backbone, length = self.backbone, self.backbone.length
        count, wanted = fit(end - first, length), fit(end - start, length)
        reach = fit(min(first + count, length), length)
        device = tokens.device
        # Positions beyond the end repeat the last token, with the same result.
        inputs = (
            tokens,
            order,
            torch.arange(first, first + count, device=device).clamp(max=length - 1),
            torch.arange(start - first, start - first + wanted, device=device).clamp(max=count - 1),
            torch.full((), start, device=device),
        )
        cache = self.cache.first(len(tokens))

        def run(tokens: Tensor, order: Tensor, places: Tensor, rows: Tensor, known: Tensor) -> Tensor:
            return backbone.decode(tokens, order, cache, places, known, rows, reach)

        if torch._dynamo.config.recompile_limit < MOST_SHAPES:  # it differs between threads
            torch._dynamo.config.recompile_limit = MOST_SHAPES
        with torch.cuda.device_of(tokens):  # graphs are recorded on the current one
            if self.record is None:
                return run(*inputs)[:, : end - start]
            key = len(tokens), count, wanted, reach
            if key not in self.recorded:
                with _recording:
                    self.recorded[key] = Recorded(run, inputs, self.record)
            return self.recorded[key](*inputs)[:, : end - start]


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
