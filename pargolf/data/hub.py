"""Downloads from a Hugging Face hub with the library `huggingface_hub`: verified by hash, and resumable.

A file is moved into place only when its SHA-256 matches the hub's. A partial download is kept and continued, also in a
later run. `HF_ENDPOINT` names another hub.
"""

import hashlib
import importlib
import os
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pargolf.core.errors import UserError
from pargolf.core.events import Progress
from pargolf.data.meta import file_sha256

_AT_ONCE = 4
_LISTED = 500  # files per request for sizes and hashes


@dataclass(frozen=True)
class RemoteFile:
    """A file of the hub: its path there, its path under OUT (`place`), its size, and its hash (`proof`)."""

    path: str
    place: str
    size: int
    proof: str

    def holds(self, file: Path) -> bool:
        """Whether a local file has these bytes: by SHA-256, or by git's hash when the hub gives no other."""
        if file.stat().st_size != self.size:
            return False
        if len(self.proof) == 64:
            return file_sha256(file) == self.proof
        whole = hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)
        whole.update(file.read_bytes())
        return whole.hexdigest() == self.proof


class Hub:
    """A data set repository on a hub; errors of `huggingface_hub` become one-line `UserError`s."""

    def __init__(self, repo: str) -> None:
        try:
            self._library: Any = importlib.import_module("huggingface_hub")
        except ImportError as error:
            raise UserError("Fetching needs the huggingface_hub package: pip install 'pargolf[hub]'.") from error
        self._library.logging.set_verbosity_error()  # errors are reported by our own messages
        self.repo = repo
        self.endpoint = os.environ.get("HF_ENDPOINT") or self._library.constants.ENDPOINT
        self._api = self._library.HfApi(endpoint=self.endpoint)
        self._lock = threading.Lock()
        self.count = 0

    def revision(self, name: str | None = None) -> str:
        """The commit of a branch or tag, or the newest one; everything is downloaded from one commit."""
        return str(self._asked("its revision", self._api.dataset_info, self.repo, revision=name, timeout=20).sha)

    def names(self, revision: str) -> list[str]:
        """The paths of all files."""
        listed = self._asked(
            "the list of its files", self._api.list_repo_files, self.repo, revision=revision, repo_type="dataset"
        )
        return sorted(str(path) for path in listed)

    def files(self, wanted: list[tuple[str, str]], revision: str) -> list[RemoteFile]:
        """Sizes and hashes of the wanted (path, place) files. Raises `UserError` when one is missing."""
        listing: dict[str, Any] = {}
        for first in range(0, len(wanted), _LISTED):
            paths = [path for path, _ in wanted[first : first + _LISTED]]
            listed = self._asked(
                "the list of its files",
                self._api.get_paths_info,
                self.repo,
                paths,
                revision=revision,
                repo_type="dataset",
            )
            listing |= {info.path: info for info in listed}
        for path, _ in wanted:
            if path not in listing:
                raise UserError(f"{self.repo} lists {path} and does not hold it. Name fewer files of it.")
        return [
            RemoteFile(path, place, info.size, info.lfs.sha256 if info.lfs else info.blob_id)
            for path, place in wanted
            for info in [listing[path]]
        ]

    def take(self, file: RemoteFile, revision: str, staged: Path) -> Path:
        """Download a file into `staged`, continuing a partial copy, and verify it. Raises `UserError`."""
        staged.mkdir(parents=True, exist_ok=True)
        part = staged / f"{file.proof}.part"
        self._asked(file.path, self._fill, file, revision, part)
        if not file.holds(part):
            part.unlink()
            raise UserError(f"{file.path} arrived with other bytes than the hub says it has. Run the command again.")
        return part

    def _fill(self, file: RemoteFile, revision: str, part: Path) -> None:
        """Append the missing bytes to a partial file; the library retries when the connection breaks."""
        library, how = self._library, {"endpoint": self.endpoint}
        url = library.hf_hub_url(self.repo, file.path, repo_type="dataset", revision=revision, **how)
        location = library.get_hf_file_metadata(url, **how).location
        headers = library.utils.build_hf_headers()
        if urlsplit(location).netloc != urlsplit(self.endpoint).netloc:
            headers.pop("authorization", None)  # a store that the hub points to has its own signed address
        with part.open("ab") as output:
            if output.tell() > file.size:
                output.truncate(0)
                output.seek(0)
            library.file_download.http_get(
                location,
                output,
                resume_size=output.tell(),
                headers=headers,
                expected_size=file.size,
                tqdm_class=self._counter(),
            )

    def _counter(self) -> Any:
        """A progress bar class that draws nothing and adds up the bytes of all files."""
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
        """Call the library; `what` describes the request in errors. Raises `UserError` for any network error."""
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
        message = str(reason).strip().split("\n")[0][:120] or type(reason).__name__
        raise UserError(
            f"{self.endpoint} did not give {what} ({message}). What has arrived is kept: run the command again."
        ) from reason


def take_all(
    hub: "Hub", files: list[RemoteFile], revision: str, staged: Path, out: Path, whole: int
) -> Iterator[Progress]:
    """Download files in parallel, and move each into place once it is verified. `whole` is the size of all files."""
    done = whole - sum(file.size for file in files)

    def fetch_file(file: RemoteFile) -> None:
        received = hub.take(file, revision, staged)
        path = out / file.place
        path.parent.mkdir(parents=True, exist_ok=True)
        received.replace(path)

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        waiting: set[Future[None]] = {pool.submit(fetch_file, file) for file in files}
        try:
            while waiting:
                ended, waiting = wait(waiting, timeout=0.25, return_when="FIRST_EXCEPTION")
                for future in ended:
                    future.result()
                yield Progress("fetch", min(done + hub.count, whole), whole, f"{len(waiting)} files to fetch")
        finally:
            for future in waiting:
                future.cancel()


def check_room(out: Path, size: int, mend: str) -> None:
    """Raise `UserError` when the disk has less than `size` bytes free; `mend` says what to do."""
    out.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(out).free
    if size > free:
        raise UserError(f"{size / 1e9:.1f} GB are missing and {out} has room for {free / 1e9:.1f}. {mend}")
