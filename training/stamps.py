"""What something was made from, as plain data: how settings are written down, and how older ones are read."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any


def plain(data: Any) -> Any:
    """Data as it comes back from JSON: dataclasses become objects, tuples become lists."""
    return json.loads(json.dumps(data, default=dataclasses.asdict))


def completed(saved: Any, wanted: Any) -> Any:
    """``saved`` (plain data) with the fields that dataclasses in ``wanted`` have gained since, at their defaults.

    So what was saved before a field existed stays equal to what leaves the field alone.
    """
    if dataclasses.is_dataclass(wanted) and isinstance(saved, dict):
        defaults: dict[str, Any] = {}
        for field in dataclasses.fields(wanted):
            if field.default is not dataclasses.MISSING:
                defaults[field.name] = field.default
            elif field.default_factory is not dataclasses.MISSING:
                defaults[field.name] = field.default_factory()
        return plain(defaults) | {key: completed(value, getattr(wanted, key, None)) for key, value in saved.items()}
    if isinstance(wanted, Mapping) and isinstance(saved, dict):
        return {key: completed(value, wanted.get(key)) for key, value in saved.items()}
    return saved
