"""Python as people write it, much of it not as this package does: `ANSWERS` are what it comes to.

A script that holds this file must come to the same.
"""

from __future__ import annotations

import functools
from collections import namedtuple
from contextlib import contextmanager
from dataclasses import KW_ONLY, InitVar, dataclass, field, replace
from typing import ClassVar, NamedTuple

from kit import Base, hp
from kit.helpers import weighed
from small import RECIPE as SMALL

from pargolf.core.spec import edit


class Pair(NamedTuple):
    """Has a field that the slots have too, with another value."""

    flag: bool
    n: int


class Switch:
    """Its attribute is set by name alone."""

    flag = False

    def shown(self):
        return 1.0 if self.flag else 2.0


def attributes():
    switch = Switch()
    before = switch.shown()
    setattr(switch, "fl" + "ag", True)
    return Pair(False, 2).flag, Pair(n=3, flag=True).n, before, switch.shown()


def positive(x):
    if x < 0:
        raise ValueError("negative")
    return x


def errors():
    out = []
    for x in (-1, 2):
        try:
            out.append(positive(x))
        except ValueError as error:
            out.append(str(error))
    try:
        assert not out, "something"
    except AssertionError as error:
        out.append(str(error))
    return out


def counted():
    count = hp.counter(2)
    later = functools.partial(count, flag=True)
    return hp.bump() - hp.bump(by=3, twice=True), count(1), later(1), weighed(flag=1, size=2, spec=3)


def matched():
    out = []
    for value in (Pair(True, 4), 3, "flag", [1, 2, 3], {"flag": 9, "size": 1}, None):
        match value:
            case Pair(flag=True, n=n):
                out.append(n)
            case int(k) if k > 2:
                out.append(100 * k)
            case "flag":
                out.append("text")
            case [first, *rest]:
                out.append((first, rest))
            case {"flag": f, **others}:
                out.append((f, others))
            case _:
                out.append(None)
    return out


TABLE = {"x": 7, "y": 8}


@contextmanager
def changed(table, key, value):
    before = table[key]
    table[key] = value
    try:
        yield table
    finally:
        table[key] = before


def contexts():
    with changed(TABLE, "y", 50) as one, changed(TABLE, "x", 70):
        inside = one["y"] + TABLE["x"]
    return inside, TABLE["y"]


class Noted(type):
    """A class of classes."""

    def __call__(cls, *words, **more):
        made = super().__call__(*words, **more)
        made.tag = 4
        return made


class Odd(metaclass=Noted):
    __slots__ = ("tag", "w")

    def __init__(self, w=2):
        self.w = w

    @classmethod
    def other(cls, w):
        return cls(w=w + 1)

    def __contains__(self, x):
        return x == self.w

    def extra_repr(self):
        return "called by others"


def classes():
    odd = Odd.other(4)
    return odd.tag, odd.w, 5 in odd, hasattr("", "casefold"), getattr(odd, "extra" + "_repr")()


@dataclass
class Mutable:
    flag: bool = False
    items: list = field(default_factory=list)
    start: InitVar[int] = 3
    limit: ClassVar[int] = 6

    def __post_init__(self, start):
        self.items.append(start + self.limit)


def data():
    one, two = Mutable(start=1), Mutable(True)
    one.items.append(8)
    one.flag = True
    named = namedtuple("named", "flag size")(3, 4)
    return one.flag, one.items, two.flag, two.items, named._replace(flag=7), replace(two, flag=False, start=0).items


def values(n=0):
    flag = n and True
    last = n or False
    if (half := n / 2) > 1 and half:
        last = half
    else:
        last = f"{flag=} {last!r:>6}"
    return flag, last, [row for row in [n] for n in (row, 1)]


@functools.singledispatch
def kind(x):
    return "any"


@kind.register
def _of_number(x: int):
    return "number"


def main():
    """Named as the script's own."""
    return kind(1.5), kind(1)


class Int:
    """Named as one of the package's grids."""

    def __init__(self, bits):
        self.bits = bits


def answers():
    parts = (attributes, errors, counted, matched, contexts, classes, data, values, main)
    return [*(part() for part in parts), Int(4).bits, values(4), values(n=6)]


@dataclass(frozen=True)
class Keyed(Base):
    _: KW_ONLY
    extra: float = 1.0
    many: tuple[float, ...] = (1.0, 2.0)
    nested: Base | None = None
    maybe: int | None = None

    def value(self):
        return super().value() + self.extra + sum(self.many) + (self.nested.value() if self.nested else 0)


@dataclass(frozen=True)
class Answers(Base):
    flag: bool = False

    def value(self):
        return len(repr(answers())) * (2.0 if self.flag else 1.0)


RECIPE = edit(SMALL, {"name": "odd", "model.embed": (Keyed(0.25, extra=3.0, nested=Base(), maybe=4), Answers())})
