"""Published data: shards and tokenizer, fetched whole and proved."""

from typing import Any

from pargolf.data.fetch import Fetched, fetch


def fetch_data(name: str = "sp1024", **options: Any) -> Fetched:
    """`data.fetch.fetch` to the end: the published shards and tokenizer, whole and proved."""
    *_, last = fetch(name, **options)
    assert isinstance(last, Fetched)
    return last
