"""Go from three seeds to a submission, and check that its script alone reproduces each run's score to the last bit.

    python benchmarks/submission.py --data DATA [--recipe pr1009_repaired] [--steps 40] [--out runs/submission]

Runs the seeds at mini scale (finished runs stay), writes the submission squeezed with its artifacts, copies it to a
folder of its own, scores every artifact there with an interpreter that cannot import this package, compares the sizes
with the table, and audits the folder.
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
    options = words.parse_args()
    runs = Path(options.out) / "seeds"
    changes = {"train.steps": options.steps, "train.seconds": None, "budget.bytes": 2_000_000}
    pargolf.seeds(
        options.recipe, seeds=options.seeds, data=options.data, out=runs, scale="mini", changes=changes
    ).result()
    target = Path(options.out) / "records" / "track_non_record_16mb" / f"2026-01-01_{options.recipe}"
    shutil.rmtree(target, ignore_errors=True)
    submission = pargolf.write_submission([runs], out=target, squeeze=True, artifacts=True).result()
    code = f"code {submission.code:,} bytes (readable {submission.readable:,})"
    print(f"{target}: {code}, total {submission.total:,} of {submission.cap:,}")
    facts = json.loads((target / "submission.json").read_text())
    for seed in options.seeds:
        result = read_result(runs / f"seed-{seed}" / "result.json")
        bpb = alone(target, seed, options.data, result.machine.threads)
        size = sum((target / name).stat().st_size for name in ("train_gpt.py", f"model_seed{seed}.pargolf"))
        same = "the same bits" if bpb == result.val_bpb else "OTHER BITS"
        fits = "as the table says" if size == facts["seed_results"][str(seed)]["artifact_bytes"] else "OTHER BYTES"
        print(f"seed {seed}: run {result.val_bpb!r}, script {bpb!r}: {same}; {size:,} bytes, {fits}")
    report = audit(target)
    print("audit:", report.verdict)
    for finding in report.findings:
        if finding.status != "PASS":
            print(f"  {finding.rule}: {finding.status}: {finding.summary}")


def alone(source: Path, seed: int, data: str, threads: int) -> float:
    """The score that the script gives an artifact, in a folder of its own and without this package."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("train_gpt.py", f"model_seed{seed}.pargolf"):
            shutil.copy(source / name, folder)
        command = [sys.executable, "-I", "-c", ALONE, "train_gpt.py", "--evaluate", f"model_seed{seed}.pargolf"]
        command += ["--data", str(Path(data).resolve()), "--threads", str(threads)]
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, check=True)
    return float(done.stdout.splitlines()[-1].partition(":")[2])


if __name__ == "__main__":
    main()
