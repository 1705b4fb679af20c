"""The tabs of the page, in their order. A new tab is one file in :mod:`dear.ui.tabs` and one line of ``TABS``."""

from __future__ import annotations

from dear.registry import load_kinds
from dear.ui.context import Tab

TABS: dict[str, Tab] = load_kinds(
    {
        "generate": "dear.ui.tabs.generate:TAB",
        "compare": "dear.ui.tabs.compare:TAB",
        "duel": "dear.ui.tabs.duel:TAB",
        "edit": "dear.ui.tabs.edit:TAB",
        "listening": "dear.ui.tabs.listening:TAB",
        "hood": "dear.ui.tabs.hood:TAB",
        "model": "dear.ui.tabs.model:TAB",
    }
)
