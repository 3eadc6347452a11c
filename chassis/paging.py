"""Paging of list calls: bounded sizes, and tokens that name the last row of the page before."""

import base64
import binascii

from chassis.errors import FieldViolation, InvalidArgument

DEFAULT_SIZE = 100
LARGEST_SIZE = 1000


class PageTokenInvalid(InvalidArgument):
    """A page token is not one that this service gave."""


def page_size(asked: int) -> int:
    """Return how many rows a page has: 100 for 0, never more than 1,000."""
    return min(asked or DEFAULT_SIZE, LARGEST_SIZE)


def page_token(last: str) -> str:
    """Return the token of the page after the row with the key `last`."""
    return base64.urlsafe_b64encode(last.encode()).decode().rstrip("=")


def last_key(token: str) -> str:
    """Return the key of the last row of the page before; empty for the first page.

    Raises PageTokenInvalid.
    """
    try:
        return base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError):
        raise PageTokenInvalid(
            "page_token is not one of this service",
            [
                FieldViolation(
                    "page_token", "pass the next_page_token of the page before, or nothing for the first page"
                )
            ],
        ) from None


def last_position(token: str, newest_first: bool = True) -> int:
    """Return the position of the last row of the page before; without a token, one past the end it starts from.

    Raises PageTokenInvalid.
    """
    if not token:
        return 2**63 - 1 if newest_first else 0
    try:
        return int(last_key(token))
    except ValueError:
        raise PageTokenInvalid(
            "page_token is not one of this service",
            [
                FieldViolation(
                    "page_token", "pass the next_page_token of the page before, or nothing for the first page"
                )
            ],
        ) from None
