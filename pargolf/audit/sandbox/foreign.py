"""Inside the sandbox: import a foreign script, build its own model small, and probe the laws of a fair score.

`sandbox.jail` calls this in a locked process; nothing else imports it. It finds the script's call that builds the model
in the syntax tree, and evaluates the arguments as the script would. Then it cuts vocabulary and width; the depth and
every switch stay. Losses are taken from the logits and targets that the script passes to `cross_entropy`. A script that
is written to fool the probes from within can do so.
"""

import ast
import contextlib
import copy
import inspect
import json
import os
import signal
import sys
import time
import types
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pargolf.audit.code.newer_syntax import rewrite
from pargolf.audit.sandbox.stand_ins import stand_in
from pargolf.evaluate.probes import Grades, probe, stir, stream
from pargolf.evaluate.windows import IntArray

LENGTH, SMALL_VOCAB, HEAD_WIDTH, BOS = 64, 48, 32, 1
_VOCAB = ("vocab_size", "n_vocab", "vocab", "V")
_WIDTH = ("model_dim", "d_model", "n_embd", "dim", "hidden_size", "embed_dim")
_HEADS = ("num_heads", "n_head", "n_heads", "num_attention_heads", "heads")


@dataclass
class Construction:
    """A constructor with its evaluated arguments."""

    make: Callable[..., Any]
    args: list[Any]
    kwargs: dict[str, Any]

    def build(self) -> nn.Module:
        """The module, in evaluation mode and single precision."""
        torch.manual_seed(0)
        module = self.make(*self.args, **self.kwargs)
        assert isinstance(module, nn.Module)
        return module.float().eval()

    def smaller(self, *, narrow: bool) -> "Construction":
        """The same call with a small vocabulary and, when `narrow`, heads of 32."""
        kwargs = _cut(dict(self.kwargs), narrow=narrow)
        arguments = [_cut(copy.copy(a), narrow=narrow) if hasattr(a, "__dict__") else a for a in self.args]
        kwargs = {k: _cut(copy.copy(v), narrow=narrow) if _is_settings(v) else v for k, v in kwargs.items()}
        return Construction(self.make, arguments, kwargs)


def serve(request: IO[bytes], answer: IO[bytes]) -> None:
    """Read one request in JSON and answer in JSON."""
    job = json.load(request)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    os.environ.update(job["env"])
    result: dict[str, Any] = {"stage": "import"}
    finder = stand_in()
    try:
        _try(job, Path.cwd(), result)
    except BaseException as error:  # a script may raise anything, even SystemExit; there must still be an answer
        result.setdefault("error", f"{type(error).__name__}: {str(error)[:300]}")
    signal.alarm(0)
    result["replaced"] = finder.replaced
    answer.write(json.dumps(result).encode())


def _try(request: dict[str, Any], scratch: Path, result: dict[str, Any]) -> None:
    module, tree = _import(request["text"], scratch / request["name"], request["seconds"] // 3, result)
    result["stage"] = "build"
    call = _find_model(module, tree)
    full = call.build()
    result["model"] = _shape(full)
    del full
    result["stage"] = "probe"
    _probe(call, result)
    result["stage"] = "done"


def _import(text: str, path: Path, seconds: int, result: dict[str, Any]) -> tuple[types.ModuleType, ast.Module]:
    """Execute the script's top level under another name than `__main__`. Definitions before an error are kept."""
    try:
        tree = ast.parse(text)
    except SyntaxError:
        text = rewrite(text)
        tree = ast.parse(text)
        result["note"] = "its newest syntax was rewritten for this Python"
    module = types.ModuleType("submission")
    module.__file__ = str(path)
    sys.modules["submission"] = module
    sys.path.insert(0, str(path.parent))
    sys.argv = [str(path)]
    began = time.perf_counter()
    try:
        with _alarm(seconds):
            exec(compile(tree, str(path), "exec"), module.__dict__)
    except (Exception, SystemExit) as error:
        result["error"] = f"{type(error).__name__}: {str(error)[:300]}"
        if not any(_is_module(v) for v in vars(module).values()):
            raise
    result["import_seconds"] = round(time.perf_counter() - began, 3)
    return module, tree


@contextlib.contextmanager
def _alarm(seconds: int) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TimeoutError(f"still running after {seconds} s")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(max(seconds, 1))
    try:
        yield
    finally:
        signal.alarm(0)


# ---- the script's own model


def _is_module(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, nn.Module) and value.__module__ == "submission"


def _is_settings(value: Any) -> bool:
    return hasattr(value, "__dict__") and any(hasattr(value, n) for n in _VOCAB[:2])


def _find_model(module: types.ModuleType, tree: ast.Module) -> Construction:
    """The call that builds the model, with its arguments: of the class with the most parts, outside other modules."""
    classes = {name: value for name, value in vars(module).items() if _is_module(value)}
    problem = "no call builds a module of the script outside its own classes"
    for node, scope in _constructions(tree, classes):
        assert isinstance(node.func, ast.Name)
        try:
            args, kwargs = _arguments(node, _Names(module, scope, node.lineno))
            return Construction(classes[node.func.id], args, kwargs)
        except Exception as error:
            problem = f"the arguments of {node.func.id}(...) on line {node.lineno} cannot be evaluated: {error}"
    raise LookupError(problem)


def _constructions(tree: ast.Module, classes: dict[str, type]) -> list[tuple[ast.Call, ast.AST]]:
    """Calls of the script's modules outside their own bodies, each with its function. Language models come first."""
    bodies = (c for c in ast.walk(tree) if isinstance(c, ast.ClassDef) and c.name in classes)
    inside = {n for body in bodies for n in ast.walk(body) if isinstance(n, ast.Call)}
    constructions: list[tuple[bool, int, ast.Call, ast.AST]] = []
    for function in (n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.Module))):
        for node in ast.walk(function):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node in inside:
                continue
            if node.func.id in classes:
                language = {"forward_logits", "tok_emb", "lm_head"} & _words(classes[node.func.id])
                constructions.append((not language, node.lineno, node, function))
    # The innermost function is last in the walk; this order puts its names first.
    constructions.sort(key=lambda f: (f[0], f[1], isinstance(f[3], ast.Module)))
    return [(node, scope) for _, _, node, scope in constructions]


def _arguments(call: ast.Call, names: "_Names") -> tuple[list[Any], dict[str, Any]]:
    """A call's arguments, evaluated. Raises whatever their evaluation raises."""
    args = [names.value(a) for a in call.args if not isinstance(a, ast.Starred)]
    kwargs: dict[str, Any] = {}
    for keyword in call.keywords:
        value = names.value(keyword.value)
        kwargs.update({keyword.arg: value} if keyword.arg else value)
    return args, kwargs


def _words(kind: type) -> set[str]:
    """Names that a class's methods use: attributes set in `__init__`, and methods."""
    words = set(dir(kind))
    for method in vars(kind).values():
        if isinstance(method, types.FunctionType):
            words |= set(method.__code__.co_names)
    return words


class _Names:
    """Evaluates an expression as it is in a function: module names first, then the function's own assignments."""

    def __init__(self, module: types.ModuleType, function: ast.AST, line: int) -> None:
        self.globals = vars(module)
        self.line = line
        self.assigned: dict[str, list[tuple[int, ast.expr]]] = {}
        for node in ast.walk(function):
            if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None and node.lineno < line:
                for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                    if isinstance(target, ast.Name):
                        self.assigned.setdefault(target.id, []).append((node.lineno, node.value))
        self.known: dict[str, Any] = {
            **{"device": torch.device("cpu"), "rank": 0, "local_rank": 0, "world_size": 1, "distributed": False},
            **{"master_process": True, "ddp": False},
        }

    def value(self, node: ast.expr, depth: int = 0) -> Any:
        """The expression's value. Raises `NameError` if only a run could know it."""
        local = {
            n.id: self._name(n.id, depth)
            for n in ast.walk(node)
            if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load) and not hasattr(__builtins__, n.id)
            if n.id in self.known or n.id in self.assigned or n.id not in self.globals
            if n.id not in _bound_inside(node) and n.id not in dir(__builtins__)
        }
        code = compile(ast.fix_missing_locations(ast.Expression(copy.deepcopy(node))), "<call>", "eval")
        return eval(code, {**self.globals, **local})

    def _name(self, name: str, depth: int) -> Any:
        if name in self.known:
            return self.known[name]
        if depth < 8:
            for _, value in reversed(self.assigned.get(name, [])):
                with contextlib.suppress(Exception):
                    self.known[name] = self.value(value, depth + 1)
                    return self.known[name]
        if name in self.globals:
            return self.globals[name]
        settings = self._settings()
        if settings is None:
            raise NameError(f"nothing says what {name} is")
        self.known[name] = settings
        return settings

    def _settings(self) -> Any:
        """An instance of the script's class of hyperparameters, which scripts call `args`, `h` or `config`."""
        for value in self.globals.values():
            if isinstance(value, type) and not issubclass(value, nn.Module) and _is_settings(value):
                with contextlib.suppress(Exception):
                    return value()
        return next((v for v in self.globals.values() if not isinstance(v, type) and _is_settings(v)), None)


def _bound_inside(node: ast.AST) -> set[str]:
    """Names that a comprehension or lambda in the expression binds."""
    bound = {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    return bound | {a.arg for n in ast.walk(node) if isinstance(n, ast.Lambda) for a in n.args.args}


def _cut(settings: Any, *, narrow: bool) -> Any:
    """Settings (a dictionary or an object) with a small vocabulary and, if `narrow`, a small width."""
    plain = isinstance(settings, dict)

    def get(names: tuple[str, ...]) -> tuple[str, int] | None:
        for name in names:
            value = settings.get(name) if plain else getattr(settings, name, None)
            if isinstance(value, int) and not isinstance(value, bool):
                return name, value
        return None

    def put(name: str, value: int) -> None:
        if plain:
            settings[name] = value
        else:
            with contextlib.suppress(Exception):
                object.__setattr__(settings, name, value)

    vocab, width, heads = get(_VOCAB), get(_WIDTH), get(_HEADS)
    if vocab and vocab[1] > SMALL_VOCAB:
        put(vocab[0], SMALL_VOCAB)
    if narrow and width and heads and width[1] % heads[1] == 0 and width[1] > heads[1] * HEAD_WIDTH:
        put(width[0], heads[1] * HEAD_WIDTH)
    return settings


def _shape(model: nn.Module) -> dict[str, Any]:
    """Width, layers, vocabulary and parameters, from the module itself."""
    tables = [m for m in model.modules() if isinstance(m, nn.Embedding)]
    stacks = [len(m) for m in model.modules() if isinstance(m, nn.ModuleList)]
    first = tables[0] if tables else None
    return {
        "class": type(model).__name__,
        "parameters": sum(p.numel() for p in model.parameters()),
        "vocab": first.num_embeddings if first is not None else None,
        "dim": first.embedding_dim if first is not None else None,
        "layers": max(stacks, default=None),
    }


# ---- the laws


def _probe(call: Construction, result: dict[str, Any]) -> None:
    problem: Exception | None = None
    for attempt in (call.smaller(narrow=True), call.smaller(narrow=False), call):
        try:
            model = attempt.build()
            stir(model)
            grader = _ScriptGrader(model)
            vocab = grader.vocab()
            tokens = stream(vocab=vocab, bos=BOS, length=LENGTH)
            grader(tokens)
        except Exception as error:
            problem = error
            continue
        result["small"] = _shape(model)
        if vocab > 2 * SMALL_VOCAB:
            raise RuntimeError(f"its vocabulary of {vocab:,} could not be cut: the laws would take too long")
        verdicts = probe(grader, tokens, vocab=vocab, bos=BOS, isolated=True)
        result["laws"] = [v.row() for v in verdicts if v.law in ("causal", "normalized")]
        result["isolated"] = verdicts[-1].holds
        result["loss_is_mean"] = grader.mean
        return
    raise RuntimeError(f"its model does not run on the CPU: {type(problem).__name__}: {str(problem)[:200]}")


@contextlib.contextmanager
def _watched(y: Tensor, seen: list[Tensor]) -> Iterator[None]:
    """Collect the logits (T, vocab) that `cross_entropy` gets beside the targets `y`."""
    real = functional.cross_entropy

    def watch(input: Tensor, target: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        functional.cross_entropy = real  # its call of itself is no second loss
        try:
            if input.dim() >= 2 and target.numel() == y.numel() and torch.equal(target.reshape(-1), y.reshape(-1)):
                wide = input if input.shape[-1] * y.numel() == input.numel() else input.transpose(1, -1)
                seen.append(wide.reshape(y.numel(), -1))
            return real(input, target, *args, **kwargs)
        finally:
            functional.cross_entropy = watch

    functional.cross_entropy = watch
    try:
        yield
    finally:
        functional.cross_entropy = real


class _ScriptGrader:
    """A foreign model as a grader: losses from the logits and targets that its own forward compares."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        needed = [p for p in inspect.signature(model.forward).parameters.values() if p.kind <= p.POSITIONAL_OR_KEYWORD]
        self.pair = len(needed) > 1 and (
            needed[1].default is inspect.Parameter.empty or any(w in needed[1].name for w in ("target", "label", "y"))
        )
        self.mean: bool | None = None

    def vocab(self) -> int:
        """The number of logits per position, from a forward pass over a few low tokens."""
        tokens = np.arange(LENGTH + 1) % 8
        return int(self.logits(tokens).shape[-1])

    def logits(self, tokens: IntArray) -> Tensor:
        """Logits (T, vocab). Raises if the forward pass shows none."""
        ids = torch.from_numpy(np.asarray(tokens, dtype=np.int64))
        x, y = ids[None, :-1], ids[None, 1:]
        seen: list[Tensor] = []
        with _watched(y, seen), torch.no_grad():
            out = self._forward(x, y, seen)
        if seen:
            if isinstance(out, Tensor) and out.numel() == 1 and len(seen) == 1:
                nats = float(functional.cross_entropy(seen[0].float(), y[0]))
                self.mean = self.mean is not False and abs(nats - float(out)) < 1e-3 * max(1.0, nats)
            return seen[0].float()
        tensors = [o for o in (out if isinstance(out, (tuple, list)) else [out]) if isinstance(o, Tensor)]
        wide = [o for o in tensors if o.dim() >= 2 and o.numel() >= 2 * len(x[0]) and o.shape[-2] == len(x[0])]
        if not wide:
            raise LookupError("its forward shows no logits")
        return wide[0].reshape(len(x[0]), -1).float()

    def _forward(self, x: Tensor, y: Tensor, seen: list[Tensor]) -> Any:
        """The model's output. If that shows no logits, the output of `forward_logits`, if the model has it."""
        logits = getattr(self.model, "forward_logits", None)
        try:
            out = self.model(x, y) if self.pair else self.model(x)
        except Exception:  # a fused loss for GPUs; the scoring path may still be plain
            if not callable(logits):
                raise
            seen.clear()
            out = None
        return logits(x) if not seen and callable(logits) else out

    def __call__(self, tokens: IntArray) -> Grades:
        """One loss in nats for each position."""
        return self.show(tokens)[0]

    def show(self, tokens: IntArray) -> tuple[Grades, Tensor]:
        """Losses, and the log-probabilities (T, vocab) from the script's own logits."""
        targets = torch.from_numpy(np.asarray(tokens[1:], dtype=np.int64))
        logits = self.logits(tokens).double()
        return functional.cross_entropy(logits, targets, reduction="none").numpy(), logits.log_softmax(-1)
