"""The page of one run, from what its folder holds; `pargolf report RUN` writes it again."""

from collections.abc import Mapping, Sequence
from typing import Any

from pargolf.core.errors import NotRead
from pargolf.core.result import Result
from pargolf.core.spec import rows
from pargolf.report.pages.html import run_page
from pargolf.run.folder import RunFolder
from pargolf.run.pack import read_container
from pargolf.watch.runlog import read_events


def page_of(folder: RunFolder, result: Result, *, by_role: Sequence[Mapping[str, Any]] | None = None) -> str:
    """Return the page as HTML text; `by_role` None: the artifact is read for it. Raises `UserError` on damage.

    Where the recipe uses a file of techniques that was not named, its rows are left out and the page says which.
    """
    if by_role is None:
        by_role = read_container(folder["model.pargolf"]).by_role()
    title = result.recipe
    try:
        recipe = folder.read_recipe()
        title, describe = recipe.name, "\n".join(f"{path} = {value}" for path, value in rows(recipe).items())
    except NotRead as error:
        describe = str(error)
    return run_page(
        result,
        read_events(folder["events.jsonl"]),
        by_role=by_role,
        documents=folder.read_documents(),
        describe=describe,
        title=title,
    )
