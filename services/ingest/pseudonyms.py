"""Pseudonyms of direct identifiers: HMAC-SHA-256 (RFC 2104) under a key that never leaves this service's folder."""

import hashlib
import hmac
import os
import secrets
from pathlib import Path

import pyarrow as pa

from lineal.api.ingest.v1.dataset_pb2 import Dataset, FieldType, Sensitivity
from tabular.schema import Violation

_KEY_BYTES = 32


class PseudonymKeyUnusable(SystemExit):
    """The key file cannot be used. Left alone it ends the process with what to do."""


class Pseudonyms:
    """Makes the same pseudonym of the same text, in every dataset: `p:<key id>:<HMAC in hex>`."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        # So that rows under two keys can be told apart, without saying anything about either.
        self.key_id = self._hmac(b"lineal pseudonym key id")[:8]

    @classmethod
    def load(cls, path: Path) -> "Pseudonyms":
        """Read the key, or make one that only its owner may read. Raises PseudonymKeyUnusable."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Written whole under another name first: a second process never reads half a key.
            draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
            if not path.exists():
                with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                    file.write(secrets.token_hex(_KEY_BYTES))
                    file.flush()
                    os.fsync(file.fileno())
                try:
                    os.link(draft, path)
                except FileExistsError:
                    pass
                finally:
                    draft.unlink()
            if path.stat().st_mode & 0o077:
                raise PseudonymKeyUnusable(f"ingest: others may read {path}; `chmod 600` it, or make a new key")
            key = bytes.fromhex(path.read_text(encoding="ascii").strip())
        except (OSError, ValueError) as error:
            raise PseudonymKeyUnusable(f"ingest: {path} cannot be read as a key in hex: {error}") from None
        if len(key) < _KEY_BYTES:
            raise PseudonymKeyUnusable(f"ingest: {path} has a key of {len(key)} bytes; it needs {_KEY_BYTES} or more")
        return cls(key)

    def of(self, text: str) -> str:
        """Return the pseudonym of a text."""
        return f"p:{self.key_id}:{self._hmac(b'value' + bytes(1) + text.encode())}"

    def digest(self, data: bytes) -> str:
        """Return a keyed digest of rows as they were sent: a plain one would let short rows be guessed."""
        return self._hmac(b"batch" + bytes(1) + data)

    def hide(self, table: pa.Table, columns: set[str]) -> pa.Table:
        """Return a table with pseudonyms in these columns; nulls stay."""
        for place, name in enumerate(table.column_names):
            if name in columns and table.num_rows:
                coded = table[name].combine_chunks().dictionary_encode()
                coded = pa.concat_arrays(coded.chunks) if isinstance(coded, pa.ChunkedArray) else coded
                hidden = pa.array([self.of(text) for text in coded.dictionary.to_pylist()], pa.string())
                table = table.set_column(place, table.schema.field(name), hidden.take(coded.indices))
        return table

    def _hmac(self, data: bytes) -> str:
        return hmac.new(self._key, data, hashlib.sha256).hexdigest()


def identifiers(dataset: Dataset) -> set[str]:
    """Return the columns that identify a person directly."""
    direct = Sensitivity.SENSITIVITY_DIRECT_IDENTIFIER
    return {field.name for field in dataset.fields if field.sensitivity == direct}


def identifier_violations(dataset: Dataset) -> list[Violation]:
    """Refuse identifiers where their pseudonyms would not do."""
    direct = identifiers(dataset)
    found = [
        Violation(f"fields[{n}].type", f"{field.name!r} is kept as a pseudonym, which is text; declare and send STRING")
        for n, field in enumerate(dataset.fields)
        if field.name in direct and field.type not in (FieldType.FIELD_TYPE_STRING, FieldType.FIELD_TYPE_UNSPECIFIED)
    ]
    # Whoever looks features or rows up by a key has the value and not its pseudonym.
    found += [
        Violation(
            f"{path}[{n}]",
            f"{key!r} identifies a person directly and is kept as a pseudonym, so nothing can be looked up by it; use "
            "a surrogate key, and declare the identifier as a further column",
        )
        for path in ("row_key", "entity_keys")
        for n, key in enumerate(getattr(dataset, path))
        if key in direct
    ]
    named = [(f"distribution_checks[{n}]", {check.column}) for n, check in enumerate(dataset.distribution_checks)]
    for n, rule in enumerate(dataset.rules):
        compared = [*rule.when, rule.compare] if rule.WhichOneof("kind") == "compare" else list(rule.when)
        columns = {c.column for c in compared} | {c.other_column for c in compared} | {rule.reference.column}
        named.append((f"rules[{n}]", columns))
    return found + [
        Violation(path, f"{name!r} identifies a person directly; only `unique` may name it")
        for path, columns in named
        for name in sorted(columns & direct)
    ]
