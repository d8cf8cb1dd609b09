"""What README and docs print can be typed: every command and option exists, every Python call fits its function."""

import ast
import importlib
import inspect
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

import pargolf
from pargolf import api
from pargolf.cli import app

ROOT = Path(__file__).parent.parent
PATHS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES = {path.name: path.read_text(encoding="utf-8") for path in PATHS}
PAGES.pop("LOG.md")  # what was, and is no more
COMMAND = typer.main.get_command(app)


def fenced(text):
    """Lines of code blocks, continued lines joined."""
    for block in re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        yield from re.sub(r"\\\n\s*", " ", block).splitlines()


def inline(text):
    """Code between backticks, outside code blocks."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))


def calls(text):
    """Python calls of the package, from its name to the bracket that closes."""
    for match in re.finditer(r"(?<![\w./])pargolf(\.\w+)+\(", text):
        depth, at = 0, match.end() - 1
        for at in range(match.end() - 1, len(text)):
            depth += {"(": 1, ")": -1}.get(text[at], 0)
            if depth == 0:
                break
        yield text[match.start() : at + 1]


def command_of(words):
    """The command that words begin with, and the words after its name."""
    group, rest, context = COMMAND, list(words), typer.Context(COMMAND, info_name="pargolf")
    while hasattr(group, "commands") and rest and not rest[0].startswith("-"):
        name = rest.pop(0)
        inner = group.get_command(context, name)
        assert inner is not None, f"there is no command {name}"
        group = inner
    return group, rest


LINES = sorted(
    {(page, line.split(" #")[0].strip()) for page, text in PAGES.items() for line in fenced(text)
     if re.match(r"\s*(\$ )?pargolf [a-z-]", line)}
)  # fmt: skip
SYNOPSIS, IMPORT = re.compile(r"pargolf [a-z-]"), re.compile(r"from (pargolf[\w.]*) import ([\w, ]+)")
WORDS = sorted({(page, code) for page, text in PAGES.items() for code in inline(text) if SYNOPSIS.match(code)})
CALLS = sorted({(page, call) for page, text in PAGES.items() for call in calls(text)})
IMPORTS = sorted({(page, *match) for page, text in PAGES.items() for match in IMPORT.findall(text)})


def test_there_is_something_to_try():
    assert min(len(LINES), len(WORDS), len(CALLS)) > 15 and len(IMPORTS) > 3


@pytest.mark.parametrize(("page", "line"), LINES)
def test_a_printed_line_is_understood(page, line):
    """All of it: the command, its options, and values of the kinds that they take."""
    words = shlex.split(line.removeprefix("$ "))[1:]
    values = {i + 1 for i, word in enumerate(words) if word.startswith("--")}
    words = ["x" if word == "..." else word for i, word in enumerate(words) if word != "..." or i in values]
    command, rest = command_of(words)
    assert not hasattr(command, "commands"), f"{line} names no command"
    command.make_context(command.name, rest)


@pytest.mark.parametrize(("page", "code"), WORDS)
def test_a_printed_synopsis_names_what_exists(page, code):
    command, rest = command_of([word for word in code.split()[1:] if word != "..."])
    options = {name for param in command.params for name in (*param.opts, *param.secondary_opts)} | {"--help"}
    for name in re.findall(r"(?<![\w-])--[a-z][a-z-]*", " ".join(rest)):
        assert name in options or (name == "--against" and "compare" in code), f"{code}: {name}"


@pytest.mark.parametrize(("page", "call"), CALLS)
def test_a_printed_call_fits_its_function(page, call):
    tree = ast.parse(call, mode="eval").body
    assert isinstance(tree, ast.Call)
    function = pargolf
    for name in ast.unparse(tree.func).split(".")[1:]:
        function = getattr(function, name)
    given = [arg for arg in tree.args if not (isinstance(arg, ast.Constant) and arg.value is ...)]
    signature = inspect.signature(function)
    bind = signature.bind if len(given) == len(tree.args) else signature.bind_partial
    if not call.endswith("(...)"):
        bind(*[None] * len(given), **{str(word.arg): None for word in tree.keywords})


@pytest.mark.parametrize(("page", "module", "names"), IMPORTS)
def test_a_printed_import_finds_its_names(page, module, names):
    for name in (word.split(" as ")[0].strip() for word in names.split(",")):
        place = importlib.import_module(module)
        assert hasattr(place, name) or importlib.import_module(f"{module}.{name}")


def test_signatures_are_whole_for_people_and_editors():
    """Every function of the api shows its parameters: none is hidden behind `**options`."""
    for name in api.__all__:
        thing = getattr(pargolf, name)
        if inspect.isfunction(thing):
            parameters = inspect.signature(thing).parameters.values()
            assert not any(p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL) for p in parameters), name
            assert inspect.getdoc(thing), name
            assert thing.__name__ == name
    assert "checkpoint_every" in inspect.signature(pargolf.train).parameters
    assert set(api.__all__) <= set(dir(pargolf))
    stub = ast.parse((ROOT / "pargolf" / "__init__.py").read_text())
    assert "from pargolf.api import *" in ast.unparse(stub)  # where editors and mypy find the names


def test_the_version_is_said_once():
    done = subprocess.run([sys.executable, "-m", "pargolf", "--version"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout == f"pargolf {pargolf.__version__}\n"
    assert re.fullmatch(r"\d+\.\d+\.\d+", pargolf.__version__)


def test_help_lists_every_command_by_its_full_name_and_in_a_whole_sentence():
    done = subprocess.run([sys.executable, "-m", "pargolf", "--help"], capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("Usage: pargolf [OPTIONS] COMMAND")
    for name in ("train", "data prepare", "data fetch", "data check", "bench codec", "audit"):
        assert re.search(rf"^  {name} ", done.stdout, re.MULTILINE), name
    assert "..." not in done.stdout.split("Commands:")[1]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_can_complete_commands_and_recipes(shell):
    done = subprocess.run(
        [sys.executable, "-c", "from pargolf.cli import main; main()"],
        env={"_PARGOLF_COMPLETE": f"source_{shell}", "PATH": "/usr/bin:/bin", "HOME": "/nonexistent"},
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
    )
    assert "pargolf" in done.stdout and done.returncode == 0, done.stderr
    names = [item.name for item in COMMAND.commands["train"].params]
    assert "recipe" in names


@pytest.mark.parametrize(("typed", "meant"), [("pargolf train basel", "baseline"), ("pargolf da", "data")])
def test_a_shell_completes_what_is_typed(typed, meant):
    done = subprocess.run(
        [sys.executable, "-c", "from pargolf.cli import main; main()"],
        env={
            "_PARGOLF_COMPLETE": "complete_bash",
            "COMP_WORDS": typed,
            "COMP_CWORD": str(typed.count(" ")),
            "PATH": "/usr/bin:/bin",
        },
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
    )
    assert done.stdout.split() == [meant], done.stderr
