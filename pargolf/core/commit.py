"""The version of the running code: the package's version, and the git commit in a checkout."""

import subprocess
from functools import cache
from pathlib import Path

from pargolf.core.version import VERSION

_SECONDS = 5


@cache
def source_version() -> str:
    """`0.1.0+061a04fd8c1b` in a checkout, with `.dirty` when files differ from the commit; else `0.1.0`."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return VERSION
    command = ["git", "-C", str(root), "describe", "--always", "--exclude=*", "--abbrev=12", "--dirty=.dirty"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError, UnicodeError):
        return VERSION
    return f"{VERSION}+{answer.stdout.strip()}"
