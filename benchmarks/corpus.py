"""Extract the documents of Debian packages, as other text to test what was tuned on the embedded corpus.

    apt-get download anarchism python3.11-doc perl-doc postgresql-doc-15 debian-handbook linux-doc-6.1
    python benchmarks/corpus.py *.deb --out texts         # a .jsonl per package, for `pargolf data prepare`

HTML, POD and reStructuredText lose their markup. A document is kept if it has 400 characters or more and reads like
English (a seventh of its words are among the forty commonest). Each text is kept once. Needs `dpkg-deb`; nothing is
installed.
"""

import argparse
import gzip
import hashlib
import json
import re
import subprocess
import tarfile
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import IO

_COMMON = frozenset(
    re.findall(
        r"\w+",
        "the of and to a in is that it for as be are on with this by not or an at from which you if can have all but "
        "will was one we may they has their its these other",
    )
)
_LARGEST = 4 << 20


class _Text(HTMLParser):
    """The visible text of an HTML page."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self.hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.hidden += tag in ("script", "style", "nav", "head")
        if tag in ("p", "div", "li", "tr", "br", "pre", "h1", "h2", "h3", "h4", "dt", "dd"):
            self.parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        self.hidden -= tag in ("script", "style", "nav", "head") and self.hidden > 0

    def handle_data(self, data: str) -> None:
        if not self.hidden:
            self.parts.append(data)


def plain(name: str, raw: str) -> str:
    """A file's text without its markup."""
    if name.endswith((".html", ".htm", ".xhtml")):
        page = _Text()
        page.feed(raw)
        raw = "".join(page.parts)
    elif name.endswith(".pod"):
        raw = re.sub(r"(?m)^=\w+ ?", "", re.sub(r"[A-Z]<+ ?([^<>]*) ?>+", r"\1", raw))
    elif name.endswith(".rst"):
        raw = re.sub(r"(?m)^[=\-~^\"'#*]{3,}$|^\.\. .*$|``|:\w+:", "", raw)
    return re.sub(r"\n{3,}", "\n\n", re.sub(r"[ \t]+", " ", raw)).strip()


def english(text: str) -> bool:
    """Whether a text is long enough, and common words are common in it."""
    words = re.findall(r"[a-z]+", text.lower())
    return len(text) >= 400 and sum(word in _COMMON for word in words) > len(words) / 7


def documents(package: Path) -> Iterator[tuple[str, str]]:
    """The name and text of every readable file of a package, each text once."""
    digests: set[bytes] = set()
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE) as unpacked:
        assert unpacked.stdout is not None
        with tarfile.open(fileobj=unpacked.stdout, mode="r|") as archive:
            for member in archive:
                name = member.name.removesuffix(".gz")
                content = archive.extractfile(member) if member.isfile() else None
                if content is None or not name.endswith((".html", ".htm", ".xhtml", ".txt", ".pod", ".rst")):
                    continue
                text = plain(name, _read(content, packed=name != member.name))
                digest = hashlib.sha256(text.encode()).digest()
                if digest not in digests and english(text):
                    digests.add(digest)
                    yield name.removeprefix("./usr/share/"), text


def _read(file: IO[bytes], *, packed: bool) -> str:
    """Read at most the first four MiB."""
    with gzip.GzipFile(fileobj=file) if packed else file as content:
        return content.read(_LARGEST).decode("utf-8", errors="ignore")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packages", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for package in options.packages:
        target = options.out / f"{package.name.split('_')[0]}.jsonl"
        count = size = 0
        with target.open("w") as file:
            for name, text in documents(package):
                file.write(json.dumps({"id": name, "text": text}, ensure_ascii=False) + "\n")
                count, size = count + 1, size + len(text.encode())
        print(f"{target}: {count:,} documents, {size:,} bytes of text", flush=True)


if __name__ == "__main__":
    main()
