"""Check values against type annotations: for everything that comes from a file, an edit, or a recipe about to run.

    Strict().fit(value, Train, "train")          -> the value, or an error: train.lr takes a number from 0 up, not -1.

It supports numbers with ranges (`ranges.py`), text, `Literal`, enums, unions, lists, tuples, tables of (glob, value),
mappings, dataclasses, functions (by their number of arguments), and protocols: any object with the protocol's members,
callable with the protocol's arguments, is accepted. Plain JSON is turned into dataclasses on the way. A dataclass whose
fields can contradict each other defines `check_fields`, which raises `UserError` with a message that begins with the
field at fault.
"""

import dataclasses
import enum
import inspect
import json
import types
import typing
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import cache
from typing import Annotated, Any, Literal, NoReturn, Union

from pargolf.core.errors import NotRead, UserError, near
from pargolf.core.ranges import Within

DEPTH = 64
"""How deep lists and tables may be nested."""
_FITS_64 = Within(-(1 << 63), (1 << 63) - 1)
_FINITE = Within(-1.7976931348623157e308, 1.7976931348623157e308)
Find = Callable[[Any], Any]
"""Looks up the class or function at a stored `module:name`. Raises `UserError`."""


class Misfit(UserError):
    """A value that does not fit its annotation; `at` is its path."""

    def __init__(self, at: str, why: str) -> None:
        super().__init__(f"{at or 'it'} {why}".rstrip())
        self.at = at


def parse_json(text: str | bytes, what: str) -> Any:
    """Parse JSON. Raises `UserError` that names `what` when it is not JSON, or nested deeper than `DEPTH`."""
    try:
        value = json.loads(text)
        level, depth = [value], 0
        while level and depth <= DEPTH:
            level = [inner for item in level for inner in _inside(item)]
            depth += 1
    except (ValueError, RecursionError) as error:
        why = "nested too deep" if isinstance(error, RecursionError) else str(error).replace("\n", " ")
        raise UserError(f"{what} is no JSON ({why[:120]}).") from error
    if level:
        raise UserError(f"{what} is no JSON of ours (nested deeper than {DEPTH}).")
    return value


def _inside(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


@dataclasses.dataclass(frozen=True)
class Strict:
    """A checker of values.

    find     looks up the addresses in stored specs; None for Python values, or for JSON typed by the annotations alone
    convert  turn whole numbers into floats and 8.0 into 8 where the annotation asks, as for command-line values
    whole    also call `check_fields` of dataclasses
    """

    find: Find | None = None
    convert: bool = False
    whole: bool = True

    def fit(self, value: Any, kind: Any, at: str = "") -> Any:
        """Return `value` in the form that `kind` asks: JSON as dataclasses, lists as tuples.

        Raises `Misfit` with the path (`at`) of what does not fit.
        """
        base = _unmarked(kind)[0]
        origin = typing.get_origin(base) or base
        if origin in (Union, types.UnionType):
            return self._one_of(value, kind, at)
        if base in (int, float):
            return self._number(value, kind, at)
        if origin in (tuple, list, Sequence):
            return self._list(value, kind, at)
        if origin in (dict, Mapping):
            return self._mapping(value, kind, at)
        if not _is_plain(origin):
            return self._part(value, base, at)
        if isinstance(base, type) and issubclass(base, enum.Enum):
            value = next((member for member in base if value in (member, member.value)), value)
        if not _is_one(value, base):
            _refuse(at, kind, value)
        if self.find is not None and isinstance(value, str) and not value.isprintable():
            raise Misfit(at, f"takes text of one line, not {_shown(value)}.")
        return value

    def _one_of(self, value: Any, kind: Any, at: str) -> Any:
        """Fit the first member of a union that accepts the value; else raise the refusal that got deepest."""
        deeper: Misfit | None = None
        kinds = typing.get_args(_unmarked(kind)[0])
        for member in sorted(kinds, key=lambda member: _unmarked(member)[0] is not type(value)):
            try:
                return self.fit(value, member, at)
            except Misfit as error:
                deeper = error if error.at != at else deeper
        if deeper is not None:
            raise deeper
        _refuse(at, kind, value)

    def _number(self, value: Any, kind: Any, at: str) -> int | float:
        base, within = _unmarked(kind)
        if base is int and self.convert and isinstance(value, float) and value.is_integer():
            value = int(value)
        finite = _FITS_64 if base is int else _FINITE
        if isinstance(value, bool) or not isinstance(value, int if base is int else int | float):
            _refuse(at, kind, value)
        if value not in (within or finite) or (value not in finite and not (within and within.endless)):
            _refuse(at, kind, value)
        number: int | float = float(value) if self.convert and base is float else value
        return number

    def _list(self, value: Any, kind: Any, at: str) -> Any:
        """Fit a tuple, list or table item by item; the path of a table's row names its glob."""
        base, within = _unmarked(kind)
        if not isinstance(value, list | tuple) or (within and len(value) not in within):
            _refuse(at, kind, value)
        args = typing.get_args(base)
        apart = typing.get_origin(base) is tuple and args[-1:] != (...,)
        if apart and len(args) != len(value):
            _refuse(at, kind, value)
        kinds = args if apart else [args[0] if args else Any] * len(value)
        paths = [at if _is_row(base) else f"{at}[{_name(x, k, i)}]" for i, (x, k) in enumerate(zip(value, kinds))]
        items = [self.fit(*item) for item in zip(value, kinds, paths)]
        if base is list or typing.get_origin(base) is list:
            return items
        same = isinstance(value, tuple) and all(a is b for a, b in zip(items, value))
        return value if same else tuple(items)

    def _mapping(self, value: Any, kind: Any, at: str) -> Any:
        keys, values = typing.get_args(_unmarked(kind)[0]) or (Any, Any)
        if not isinstance(value, Mapping):
            _refuse(at, kind, value)
        return {self.fit(k, keys, f"{at} (a key)"): self.fit(v, values, f"{at}[{_cut(k)}]") for k, v in value.items()}

    def _part(self, value: Any, kind: Any, at: str) -> Any:
        """Fit a dataclass or a function, given as such or as stored JSON; or anything, for `Any`."""
        if isinstance(value, dict) and self.find is not None and set(value) == {"fn"}:
            value = self._named(value["fn"], at)
            if not inspect.isfunction(value):
                raise Misfit(at, "names no function of this package. Was it made by another version?")
        elif isinstance(value, dict) and (self.find is not None or dataclasses.is_dataclass(kind)):
            return self._made(value, kind, at)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return self._held(value, kind, at)
        if self.find is not None and isinstance(value, list) and kind in (Any, object):
            return self._list(value, tuple[Any, ...], at)
        if not _suits(value, kind):
            _refuse(at, kind, value)
        return value

    def _named(self, address: Any, at: str) -> Any:
        """The class or function that a stored spec names."""
        assert self.find is not None
        try:
            return self.find(address)
        except NotRead:
            raise
        except UserError as error:
            raise UserError(f"{at}: {error}" if at else str(error)) from error

    def _made(self, value: dict[str, Any], kind: Any, at: str) -> Any:
        """Build a dataclass from JSON: of the class that a stored spec names, else of the annotated class."""
        own, stored = kind, self.find is not None and not ("is" not in value and dataclasses.is_dataclass(kind))
        if stored:
            own = self._named(value.get("is"), at)
            if not (isinstance(own, type) and dataclasses.is_dataclass(own)):
                raise Misfit(at, f"is stored as {_cut(value.get('is'))!r}, which is no part of this package.")
            if not _answers(own, kind):
                raise Misfit(at, f"takes {kind_words(kind)}, not {own.__name__}{_lacks(own, kind)}.")
        given = {k: v for k, v in value.items() if k != "is" or not stored}
        fields = {f.name: f for f in dataclasses.fields(own) if f.init}
        for name in given:
            if name not in fields:
                raise Misfit(_under(at, str(name)[:60]), f"is unknown.{near(str(name)[:60], list(fields))}")
        for name, field in fields.items():
            if name not in given and field.default is field.default_factory is dataclasses.MISSING:
                raise Misfit(_under(at, name), "is missing.")
        hints = hints_of(own)
        ready = {name: self.fit(v, hints.get(name, Any), _under(at, name)) for name, v in given.items()}
        try:
            built = own(**ready)
        except Exception as error:  # a technique's own constructor, on values out of a file
            raise Misfit(at, f"cannot be rebuilt as {own.__name__} ({_line(error)}).") from error
        self._consistent(built, at)
        return built

    def _held(self, value: Any, kind: Any, at: str) -> Any:
        """Check every field of a dataclass object; return a new object only if a field had to change."""
        own: Any = type(value)
        if not _answers(own, kind):
            raise Misfit(at, f"takes {kind_words(kind)}, not {_shown(value)}{_lacks(own, kind)}.")
        hints = hints_of(own)
        changed = {}
        for field in dataclasses.fields(value):
            old = getattr(value, field.name)
            new = self.fit(old, hints.get(field.name, Any), _under(at, field.name))
            if new is not old and field.init:
                changed[field.name] = new
        if changed:
            value = dataclasses.replace(value, **changed)
        self._consistent(value, at)
        return value

    def _consistent(self, value: Any, at: str) -> None:
        check = getattr(value, "check_fields", None) if self.whole else None
        if check is not None:
            try:
                check()
            except UserError as error:
                raise Misfit(_under(at, str(error)), "").with_traceback(error.__traceback__) from error


def kind_words(kind: Any) -> str:
    """Describe what an annotation accepts: `a whole number from 1 to 8 or none`."""
    base, within = _unmarked(kind)
    origin, args = typing.get_origin(base) or base, typing.get_args(base)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(kind_words(k) for k in args))
    if origin is Literal:
        return " or ".join(repr(x) for x in args)
    if isinstance(origin, type) and issubclass(origin, enum.Enum):
        return " or ".join(repr(x.value) for x in origin)
    if origin is Callable:
        return f"a function of {len(args[0])}" if args and isinstance(args[0], list) else "a function"
    plain = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "none"}
    plain |= {tuple: "a list", list: "a list", Sequence: "a list", dict: "a table", Mapping: "a table"}
    if origin in (tuple, list, Sequence) and within is not None:
        return f"a list of {str(within).removeprefix('from ')}"
    if origin in plain:
        return f"{plain[origin]} {within}" if within is not None else plain[origin]
    return getattr(origin, "__name__", str(origin))


@cache
def _hints(kind: Hashable) -> dict[str, Any]:
    try:
        return typing.get_type_hints(kind, include_extras=True)
    except (NameError, AttributeError, TypeError):  # a file of one's own may import names for a type checker only
        return {}


def hints_of(kind: Any) -> dict[str, Any]:
    """Resolved annotations of a dataclass, with markers; empty when a name in them cannot be resolved."""
    return _hints(kind)


def item_kind(kind: Any, index: int) -> Any:
    """The annotation of a list's item; `Any` when the list's annotation does not give one."""
    base = _unmarked(kind)[0]
    origin, args = typing.get_origin(base), typing.get_args(base)
    if origin in (Union, types.UnionType):
        lists = [k for k in args if typing.get_origin(_unmarked(k)[0]) in (tuple, list, Sequence)]
        return item_kind(lists[0], index) if lists else Any
    if origin is tuple and args[-1:] != (...,):
        return args[index] if -len(args) <= index < len(args) else Any
    return args[0] if origin in (tuple, list, Sequence) and args else Any


@cache
def _unmarked(kind: Any) -> tuple[Any, Within | None]:
    """An annotation without its markers, and the range among them."""
    if typing.get_origin(kind) is not Annotated:
        return (Any if isinstance(kind, typing.TypeVar) else kind), None
    base, *markers = typing.get_args(kind)
    return base, next((marker for marker in markers if isinstance(marker, Within)), None)


def _suits(value: Any, kind: Any) -> bool:
    """Whether a value that is not a dataclass is accepted for `kind`."""
    origin = typing.get_origin(kind) or kind
    if inspect.isfunction(value) and ("." in value.__qualname__ or value.__qualname__ == "<lambda>"):
        return False  # nothing could store it by name
    if kind in (Any, object):
        return True
    if origin is Callable:
        return callable(value) and _takes(value, _arguments(kind), {})
    if _is_protocol(origin):
        only_called = inspect.isfunction(value) and _members(origin) == {"__call__"}
        return only_called and _called_alike(value, origin, "__call__", 0)
    return isinstance(origin, type) and isinstance(value, origin)


@cache
def _answers(own: type, kind: Any) -> bool:
    """Whether objects of a dataclass are accepted for `kind`."""
    origin = typing.get_origin(kind) or kind
    if origin in (Any, object):
        return True
    if origin is Callable:
        call = _own_member(own, "__call__")
        return call is not None and _takes(call, [None, *_arguments(kind)], {})
    if _is_protocol(origin):
        return all(_has_member(own, origin, name) for name in _members(origin))
    return isinstance(origin, type) and issubclass(own, origin)


def _lacks(own: type, kind: Any) -> str:
    """The end of a refusal: which members of a protocol a class lacks, or has with other arguments."""
    origin = typing.get_origin(kind) or kind
    lacking = sorted(n for n in _members(origin) if not _has_member(own, origin, n)) if _is_protocol(origin) else []
    return f", which lacks {' and '.join(lacking)}" if lacking else ""


def _has_member(own: type, protocol: Any, name: str) -> bool:
    """Whether a dataclass has a protocol's member: a method with fitting arguments, or a field or value."""
    method = inspect.isfunction(_own_member(protocol, name))
    member = _own_member(own, name)
    if isinstance(member, staticmethod | classmethod):
        return method and _called_alike(member.__func__, protocol, name, int(isinstance(member, classmethod)))
    if inspect.isfunction(member):
        return method and _called_alike(member, protocol, name, 1)
    return not method and (member is not None or name in {field.name for field in dataclasses.fields(own)})


def _own_member(own: type, name: str) -> Any:
    """What a class or its bases (except `object`) define under a name; None when nothing."""
    return next((vars(base)[name] for base in own.__mro__[:-1] if name in vars(base)), None)


def _called_alike(function: Any, protocol: Any, name: str, own: int) -> bool:
    """Whether a function accepts the arguments of the protocol's member, after `own` arguments such as self."""
    asked = list(inspect.signature(getattr(protocol, name)).parameters.values())[1:]
    positional = [None] * (own + sum(p.kind <= inspect.Parameter.POSITIONAL_OR_KEYWORD for p in asked))
    return _takes(function, positional, {p.name: None for p in asked if p.kind is inspect.Parameter.KEYWORD_ONLY})


def _takes(function: Any, positional: Sequence[Any], named: Mapping[str, Any]) -> bool:
    """Whether a function can be called with these positional and named arguments."""
    try:
        inspect.signature(function).bind(*positional, **named)
    except TypeError:
        return False
    except ValueError:  # a builtin without a signature
        return True
    return True


def _arguments(kind: Any) -> list[None]:
    args = typing.get_args(kind)
    return [None] * len(args[0]) if args and isinstance(args[0], list) else []


def _is_protocol(kind: Any) -> bool:
    return bool(getattr(kind, "_is_protocol", False))


@cache
def _members(protocol: Any) -> set[str]:
    """The members of a protocol: methods, properties and annotated attributes."""
    homes = [base for base in protocol.__mro__ if _is_protocol(base) and base is not typing.Protocol]
    names = {name for home in homes for name in (*vars(home), *vars(home).get("__annotations__", ()))}
    return {name for name in names if name == "__call__" or not name.startswith("_")}


def _is_plain(kind: Any) -> bool:
    """Whether a kind is plain: text, booleans, None, literals or an enum."""
    return kind in (str, bool, None, type(None), Literal) or (isinstance(kind, type) and issubclass(kind, enum.Enum))


def _is_one(value: Any, kind: Any) -> bool:
    """Whether a value is of a plain kind; text must be valid UTF-8, since JSON can hold lone surrogates."""
    if typing.get_origin(kind) is Literal:
        return any(value == x and type(value) is type(x) for x in typing.get_args(kind))
    if kind is str:
        return isinstance(value, str) and value.encode(errors="replace").decode() == value
    return value is None if kind is None else type(value) is kind


def _refuse(at: str, kind: Any, value: Any) -> NoReturn:
    raise Misfit(at, f"takes {kind_words(kind)}, not {_shown(value)}.")


def _shown(value: Any) -> str:
    """A short description of a value."""
    if isinstance(value, dict):
        return f"a table of {len(value)}" if "is" not in value else f"{_cut(value['is'])}"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if inspect.isfunction(value):
        return f"the function {value.__name__}"
    try:
        return _cut(ascii(value))
    except ValueError:
        return "a number of thousands of digits"


def _cut(value: Any) -> str:
    text = value if isinstance(value, str) and value.isprintable() else ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _line(error: Exception) -> str:
    return _cut(str(error).replace("\n", " ")) if str(error) else type(error).__name__


def _is_row(kind: Any) -> bool:
    """Whether a kind is a row of a table: (glob, value)."""
    args = typing.get_args(kind)
    return typing.get_origin(kind) is tuple and len(args) == 2 and args[0] is str


def _name(item: Any, kind: Any, number: int) -> str | int:
    """The name of a list's item in a path: its index, or its glob when the list is a table."""
    return _cut(item[0]) if _is_row(kind) and isinstance(item, list | tuple) and len(item) == 2 else number


def _under(at: str, name: str) -> str:
    return f"{at}.{name}" if at else name
