"""The arguments of a command."""

from __future__ import annotations

import argparse
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """Reports bad input as the rest of the package does: an error of one sentence, without the usage before it."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)
