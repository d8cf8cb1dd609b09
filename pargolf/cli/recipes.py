"""Commands that show recipes; they answer without torch where they can."""

import json

from rich.table import Table
from rich.text import Text

from pargolf.cli.terminal import JsonOpt, RecipeArg, ScaleOpt, console
from pargolf.recipes import catalog


def recipes(as_json: JsonOpt = False) -> None:
    """List the shipped recipes."""
    rows = catalog.summaries()
    if as_json:
        print(json.dumps(rows))
        return
    table = Table(box=None, header_style="bold")
    table.add_column("recipe")
    table.add_column("what it is")
    for row in rows:
        table.add_row(Text(row["name"], style="cyan"), Text(row["title"]))
    console.print(table)


def describe(recipe: RecipeArg, scale: ScaleOpt = None, as_json: JsonOpt = False) -> None:
    """Print a whole system, row by row, and beside its rows what they were measured to be worth."""
    from pargolf import api
    from pargolf.core.spec import dump
    from pargolf.recipes.describe import describe as describe_text

    found = api.recipe(recipe, scale=scale)
    if as_json:
        print(json.dumps(dump(found)))
        return
    edits, worths = ({}, None) if scale else (catalog.ablations(recipe), catalog.measured(recipe))
    print(describe_text(found, edits=edits, found=worths))


def diff(a: RecipeArg, b: RecipeArg, as_json: JsonOpt = False) -> None:
    """Print the rows in which two recipes differ."""
    from pargolf.recipes.describe import diff as diff_rows

    rows = diff_rows(catalog.find(a), catalog.find(b))
    if as_json:
        print(json.dumps(rows))
        return
    table = Table("row", a, b, box=None, header_style="bold")
    for path, (left, right) in rows.items():
        table.add_row(Text(path), Text(left or "-", style="red"), Text(right or "-", style="green"))
    console.print(table if rows else "no difference")
