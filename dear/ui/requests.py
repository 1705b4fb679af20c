"""Answer requests that cannot be read with a sentence, whatever part of Gradio fails on them."""

from __future__ import annotations

import errno
import inspect
import json
import sys
import traceback
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import gradio as gr
from gradio.route_utils import FnIndexInferError
from starlette.exceptions import HTTPException

Message = MutableMapping[str, Any]
# What Gradio and Starlette raise for addresses and bodies that they do not expect.
UNREADABLE = (ValueError, LookupError, OSError, RecursionError, TypeError, FnIndexInferError)
REFUSED = {404: "There is nothing at this address, or not any more."}  # sentence by status
FULL = "The disk of this page's host is full, so nothing was saved. Try again later."
FAILED = "The page failed on this request. The log of its host states the reason."


class Page(gr.Blocks):
    """Gradio's Blocks, whose errors always reach the caller as a sentence and never as ``null``."""

    async def preprocess_data(self, block_fn: Any, inputs: list[Any], *rest: Any, **options: Any) -> Any:
        if block_fn.fn is None:
            raise refused("fn_index must be an event of the server, got one that the browser handles alone.")
        needed = len(block_fn.inputs)
        if isinstance(inputs, list) and len(inputs) < needed:
            inputs = [*inputs, *_defaults(block_fn.fn, len(inputs))[: needed - len(inputs)]]
        if not isinstance(inputs, list) or len(inputs) < needed:
            count = len(inputs) if isinstance(inputs, list) else 0
            raise refused(f"{block_fn.name} needs {needed} arguments, got {count}.")
        try:
            return await super().preprocess_data(block_fn, inputs, *rest, **options)
        except gr.Error as error:  # a component's own sentence
            error.print_exception = False
            raise
        except Exception as error:  # each component has errors of its own
            raise refused(f"{block_fn.name} got an argument of a kind that it does not take.") from error

    async def process_api(self, *arguments: Any, **options: Any) -> Any:
        try:
            return await super().process_api(*arguments, **options)
        except gr.Error:
            raise
        except Exception as error:  # a fault of the page: its host needs the traceback, its visitor does not
            if is_full(error):
                print(error, file=sys.stderr)
                raise refused(FULL) from None
            traceback.print_exc()
            raise refused(FAILED) from None


def is_full(error: BaseException) -> bool:
    """Whether a disk, or one's quota of it, is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _defaults(function: Callable[..., Any] | None, given: int) -> list[Any]:
    """Of the parameters after the ``given`` first ones, so that a program need not name all; else empty."""
    missing = list(inspect.signature(function).parameters.values())[given:] if function else []
    values = [each.default for each in missing if each.kind is each.POSITIONAL_OR_KEYWORD]
    return [] if inspect.Parameter.empty in values else values


def refused(sentence: str) -> gr.Error:
    return gr.Error(sentence, print_exception=False)


class PlainRequests:
    """ASGI middleware: every refusal is a sentence.

    A request that the server cannot read gets status 400, and one on which it fails otherwise 500; a status of refusal
    without a body gets one, and a stream that is refused ends after the message that says so.
    """

    def __init__(self, app: Callable[..., Awaitable[None]]):
        self.app = app

    async def __call__(self, scope: Message, receive: Any, send: Any) -> None:
        started = False
        held: Message | None = None  # the start of a refusal, until its body is known

        async def watch(message: Message) -> None:
            nonlocal started, held
            if message["type"] == "http.response.start" and message["status"] >= 400 and scope["method"] != "HEAD":
                held = message
                return
            started = True
            if held is not None and message["type"] == "http.response.body":
                start, held = held, None
                if not message.get("body") and not message.get("more_body"):
                    await _refuse(send, start["status"], REFUSED.get(start["status"], "This request is refused."))
                    return
                await send(start)
            await send(message)

        try:
            await self.app(scope, receive, watch)
        except Exception as error:
            if scope["type"] != "http":
                raise
            if started:
                # Starlette's, for a refusal within a stream, whose last message has reported it.
                if not (isinstance(error, RuntimeError) and isinstance(error.__cause__, HTTPException)):
                    raise
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            elif is_full(error):
                print(error, file=sys.stderr)
                await _refuse(send, 507, FULL)
            elif isinstance(error, UNREADABLE):
                print(f"{scope['path']!a:.80} can't be answered: {type(error).__name__}", file=sys.stderr)
                await _refuse(send, 400, "This request can not be read: check its address and its body.")
            else:
                traceback.print_exc()
                await _refuse(send, 500, FAILED)


async def _refuse(send: Any, status: int, sentence: str) -> None:
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps({"detail": sentence}).encode()})
