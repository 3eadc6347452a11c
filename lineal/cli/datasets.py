"""Commands about datasets: infer, versions."""

from pathlib import Path
from typing import Annotated

import typer

from lineal.api.ingest.v1 import ingest_service_pb2 as api
from lineal.api.ingest.v1.dataset_pb2 import FieldType
from lineal.cli.files import Columns, File, RowNumber, Separator, read_table, stem
from lineal.cli.output import console, moment, options, say, show
from lineal.cli.work import connect
from lineal.errors import LinealError
from lineal.infer import propose

app = typer.Typer(no_args_is_help=True, help="Propose and look at declarations of datasets.")


@app.callback()
def before() -> None:
    """Propose and look at declarations of datasets."""


@app.command()
def infer(
    file: File,
    name: Annotated[str, typer.Option(help="Name of the dataset; the file's by default.")] = "",
    out: Annotated[Path | None, typer.Option(help="Write to this file, which must not be there.")] = None,
    separator: Separator = ",",
    columns: Columns = "",
    row_number: RowNumber = "",
) -> None:
    """Propose a declaration from rows: read it, correct it, then `lineal apply` its folder."""
    text = propose(name or stem(file), read_table(file, separator, columns, row_number))
    if out is None:
        if options.json:
            show({"declaration": text})
        else:
            console.print(text, end="", markup=False, highlight=False, soft_wrap=True)
        return
    try:
        with out.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except OSError as error:
        raise LinealError(f"{out} cannot be written: {error.strerror}") from error
    say(f"{out}: read it, correct it, then `lineal apply {out.parent}`")


@app.command()
def versions(name: Annotated[str, typer.Argument(help="Name of the dataset.")]) -> None:
    """List the schema versions of a dataset, newest first."""
    found: list[api.DatasetVersion] = []
    token = ""
    with connect() as client:
        while True:
            request = api.ListDatasetVersionsRequest(name=name, page_token=token)
            page = client.services.ingest.call("ListDatasetVersions", request)
            found += page.versions
            token = page.next_page_token
            if not token:
                break
    show(
        found,
        ("version", "declared", "by", "position", "fields"),
        [
            (
                version.schema_version,
                moment(version, "declare_time"),
                version.actor,
                version.position,
                ", ".join(f"{f.name} {FieldType.Name(f.type)[11:].lower()}" for f in version.dataset.fields),
            )
            for version in found
        ],
    )
