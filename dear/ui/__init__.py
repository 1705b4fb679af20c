"""The page: one file per tab, assembled in :mod:`dear.ui.page`."""

from dear.ui.page import build, serve

__all__ = ["build", "serve"]
