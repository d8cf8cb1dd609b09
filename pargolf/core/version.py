"""The version of this package. `pyproject.toml`, `pargolf.__version__` and `--version` all read it here."""

VERSION = "0.1.0"
