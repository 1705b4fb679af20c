"""Serve the page with the bundled weights: ``python app.py``, then http://127.0.0.1:7860.

Environment variables: ``AUDIODEAR_MODEL`` names another checkpoint, as a folder or as owner/name on the Hub, and
``AUDIODEAR_REVISION`` its branch, tag or commit. ``AUDIODEAR_COMPILE=1`` compiles the model, which is worthwhile on a
GPU. ``PORT`` and ``GRADIO_SERVER_NAME`` set the port and the address. In a Hugging Face Space, the page listens on all
addresses, and visitors can't load other models; ``AUDIODEAR_FIXED_MODEL`` changes that (1: they can't, 0: they can),
and ``AUDIODEAR_LOCAL_FOLDERS=1`` lets them name folders of this machine. ``AUDIODEAR_METRICS=1`` counts runs at
``/metrics``.
``GRADIO_MCP_SERVER=true`` offers the endpoints as tools of the Model Context Protocol; it needs the extra
``gradio[mcp]``.
"""

from __future__ import annotations

import os
import signal
import sys


def main() -> int:
    host = os.environ.get("GRADIO_SERVER_NAME") or ("0.0.0.0" if os.environ.get("SPACE_ID") else "127.0.0.1")
    port = os.environ.get("PORT") or "7860"
    compiled = os.environ.get("AUDIODEAR_COMPILE") or "0"
    source, revision = (os.environ.get(f"AUDIODEAR_{name}") or None for name in ("MODEL", "REVISION"))
    try:
        if not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
            raise ValueError(f"PORT must be a whole number from 1 to 65535, got {port!r}")
        if compiled not in ("0", "1"):
            raise ValueError(f"AUDIODEAR_COMPILE must be 0 or 1, got {compiled!r}")
        # Imported here, because imports take seconds and a bad port is reported at once.
        from dear import AudioDEAR
        from dear.ui import serve
        from dear.ui.gpu import is_zero

        if is_zero():
            import spaces  # noqa: F401 - must be imported before the weights reach the GPU

        model = AudioDEAR.from_pretrained(source, revision=revision)
        if compiled == "1":
            model.compile()
        page = serve(model, host, int(port), source, revision)
    except (ValueError, OSError, ImportError) as error:
        print(f"app.py: {error}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # a clean exit, which removes the files of results
    print(f"AudioDEAR is served at {page.local_url}", flush=True)
    page.block_thread()
    return 0


if __name__ == "__main__":
    sys.exit(main())
