"""Places where a script runs code that its text does not show, or replaces the code that its text shows.

These are: `exec` of anything, a module under a computed name or from a file, code objects, another program; and a
function of the library, of the script or of an object that gets the code of another one at run time. After such a place
nothing that was read is certain. So each one is named, and no rule on code passes.
"""

import ast
from collections import Counter
from collections.abc import Iterator

from pargolf.audit.code.hidden.names import full_name
from pargolf.audit.code.hidden.scopes import Scope, scopes
from pargolf.audit.code.tree import dotted, index_of, walk

_IMPORTERS = ("import_module", "__import__")
_RUNNERS = ("run_path", "run_module", "execfile", "SourceFileLoader", "SourcelessFileLoader", "ExtensionFileLoader")
# Functions that replace a function, or observe every call, through the interpreter itself.
_WATCHERS = ("sys.settrace", "sys.setprofile", "threading.settrace", "threading.setprofile", "unittest.mock.")
_MAKERS = frozenset(
    {
        *("importlib.util.spec_from_file_location", "importlib.util.module_from_spec", "marshal.loads", "marshal.load"),
        *("types.FunctionType", "types.CodeType", "code.interact", "code.InteractiveInterpreter", "ctypes.CDLL"),
        *("builtins.exec", "builtins.eval", "builtins.compile", "__builtins__.exec", "__builtins__.eval"),
        *("os.execv", "os.execvp", "os.spawnl", "os.spawnv", "pty.spawn", "ctypes.cdll.LoadLibrary"),
    }
)
_SHELLS = frozenset(
    {
        *("os.system", "os.popen", "subprocess.run", "subprocess.call", "subprocess.check_call", "subprocess.Popen"),
        *("subprocess.check_output", "subprocess.getoutput", "subprocess.getstatusoutput"),
    }
)
# Programs that describe the machine or versions, or compress bytes: they make no code.
_TELLING = (
    *("nvidia-smi", "git", "uname", "lscpu", "nproc", "free", "df", "hostname", "nvcc --version", "which", "pip list"),
    *("lrzip", "pyminify", "zstd", "xz", "brotli", "gzip", "7z", "ldconfig", "ls", "du"),
)
_OWN = frozenset({"print", "float", "round", "sum", "min", "max", "abs", "len", "pow", "format", "str", "int"})
_ON_TABLES = ("operator.setitem", "operator.ior", "operator.__setitem__", "operator.__ior__", "dict.")
_BUILTINS = ("builtins", "__builtins__")
_TELL = frozenset({ast.Call, ast.Name, ast.Assign, ast.AugAssign, ast.AnnAssign})
_INSIDES = ("__code__", "__globals__", "__closure__", "__defaults__", "__kwdefaults__", "__class__")


def made_at_run_time(tree: ast.Module, path: str) -> Iterator[str]:
    """What a script runs or replaces without showing it in its text; each with its line.

    Args:
        tree: the script's syntax.
        path: the path shown in evidence.
    """
    every = [*scopes(tree)]
    yield from _defined_again(tree, path)
    yield from _forgotten(tree, path)
    nodes = [node for scope in every for node in scope.nodes]
    defined = {n.name for n in nodes if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))}
    called = {id(n.func) for n in nodes if isinstance(n, ast.Call)}
    for scope in every:
        for node in scope.nodes:
            if type(node) not in _TELL:
                continue
            description = ""
            if isinstance(node, ast.Call):
                description = _runs(node, scope.names)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and id(node) not in called:
                description = f"{node.id} under another name" if node.id in ("exec", "eval") else ""
            elif isinstance(node, (ast.Assign, ast.AugAssign, ast.AnnAssign)):
                description = _replaces(node, scope, defined)
            if description:
                yield f"{path}, line {getattr(node, 'lineno', 0)}: {description}"


def _defined_again(tree: ast.Module, path: str) -> Iterator[str]:
    """Functions of the top level that are defined again with another body: only the order decides which one runs."""
    bodies: dict[str, str] = {}
    plain = [n for n in tree.body if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef)) and not n.decorator_list]
    times = Counter(node.name for node in plain)
    for node in plain:
        if times[node.name] > 1:
            body = ast.dump(ast.Module(node.body, []))
            if bodies.setdefault(node.name, body) != body:
                yield f"{path}, line {node.lineno}: {node.name} is defined a second time, with another body"


def _forgotten(tree: ast.Module, path: str) -> Iterator[str]:
    """Functions under a decorator that never uses them, and functions with names of Python's own functions."""
    functions = [n for n in index_of(tree).order if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
    forgets = {f.name for f in functions if len(f.args.args) == 1 and not _mentions(f.body, f.args.args[0].arg)}
    for function in functions:
        if any(isinstance(d, ast.Name) and d.id in forgets for d in function.decorator_list):
            yield f"{path}, line {function.lineno}: {function.name} is replaced by what its decorator gives"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name in _OWN:
            yield f"{path}, line {node.lineno}: {node.name} is no longer Python's own"


def _mentions(body: list[ast.stmt], name: str) -> bool:
    return any(isinstance(n, ast.Name) and n.id == name for statement in body for n in walk(statement))


def _runs(call: ast.Call, names: dict[str, str]) -> str:
    """What a call makes or starts, in words; empty if it does neither."""
    name = full_name(call.func, names)
    last = name.rsplit(".", 1)[-1]
    # model.eval() is different, and a module with a plain name was imported.
    if isinstance(call.func, ast.Name) and call.func.id in ("exec", "eval"):
        return f"{call.func.id}(...) of what is made while it runs"
    known = bool(call.args) and isinstance(call.args[0], ast.Constant)
    if last in _RUNNERS or (last in _IMPORTERS and not known):
        return f"{last}(...) of what is made while it runs"
    if name.startswith(("sys.meta_path.", "sys.path_hooks.")):
        return f"{name}(...) decides where modules come from"
    if name.startswith(_WATCHERS):
        return f"{name}(...) puts other code in the place of what the text shows"
    if name == "ctypes.CDLL" and known and getattr(call.args[0], "value", 0) is None:  # the C library of Python itself
        return ""
    if name in _MAKERS or (last == "exec_module" and isinstance(call.func, ast.Attribute)):
        return f"{name or last}(...) makes code while it runs"
    if name in _SHELLS and not _is_telling(call):
        return f"{name}(...) starts another program"
    if last == "getattr" and call.args and full_name(call.args[0], names).split(".")[0] in _BUILTINS:
        return "getattr(...) of the built-in functions"
    if last in ("setattr", "__setattr__") and len(call.args) == 3 and _is_module(call.args[0], names):
        return f"{name}(...) puts something else into {full_name(call.args[0], names)}"
    if name.startswith(_ON_TABLES) and call.args and _is_table_of_functions(call.args[0], names):
        return f"{name}(...) puts functions in others' places"
    inner = call.func.value if isinstance(call.func, ast.Attribute) else call.func
    method = getattr(call.func, "attr", "")
    if method in ("update", "setdefault", "__setitem__") and _is_table_of_functions(inner, names):
        return f"{ast.unparse(inner)[:40]}.{method}(...) puts functions in others' places"
    if isinstance(call.func, ast.Subscript) and _names_all(call.func.value):
        return "a call of a function under a computed name"
    return ""


def _is_telling(call: ast.Call) -> bool:
    """Whether the command that a call starts is known, and only describes the machine."""
    first = call.args[0] if call.args else next((k.value for k in call.keywords if k.arg == "args"), None)
    if isinstance(first, (ast.List, ast.Tuple)) and first.elts:
        first = first.elts[0]
    if isinstance(first, ast.JoinedStr) and first.values:
        first = first.values[0]
    command = getattr(first, "value", None)
    return isinstance(command, str) and command.strip().rsplit("/", 1)[-1].startswith(_TELLING)


def _replaces(node: ast.Assign | ast.AugAssign | ast.AnnAssign, scope: Scope, defined: set[str]) -> str:
    """What an assignment replaces: a function of a module, of an object, or a name in a table.

    `defined` are the names of all functions and methods.
    """
    names, functions = scope.names, scope.functions
    for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
        if isinstance(target, ast.Subscript) and _names_all(target.value):
            return f"{ast.unparse(target)[:60]} puts a function in another's place"
        if (
            isinstance(target, ast.Name)
            and target.id in scope.own
            and _takes_place(node.value, target.id, names, functions)
        ):
            return f"{target.id} is replaced by another function"
        if not isinstance(target, ast.Attribute):
            continue
        of_itself = dotted(target.value) in ("self", scope.receiver)
        if target.attr in _INSIDES and not of_itself:
            return f"{ast.unparse(target)[:60]} gives a function the code of another"
        code = _is_code(node.value, names, functions)
        if code and _is_module(target.value, names) and not _wraps(node.value, target):
            return f"{full_name(target, names)} is replaced by another function"
        method = target.attr in (*defined, "forward", "__call__") and not of_itself
        code = code or (isinstance(node.value, ast.Attribute) and node.value.attr in defined)
        of_class = isinstance(target.value, ast.Name) and target.value.id in scope.classes
        code = code or (of_class and not isinstance(node.value, ast.Constant))  # a descriptor is called as well
        if code and method and not _wraps(node.value, target):
            return f"{ast.unparse(target)[:60]} is replaced by another function"
    return ""


def _takes_place(value: ast.expr | None, name: str, names: dict[str, str], defined: frozenset[str]) -> bool:
    """Whether a value is another function than the one with its name, or that one in a wrapper of the script's own."""
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id in defined:
        return any(isinstance(argument, ast.Name) and argument.id == name for argument in value.args)
    return not (isinstance(value, ast.Name) and value.id == name) and _is_code(value, names, defined - {name})


def _is_code(value: ast.expr | None, names: dict[str, str], defined: frozenset[str]) -> bool:
    """Whether a value is a function: a lambda, one of the script's, a partial one, a bound one."""
    if isinstance(value, ast.Call):
        wrapper = full_name(value.func, names).rsplit(".", 1)[-1]
        return wrapper in ("partial", "MethodType", "wraps") and any(_is_code(a, names, defined) for a in value.args)
    return isinstance(value, ast.Lambda) or (isinstance(value, ast.Name) and value.id in defined)


def _wraps(value: ast.expr | None, target: ast.Attribute) -> bool:
    """Whether a value is the same function with settings: `f = partial(f, ...)`."""
    if not isinstance(value, ast.Call) or not value.args:
        return False
    return ast.unparse(value.args[0]) == ast.unparse(target)


def _is_module(node: ast.AST, names: dict[str, str]) -> bool:
    """Whether an expression names a module, by the import that binds its root."""
    if isinstance(node, ast.Subscript) and dotted(node.value) == "sys.modules":
        return True
    while isinstance(node, ast.Attribute):
        node = node.value
    return isinstance(node, ast.Name) and node.id in names


def _is_table_of_functions(node: ast.AST, names: dict[str, str]) -> bool:
    """`globals()`, `vars()`, `vars(module)` or `module.__dict__`, but not the settings of an object."""
    if isinstance(node, ast.Call):
        alone = not node.args or _is_module(node.args[0], names)
        return dotted(node.func) in ("globals", "locals") or (dotted(node.func) == "vars" and alone)
    return isinstance(node, ast.Attribute) and node.attr == "__dict__" and _is_module(node.value, names)


def _names_all(node: ast.AST) -> bool:
    """`globals()`, `sys.modules[__name__].__dict__`, `vars(module)`: a table of names where functions are looked up."""
    if isinstance(node, ast.Call):
        return dotted(node.func) in ("globals", "locals", "vars")
    return isinstance(node, ast.Attribute) and (node.attr == "__dict__" or dotted(node) == "sys.modules")
