"""Data: prepared of one's own text, checked, and the published shards fetched."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from pargolf.core.work import Events, working
from pargolf.data.check import Finding, checks
from pargolf.data.fetch import REPO, ROOT, SHARDS, Fetched, fetch
from pargolf.data.folder import DataFolder, open_data
from pargolf.data.prepare import prepare


@working
def prepare_data(
    sources: Sequence[str | Path],
    *,
    out: str | Path,
    vocab: int = 1024,
    val_fraction: float = 0.1,
    train_fraction: float = 1.0,
    max_bytes: int | None = None,
    text_field: str | None = None,
    dedupe: bool = False,
    normalize: bool = False,
    caseops: bool = False,
    tokenizer: str | Path | None = None,
    force: bool = False,
) -> Events[DataFolder]:
    """Turn text (files, folders, globs, hf://, `-`, `embedded`) into a tokenizer and shards in `out`; the folder.

    The options are those of `data.prepare.prepare`, which says what each does.
    """
    yield from prepare(
        [str(source) for source in sources],
        Path(out),
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
    out: str | Path = "data",
    shards: int = SHARDS,
    repo: str = REPO,
    root: str = ROOT,
    force: bool = False,
) -> Events[Fetched]:
    """Fetch the published shards and tokenizer into `out`, whole and proved; goes on where it stopped."""
    return (yield from fetch(name, out, shards=shards, repo=repo, root=root, force=force))


def check_data(folder: str | Path) -> Iterator[Finding]:
    """What `data check` finds of a folder, each finding as soon as it is known."""
    return checks(folder)
