"""Sizes and times read as they are written, and nothing is guessed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pargolf.core.errors import UserError
from pargolf.core.units import parse_bytes, parse_seconds, size_text, time_text


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("250kB", 250_000),
        ("1MB", 1_000_000),
        ("16mb", 16_000_000),
        ("1MiB", 1 << 20),
        ("1.5 MB", 1_500_000),
        ("16,000,000", 16_000_000),
        ("16_000_000", 16_000_000),
        ("7", 7),
        ("2GB", 2_000_000_000),
    ],
)
def test_sizes(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "MB", "-1MB", "1.5", "0", "1e6", "nan", "1 TB", "one", "1MB2", "9" * 400])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(UserError, match=r"no size|no whole number"):
        parse_bytes(text)


def test_a_letter_alone_is_not_guessed():
    with pytest.raises(UserError, match=r"1MB, 1,000,000 bytes, or 1MiB, 1,048,576"):
        parse_bytes("1M")
    with pytest.raises(UserError, match=r"250kB, 250,000 bytes, or 250KiB, 256,000"):
        parse_bytes("250k")


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("10m", 600), ("1h", 3600), ("1h30m", 5400), (" 2.5 ", 2.5)]
)
def test_times(text, seconds):
    assert parse_seconds(text) == seconds
    assert parse_seconds("0", none=True) == parse_seconds(0.0, none=True) == 0


@pytest.mark.parametrize("text", ["", "0", "-3", "nan", "inf", "1d", "m", "1m1h", "1.2.3s", "abc"])
def test_what_is_no_time_is_refused(text):
    for none in {False, text != "0"}:
        with pytest.raises(UserError, match="no time"):
            parse_seconds(text, none=none)


@given(st.integers(1, 10**12))
def test_plain_numbers_are_themselves(n):
    assert parse_bytes(n) == parse_bytes(f"{n:,}") == n and parse_seconds(str(n)) == n


def test_what_is_printed():
    assert [size_text(n) for n in (999, 250_000, 16_000_000)] == ["999 bytes", "250 kB", "16 MB"]
    assert [time_text(s) for s in (45, 600, 5400, 7200)] == ["45 s", "10 min", "1 h 30 min", "2 h"]
