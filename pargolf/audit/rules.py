"""The rules as a table: each one a small function from facts to findings, with the rule's words and where they stand.

Arithmetic rules (`budgets`, `package_rules`, `denominator`) may say FAIL: a number over a cap is over it, whoever
merged it. What logs and texts say of themselves (`own_words`) and what code does (`code_rules`) is SUSPECT at most and
names the probe, since reading is no proof.
"""

from pargolf.audit.budgets import calibration_budget, eval_time, size_cap, train_time
from pargolf.audit.denominator import byte_denominator
from pargolf.audit.ground import Rule
from pargolf.audit.own_words import logged_methods, own_words, split_overlap, target_gates
from pargolf.audit.package_rules import outside_folder, package, seeds, significance, syntax

README_FAQ = "README FAQ"
RULES: tuple[Rule, ...] = (
    Rule("size_cap", "code bytes plus compressed model bytes, at most 16,000,000 (decimal)", README_FAQ, size_cap),
    Rule("train_time", "must train in under 10 minutes on 8xH100 SXM", README_FAQ, train_time),
    Rule("eval_time", "evaluation in under 10 minutes on 8xH100, apart from training", README_FAQ, eval_time),
    Rule(
        "calibration_budget",
        "calibration belongs to the 600 s of training",
        "#593 #606 #626 #706 #1028",
        calibration_budget,
    ),
    Rule("seeds", "enough run logs to show p < 0.01", "README, submission process", seeds),
    Rule(
        "significance", "beat the record by at least 0.005 nats at p < 0.01", "README, submission process", significance
    ),
    Rule(
        "package",
        "README.md, submission.json, train log, train_gpt.py and dependencies",
        "README, submission process",
        package,
    ),
    Rule("outside_folder", "only add one new folder under records", "README; #1031 #1120 #1143", outside_folder),
    Rule("syntax", "the script must compile and run from the records folder", "README, submission process", syntax),
    Rule("byte_denominator", "bits per byte of the raw validation text", "#1545 #2071 #2138", byte_denominator),
    Rule(
        "split_overlap",
        "no validation data in training; the standard validation set",
        "#1854 #2109 #2130",
        split_overlap,
    ),
    Rule("ttt_order", "only train on validation tokens you've already evaluated", README_FAQ, logged_methods),
    Rule("val_in_training", "no validation data in training", "README FAQ; #44 #262", own_words),
    Rule("ngram_target_key", "no gate may look at the token being scored", "#2041 #2118", target_gates),
)
