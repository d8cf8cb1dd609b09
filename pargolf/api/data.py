"""Published data: shards and tokenizer, fetched whole and proved."""

from pargolf.api.events import to_the_end
from pargolf.data.fetch import fetch

fetch_data = to_the_end(fetch, "fetch_data")
