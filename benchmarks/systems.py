"""Compare the seven published systems and the five repaired ones: python benchmarks/systems.py --seconds 60.

Each trains at mini scale for the same seconds on the same data, and is packed, unpacked and scored. One table shows the
cost of quantization: plain windows before and after, the gap, bytes, and the bytes of the same bits per weight at full
size, where the cap is 16,000,000. Grids are never narrowed to meet the cap. `--own-windows` also scores with each
system's own windows, which takes four times as long as the plain ones.

Expected from what was published: the gap of 910 (.069 there) falls under .010 when repaired, and no repaired system
scores worse than its original. The last lines say whether that is so, over the mean of the seeds.

Seconds are processor seconds of this process, one thread, so that a busy machine does not favour any system. Finished
runs are not repeated. Adaptation takes longer than the rest, so only the first seed is adapted.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev

import torch

from pargolf.core.events import Progress
from pargolf.core.files import write_json
from pargolf.core.result import read_result
from pargolf.data.folder import open_data
from pargolf.data.prepare import prepare
from pargolf.recipes import catalog
from pargolf.recipes.scale import mini
from pargolf.run.forecast import extrapolate
from pargolf.run.pack import read_artifact
from pargolf.run.pipeline import run_recipe

CAP = 16_000_000
COLUMNS = ("pre", "post", "gap", "final", "adapted", "bytes", "full_size", "steps")


def main() -> None:
    args = _arguments()
    torch.set_num_threads(1)
    data = Path(args.data) if args.data else args.out / "data"
    if not args.data and not data.exists():
        for _ in prepare(["embedded"], data):
            pass
    rows: dict[str, list[dict[str, float | None]]] = {name: [] for name in args.systems}
    for seed in args.seeds:
        for name in args.systems:
            rows[name].append(_measure(name, data, seed, args))
    write_json(args.out / "systems.json", rows)
    print(_table(rows, seconds=args.seconds))
    for line in _verdicts(rows):
        print(line)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="training seconds of each run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1337])
    names = [name for name in catalog.names() if name == "baseline" or name.startswith("pr")]
    parser.add_argument("--systems", nargs="+", default=names, choices=names, metavar="NAME")
    parser.add_argument("--own-windows", action="store_true", help="score with each system's own windows too")
    parser.add_argument("--data", help="a prepared folder; left out, the embedded corpus is prepared under --out")
    parser.add_argument("--out", type=Path, default=Path("runs/systems"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    return args


def _measure(name: str, data: Path, seed: int, args: argparse.Namespace) -> dict[str, float | None]:
    """Run one system with one seed into its own folder."""
    full = catalog.find(name)
    recipe = mini(full)
    recipe = replace(
        recipe,
        budget=replace(recipe.budget, bytes=CAP, eval_seconds=3600.0, counts="cpu"),
        train=replace(recipe.train, seconds=args.seconds),
        windows=recipe.windows if args.own_windows else recipe.plain,
        adapt=recipe.adapt if seed == args.seeds[0] else None,
    )
    out = args.out / f"{name}-{seed}"
    path_of_row = out / "row.json"
    if path_of_row.exists():
        return json.loads(path_of_row.read_text())
    for event in run_recipe(recipe, open_data(data), out, seed=seed, force=True):
        if not isinstance(event, Progress):
            print(f"\r{name} seed {seed}: {type(event).__name__:<12}", end="", flush=True)
    result = read_result(out / "result.json")
    unpacked = read_artifact(out / "model.pargolf")
    grown = extrapolate(unpacked.artifact.by_role(), small=unpacked.model.spec, full=full.model)
    scores = result.scores
    pre, post = scores["pre_quant"].bpb, scores["post_quant"].bpb
    row = {
        "pre": pre,
        "post": post,
        "gap": post - pre,
        "final": result.val_bpb if args.own_windows else None,
        "adapted": scores["adapted"].bpb if "adapted" in scores else None,
        "bytes": result.bytes.model,
        "full_size": grown.model + result.bytes.code,
        "steps": result.steps,
    }
    write_json(path_of_row, row)
    print(f"\r{name} seed {seed}: {post:.4f} after packing, gap {row['gap']:+.4f}, {row['steps']} steps")
    return row


def _table(rows: dict[str, list[dict[str, float | None]]], *, seconds: float) -> str:
    """Means over the seeds; `±` is the standard deviation of the packed score."""
    lines = [
        f"Mini scale, {seconds:g} s of training each, {len(next(iter(rows.values())))} seed(s); bits per byte.",
        "",
        "| system | before | packed | ± | gap | own windows | adapted | bytes | at full size | steps |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, results in rows.items():
        means = {column: _mean([row[column] for row in results]) for column in COLUMNS}
        spread = stdev([row["post"] for row in results]) if len(results) > 1 else None
        cells = [means["pre"], means["post"], spread, means["gap"], means["final"], means["adapted"]]
        shown = ["-" if cell is None else f"{cell:.4f}" for cell in cells]
        over = " (over)" if means["full_size"] > CAP else ""
        counted = f"{means['bytes']:,.0f} | {means['full_size']:,.0f}{over} | {means['steps']:.0f}"
        lines.append(f"| {name} | {' | '.join(shown)} | {counted} |")
    return "\n".join(lines)


def _verdicts(rows: dict[str, list[dict[str, float | None]]]) -> list[str]:
    """What was expected, and whether it happened."""
    lines = []
    for name, results in rows.items():
        original = rows.get(name.removesuffix("_repaired"))
        if original is None or original is results:
            continue
        before, after = (_mean([row["post"] for row in each]) for each in (original, results))
        outcome = "holds" if after <= before else "does NOT hold"
        lines.append(f"{name} no worse than its original after packing: {outcome} ({after:.4f} against {before:.4f})")
    if "pr910" in rows and "pr910_repaired" in rows:
        before, after = (_mean([row["gap"] for row in rows[name]]) for name in ("pr910", "pr910_repaired"))
        outcome = "holds" if after < 0.010 else "does NOT hold"
        lines.append(f"pr910's gap under .010 when repaired: {outcome} ({before:.4f} to {after:.4f})")
    return lines


def _mean(values: list[float | None]) -> float | None:
    numbers = [value for value in values if value is not None]
    return mean(numbers) if numbers else None


if __name__ == "__main__":
    main()
