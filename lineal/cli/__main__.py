"""`lineal`: the command line."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from lineal import __version__
from lineal.cli import (
    backups,
    bundle,
    catalog,
    contests,
    datasets,
    decisions,
    features,
    keep,
    log,
    look,
    parity,
    planning,
    prove,
    quarantine,
    scoring,
    suite,
    tables,
    work,
)
from lineal.cli.output import errors, options
from lineal.errors import LinealError
from lineal.profile import ProfileError

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="rich")


@app.callback()
def before(
    connect: Annotated[
        str | None,
        typer.Option(
            help="Where Lineal is: a profile file or a host. This machine by default.", envvar="LINEAL_PROFILE"
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Answer in JSON.")] = False,
) -> None:
    """Lineal keeps tabular models good in production and can prove how each answer came about."""
    options.connect = connect
    options.json = options.json or as_json


_COMMANDS: tuple[Callable[..., None], ...] = (
    suite.up,
    suite.down,
    suite.status,
    suite.doctor,
    tables.parked,
    planning.plan,
    work.apply,
    catalog.catalog,
    catalog.retire,
    work.ingest,
    work.train,
    work.predict,
    scoring.score,
    scoring.rescore,
    scoring.scoring,
    work.outcomes,
    work.release,
    work.rollback,
    work.approve,
    work.reject,
    work.suspend,
    work.resume,
    look.alarms,
    parity.parity,
    look.sagas,
    look.bundles,
    look.card,
    look.runs,
    log.events,
    log.lineage,
    log.impact,
    log.endpoint,
    look.trace,
    look.explain,
    decisions.counterfactuals,
    decisions.review,
    contests.contest,
    contests.contests,
    contests.resolve,
    prove.prove,
    prove.verify,
    prove.keys,
    keep.seal,
    keep.collect,
    backups.backup,
    backups.restore,
)
for _command in _COMMANDS:
    app.command()(_command)
app.command("import")(work.import_model)
app.add_typer(bundle.app, name="bundle")
app.add_typer(datasets.app, name="dataset")
app.add_typer(features.app, name="features")
app.add_typer(quarantine.app, name="quarantine")


@app.command()
def demo(
    quick: Annotated[bool, typer.Option("--quick", help="The whole story in three minutes, on a sample.")] = False,
    data: Annotated[
        Path | None, typer.Option("--data", help="Folder of everything that is kept; a new one by default.")
    ] = None,
    connect: Annotated[
        str | None, typer.Option(help="A suite that runs already: a profile file or a host.", show_default=False)
    ] = None,
) -> None:
    """Run the main job end to end on real flights; with --connect against a suite that runs already."""
    if not (suite.root() / "examples" / "flights" / "demo.py").is_file():
        raise LinealError("the demo is in the project's clone; run `lineal demo` there")
    sys.path.insert(0, str(suite.root()))
    run = importlib.import_module("examples.flights.demo").run
    raise typer.Exit(run(quick=quick, data=data, connect=connect or options.connect))


@app.command()
def version() -> None:
    """Print the version."""
    sys.stdout.write(f"{__version__}\n")


def main() -> None:
    """Run the command line; errors that a person can mend end in one message and exit code 1, wrong usage in 2."""
    # `--json` may stand anywhere on the line.
    if "--json" in sys.argv[1:]:
        sys.argv = [sys.argv[0], *(argument for argument in sys.argv[1:] if argument != "--json")]
        options.json = True
    try:
        app()
    except (LinealError, ProfileError) as error:
        errors.print("error:", style="red", end=" ")
        errors.print(str(error), highlight=False, markup=False, soft_wrap=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
