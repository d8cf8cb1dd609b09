"""The version of this package, defined only here: `pyproject.toml`, `pargolf.__version__` and `--version` read it."""

VERSION = "0.1.0"
