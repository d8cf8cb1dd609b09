"""Make the board that the README shows, from runs on this machine: python benchmarks/board.py --out runs/board.

Three recipes at mini scale with two seeds each train for a few dozen steps, on the embedded corpus with a smaller
validation split. The scores say nothing about the recipes. Seconds are processor seconds of each process. Finished runs
are not repeated. `--picture` takes a screenshot of the top of the page with the system's Chromium.
"""

import argparse
import shutil
from pathlib import Path

import torch

from pargolf import api
from pargolf.core.events import Scored
from pargolf.data.prepare import prepare

STEPS = {"baseline": 40, "pr910_repaired": 40, "house": 120}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 314])
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--picture", type=Path, help="also write this .png")
    parser.add_argument("--out", type=Path, default=Path("runs/board"))
    args = parser.parse_args()
    torch.set_num_threads(args.jobs)
    data = args.out / "data"
    if not data.exists():
        for _ in prepare(["embedded"], data, val_fraction=0.03):
            pass
    same = {"data": data, "seeds": args.seeds, "jobs": args.jobs}
    for name, steps in STEPS.items():
        rows = {"train.steps": steps, "budget.counts": "cpu", "budget.eval_seconds": 3600.0}
        _watch(name, api.seeds(name, scale="mini", changes=rows, out=args.out / name, **same))
    page = api.write_report([args.out]).result()
    print(f"-> {page}")
    if args.picture:
        _photograph(page, args.picture)


def _watch(name: str, events: object) -> None:
    """Print each score as it comes."""
    for event in events:
        if isinstance(event, Scored):
            print(f"{name}: {event.name} {event.windows} {event.bpb:.4f}", flush=True)


def _photograph(page: Path, picture: Path) -> None:
    """Take a screenshot of the first screen and a half, in the size of a desktop."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        view = browser.new_page(viewport={"width": 1160, "height": 1330}, color_scheme="light")
        view.goto(page.resolve().as_uri())
        view.screenshot(path=picture)
        browser.close()


if __name__ == "__main__":
    main()
