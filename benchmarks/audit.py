"""Score the auditor against verdicts of people or of arithmetic: python benchmarks/audit.py LABELS.csv REPO.

LABELS.csv has the columns pr, label, polarity. REPO is a clone of openai/parameter-golf with its pull request heads.
For every class of violation the table shows how many labelled heads the rule finds, and how many accepted heads it
flags. `--five` asserts the five verdicts that the project starts from. `--reports` reuses an `audit --all` file; with
that of a whole repository the last lines are the whole set's verdicts and processor seconds.

`--mutations` tries edits of a clean submission (`mutated.py`), and `--escapes` ways out of the sandbox (`escaped.py`);
both need neither argument. `--black-box N` needs REPO only: it runs N of its heads to their printed scores
(`sampled.py`).
"""

import argparse
import csv
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from escaped import print_escapes
from mutated import print_table
from sampled import print_sample

from pargolf.audit.batch import Range, audit_all, read_reports
from pargolf.audit.report import ORDER
from pargolf.core.events import Progress

# class: (parts of its labels, rules of which one must find it, the mildest status that counts)
CLASSES = {
    "size": (("over_16M",), ("size_cap",), "FAIL"),
    "train time": (("train_over_600",), ("train_time",), "FAIL"),
    "byte denominator": (("byte_LUT", "byte_denominator", "double_space"), ("byte_denominator",), "SUSPECT"),
    "validation set": (("noncanonical",), ("split_overlap", "byte_denominator"), "SUSPECT"),
    "split overlap": (("overlap",), ("split_overlap",), "SUSPECT"),
    "syntax": (("auto_syntax_fail",), ("syntax",), "FAIL"),
    "seeds": (("insufficient_seeds",), ("seeds",), "HOLD"),
    "package": (("incomplete_package",), ("package", "consistency"), "HOLD"),
    "outside folder": (("format_outside",), ("outside_folder",), "HOLD"),
    "calibration budget": (("train_data_at_eval",), ("calibration_budget",), "HOLD"),
    "train then score": (
        ("ttt_train_then_score", "flag_prequant_ttt", "prequant_ttt"),
        ("ttt_order", "two_pass", "val_in_training", "slot"),
        "HOLD",
    ),
    "min nll": (("min_nll",), ("two_pass", "ttt_order"), "SUSPECT"),
    "two pass": (("two_pass",), ("two_pass",), "SUSPECT"),
    "hashed caches": (
        ("ngram_hashed", "ban_wave", "target_in_key", "downstream_of_779", "unnormalised_ngram", "972_unnorm"),
        ("ngram_target_key", "latent"),
        "SUSPECT",
    ),
    "target-only blends": (
        ("bytePPM", "target_class_gated", "gate_nonzero", "target_only_blend", "oracle_select"),
        ("ngram_target_key",),
        "SUSPECT",
    ),
    "slot": (("slot_hold", "slot_cluster", "flag_slot"), ("slot", "ttt_order"), "HOLD"),
    "paid prefix": (("paid_prefix",), ("val_in_training",), "SUSPECT"),
    "trained on validation": (("val_only", "trained_on_val", "calibration_on_val"), ("val_in_training",), "SUSPECT"),
}
ACCEPTED = ("merged", "leaderboard_row", "legal_maintainer_ok")
ARITHMETIC = {"size_cap", "train_time", "eval_time", "seeds", "byte_denominator", "syntax", "package"}
# pull request: verdict, {rule: status}, words that some finding must contain
FIVE = {
    1009: ("FAIL", {"size_cap": "FAIL", "package": "UNVERIFIABLE"}, ("16,290,425", "16,408,223", "16,441,654")),
    910: (
        "UNVERIFIABLE",
        {"package": "UNVERIFIABLE", "seeds": "UNVERIFIABLE", "size_cap": "UNVERIFIABLE"},
        ("no score",),
    ),
    543: ("FAIL", {"train_time": "FAIL", "seeds": "FAIL", "size_cap": "PASS"}, ("615.394",)),
    295: (
        "FAIL",
        {"seeds": "FAIL", "size_cap": "PASS", "train_time": "PASS", "byte_denominator": "PASS", "consistency": "PASS"},
        ("One run",),
    ),
    861: (
        "FAIL",
        {"size_cap": "FAIL", "train_time": "FAIL", "consistency": "SUSPECT"},
        ("16,265,723", "75,440", "2222 / 1386.5", "600 s", "vocabulary of 256", "worse", "cannot come from"),
    ),
}


def found(report: dict, rules: tuple[str, ...], least: str) -> str:
    """The worst status of some rules, if it is at least `least`; otherwise an empty string."""
    statuses = [f["status"] for f in report["findings"] if f["rule"] in rules]
    worst = max(statuses, key=ORDER.index, default="PASS")
    return worst if ORDER.index(worst) >= ORDER.index(least) else ""


def check_five(reports: dict[int, dict]) -> list[str]:
    wrong = []
    for pr, (verdict, statuses, words) in FIVE.items():
        report = reports.get(pr)
        if report is None:
            wrong.append(f"#{pr}: not audited")
            continue
        if report["verdict"] != verdict:
            wrong.append(f"#{pr}: verdict {report['verdict']}, not {verdict}")
        for rule, status in statuses.items():
            found_statuses = [f["status"] for f in report["findings"] if f["rule"] == rule]
            if status not in found_statuses or (status == "PASS" and set(found_statuses) != {"PASS"}):
                wrong.append(f"#{pr}: {rule} is {found_statuses}, not {status}")
        text = " ".join(f["summary"] for f in report["findings"])
        wrong += [f"#{pr}: nothing says {word!r}" for word in words if word not in text]
        if any(f["status"] == "FAIL" and f["rule"] not in ARITHMETIC for f in report["findings"]):
            wrong.append(f"#{pr}: a rule that only reads code says FAIL")
    return wrong


def audited(repo: str, numbers: set[int], path: Path | None) -> tuple[dict[int, dict], float]:
    """Reports by number, and the processor seconds of judging them, as their lines say."""
    folder = tempfile.TemporaryDirectory()
    out = path or Path(folder.name) / "reports.jsonl"
    if path is None:
        for n in sorted(numbers):
            for event in audit_all(repo, out=out, prs=Range(n, n)):
                if isinstance(event, Progress) and event.done:
                    print(f"\r#{n}    ", end="", file=sys.stderr)
    reports = {int(r["target"].split("/")[-2]): r for r in read_reports(out)}
    folder.cleanup()
    return reports, sum(report.get("seconds", 0.0) for report in reports.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("labels", type=Path, nargs="?")
    parser.add_argument("repo", nargs="?")
    parser.add_argument("--mutations", action="store_true", help="try edits of a clean submission, some innocent")
    parser.add_argument("--escapes", action="store_true", help="try ways out of the sandbox")
    parser.add_argument("--black-box", type=int, metavar="N", help="run N heads of REPO to their printed scores")
    parser.add_argument("--tried", type=Path, default=Path("black-box.jsonl"), help="where --black-box keeps its runs")
    parser.add_argument("--laws", action="store_true", help="with --black-box: on all three texts, and ask the laws")
    parser.add_argument("--reports", type=Path, help="lines that `pargolf audit --all` wrote, instead of auditing now")
    parser.add_argument("--five", action="store_true", help="only assert the five verdicts")
    args = parser.parse_args()
    if args.mutations:
        return 0 if print_table() else 1
    if args.escapes:
        return 0 if print_escapes() else 1
    if args.black_box:
        print_sample(str(args.labels), args.black_box, args.tried, every_text=args.laws)
        return 0
    if args.labels is None or args.repo is None:
        parser.error("give LABELS.csv and REPO, or --mutations, --escapes, or REPO and --black-box")
    rows = list(csv.DictReader(args.labels.open()))
    labels = defaultdict(set)
    for row in rows:
        labels[int(row["pr"])].add((row["label"], row["polarity"]))
    reports, seconds = audited(args.repo, set(FIVE) | (set() if args.five else set(labels)), args.reports)
    wrong = check_five(reports)
    print("\n".join(wrong) or "The five verdicts come out as they should.")
    if not args.five:
        table(labels, reports)
        print(f"{len(reports)} reports, {seconds:.0f} s of the processor")
    return 1 if wrong else 0


def table(labels: dict[int, set[tuple[str, str]]], reports: dict[int, dict]) -> None:
    accepted = {
        pr for pr, marks in labels.items() if any(x[0].startswith(ACCEPTED) and x[1] == "accept" for x in marks)
    }
    rejected = {pr for pr, marks in labels.items() if any(x[1] == "reject" for x in marks)}
    accepted -= rejected
    flagged = f"flagged of {len(accepted)} accepted"
    print(f"{'class':24}{'labelled':>9}{'found':>7}{'recall':>8}{flagged:>26}  missed")
    for name, (parts, rules, least) in CLASSES.items():
        labelled = sorted(
            pr for pr, marks in labels.items() if any(p in x[0] for x in marks for p in parts if x[1] != "info")
        )
        labelled = [pr for pr in labelled if pr in reports]
        hits = [pr for pr in labelled if found(reports[pr], rules, least)]
        false = [pr for pr in sorted(accepted) if pr in reports and found(reports[pr], rules, least)]
        missed = " ".join(f"#{pr}" for pr in labelled if pr not in hits)
        recall = f"{len(hits) / len(labelled):.0%}" if labelled else "-"
        print(f"{name:24}{len(labelled):>9}{len(hits):>7}{recall:>8}{len(false):>26}  {missed}")
        if false:
            print(f"{'':24}accepted but flagged: {' '.join(f'#{pr}' for pr in false)}")
    proven = {
        pr: [f["rule"] for f in reports[pr]["findings"] if f["status"] == "FAIL"] for pr in accepted if pr in reports
    }
    print("accepted heads with a FAIL:", {pr: sorted(set(r)) for pr, r in sorted(proven.items()) if r} or "none")
    verdicts = defaultdict(int)
    for report in reports.values():
        verdicts[report["verdict"]] += 1
    print("verdicts:", ", ".join(f"{v} {verdicts[v]}" for v in ORDER))


if __name__ == "__main__":
    sys.exit(main())
