"""Count the files of the package that a command enters: files of which at least one function runs, besides imports.

    python benchmarks/entered.py train baseline --scale mini train.steps=6 --data data --out runs/six
    python benchmarks/entered.py score runs/six/model.pargolf --data data
    python benchmarks/entered.py audit records/track/mine

Processes that the command starts are not counted.
"""

import inspect
import sys
import threading
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

import pargolf
from pargolf.cli import main as command

ROOT = Path(pargolf.__file__).parent


def main() -> None:
    entered: set[str] = set()

    def watch(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_flags & inspect.CO_OPTIMIZED and code.co_name[0] != "<":
            entered.add(code.co_filename)

    threading.setprofile(watch)
    sys.setprofile(watch)
    try:
        command()
    except SystemExit:
        pass
    finally:
        sys.setprofile(None)
    files = sorted(path.relative_to(ROOT) for name in entered if (path := Path(name)).is_relative_to(ROOT))
    folders = Counter(path.parts[0] if len(path.parts) > 1 else "." for path in files)
    print(f"{len(files)} files entered: " + ", ".join(f"{folder} {count}" for folder, count in folders.items()))


if __name__ == "__main__":
    main()
