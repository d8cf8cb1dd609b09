"""The rules as one table: what each asks, its words, where they are written, and how it is checked.

Arithmetic may say FAIL: a number over a cap is over it, whoever merged it. What logs and texts say of themselves and
what code does is SUSPECT at most and names the probe that would prove it, since reading is no proof.
"""

from pargolf.audit.rules.byte_denominator import byte_denominator, byte_table
from pargolf.audit.rules.causality import causality
from pargolf.audit.rules.consistency import consistency
from pargolf.audit.rules.evidence import outside_folder, package, seeds, significance, syntax
from pargolf.audit.rules.ngram_caches import logged_caches, ngram_target_key
from pargolf.audit.rules.rescoring import logged_passes, two_pass
from pargolf.audit.rules.rule import Rule
from pargolf.audit.rules.score_order import logged_order, ttt_order
from pargolf.audit.rules.size_cap import size_cap
from pargolf.audit.rules.time_limits import calibration_budget, eval_time, late_calibration, train_time
from pargolf.audit.rules.validation_data import split_overlap, val_in_training, validation_in_artifact

_FAQ = "README FAQ"
_PROCESS = "README, submission process"

RULES: tuple[Rule, ...] = (
    Rule(
        name="size_cap",
        asks="Do code and compressed model fit the cap?",
        words="The bytes of the code and of the compressed model together are at most 16,000,000; MB are decimal.",
        source=_FAQ,
        passes="Code and model are under the cap.",
        facts=size_cap,
    ),
    Rule(
        name="train_time",
        asks="Did training end in time?",
        words="Training takes at most 600 s on eight H100 SXM.",
        source=_FAQ,
        passes="Training took no longer than 600 s.",
        facts=train_time,
    ),
    Rule(
        name="eval_time",
        asks="Did scoring end in time?",
        words="Scoring takes at most 600 s on eight H100, counted apart from training.",
        source=_FAQ,
        passes="Scoring took no longer than 600 s.",
        facts=eval_time,
    ),
    Rule(
        name="calibration_budget",
        asks="Does calibration on training data fit into the training time?",
        words="Whatever reads training data, calibration for quantization too, belongs to the 600 s of training.",
        source="maintainer on #593 #606 #626 #656 #706 #1028",
        passes="No calibration begins after the training clock stopped.",
        facts=calibration_budget,
        code=late_calibration,
    ),
    Rule(
        name="seeds",
        asks="How many independent runs stand behind the number?",
        words="A record shows enough runs, each with its log, to reach p < 0.01; three seeds are usual.",
        source=_PROCESS,
        passes="There are at least three runs with logs.",
        facts=seeds,
    ),
    Rule(
        name="significance",
        asks="Is the result better than the record beyond chance?",
        words="A new record is better than the old one by at least 0.005 nats per token at p < 0.01.",
        source=_PROCESS,
        passes="The gain over the record exceeds 0.005 nats at p < 0.01.",
        facts=significance,
    ),
    Rule(
        name="package",
        asks="Does the folder hold what a submission needs?",
        words="A submission holds README.md, submission.json, a training log, and the script with what it imports.",
        source=_PROCESS,
        passes="README, submission.json, log and script are there.",
        facts=package,
        script_alone=True,
    ),
    Rule(
        name="outside_folder",
        asks="Does the pull request touch only its own folder?",
        words="A pull request adds one new folder below records/ and changes nothing else.",
        source="README; #1031 #1120 #1143",
        passes="Only this folder is touched.",
        facts=outside_folder,
    ),
    Rule(
        name="syntax",
        asks="Is the script Python?",
        words="The script compiles and runs from its records folder.",
        source=_PROCESS,
        passes="Every script parses.",
        facts=syntax,
        script_alone=True,
    ),
    Rule(
        name="byte_denominator",
        asks="Which bytes does the score divide by?",
        words="Bits per byte are bits per byte of the raw validation text, whatever the tokenizer makes of it.",
        source="maintainer on #2071 #2138; #1545 #1687",
        passes="Loss over bits per byte is that of a known tokenizer on the standard validation set.",
        facts=byte_denominator,
        script_alone=True,
        code=byte_table,
    ),
    Rule(
        name="split_overlap",
        asks="Is the score over the standard validation set, which training never saw?",
        words="The score is over the standard 50,000 validation documents, none of which is in training.",
        source="maintainer on #2130; #1854 #2109",
        passes="The number of validation tokens is that of the standard set.",
        facts=split_overlap,
    ),
    Rule(
        name="ttt_order",
        asks="Is every validation token scored before the model learns from it?",
        words="A model may be trained on validation tokens only after they have been scored.",
        source="README FAQ; #402 #1017 (C3)",
        passes="Every reachable update from validation tokens follows their score, or there is none.",
        facts=logged_order,
        code=ttt_order,
        reads_code=True,
    ),
    Rule(
        name="val_in_training",
        asks="Do validation tokens reach training or the artifact?",
        words="No validation data in training, in calibration before it is scored, or stored in the artifact.",
        source="README FAQ; maintainers on #44 #168 #262",
        passes="No validation tokens reach training or the artifact.",
        facts=val_in_training,
        code=validation_in_artifact,
        reads_code=True,
    ),
    Rule(
        name="ngram_target_key",
        asks="Is there a whole distribution before the token is seen?",
        words="Each position has a normalised distribution over the vocabulary, fixed before its token is known.",
        source="maintainers on #779 #677 #2041 #2118; #1017 (C2)",
        passes="No reachable quotient of counts is keyed by the scored token.",
        facts=logged_caches,
        code=ngram_target_key,
        reads_code=True,
    ),
    Rule(
        name="consistency",
        asks="Does every number that appears twice agree?",
        words="Title, README, submission.json, log, script and arithmetic speak of the same run.",
        source="arithmetic; no ruling needed",
        passes="Every number that appears twice agrees.",
        facts=consistency,
    ),
    Rule(
        name="slot",
        asks="Are tensors of the scorer's own optimised on the tokens it then scores?",
        words="No maintainer has ruled on tensors that are optimised on a window and scored on the same window.",
        source="#1336 (open), #1240",
        passes="No reachable code optimises tensors of its own on the tokens it scores.",
        reads_code=True,
    ),
    Rule(
        name="two_pass",
        asks="Is each token scored exactly once?",
        words="Scoring is one pass from left to right; each token counts once, at its first score.",
        source="maintainers on #846 #573; #1017 (C4)",
        passes="No reachable code scores tokens a second time.",
        facts=logged_passes,
        code=two_pass,
        reads_code=True,
    ),
    Rule(
        name="causality",
        asks="Can a position see later tokens, or another document?",
        words="The distribution at a position depends on the tokens before it and on nothing after.",
        source="#1017 (C1); #1797 #1851",
        passes="Reachable attention is told to be causal or has a mask.",
        code=causality,
        reads_code=True,
        law="causal",
    ),
    Rule(
        name="normalization",
        asks="Do the probabilities at a position sum to one?",
        words="Each position has a normalised distribution over the vocabulary.",
        source="#1017 (C2); #886",
        passes="The probed probabilities sum to one.",
        law="normalized",
    ),
    Rule(
        name="run",
        asks="Can the script be imported and its model be built?",
        words="The script compiles and runs from its records folder.",
        source=_PROCESS,
        passes="The script was imported and its model built in the sandbox.",
    ),
    Rule(
        name="latent",
        asks="What is off in the reported run and on elsewhere?",
        words="The committed script follows the rules on eight processes too, and with each of its switches.",
        source="#1170 #1232",
        passes="What breaks a rule is off by default.",
    ),
)
BY_NAME = {rule.name: rule for rule in RULES}
