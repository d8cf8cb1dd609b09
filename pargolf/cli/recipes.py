"""Commands that print recipes; the list answers without loading torch."""

import json

from rich.table import Table
from rich.text import Text

from pargolf import api
from pargolf.cli.options import Arguments, command
from pargolf.cli.terminal import console
from pargolf.core.spec import dump


@command(api.list_recipes)
def recipes(arguments: Arguments) -> None:
    """Print a table."""
    rows = arguments.call(api.list_recipes)
    if arguments.prints_json(rows):
        return
    table = Table(box=None, header_style="bold")
    table.add_column("recipe")
    table.add_column("what it is")
    for row in rows:
        table.add_row(Text(row["name"], style="cyan"), Text(row["title"]))
    console.print(table)


@command(api.describe)
def describe(arguments: Arguments) -> None:
    """Print the rows; with --json the recipe itself."""
    if arguments.as_json:
        print(json.dumps(dump(api.recipe(arguments["recipe"], scale=arguments["scale"]))))
    else:
        print(arguments.call(api.describe))


@command(api.diff)
def diff(arguments: Arguments) -> None:
    """Print a table of the rows."""
    rows = arguments.call(api.diff)
    if arguments.prints_json(rows):
        return
    table = Table("row", arguments["a"], arguments["b"], box=None, header_style="bold")
    for path, (old, new) in rows.items():
        table.add_row(Text(path), Text(old or "-", style="red"), Text(new or "-", style="green"))
    console.print(table if rows else "no difference")
