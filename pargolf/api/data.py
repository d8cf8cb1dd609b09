"""Calls on data: prepare your own text, fetch the published shards, check a folder."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

from pargolf.api.parameters import PathLike, Target
from pargolf.core.ranges import Within
from pargolf.core.work import Events, working

if TYPE_CHECKING:
    from pargolf.data.check import Finding
    from pargolf.data.fetch import Fetched
    from pargolf.data.folder import DataFolder


@working
def prepare_data(
    sources: Sequence[Target],
    *,
    out: PathLike,
    vocab: int = 1024,
    val_fraction: float = 0.1,
    train_fraction: float = 1.0,
    max_bytes: int | None = None,
    text_field: str | None = None,
    dedupe: bool = False,
    normalize: bool = False,
    caseops: bool = False,
    tokenizer: PathLike | None = None,
    force: bool = False,
) -> "Events[DataFolder]":
    """Turn text into a tokenizer and shards, split by document.

    Args:
        sources: Files, folders, globs, hf://datasets/OWNER/NAME, `-` for standard input, or `embedded`.
        out: The data folder to make.
        vocab: Size of the vocabulary; 257 for plain bytes.
        val_fraction: Share of the documents for validation.
        train_fraction: Share of the other documents to train on; the rest is left out.
        max_bytes: Take only a share of the documents, of at most this many bytes.
        text_field: The text column of tables.
        dedupe: Drop near-copies of other documents.
        normalize: If the tokenizer changes the text, count the text that it keeps.
        caseops: Spell capital letters with symbols of their own.
        tokenizer: Use this .model or tokenizer.json instead of training one.
        force: Replace the content of the output folder.

    Returns:
        The folder, opened.
    """
    from pargolf.data.folder import open_data
    from pargolf.data.prepare import prepare

    yield from prepare(
        [str(source) for source in sources],
        out,
        vocab=vocab,
        val_fraction=val_fraction,
        train_fraction=train_fraction,
        max_bytes=max_bytes,
        text_field=text_field,
        dedupe=dedupe,
        normalize=normalize,
        caseops=caseops,
        tokenizer=tokenizer,
        force=force,
    )
    return open_data(out)


@working
def fetch_data(
    name: str = "sp1024",
    *,
    out: PathLike = "data",
    shards: Annotated[int, Within(0)] = 80,
    repo: str | None = None,
    root: str | None = None,
    force: bool = False,
) -> "Events[Fetched]":
    """Fetch the published shards and tokenizer from the Hugging Face hub; resumes where it stopped.

    Args:
        name: sp1024, or another published variant.
        out: The folder for the published folders.
        shards: How many training shards, of 100 million tokens each.
        repo: Another data set of the hub, with the layout of the official one.
        root: The folder in it that holds manifest.json.
        force: Replace files that are not the published ones.

    Returns:
        What was fetched and verified.
    """
    from pargolf.data.fetch import REPO, ROOT, fetch

    return (yield from fetch(name, out, shards=shards, repo=repo or REPO, root=root or ROOT, force=force))


def check_data(folder: PathLike) -> "Iterator[Finding]":
    """Check shards, byte tables, the exact round trip, and the overlap of training and validation.

    Args:
        folder: A data folder.

    Returns:
        Each finding as soon as it is known.
    """
    from pargolf.data.check import checks

    return checks(folder)
