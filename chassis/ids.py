"""Ids of commands and events."""

import uuid

from chassis.errors import FieldViolation, InvalidArgument

_NAMESPACE = uuid.UUID("5f0c6f6b-5a0e-5d0b-9c39-0d4f8a5f7e11")


class RequestIdInvalid(InvalidArgument):
    """A request id is not a UUID."""


def new_request_id() -> str:
    """Return a new random request id."""
    return str(uuid.uuid4())


def request_id_from(*parts: str) -> str:
    """Return the request id that belongs to these parts, always the same one.

    A command that writes to a second stream needs a second request id: `request_id_from(request_id, "model")`.
    """
    # The length in front keeps ("ab", "c") and ("a", "bc") apart.
    return str(uuid.uuid5(_NAMESPACE, "".join(f"{len(part)}:{part}" for part in parts)))


def event_id(request_id: str, n: int) -> str:
    """Return the id of the nth event of a command, counted from 1."""
    return str(uuid.uuid5(uuid.UUID(request_id), str(n)))


def check_request_id(request_id: str) -> str:
    """Return the request id in canonical form.

    Raises RequestIdInvalid when it is no UUID.
    """
    try:
        return str(uuid.UUID(request_id))
    except ValueError:
        raise RequestIdInvalid(
            f"request_id {request_id!r} is not a UUID",
            [FieldViolation("request_id", "must be a UUID that the client makes once per command; a retry repeats it")],
        ) from None
