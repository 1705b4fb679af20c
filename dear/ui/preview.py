"""Previews of links in messages and posts: title, description and picture of the page (Open Graph).

Programs that make previews run no scripts, so the tags are in the page as it is served.
"""

from __future__ import annotations

import html
import re
from collections.abc import Awaitable, Callable
from typing import Any

from gradio.route_utils import get_root_url
from starlette.requests import Request
from starlette.responses import Response

from dear.ui.assets import FOLDER
from dear.ui.requests import Message

PATH = "/preview.jpg"
PICTURE = FOLDER / "preview.jpg"  # 1200 x 630 pixels; written by tests/helpers/screenshots.py
LONGEST = 120  # characters of a prompt in a title
TAG = re.compile(r'<meta\s+(?:property|name)="(?:og|twitter):[a-z:]+"\s+content="[^"]*"\s*/?>', re.DOTALL)


def tags(prompt: str, root: str, title: str, description: str) -> str:
    """The tags of the page at the address ``root``, or of a link with ``prompt`` to it."""
    words = " ".join(prompt.split())
    words = words if len(words) <= LONGEST else words[: LONGEST - 1] + "…"
    values = {
        "og:type": "website",
        "og:site_name": title,
        "og:title": f"“{words}” · {title}" if words else title,
        "og:description": "One click makes this sound." if words else description,
        "og:image": root + PATH,
        "og:image:width": "1200",
        "og:image:height": "630",
        "og:image:alt": "The mel spectrogram of a sound",
    }
    found = [f'<meta property="{name}" content="{html.escape(value)}" />' for name, value in values.items()]
    return "\n\t\t".join(['<meta name="twitter:card" content="summary_large_image" />', *found])


class Previews:
    """ASGI middleware: puts the tags of this page in the place of Gradio's, and serves the picture."""

    def __init__(self, app: Callable[..., Awaitable[None]], title: str, description: str):
        self.app, self.title, self.description = app, title, description

    async def __call__(self, scope: Message, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"] == PATH and scope["method"] in ("GET", "HEAD"):
            await Response(PICTURE.read_bytes(), media_type="image/jpeg")(scope, receive, send)
            return
        if scope["type"] != "http" or scope["path"] != "/" or scope["method"] != "GET":
            await self.app(scope, receive, send)
            return
        start: Message | None = None
        body = b""

        async def collect(message: Message) -> None:
            nonlocal start, body
            if message["type"] == "http.response.start":
                start = message
                return
            body += message.get("body", b"")
            if message.get("more_body") or start is None:
                return
            headers = {name.lower(): value for name, value in start["headers"]}
            if headers.get(b"content-type", b"").startswith(b"text/html") and b"content-encoding" not in headers:
                body = self._tagged(Request(scope), body.decode()).encode()
                headers[b"content-length"] = str(len(body)).encode()
                start["headers"] = list(headers.items())
            await send(start)
            await send({"type": "http.response.body", "body": body})

        await self.app(scope, receive, collect)

    def _tagged(self, request: Request, page: str) -> str:
        root = get_root_url(request, "/", request.scope.get("root_path"))
        head, close, rest = TAG.sub("", page).partition("</head>")
        found = tags(request.query_params.get("prompt", ""), root, self.title, self.description)
        return f"{head}\t{found}\n\t{close}{rest}"
