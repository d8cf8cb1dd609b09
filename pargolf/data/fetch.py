"""The published data from the Hugging Face hub: shards of FineWeb and their tokenizer, as they were published.

    hub: willdepueoai/parameter-golf   datasets/manifest.json            says what there is, and how many shards
                                       datasets/datasets/fineweb10B_sp1024/fineweb_{val,train}_%06d.bin
                                       datasets/tokenizers/fineweb_1024_bpe.model
    here: OUT/manifest.json, OUT/datasets/fineweb10B_sp1024/..., OUT/tokenizers/...      as the published script lays it

Validation is always whole; training is the first N shards of one frozen order. All files are of one revision. A file
takes its place only when its SHA-256 is the hub's; what was cut off goes on where it stopped, in a later run too, and
what is there and unchanged is not fetched again. Names and layout are those of openai/parameter-golf,
`data/cached_challenge_fineweb.py`.
"""

import hashlib
import importlib
import json
import os
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from pargolf.core.errors import UserError, near
from pargolf.core.events import Progress
from pargolf.core.files import write_json
from pargolf.core.work import Events
from pargolf.data.check import bpb_constant
from pargolf.data.folder import open_data
from pargolf.data.meta import file_sha256
from pargolf.data.official import SP1024
from pargolf.data.tokens import count_bytes

REPO, ROOT = "willdepueoai/parameter-golf", "datasets"
SHARDS = 80
RECORD = "fetched.json"
_AT_ONCE = 4
_LISTED = 500  # files that the hub is asked about at once


@dataclass(frozen=True)
class RemoteFile:
    """A file of the hub: its path there, its place under OUT, its bytes, and how they are proved."""

    path: str
    place: str
    size: int
    proof: str

    def holds(self, file: Path) -> bool:
        """Whether a file's bytes are this one's: by SHA-256, or by git's hash where the hub has no other."""
        if file.stat().st_size != self.size:
            return False
        if len(self.proof) == 64:
            return file_sha256(file) == self.proof
        whole = hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)
        whole.update(file.read_bytes())
        return whole.hexdigest() == self.proof


@dataclass(frozen=True)
class Fetched:
    """What is there now: the data folder, shards of both splits, validation tokens and bytes, and their constant."""

    folder: Path
    revision: str
    train_shards: int
    val_shards: int
    tokens: int
    bytes: int
    constant: float


def fetch(
    name: str = "sp1024",
    out: str | Path = "data",
    *,
    shards: int = SHARDS,
    repo: str = REPO,
    root: str = ROOT,
    force: bool = False,
) -> Events[Fetched]:
    """Fetch a published variant (`sp1024`, `sp8192`, `byte260`), with progress in bytes; what is there then.

    `repo` and `root` name another export of the same layout; HF_ENDPOINT another hub. `force` replaces files that are
    not the published ones. Raises `UserError`: no such variant, more shards than there are, a hub that is away, a
    file whose bytes are not the hub's, too little space, bytes that do not give the official constant.
    """
    out = Path(out)
    hub = _Hub(repo)
    staged = out / ".fetch"
    manifest_path = f"{root}/manifest.json" if root else "manifest.json"
    revision = hub.revision()
    (listed,) = hub.files([(manifest_path, "manifest.json")], revision)
    held = hub.take(listed, revision, staged)
    manifest = _read_manifest(held, repo)
    wanted, counts = _wanted(manifest, name, shards, root)
    files = hub.files(wanted, revision)
    record = _read_record(out)
    missing = [file for file in files if not _there(out, file, record, force=force)]
    _check_room(out, sum(file.size for file in missing))
    whole = sum(file.size for file in files)
    yield Progress("fetch", whole - sum(file.size for file in missing), whole, f"{len(missing)} files to fetch")
    yield from _take_all(hub, missing, revision, staged, out, whole)
    held.replace(out / "manifest.json")
    facts = {file.place: _facts(out / file.place, file.proof) for file in files}
    others = {k: v for k, v in record.items() if k not in facts}
    write_json(out / RECORD, {"repo": repo, "revision": revision, "files": others | facts})
    shutil.rmtree(staged, ignore_errors=True)
    return _prove(out / Path(files[0].place).parent, revision, counts, manifest, name)


def _prove(folder: Path, revision: str, counts: tuple[int, int], manifest: Any, name: str) -> Fetched:
    """Count validation as scoring will. Raises `UserError` where that is not what was published."""
    data = open_data(folder)
    tokens = data.val.take(0, len(data.val))
    stated = next(row for row in manifest["datasets"] if row["name"] == _folder_of(name)).get("stats", {})
    if stated.get("tokens_val") not in (None, len(tokens)):
        raise UserError(f"{folder} holds {len(tokens):,} validation tokens, and its manifest {stated['tokens_val']:,}.")
    byte_counts = count_bytes(data.byte_table, tokens[:-1], tokens[1:])
    graded, scored = int(byte_counts.sum()), int(byte_counts[: SP1024.scored].sum())
    if data.vocab == SP1024.vocab and len(tokens) == SP1024.tokens and scored != SP1024.bytes:
        raise UserError(
            f"The official split has {SP1024.bytes:,} bytes in {SP1024.scored:,} tokens; {folder} counts {scored:,}."
        )
    constant = bpb_constant(len(tokens) - 1, graded)
    return Fetched(folder, revision, counts[1], counts[0], len(tokens) - 1, graded, constant)


def _take_all(
    hub: "_Hub", files: list[RemoteFile], revision: str, staged: Path, out: Path, whole: int
) -> Iterator[Progress]:
    """Fetch some files side by side, and put each in its place once it is proved."""
    done = whole - sum(file.size for file in files)

    def one(file: RemoteFile) -> None:
        held = hub.take(file, revision, staged)
        place = out / file.place
        place.parent.mkdir(parents=True, exist_ok=True)
        held.replace(place)

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        waiting: set[Future[None]] = {pool.submit(one, file) for file in files}
        try:
            while waiting:
                ended, waiting = wait(waiting, timeout=0.25, return_when="FIRST_EXCEPTION")
                for future in ended:
                    future.result()
                yield Progress("fetch", min(done + hub.count, whole), whole, f"{len(waiting)} files to fetch")
        finally:
            for future in waiting:
                future.cancel()


def _there(out: Path, file: RemoteFile, record: dict[str, Any], *, force: bool) -> bool:
    """Whether a file is in its place. Raises `UserError` where another is, unless `force`."""
    place = out / file.place
    if not place.exists():
        return False
    # A file that is as it was when it was last proved is not read again.
    if record.get(file.place) == _facts(place, file.proof) or file.holds(place):
        return True
    if force:
        return False
    raise UserError(f"{place} is not the published file. Move it away, or replace it with --force.")


def _facts(place: Path, proof: str) -> dict[str, Any]:
    stat = place.stat()
    return {"proof": proof, "size": stat.st_size, "changed": stat.st_mtime_ns}


def _read_record(out: Path) -> dict[str, Any]:
    """What was proved before; nothing where the record is not readable."""
    try:
        files = json.loads((out / RECORD).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return files if isinstance(files, dict) else {}


def _folder_of(name: str) -> str:
    return name if name.startswith("fineweb") else f"fineweb10B_{name}"


def _read_manifest(path: Path, repo: str) -> Any:
    """The hub's list of what it has. Raises `UserError` where it is none."""
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        assert all(isinstance(row["name"], str) for key in ("datasets", "tokenizers") for row in manifest[key])
    except (ValueError, KeyError, TypeError, AssertionError, RecursionError) as error:
        raise UserError(f"The manifest of {repo} is damaged; it names no data.") from error
    return manifest


def _wanted(manifest: Any, name: str, shards: int, root: str) -> tuple[list[tuple[str, str]], tuple[int, int]]:
    """Paths on the hub and their places under OUT, validation first; and the shards of both splits."""
    folder = _folder_of(name)
    rows = {row["name"]: row for row in manifest["datasets"]}
    if folder not in rows:
        known = [found.removeprefix("fineweb10B_") for found in rows]
        raise UserError(f"There is no published data '{name}'.{near(name, known)} There are: {', '.join(known)}.")
    row = rows[folder]
    tokenizer: dict[str, Any] = next((t for t in manifest["tokenizers"] if t["name"] == row.get("tokenizer_name")), {})
    files = [str(tokenizer[key]) for key in ("model_path", "path") if tokenizer.get(key)]
    try:
        val, most = int(row["stats"]["files_val"]), int(row["stats"]["files_train"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"The manifest does not say how many shards {folder} has.") from error
    if not 0 <= shards <= most:
        raise UserError(f"{name} has {most} training shards, and {shards} were asked for. Lower --shards.")
    names = [f"fineweb_val_{i:06d}.bin" for i in range(val)] + [f"fineweb_train_{i:06d}.bin" for i in range(shards)]
    places = [*(f"datasets/{folder}/{file}" for file in names), *files]
    if not val or any(PurePosixPath(p).is_absolute() or ".." in PurePosixPath(p).parts for p in places):
        raise UserError(f"The manifest names no files that {folder} could be made of.")
    return [(f"{root}/{place}" if root else place, place) for place in places], (val, shards)


def _check_room(out: Path, size: int) -> None:
    """Raise `UserError` where the disk has too little space for what is missing."""
    out.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(out).free
    if size > free:
        raise UserError(f"{size / 1e9:.1f} GB are missing and {out} has room for {free / 1e9:.1f}. Lower --shards.")


class _Hub:
    """A repository of data sets on a hub, by the library `huggingface_hub`, whose errors become one line each."""

    def __init__(self, repo: str) -> None:
        try:
            self._library: Any = importlib.import_module("huggingface_hub")
        except ImportError as error:
            raise UserError("Fetching needs the huggingface_hub package: pip install 'pargolf[hub]'.") from error
        self._library.logging.set_verbosity_error()  # what fails is said in one line of ours
        self.repo = repo
        self.endpoint = os.environ.get("HF_ENDPOINT") or self._library.constants.ENDPOINT
        self._api = self._library.HfApi(endpoint=self.endpoint)
        self._lock = threading.Lock()
        self.count = 0

    def revision(self) -> str:
        """The commit that everything is taken from."""
        return str(self._asked("its revision", self._api.dataset_info, self.repo, timeout=20).sha)

    def files(self, wanted: list[tuple[str, str]], revision: str) -> list[RemoteFile]:
        """Sizes and hashes of files. Raises `UserError` where one is not there."""
        found: dict[str, Any] = {}
        for at in range(0, len(wanted), _LISTED):
            paths = [path for path, _ in wanted[at : at + _LISTED]]
            listed = self._asked(
                "the list of its files",
                self._api.get_paths_info,
                self.repo,
                paths,
                revision=revision,
                repo_type="dataset",
            )
            found |= {info.path: info for info in listed}
        for path, _ in wanted:
            if path not in found:
                raise UserError(f"{self.repo} lists {path} in its manifest and does not hold it. Lower --shards.")
        return [
            RemoteFile(path, place, info.size, info.lfs.sha256 if info.lfs else info.blob_id)
            for path, place in wanted
            for info in [found[path]]
        ]

    def take(self, file: RemoteFile, revision: str, staged: Path) -> Path:
        """A proved copy of a file in `staged`, going on where a copy was cut off. Raises `UserError`."""
        staged.mkdir(parents=True, exist_ok=True)
        part = staged / f"{file.proof}.part"
        self._asked(file.path, self._fill, file, revision, part)
        if not file.holds(part):
            part.unlink()
            raise UserError(f"{file.path} arrived with other bytes than the hub says it has. Run the command again.")
        return part

    def _fill(self, file: RemoteFile, revision: str, part: Path) -> None:
        """Append to a part what it lacks; the library asks again where the connection breaks."""
        library, how = self._library, {"endpoint": self.endpoint}
        url = library.hf_hub_url(self.repo, file.path, repo_type="dataset", revision=revision, **how)
        place = library.get_hf_file_metadata(url, **how).location
        headers = library.utils.build_hf_headers()
        if urlsplit(place).netloc != urlsplit(self.endpoint).netloc:
            headers.pop("authorization", None)  # a store that the hub points to has its own signed address
        with part.open("ab") as held:
            if held.tell() > file.size:
                held.truncate(0)
                held.seek(0)
            library.file_download.http_get(
                place,
                held,
                resume_size=held.tell(),
                headers=headers,
                expected_size=file.size,
                tqdm_class=self._counter(),
            )

    def _counter(self) -> Any:
        """A progress bar that draws nothing and counts for all."""
        hub, plain = self, self._library.utils.tqdm

        class Counter(plain):  # type: ignore[misc, valid-type]
            """Bytes of one file."""

            def __init__(self, *args: Any, **how: Any) -> None:
                super().__init__(*args, **how | {"disable": True, "name": None})
                self.update(how.get("initial") or 0)

            def update(self, n: float | None = 1) -> None:
                """Count."""
                with hub._lock:
                    hub.count += int(n or 0)

        return Counter

    def _asked(self, what: str, call: Any, *words: Any, **how: Any) -> Any:
        """What a call of the library returns. Raises `UserError` for everything that can go wrong."""
        errors = self._library.errors
        try:
            return call(*words, **how)
        except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.EntryNotFoundError) as error:
            if not isinstance(error, errors.LocalEntryNotFoundError):
                raise UserError(f"{self.endpoint} has no {self.repo} with {what} that you may read.") from error
            reason = error
        except Exception as error:  # httpx's, the library's own, and OSError for a body that was cut off
            if isinstance(error, TypeError | AttributeError | AssertionError):
                raise
            reason = error
        said = str(reason).strip().split("\n")[0][:120] or type(reason).__name__
        raise UserError(
            f"{self.endpoint} did not give {what} ({said}). What has arrived is kept: run the command again."
        ) from reason
