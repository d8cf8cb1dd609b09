"""Functions that change a name of their file, keep state, and take any keywords."""

COUNT = 0


def bump(by=1, *, twice=False):
    """Count in the file."""
    global COUNT
    COUNT += by * (2 if twice else 1)
    return COUNT


def counter(start):
    """A function that remembers."""

    def inner(x, flag=False):
        nonlocal start
        start += 1
        return x * start + (100 if flag else 0)

    return inner


def weighed(**more):
    """Keywords as data."""
    return sum(value * (i + 1) for i, value in enumerate(more.values())) + len("".join(more))
