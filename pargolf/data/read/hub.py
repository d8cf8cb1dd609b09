"""Data sets of the hub as a source: `hf://datasets/OWNER/NAME`; its Parquet files are downloaded once and kept.

    hf://datasets/OWNER/NAME                        every Parquet file
    hf://datasets/OWNER/NAME/sample/10BT            those of a folder
    hf://datasets/OWNER/NAME/data/train-*.parquet   those that a glob names
    hf://datasets/OWNER/NAME@~parquet               the copy in Parquet that the hub makes of any data set

Files lie in the user's cache under the hashes of their content, so nothing is fetched twice, and what was cut off goes
on. Needs the `huggingface_hub` package, `pip install 'pargolf[hub]'`, and `pyarrow`.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

from pargolf.core.errors import UserError
from pargolf.core.events import Progress
from pargolf.core.files import cache_folder
from pargolf.core.work import Events
from pargolf.data.hub import Hub, RemoteFile, check_room, take_all
from pargolf.data.read.files import SourceFile, Sources, source_file

SCHEME = "hf://"
_ADDRESS = re.compile(r"hf://datasets/([\w.-]+/[\w.-]+)(?:@([\w.~/-]+?))?(?:/(.*))?")
_CONVERTED = "refs/convert/parquet"


def with_fetched(sources: Sequence[str | Path], find: Callable[[Sequence[str | Path]], Sources]) -> Events[Sources]:
    """What `find` lists of local sources, and the files of data sets on the hub, fetched, each in its turn."""
    out = Sources()
    if not sources:
        return find(sources)
    for source in sources:
        if str(source).startswith(SCHEME):
            out.files += yield from _fetched(str(source))
        else:
            local = find([source])
            out.files += local.files
            out.left_out += local.left_out
    return out


def _fetched(address: str) -> Events[list[SourceFile]]:
    """The files of a data set. Raises `UserError` for an address of another form, and for no such files."""
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise UserError(f"{address} is no data set. Write hf://datasets/OWNER/NAME, perhaps with a folder or a glob.")
    repo, branch, inside = match[1], match[2], (match[3] or "").strip("/")
    hub = Hub(repo)
    revision = hub.revision(_CONVERTED if branch == "~parquet" else branch)
    paths = [path for path in hub.names(revision) if _is_wanted(path, inside)]
    if not paths:
        where = f" under {inside}" if inside else ""
        raise UserError(
            f"{repo} has no Parquet file{where}. The hub's own copy in Parquet is hf://datasets/{repo}@~parquet."
        )
    cache = cache_folder() / "datasets"
    files = [replace(file, place=f"{file.proof}.parquet") for file in hub.files([(p, p) for p in paths], revision)]
    missing = list({file.proof: file for file in files if not _is_there(cache, file)}.values())
    whole = sum(file.size for file in files)
    check_room(cache, sum(file.size for file in missing), f"Name fewer of its {len(files):,} files: {address}/...")
    yield Progress("fetch", whole - sum(file.size for file in missing), whole, f"{len(missing)} files to fetch")
    yield from take_all(hub, missing, revision, cache, cache, whole)
    return [source_file(cache / file.place, file.path) for file in files]


def _is_wanted(path: str, inside: str) -> bool:
    if not path.endswith(".parquet"):
        return False
    return not inside or path == inside or path.startswith(f"{inside}/") or fnmatchcase(path, inside)


def _is_there(cache: Path, file: RemoteFile) -> bool:
    """Whether a file was fetched before: it took its name when it was proved."""
    path = cache / file.place
    return path.is_file() and path.stat().st_size == file.size
