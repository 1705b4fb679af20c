"""Let the docstrings of the code read well as Markdown: an extension of Griffe, used by mkdocs.yml.

In the code, the description of an argument begins with its name and a colon, and Sphinx roles name other objects.
Here each description becomes an item of a list, and a role becomes code.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import griffe

ROLE = re.compile(r":(?:class|data|func|meth|mod):`~?([^`]+)`")
BLOCK = re.compile(r",? ?::$", re.MULTILINE)
ARGUMENTS = re.compile(r"([a-z_]\w*(?:, [a-z_]\w*)*): (?=\S)")


def to_markdown(text: str, parameters: Iterable[str] = ()) -> str:
    """A docstring as Markdown. Literal blocks, which are indented behind an empty line, stay as they are.

    parameters: names whose descriptions may also begin within a line, after a sentence.
    """
    lines: list[str] = []
    if names := "|".join(map(re.escape, parameters)):
        text = re.sub(rf"(?<=[.)]) (?=(?:{names}): \S)", "\n", text)
    listed = literal = False
    for line in BLOCK.sub(":", ROLE.sub(r"`\1`", text)).splitlines():
        literal = line.startswith("    ") and (literal or not lines or not lines[-1].strip()) and not listed
        found = None if literal else ARGUMENTS.match(line)
        if found:
            names = ", ".join(f"`{name}`" for name in found[1].split(", "))
            lines += ([] if listed else [""]) + [f"- {names}: {line[found.end() :]}"]
            listed = True
        elif listed and line[:1].isupper() and lines[-1].endswith("."):
            lines += ["", line]
            listed = False
        elif listed and line.strip():
            lines.append(f"  {line.strip()}")
        else:
            lines.append(line)
            listed = False
    return "\n".join(lines)


class Markdown(griffe.Extension):
    """Rewrites every docstring when its object is loaded."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            parameters = [each.name for each in obj.parameters] if isinstance(obj, griffe.Function) else []
            obj.docstring.value = to_markdown(obj.docstring.value, parameters)
