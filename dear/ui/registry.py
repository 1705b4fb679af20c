"""The tabs of the page, in their order. A new tab is one file in :mod:`dear.ui.tabs` and one line of ``TABS``."""

from __future__ import annotations

from dear.ui.context import Tab
from dear.ui.tabs import compare, duel, edit, generate, hood, listening, model

TABS: dict[str, Tab] = {
    tab.name: tab
    for tab in (
        generate.TAB,
        compare.TAB,
        duel.TAB,
        edit.TAB,
        listening.TAB,
        hood.TAB,
        model.TAB,
    )
}
