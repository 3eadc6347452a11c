"""Ids of commands and events."""

import uuid
from random import getrandbits

from chassis.errors import FieldViolation, InvalidArgument

_NAMESPACE = uuid.UUID("5f0c6f6b-5a0e-5d0b-9c39-0d4f8a5f7e11")
_FIXED_BITS = 0xF << 76 | 0x3 << 62
_VERSION_4 = 0x4 << 76 | 0x2 << 62


class RequestIdInvalid(InvalidArgument):
    """A request id is not a UUID."""


def new_request_id() -> str:
    """Return a new random request id."""
    return random_uuid()


def random_uuid() -> str:
    """Return a random UUID, version 4, at half of what the library's costs. It can be guessed: no secret."""
    digits = f"{getrandbits(128) & ~_FIXED_BITS | _VERSION_4:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


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
