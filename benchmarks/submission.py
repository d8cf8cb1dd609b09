"""From three seeds to a folder that anybody can check: does the script alone give each run's number to the last bit?

    python benchmarks/submission.py --data DATA [--recipe pr1009_repaired] [--steps 40] [--out runs/submission]

Runs the seeds at mini scale (what has ended stays), writes the submission squeezed with its artifacts, copies it to a
folder of its own, scores every artifact there by an interpreter that cannot import this package, holds the sizes
against the table, and audits the folder.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pargolf
from pargolf.audit.judge import audit
from pargolf.core.result import read_result

ALONE = (
    "import sys; sys.modules['pargolf'] = None; sys.argv = sys.argv[1:]; import runpy; "
    "runpy.run_path(sys.argv[0], run_name='__main__')"
)


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--data", required=True)
    words.add_argument("--recipe", default="pr1009_repaired")
    words.add_argument("--steps", type=int, default=40)
    words.add_argument("--seeds", type=int, nargs="+", default=[42, 314, 999])
    words.add_argument("--out", default="runs/submission")
    said = words.parse_args()
    runs = Path(said.out) / "seeds"
    changes = {"train.steps": said.steps, "train.seconds": None, "budget.bytes": 2_000_000}
    pargolf.seeds(said.recipe, seeds=said.seeds, data=said.data, out=runs, scale="mini", changes=changes).result()
    place = Path(said.out) / "records" / "track_non_record_16mb" / f"2026-01-01_{said.recipe}"
    shutil.rmtree(place, ignore_errors=True)
    made = pargolf.write_submission([runs], out=place, squeeze=True, artifacts=True).result()
    print(f"{place}: code {made.code:,} bytes (readable {made.readable:,}), total {made.total:,} of {made.cap:,}")
    facts = json.loads((place / "submission.json").read_text())
    for seed in said.seeds:
        result = read_result(runs / f"seed-{seed}" / "result.json")
        found = alone(place, seed, said.data, result.machine.threads)
        weighs = sum((place / name).stat().st_size for name in ("train_gpt.py", f"model_seed{seed}.pargolf"))
        same = "the same bits" if found == result.val_bpb else "OTHER BITS"
        fits = "as the table says" if weighs == facts["seed_results"][str(seed)]["artifact_bytes"] else "OTHER BYTES"
        print(f"seed {seed}: run {result.val_bpb!r}, script {found!r}: {same}; {weighs:,} bytes, {fits}")
    report = audit(place)
    print("audit:", report.verdict)
    for finding in report.findings:
        if finding.status != "PASS":
            print(f"  {finding.rule}: {finding.status}: {finding.summary}")


def alone(place: Path, seed: int, data: str, threads: int) -> float:
    """The score that the script gives an artifact, from a folder of its own and without this package."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("train_gpt.py", f"model_seed{seed}.pargolf"):
            shutil.copy(place / name, folder)
        command = [sys.executable, "-I", "-c", ALONE, "train_gpt.py", "--evaluate", f"model_seed{seed}.pargolf"]
        command += ["--data", str(Path(data).resolve()), "--threads", str(threads)]
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, check=True)
    return float(done.stdout.splitlines()[-1].partition(":")[2])


if __name__ == "__main__":
    main()
