"""The program in fewer bytes: nothing for readers, short names, no spaces, and a file that unpacks itself.

Docstrings, annotations and assertions are removed, errors keep only their first words, names become one or two letters,
and brotli compresses the text. The result is stored in a string literal: with `coding: latin-1` every byte is one
character, which avoids the 25 % overhead of base85 (published wrappers have it). Inside triple quotes only the null
byte, the carriage return and the backslash must be escaped. The wrapper runs like any script, and auditors can open it
without running it.
"""

import ast
import builtins
import io
import itertools
import keyword
import re
import string
import tokenize
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping

import brotli

from pargolf.ship.shrink.reserved import foreign_names
from pargolf.ship.shrink.tree import TreeTransformer, children, walk
from pargolf.ship.shrink.undocumented import WithoutDocstrings

_HEAD, _TAIL = b"# coding: latin-1\nimport brotli\nexec(brotli.decompress('''", b"'''.encode('latin-1')))\n"
_ESCAPES = {0: b"\\0", 13: b"\\r", 92: b"\\\\"}


def squeezed(text: str) -> bytes:
    """A self-extracting script of the program `text`. Raises `SyntaxError` when it is not valid Python."""
    return self_extracting(minified(ast.parse(text))[0])


def self_extracting(text: str) -> bytes:
    """A script that runs `text`."""
    return _HEAD + _letters(brotli.compress(text.encode(), mode=brotli.MODE_TEXT, quality=11, lgwin=22)) + _TAIL


def minified(
    tree: ast.Module, *, kept: Collection[str] = (), outside: Collection[str] = ()
) -> tuple[str, dict[str, str]]:
    """The program as minified text, and the new names of its globals.

    kept: attributes and keywords that keep their names
    outside: all words in other code that uses the program; none of them is renamed or used as a new name
    """
    tree = WithoutDocstrings().visit(tree)
    used = {n.id for n in walk(tree) if isinstance(n, ast.Name)} | {*outside}
    tree.body = [s for s in tree.body if not isinstance(s, ast.Import | ast.ImportFrom) or used & set(_binds(s))]
    tree.body = [*_merged(tree.body), *(s for s in tree.body if not isinstance(s, ast.Import | ast.ImportFrom))]
    shorter = _Shorter(tree, {*kept, *outside}, frozenset(outside))
    tree = shorter.visit(tree)
    ast.fix_missing_locations(tree)
    return _joined(_tight(ast.unparse(tree))), shorter.names


def as_it_stands(definitions: Iterable[ast.stmt]) -> tuple[str, frozenset[str]]:
    """A user's code as text, without docstrings, comments and spaces, and every word in it.

    Nothing else is removed or renamed, because the rules for that rely on the style of this package.
    """
    tree = _Undescribed().visit(ast.Module(list(definitions), []))
    words: set[str] = set()
    for node in ast.walk(tree):
        for _, value in ast.iter_fields(node):
            for text in value if isinstance(value, list) else [value]:
                words.update(re.findall(r"\w+", text) if isinstance(text, str) else ())
    names = {"annotations", *(word for word in words if word.isidentifier())} if tree.body else set()
    return _tight(ast.unparse(ast.fix_missing_locations(tree))), frozenset(names)


class _Undescribed(TreeTransformer):
    """Removes docstrings."""

    def _body(self, node: ast.AST) -> ast.AST:
        body = node.body  # type: ignore[attr-defined]
        if ast.get_docstring(node) is not None:  # type: ignore[arg-type]
            node.body = body[1:] or [ast.Pass()]  # type: ignore[attr-defined]
        return self.generic_visit(node)

    visit_FunctionDef = visit_AsyncFunctionDef = visit_ClassDef = _body


def _merged(body: list[ast.stmt]) -> list[ast.stmt]:
    """One statement for all plain imports, and one `from` import per module."""
    plain = [alias for s in body if isinstance(s, ast.Import) for alias in s.names]
    sources: dict[str, list[ast.alias]] = {}
    for s in body:
        if isinstance(s, ast.ImportFrom):
            sources.setdefault(str(s.module), []).extend(s.names)
    first: list[ast.stmt] = (
        [ast.ImportFrom("__future__", sources.pop("__future__"), 0)] if "__future__" in sources else []
    )
    taken = [ast.ImportFrom(name, aliases, 0) for name, aliases in sources.items()]
    return [*first, *([ast.Import(plain)] if plain else []), *taken]


def _tight(text: str) -> str:
    """The same tokens with the fewest spaces: only between words, and one per level of indentation."""
    out: list[str] = []
    depth, before = 0, ""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        kind, letters = token.type, token.string
        if kind in (tokenize.INDENT, tokenize.DEDENT):
            depth += 1 if kind == tokenize.INDENT else -1
        elif kind == tokenize.NEWLINE:
            out.append("\n")
            before = ""
        elif kind not in (tokenize.NL, tokenize.COMMENT, tokenize.ENDMARKER):
            if not before:
                out.append(" " * depth)
            elif _letter(before[-1]) and (_letter(letters[0]) or letters[0] in "\"'"):
                out.append(" ")
            out.append(letters)
            before = letters
    return "".join(out)


def _letter(character: str) -> bool:
    return character.isalnum() or character == "_"


def _joined(text: str) -> str:
    """Put blocks of simple statements on the line that opens them."""
    lines, out = text.split("\n"), []
    index = 0
    while index < len(lines):
        line, body = lines[index], []
        index += 1
        if line.endswith(":"):
            depth = _depth(line) + 1
            end = index
            while end < len(lines) and lines[end] and _depth(lines[end]) >= depth:
                end += 1
            body = lines[index:end]
        if body and all(_depth(inner) == depth and not _BLOCK.match(inner) for inner in body):
            line += ";".join(inner.strip(" ") for inner in body)
            index = end
        out.append(line)
    return "\n".join(out)


_BLOCK = re.compile(r" *(@|(if|for|while|def|class|with|try|else|elif|except|finally|case|match)\b.*:)")


def _depth(line: str) -> int:
    return len(line) - len(line.lstrip(" "))


def _letters(data: bytes) -> bytes:
    """The bytes as the content of a triple-quoted literal."""
    out = []
    for i, byte in enumerate(data):
        if byte == 0 and data[i + 1 : i + 2].isdigit():
            out.append(b"\\x00")  # \0 before a digit would be another escape
        elif byte == 39 and (data[max(i - 2, 0) : i + 1] == b"'''" or i == len(data) - 1):
            out.append(b"\\'")
        else:
            out.append(_ESCAPES.get(byte) or bytes([byte]))
    return b"".join(out)


class _Shorter(TreeTransformer):
    """Shortens the names that the file defines: globals, locals, arguments, attributes, fields.

    Attributes and keywords share one namespace. A name there stays unchanged if anything else may refer to it: a
    string, a keyword of an external call, an attribute of a library, a parameter of the model, a field of the recipe.
    """

    def __init__(self, tree: ast.Module, kept: Collection[str], outside: frozenset[str]) -> None:
        nodes = list(walk(tree))
        self._shared = _shared_names(tree, nodes, kept)
        self._spelled = {n.arg for n in nodes if isinstance(n, ast.keyword) and n.arg}
        self._spelled |= {n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)} | outside
        self._top = {name for statement in tree.body for name in _binds(statement)} | set(dir(builtins))
        self.names = _global_names(tree, nodes, self._top | set(self._shared.values()), outside)
        self._maps = [self.names]

    def _now(self, name: str) -> str:
        return next((names[name] for names in reversed(self._maps) if name in names), name)

    def visit_Name(self, node: ast.Name) -> ast.AST:
        """Rename by the innermost scope that has the name."""
        return ast.Name(self._now(node.id), node.ctx)

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        """Rename by the common table of attributes and keywords."""
        node.attr = self._shared.get(node.attr, node.attr)
        return self.generic_visit(node)

    def visit_keyword(self, node: ast.keyword) -> ast.AST:
        """Rename by the common table of attributes and keywords."""
        node.arg = self._shared.get(node.arg or "", node.arg)
        return self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        """Rename a function and the names that it binds; methods are in the common table."""
        method = self._in_class
        node.decorator_list = [self.visit(d) for d in node.decorator_list]
        self._enter(node, node.args)
        node.body = [self.visit(s) for s in node.body]
        self._maps.pop()
        if node.name in self._maps[-1] and not method:
            node.name = self._maps[-1][node.name]
        if method:
            node.name = self._shared.get(node.name, node.name)
        return node

    _in_class = False

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        """Rename a class; its methods and fields are in the common table."""
        node.name = self._now(node.name)
        node.bases = [self.visit(base) for base in node.bases]
        node.decorator_list = [self.visit(d) for d in node.decorator_list]
        for i, inner in enumerate(node.body):
            if isinstance(inner, ast.Assign | ast.AnnAssign):
                inner.value = self.visit(inner.value) if inner.value is not None else None
                for target in inner.targets if isinstance(inner, ast.Assign) else [inner.target]:
                    if isinstance(target, ast.Name):
                        target.id = self._shared.get(target.id, target.id)
            else:
                self._in_class = True
                node.body[i] = self.visit(inner)
            self._in_class = False
        return node

    def visit_Lambda(self, node: ast.Lambda) -> ast.AST:
        """Rename the arguments of a lambda."""
        self._enter(node, node.args)
        node.body = self.visit(node.body)
        self._maps.pop()
        return node

    def _enter(self, node: ast.FunctionDef | ast.Lambda, args: ast.arguments) -> None:
        """Open the scope of a function: its arguments and locals get free short names."""
        args.defaults = [self.visit(d) for d in args.defaults]
        args.kw_defaults = [None if d is None else self.visit(d) for d in args.kw_defaults]
        self._in_class = False
        arguments = [*args.posonlyargs, *args.args, *args.kwonlyargs, *(a for a in (args.vararg, args.kwarg) if a)]
        fixed = {a.arg for a in arguments if a.arg in self._spelled} | {a.arg for a in args.kwonlyargs}
        bound = list(dict.fromkeys([*(a.arg for a in arguments), *_locals(node)]))
        changed = [name for name in bound if name not in fixed and name not in self._top]
        taken = self._taken_inside(node, set(bound), set(changed), fixed)
        free = (name for name in _short_names() if name not in taken)
        shared = {name: self._shared.get(name, name) for name in bound}
        self._maps.append(shared | {name: next(free) for name in changed})
        for a in arguments:
            a.arg = self._maps[-1][a.arg]

    def _taken_inside(
        self, node: ast.FunctionDef | ast.Lambda, bound: set[str], changed: set[str], fixed: set[str]
    ) -> set[str]:
        """Names that its locals may not get, because they have a meaning inside the function."""
        nodes = walk(node)
        inside = {n.id for n in nodes if isinstance(n, ast.Name)}
        inside |= {a.arg for a in nodes if isinstance(a, ast.arg)} - bound
        taken = {self._now(name) for name in inside - changed} | fixed | inside - changed
        return taken | {self._shared.get(name, name) for name in fixed | inside}

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> ast.AST:
        """Rename the error variable."""
        node.name = node.name and self._now(node.name)
        return self.generic_visit(node)

    def visit_MatchAs(self, node: ast.MatchAs) -> ast.AST:
        """Rename a captured name."""
        node.name = node.name and self._now(node.name)
        return self.generic_visit(node)

    def visit_Nonlocal(self, node: ast.Nonlocal) -> ast.AST:
        """Rename the names of the enclosing function."""
        node.names = [self._now(name) for name in node.names]
        return node


def _global_names(
    tree: ast.Module, nodes: list[ast.AST], taken: Collection[str], outside: frozenset[str]
) -> dict[str, str]:
    """Short names for top-level definitions, shortest for the most used; none that is `taken` or used inside."""
    uses = Counter(n.id for n in nodes if isinstance(n, ast.Name))
    own = {n.name for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    own |= {name for n in tree.body if isinstance(n, ast.Assign) for name in _binds(n)}
    used = {*uses, *taken, *outside, *(n.arg for n in nodes if isinstance(n, ast.arg))}
    free = (name for name in _short_names() if name not in used)
    longer = [name for name in sorted(own - outside, key=lambda n: (-uses[n], n)) if len(name) > 2]
    short = {name: next(free) for name in longer}
    return {name: name for name in own} | short


def _shared_names(tree: ast.Module, nodes: list[ast.AST], kept: Collection[str]) -> dict[str, str]:
    """Short names for attributes and keywords that nothing outside the file can refer to."""
    uses = _counted(nodes)
    foreign = _foreign(tree, nodes, {*kept, *foreign_names()})
    defined = _defined(nodes)
    own = [n for n in uses if n in defined and n not in foreign and not n.startswith("__")]
    own = [n for n in own if len(n) > 2 or n.startswith("_")]
    taken = {n for n in uses if n not in own} | foreign
    free = (name for name in _short_names() if name not in taken)
    return {name: next(free) for name in sorted(own, key=lambda n: (-uses[n], n))}


def _counted(nodes: list[ast.AST]) -> Counter[str]:
    """How often each name is used as an attribute, keyword, field or method; arguments count 0."""
    uses: Counter[str] = Counter()
    for node in nodes:
        if isinstance(node, ast.ClassDef):
            for inner in node.body:
                uses.update([inner.name] if isinstance(inner, ast.FunctionDef) else _binds(inner))
        elif isinstance(node, ast.Attribute):
            uses[node.attr] += 1
        elif isinstance(node, ast.arg):
            uses[node.arg] += 0
        elif isinstance(node, ast.Call):
            uses.update({k.arg for k in node.keywords if k.arg})
    return uses


def _foreign(tree: ast.Module, nodes: list[ast.AST], foreign: set[str]) -> set[str]:
    """Names that something outside the file may refer to: those in `foreign`, and those used together with it."""
    top = {name: node for node in tree.body for name in _binds(node)}
    methods = _methods(nodes)
    for node in nodes:
        if isinstance(node, ast.ClassDef):
            if any("Module" in ast.unparse(base) or "Function" in ast.unparse(base) for base in node.bases):
                # The names of its attributes are names of parameters.
                foreign |= {n.attr for n in walk(node) if isinstance(n, ast.Attribute) and _stored(n)}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            foreign |= {node.value, node.value.lstrip("-").replace("-", "_")}
        elif isinstance(node, ast.Import | ast.ImportFrom):
            foreign |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Call) and not _calls_own(node, top, methods - foreign):
            foreign |= {k.arg for k in node.keywords if k.arg}
    return foreign


def _calls_own(call: ast.Call, top: Mapping[str, ast.stmt], methods: Collection[str]) -> bool:
    """Whether a call is to something that the file defines, so that its keywords may be renamed."""
    func = call.func
    if isinstance(func, ast.Name):
        return func.id == "replace" or isinstance(top.get(func.id), ast.FunctionDef | ast.ClassDef)
    return isinstance(func, ast.Attribute) and func.attr in methods


def _methods(nodes: list[ast.AST]) -> set[str]:
    """Names of methods."""
    bodies = [inner for node in nodes if isinstance(node, ast.ClassDef) for inner in node.body]
    return {inner.name for inner in bodies if isinstance(inner, ast.FunctionDef)}


def _defined(nodes: list[ast.AST]) -> set[str]:
    """Names that the file defines: methods, fields, assigned attributes, arguments that calls pass by name."""
    names = _methods(nodes) | {n.attr for n in nodes if isinstance(n, ast.Attribute) and _stored(n)}
    bodies = [inner for node in nodes if isinstance(node, ast.ClassDef) for inner in node.body]
    names |= {name for n in bodies if isinstance(n, ast.Assign | ast.AnnAssign) for name in _binds(n)}
    spelled = {n.arg for n in nodes if isinstance(n, ast.keyword)}
    return names | {n.arg for n in nodes if isinstance(n, ast.arg)} & spelled


def _stored(node: ast.Attribute) -> bool:
    return isinstance(node.ctx, ast.Store)


def _short_names() -> Iterator[str]:
    for length in (1, 2):
        for letters in itertools.product(string.ascii_letters, repeat=length):
            if not keyword.iskeyword("".join(letters)):
                yield "".join(letters)


def _binds(node: ast.stmt) -> list[str]:
    """Names that a top-level statement binds."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        return [(alias.asname or alias.name).split(".")[0] for alias in node.names]
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    stored = [n for n in walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
    return [n.id for n in stored] if isinstance(node, ast.Assign | ast.AnnAssign) else []


def _locals(function: ast.FunctionDef | ast.Lambda) -> Iterator[str]:
    """Names that a function's own body binds, including comprehensions."""
    outer = {name for n in walk(function) if isinstance(n, ast.Nonlocal | ast.Global) for name in n.names}
    pending: list[ast.AST] = [*function.body] if isinstance(function, ast.FunctionDef) else [function.body]
    while pending:
        node = pending.pop(0)
        if isinstance(node, ast.FunctionDef):
            yield node.name
            pending += node.decorator_list
            continue
        if isinstance(node, ast.Lambda):
            continue
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store | ast.Del) and node.id not in outer:
            yield node.id
        elif isinstance(node, ast.ExceptHandler | ast.MatchAs) and node.name:
            yield node.name
        pending += children(node)
