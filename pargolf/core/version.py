"""The version of this package, here alone: `pyproject.toml`, `pargolf.__version__` and `--version` read it."""

VERSION = "0.1.0"
