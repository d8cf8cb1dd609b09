"""Commands that show recipes; the list answers without torch."""

import json

from rich.table import Table
from rich.text import Text

from pargolf import api
from pargolf.cli.options import Given, command
from pargolf.cli.terminal import console
from pargolf.core.spec import dump


@command(api.list_recipes)
def recipes(given: Given) -> None:
    """Print a table."""
    rows = given.call(api.list_recipes)
    if given.prints_json(rows):
        return
    table = Table(box=None, header_style="bold")
    table.add_column("recipe")
    table.add_column("what it is")
    for row in rows:
        table.add_row(Text(row["name"], style="cyan"), Text(row["title"]))
    console.print(table)


@command(api.describe)
def describe(given: Given) -> None:
    """Print the rows; with --json the recipe itself."""
    if given.as_json:
        print(json.dumps(dump(api.recipe(given["recipe"], scale=given["scale"]))))
    else:
        print(given.call(api.describe))


@command(api.diff)
def diff(given: Given) -> None:
    """Print a table of the rows."""
    rows = given.call(api.diff)
    if given.prints_json(rows):
        return
    table = Table("row", given["a"], given["b"], box=None, header_style="bold")
    for path, (left, right) in rows.items():
        table.add_row(Text(path), Text(left or "-", style="red"), Text(right or "-", style="green"))
    console.print(table if rows else "no difference")
