"""Names that people give: to models and endpoints."""

import re

from chassis.errors import FieldViolation

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")


def check_name(field: str, name: str) -> list[FieldViolation]:
    """Return what is wrong with a name; an empty list when nothing is."""
    if _NAME.fullmatch(name):
        return []
    return [
        FieldViolation(
            field,
            f"{name!r} is not a name: begin with a lowercase letter, then up to 62 lowercase letters, digits, "
            "hyphens and underscores",
        )
    ]
