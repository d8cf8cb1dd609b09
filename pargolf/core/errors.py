"""The one exception meant for people.

`UserError` is a `ValueError` whose message is one clear line that says what is wrong and what to do next.
The command line prints it and exits with code 2; everything else that escapes is a bug and shows a traceback.
"""

from difflib import get_close_matches


class UserError(ValueError):
    """Bad input that the user can fix; the message says how."""


def out_of_memory(error: BaseException) -> bool:
    """Whether an error of Python, numpy or torch (CPU or GPU) means that memory ran out."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    words = ("t allocate memory", "not enough memory", "out of memory", "bad_alloc", "failed to map segment")
    return isinstance(error, RuntimeError | ImportError | OSError) and any(word in str(error) for word in words)


class NotRead(UserError):
    """A stored spec uses a class or function of a Python file that was not given. `file` is its path in its package."""

    def __init__(self, name: str, file: str, path: str = "") -> None:
        super().__init__(f"This uses {name} of {file}, a file that was not named. Add --with {path or file}.")
        self.name, self.file = name, file


def near(word: str, known: "list[str] | tuple[str, ...]") -> str:
    """Return `" Did you mean ...?"` with the nearest known words, or else a list of some known words."""
    close = get_close_matches(word, known, n=2, cutoff=0.5)
    if close:
        return " Did you mean " + " or ".join(close) + "?"
    return f" Known: {', '.join(known[:12])}{' ...' if len(known) > 12 else ''}." if known else ""
