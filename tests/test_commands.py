"""Commands are the api's functions: one signature, read by the terminal and written into what a run keeps."""

import inspect
import shlex

import pytest
import typer

from pargolf import api
from pargolf.api.parameters import command_line, option_of
from pargolf.cli import app
from pargolf.cli.options import Arguments, command
from pargolf.core.errors import UserError
from pargolf.core.spec import override, overrides
from pargolf.quant.grid import Int

COMMANDS = typer.main.get_command(app).commands
CALLS = {
    "train": {
        "changes": {"train.optimizer[mlp.*].lr": 0.02, "name": "two words", "train.grad_clip": None},
        "scale": "mini", "seed": 7, "device": "cpu", "allow_overlap": True, "data": "a folder", "force": True,
    },
    "seeds": {"changes": {"train.steps": 4}, "seeds": [3, 1], "jobs": 2},
    "sweep": {"spans": ["train.steps=int:2,4", "train.micro_tokens=32"], "trials": 3, "prune": False},
    "ablate": {
        "changes": {"train.steps": 4}, "edits": {"no gate": {"model.stream": [], "train.steps": 3}}, "plain": True,
        "data": ["a", "b"], "base": "baseline", "only": ["+ *", "no gate"],
    },
}  # fmt: skip


def defaults(function):
    return {p.name: p.default for p in inspect.signature(function).parameters.values()}


@pytest.mark.parametrize("name", CALLS)
def test_the_command_that_a_run_keeps_makes_the_same_call(name, monkeypatch):
    """Written for a shell, read by the command line; what is about one call alone (`force`) is left out."""
    given = {}
    monkeypatch.setattr(Arguments, "result", lambda self, function: given.update(self.values) or stop())
    wanted = {**defaults(getattr(api, name)), "recipe": "house", **CALLS[name]}
    words = shlex.split(command_line(getattr(api, name), wanted))
    assert words[:3] == ["pargolf", name, "house"]
    with pytest.raises(UserError, match="as it was"):
        app(words[1:], standalone_mode=False)
    for key, value in wanted.items():
        if key in ("force", "trackers", "resume", "checkpoint_every"):
            assert given[key] == defaults(getattr(api, name))[key]
        elif key == "edits" and value is not None:
            assert given[key] == ["no gate: 'model.stream=[]' train.steps=3"]
        elif key == "data" and name == "ablate":
            assert [str(path) for path in given[key]] == value
        elif key not in ("changes", "data", "out") or key in CALLS[name]:
            read = str(given[key]) if key == "data" else given[key]
            assert read == value or [*read] == [*value], key


def stop():
    raise UserError("as it was")


def test_every_option_of_every_command_has_its_help():
    for name, one in COMMANDS.items():
        inner = getattr(one, "commands", {name: one})
        for label, sub in inner.items():
            assert sub.help and all(getattr(param, "help", "") for param in sub.params), label


def test_a_command_takes_what_its_function_takes():
    """Names, defaults and limits come from the signature; the rest is refused in one line."""

    def made(recipe, *, changes=None, own=(), tokens: api.parameters.PathLike = "x", force: bool = True):
        """Do it.

        Args:
            recipe: One.
            force: The other,
                in two lines.
        """

    read = command(made, as_json=False)(lambda given: None)
    assert list(inspect.signature(read).parameters) == ["recipe", "changes", "own", "tokens", "force"]
    assert read.__doc__ == "Do it." and option_of("own") == "--with" and option_of("val_fraction") == "--val-fraction"


@pytest.mark.parametrize(
    "value", [1, 0.025, None, True, "word", "4", "none", "two words", [1, 2], "[1]", 'a"b', "it's"]
)
def test_a_row_that_is_written_is_read(value):
    (read,) = overrides([override("a.b", value)]).values()
    assert (read == (tuple(value) if isinstance(value, list) else value) and type(read) is not int) or value == 1
    assert override("a", Int(4)) == "a=Int(bits=4)"
