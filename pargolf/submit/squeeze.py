"""The same program in fewer bytes: nothing for the reader, short local names, and a file that unpacks itself.

Docstrings, annotations and assertions go, errors keep their first words, private and local names become one or two
letters, brotli takes the text, and a string of 256 letters holds the result: under `coding: latin-1` every byte is a
letter, so nothing is lost to base85's fifth (published wrappers pay it). The null byte, the newline, the carriage
return, the quote and the backslash cannot stand in such a string as they are, and are escaped. The wrapper runs as any
script does, and auditors can open it without running it.
"""

import ast
import builtins
import itertools
import keyword
import string
from collections import Counter
from collections.abc import Iterator

import brotli

_HEAD, _TAIL = b"# coding: latin-1\nimport brotli\nx='", b"'\nexec(brotli.decompress(x.encode('latin-1')))\n"
_ESCAPES = {0: b"\\0", 10: b"\\n", 13: b"\\r", 39: b"\\'", 92: b"\\\\"}


def squeezed(text: str) -> bytes:
    """A self-extracting script of the program `text`. Raises `SyntaxError` when that is none."""
    packed = brotli.compress(minified(text).encode(), quality=11, lgwin=24)
    return _HEAD + b"".join(_letters(packed)) + _TAIL


def minified(text: str) -> str:
    """The program without docstrings and annotations, with short names, one space of indentation."""
    tree = _Bare().visit(ast.parse(text))
    used = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
    tree.body = [s for s in tree.body if not isinstance(s, ast.Import | ast.ImportFrom) or used & set(_binds(s))]
    tree = _Shorter(tree).visit(tree)
    ast.fix_missing_locations(tree)
    lines = ast.unparse(tree).splitlines()
    return "\n".join(_indented(line) for line in lines if line.strip()) + "\n"


def _letters(data: bytes) -> Iterator[bytes]:
    for i, byte in enumerate(data):
        if byte == 0 and data[i + 1 : i + 2].isdigit():
            yield b"\\x00"  # \0 before a digit would read on
        else:
            yield _ESCAPES.get(byte) or bytes([byte])


def _indented(line: str) -> str:
    stripped = line.lstrip(" ")
    return " " * ((len(line) - len(stripped)) // 4) + stripped


class _Bare(ast.NodeTransformer):
    """Takes out docstrings and annotations; a dataclass keeps that it has fields."""

    def _body(self, node: ast.AST) -> ast.AST:
        body = [s for s in node.body if not _is_text(s)]  # type: ignore[attr-defined]
        node.body = body or [ast.Pass()]  # type: ignore[attr-defined]
        return self.generic_visit(node)

    def visit_Module(self, node: ast.Module) -> ast.AST:
        """Without its docstring."""
        return self._body(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        """Fields keep an annotation, the shortest that there is; class variables are plain assignments."""
        node.body = [s for s in node.body if not _is_text(s)] or [ast.Pass()]
        tuple_like = any("NamedTuple" in ast.dump(base) for base in node.bases)
        data = tuple_like or any("dataclass" in ast.dump(d) for d in node.decorator_list)
        for i, inner in enumerate(node.body):
            if isinstance(inner, ast.AnnAssign):
                if data and "ClassVar" not in ast.dump(inner.annotation):
                    inner.annotation = ast.Name("int", ast.Load()) if tuple_like else ast.Constant(0)
                elif inner.value is not None:
                    node.body[i] = ast.Assign([inner.target], inner.value)
            else:
                node.body[i] = self.visit(inner)
        node.body = [s for s in node.body if data or not isinstance(s, ast.AnnAssign)] or [ast.Pass()]
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        """Without what it says of its result."""
        node.returns = None
        return self._body(node)

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        """Invariants are the readable form's to check."""
        return ast.Pass()

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        """An error with the first words of what it says."""
        if isinstance(node.exc, ast.Call) and ast.unparse(node.exc.func).endswith("Error"):
            node.exc.args = [_first_words(arg) for arg in node.exc.args]
        node.cause = None
        return node

    def visit_arg(self, node: ast.arg) -> ast.AST:
        """Without what it says of its kind."""
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        """A plain assignment, or nothing where nothing is assigned."""
        self.generic_visit(node)
        return ast.Assign([node.target], node.value) if node.value is not None else ast.Pass()


class _Shorter(ast.NodeTransformer):
    """Short names for global functions and tables, for local names, and for arguments that no call spells.

    Classes and attributes keep theirs: rows and errors print them, and the recipe's JSON names fields.
    """

    def __init__(self, tree: ast.Module) -> None:
        nodes = list(ast.walk(tree))
        self._spelled = {n.arg for n in nodes if isinstance(n, ast.keyword) and n.arg}
        self._private = _private_attributes(nodes, self._spelled)
        self._spelled |= {n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)}
        counts = Counter(n.id for n in nodes if isinstance(n, ast.Name))
        self._top = {name for statement in tree.body for name in _binds(statement)} | set(dir(builtins))
        ours = {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}
        ours |= {name for n in tree.body if isinstance(n, ast.Assign) for name in _binds(n)}
        taken = set(counts) | self._top | {n.arg for n in nodes if isinstance(n, ast.arg)}
        free = (name for name in _short_names() if name not in taken)
        self._maps = [{name: next(free) for name in sorted(ours, key=lambda n: (-counts[n], n)) if len(name) > 2}]

    def _now(self, name: str) -> str:
        return next((names[name] for names in reversed(self._maps) if name in names), name)

    def visit_Name(self, node: ast.Name) -> ast.AST:
        """By the innermost scope that has it."""
        return ast.Name(self._now(node.id), node.ctx)

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        """Private ones are the file's own."""
        node.attr = self._private.get(node.attr, node.attr)
        return self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        """A function and, inside, what it binds; a method's name stays."""
        method = self._in_class
        node.decorator_list = [self.visit(d) for d in node.decorator_list]
        self._enter(node, node.args)
        node.body = [self.visit(s) for s in node.body]
        self._maps.pop()
        if node.name in self._maps[-1] and not method:
            node.name = self._maps[-1][node.name]
        if method:
            node.name = self._private.get(node.name, node.name)
        return node

    _in_class = False

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        """The names of methods and fields stay."""
        node.bases = [self.visit(base) for base in node.bases]
        node.decorator_list = [self.visit(d) for d in node.decorator_list]
        for i, inner in enumerate(node.body):
            if isinstance(inner, ast.Assign | ast.AnnAssign):
                inner.value = self.visit(inner.value) if inner.value is not None else None
            else:
                self._in_class = True
                node.body[i] = self.visit(inner)
            self._in_class = False
        return node

    def visit_Lambda(self, node: ast.Lambda) -> ast.AST:
        """A lambda and its arguments."""
        self._enter(node, node.args)
        node.body = self.visit(node.body)
        self._maps.pop()
        return node

    def _enter(self, node: ast.FunctionDef | ast.Lambda, args: ast.arguments) -> None:
        args.defaults = [self.visit(d) for d in args.defaults]
        args.kw_defaults = [None if d is None else self.visit(d) for d in args.kw_defaults]
        self._in_class = False
        arguments = [*args.posonlyargs, *args.args, *args.kwonlyargs, *(a for a in (args.vararg, args.kwarg) if a)]
        fixed = {a.arg for a in arguments if a.arg in self._spelled} | {a.arg for a in args.kwonlyargs}
        bound = dict.fromkeys([*(a.arg for a in arguments), *_locals(node)])
        inside = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
        inside |= {a.arg for a in ast.walk(node) if isinstance(a, ast.arg) and a.arg not in bound}
        changed = [name for name in bound if name not in fixed and name not in self._top]
        taken = {self._now(name) for name in inside if name not in changed} | fixed | inside - set(changed)
        free = (name for name in _short_names() if name not in taken)
        self._maps.append({name: name for name in bound} | {name: next(free) for name in changed})
        for a in arguments:
            a.arg = self._maps[-1][a.arg]

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> ast.AST:
        """The error's name."""
        node.name = node.name and self._now(node.name)
        return self.generic_visit(node)

    def visit_MatchAs(self, node: ast.MatchAs) -> ast.AST:
        """A captured name."""
        node.name = node.name and self._now(node.name)
        return self.generic_visit(node)

    def visit_Nonlocal(self, node: ast.Nonlocal) -> ast.AST:
        """Names of the function around."""
        node.names = [self._now(name) for name in node.names]
        return node


def _private_attributes(nodes: list[ast.AST], spelled: set[str]) -> dict[str, str]:
    """Short names for methods and attributes with one underscore in front that the file's own classes define."""
    own = {n.attr for n in nodes if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store)}
    own |= {m.name for n in nodes if isinstance(n, ast.ClassDef) for m in n.body if isinstance(m, ast.FunctionDef)}
    texts = {n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)}
    private = sorted(a for a in own if a[0] == "_" and a[:2] != "__" and a not in spelled | texts)
    return {name: f"_{short}" for name, short in zip(private, _short_names())}


def _short_names() -> Iterator[str]:
    for length in (1, 2):
        for letters in itertools.product(string.ascii_letters, repeat=length):
            if not keyword.iskeyword("".join(letters)):
                yield "".join(letters)


def _binds(node: ast.stmt) -> list[str]:
    """Names that a statement at the top of a file binds."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        return [(alias.asname or alias.name).split(".")[0] for alias in node.names]
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    stored = [n for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
    return [n.id for n in stored] if isinstance(node, ast.Assign | ast.AnnAssign) else []


def _locals(function: ast.FunctionDef | ast.Lambda) -> Iterator[str]:
    """Names that a function's own body binds, comprehensions included."""
    outer = {name for n in ast.walk(function) if isinstance(n, ast.Nonlocal | ast.Global) for name in n.names}
    todo: list[ast.AST] = [*function.body] if isinstance(function, ast.FunctionDef) else [function.body]
    while todo:
        node = todo.pop(0)
        if isinstance(node, ast.FunctionDef):
            yield node.name
            todo += node.decorator_list
            continue
        if isinstance(node, ast.Lambda):
            continue
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store | ast.Del) and node.id not in outer:
            yield node.id
        elif isinstance(node, ast.ExceptHandler | ast.MatchAs) and node.name:
            yield node.name
        todo += ast.iter_child_nodes(node)


def _first_words(message: ast.expr) -> ast.expr:
    """Where a message begins: the first words that it does not compute; what is no message stays."""
    if not isinstance(message, ast.JoinedStr | ast.Constant | ast.BinOp):
        return message
    texts = [n.value for n in ast.walk(message) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    return ast.Constant(" ".join(" ".join(texts).split()[:4])) if texts else message


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
