"""What is declared can be retired: nothing new may use it then. Nothing is retired that something still uses."""

from collections.abc import Sequence

from chassis.errors import RuleViolated


class Retired(RuleViolated):
    """A new use is asked for of something that is retired."""


class StillUsed(RuleViolated):
    """Something cannot be retired while others use it."""


def refuse_retired(retired: bool, what: str, field: str = "") -> None:
    """Raise Retired for something that is; `field` is the path of the request that names it."""
    if retired:
        where = f"{field}: " if field else ""
        raise Retired(
            f"{where}{what} is retired: use another, or declare it again with `lineal apply` to bring it back"
        )


def refuse_used(what: str, users: Sequence[str]) -> None:
    """Raise StillUsed, naming the users, when there are any."""
    if users:
        raise StillUsed(f"{what} is still used by {', '.join(users)}: retire that first, with `lineal retire`")
