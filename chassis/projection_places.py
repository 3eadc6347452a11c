"""Where the tables of projections lie, one place per projection and version."""

import re
from pathlib import Path
from typing import Protocol

from sqlalchemy import create_engine, make_url, text

from chassis.databases import Database, open_database
from chassis.projection_state import lock_places

_NAME = re.compile(r"[a-z][a-z0-9_]{0,40}")


class Places(Protocol):
    """Makes, finds and drops the places of projections."""

    def open(self, name: str, version: int) -> Database:
        """Open the place of one version, made when it is not there."""
        ...

    def drop_others(self, name: str, version: int) -> None:
        """Drop the places of all other versions."""
        ...

    def drop_all(self) -> list[str]:
        """Drop the places of all projections, and return which."""
        ...


def places_for(database_url: str, service_dir: Path) -> "SqlitePlaces | PostgresPlaces":
    """Return the places in the database of a service."""
    if make_url(database_url).get_backend_name() == "sqlite":
        return SqlitePlaces(service_dir / "projections")
    return PostgresPlaces(database_url)


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"projection {name!r} must be named in lower case letters, digits and underscores")
    return name


class SqlitePlaces:
    """A file per projection and version."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def open(self, name: str, version: int) -> Database:
        """Open the file of one version."""
        return open_database(f"sqlite:///{(self._folder / f'{_checked(name)}-v{version}.db').resolve()}")

    def drop_others(self, name: str, version: int) -> None:
        """Remove the files of all other versions."""
        for file in self._folder.glob(f"{_checked(name)}-v*.db*"):
            if not file.name.startswith(f"{name}-v{version}.db"):
                file.unlink(missing_ok=True)

    def drop_all(self) -> list[str]:
        """Remove all files."""
        files = sorted(self._folder.glob("*-v*.db*"))
        for file in files:
            file.unlink(missing_ok=True)
        return [file.stem for file in files if file.suffix == ".db"]


class PostgresPlaces:
    """A schema per projection and version."""

    def __init__(self, database_url: str) -> None:
        self._url = database_url

    def open(self, name: str, version: int) -> Database:
        """Open the schema of one version."""
        schema = f"projection_{_checked(name)}_v{version}"
        self._run(f'CREATE SCHEMA IF NOT EXISTS "{schema}"')
        return open_database(self._url, schema=schema)

    def drop_others(self, name: str, version: int) -> None:
        """Drop the schemas of all other versions."""
        pattern = re.compile(rf"projection_{_checked(name)}_v\d+")
        for schema in self._schemas():
            if pattern.fullmatch(schema) and schema != f"projection_{name}_v{version}":
                self._run(f'DROP SCHEMA "{schema}" CASCADE')

    def drop_all(self) -> list[str]:
        """Drop all schemas."""
        schemas = self._schemas()
        for schema in schemas:
            self._run(f'DROP SCHEMA "{schema}" CASCADE')
        return [schema.removeprefix("projection_") for schema in schemas]

    def _schemas(self) -> list[str]:
        engine = create_engine(self._url)
        try:
            with engine.connect() as connection:
                found = connection.execute(
                    text("SELECT schema_name FROM information_schema.schemata WHERE schema_name LIKE 'projection\\_%'")
                )
                return sorted(found.scalars())
        finally:
            engine.dispose()

    def _run(self, statement: str) -> None:
        engine = create_engine(self._url)
        try:
            with engine.begin() as connection:
                lock_places(connection)
                connection.execute(text(statement))
        finally:
            engine.dispose()
