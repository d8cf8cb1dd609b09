"""Validation data where it must not be (training, calibration, the artifact), or another set than the standard one.

Traces in a log and the submission's own words are evidence, not proof: SUSPECT at most, each with the probe that would
prove it. Sources: README FAQ; #1854 #2109 #2130 (splits), #44 #262 (trained on), #168 (paid prefix), #728.
"""

import ast
import re
from collections.abc import Iterator

from pargolf.audit.code.program import Program
from pargolf.audit.code.search import LOOPS, calibrates, names_in
from pargolf.audit.code.tree import dotted, last_name, walk
from pargolf.audit.read.facts import Facts
from pargolf.audit.read.logs import Line, Log
from pargolf.audit.read.validation_sets import CANONICAL_TOKENS, SHORT_DOCUMENTS, SPLITS, WHOLE_TOKENS
from pargolf.audit.report import HOLD, PASS, SUSPECT, RuleFinding
from pargolf.audit.rules.rule import Hit, Missing, Surroundings, quoted
from pargolf.audit.rules.script.training_files import training_files

_TRAINS_ON_VALIDATION = re.compile(
    r"\bval[- _]only\b|\bvalidation-only\b|train(?:ed|ing|s)? (?:only )?on (?:the )?val(?:idation)?\b(?! loss)"
    r"|calibrat\w+ (?:on|with|using|from) (?:the )?val(?:idation)?\b",
    re.I,
)
_DENIAL = re.compile(
    r"\b(?:no|not|never|without|(?:do|does|is|are|ca|must|wo)n['\u2019]t|illegal|violat|avoid|instead|cannot|ban)"
    r"|score[- ]first|scored|test[- ]time|\bTTT\b",  # `ttt_order` judges adaptation while scoring
    re.I,
)

_STATISTICS = ("bincount", "histc", "histogram", "Counter", "unique", "value_counts")
_COUNT = f"{SHORT_DOCUMENTS:_}".replace("_", "[_,]?")
_SHORT = re.compile(rf"val[_-]docs.*\b{_COUNT}\b|\b{_COUNT}\b.*val[_-]docs", re.I)


def split_overlap(facts: Facts, context: Surroundings, missing: Missing) -> Iterator[RuleFinding]:
    """Traces in logs of a validation set that is not the standard one, or that training has seen."""
    for log in (*facts.own_logs, *facts.stray_logs):
        finding = _other_split(log)
        if finding is not None:
            yield finding
            return
    prepared = _validation_documents(facts)
    if prepared is not None and any(log.val_tokens and log.val_tokens.value == WHOLE_TOKENS for log in facts.own_logs):
        yield RuleFinding(
            "split_overlap",
            HOLD,
            f"The data script ends validation at {SHORT_DOCUMENTS:,} documents and the log scores all 50,000: "
            "40,000 of them lie on the training side. Probe: hash documents of both sides.",
            quoted([prepared]),
        )
        return
    counts = [int(log.val_tokens.value) for log in facts.own_logs if log.val_tokens]
    if not counts:
        missing.add("split_overlap: no log prints the number of validation tokens")
    elif all(count in CANONICAL_TOKENS for count in counts):
        yield RuleFinding("split_overlap", PASS, "The number of validation tokens is that of the standard set.")
    else:
        missing.add("split_overlap: the number of validation tokens belongs to no known tokenizer")


def _other_split(log: Log) -> RuleFinding | None:
    """A log with the validation tokens (and the training shards, if they matter) of another split."""
    if log.val_tokens is None:
        return None
    tokens = int(log.val_tokens.value)
    shards = log.settings.get("train_shards")
    count = int(shards[0]) if shards and shards[0].isdecimal() else None
    for split in SPLITS:
        if split.tokens != tokens or (split.train_shards and count not in split.train_shards):
            continue
        if not split.train_shards or shards is None:
            text, numbers = f"{tokens:,} validation tokens: {split.says}", {"val_tokens": tokens}
            return RuleFinding("split_overlap", SUSPECT, text, quoted([log.val_tokens.line]), numbers)
        return RuleFinding(
            "split_overlap",
            SUSPECT,
            f"{count} training shards with the full {tokens:,} validation tokens: {split.says}",
            quoted([shards[1], log.val_tokens.line]),
            {"train_shards": count, "val_tokens": tokens},
        )
    return None


def _validation_documents(facts: Facts) -> Line | None:
    """A data-preparation script in the folder whose default number of validation documents is too small."""
    for code in facts.codes:
        if "prepare" not in code.path and "tokenize" not in code.path:
            continue
        for number, text in enumerate(code.lines, 1):
            if _SHORT.search(text) and "#" not in text[:2]:
                return Line(code.path, number, text.strip()[:240])
    return None


def val_in_training(facts: Facts, context: Surroundings, missing: Missing) -> Iterator[RuleFinding]:
    """A log that loads stored validation tokens, and own words about training on them."""
    for log in until_told(facts):
        prefix = paid_prefix(log)
        if prefix is not None:
            yield RuleFinding(
                "val_in_training",
                SUSPECT,
                "The log loads a paid prefix: stored validation tokens (#168). Probe: score with the file removed.",
                quoted([prefix]),
            )
    yield from _own_words(facts)


def paid_prefix(log: Log) -> Line | None:
    """The log line that loads a paid prefix from a file."""
    line = next((x for x in log.lines if re.match(r"paid_prefix\w*[:=]", x.text)), None)
    return None if line is None or re.match(r"paid_prefix_file[:=]\s*$", line.text) else line


def until_told(facts: Facts) -> Iterator[Log]:
    """Logs up to the first that mentions training on validation data; the others would only repeat it."""
    for log in facts.own_logs or facts.logs:
        yield log
        if log.prequant is not None or any(re.match(r"paid_prefix\w*[:=]", x.text) for x in log.lines):
            return


def _own_words(facts: Facts) -> Iterator[RuleFinding]:
    """A submission that says of itself that it trains on the validation set."""
    named = [Line(facts.folder.path, 0, facts.folder.path.replace("_", " ")), *facts.readme]
    named += [x.line for x in facts.leaves if isinstance(x.value, str)]
    for line in named:
        text = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", line.text)
        if _TRAINS_ON_VALIDATION.search(text) and not _DENIAL.search(text):
            yield RuleFinding(
                "val_in_training",
                SUSPECT,
                "The submission's own words say that it trains or calibrates on the validation set (README FAQ, #44, "
                "#728). Probe: hash the training stream against the validation tokens.",
                quoted([line]),
            )
            return


_STORES = frozenset({"torch.save", "pickle.dump", "pickle.dumps", "np.save", "numpy.save", "np.savez", "zlib.compress"})


def validation_in_artifact(program: Program) -> Iterator[Hit]:
    """Whether validation tokens reach the training loader, the artifact, or a table of known answers."""
    yield from training_files(program)
    yield from _statistics(program)
    yield from _stored(program)
    for node in program.live_of(ast.Compare):
        if len(node.ops) == 1 and isinstance(node.ops[0], (ast.Eq, ast.NotEq)):
            yield from _answers(program, node)
    for node in program.live_of(ast.Call):
        if calibrates(program, node, "VAL"):
            yield Hit(
                "val_in_training",
                SUSPECT,
                node,
                f"`{program.function_of(node).name}` gathers statistics for quantization from validation tokens "
                "before they are scored (#728).",
                "Probe: quantize with other tokens there; the artifact must not change.",
            )


def _stored(program: Program) -> Iterator[Hit]:
    """Validation tokens that are put into a file: `torch.save(bundle)` where the bundle holds some of them."""
    for call in program.live_of(ast.Call):
        if dotted(call.func) not in _STORES or not call.args:
            continue
        function = program.function_of(call)
        labels = program.of(call.args[1 if dotted(call.func) in ("np.save", "numpy.save") else 0], function)
        if "VAL" in labels and not labels & {"LOSS", "PIECE"}:
            text = f"`{function.name}` stores what is made of validation tokens by `{dotted(call.func)}` (#168, #262)."
            probe = "Probe: score with the stored tokens removed; the score must not change."
            yield Hit("val_in_training", SUSPECT, call, text, probe)
            return


def _statistics(program: Program) -> Iterator[Hit]:
    """Statistics of the whole validation text that are put on an object at once, as a prior is."""
    for node in program.live_of(ast.Assign, ast.AugAssign):
        target = node.targets[0] if isinstance(node, ast.Assign) else node.target
        function = program.function_of(node)
        if not isinstance(target, ast.Attribute) or _looped(program, node):
            continue
        labels = program.of(node.value, function)
        if target.attr in ("data", "weight") and "VAL" in labels and "TRAIN" not in labels:
            text = f"`{function.name}` computes `{ast.unparse(target)}` from validation tokens (#728)."
            yield Hit("val_in_training", SUSPECT, node, text, "Probe: flip the last tokens; no loss before may change.")
            continue
        if "VAL" not in labels or "LOSS" in labels or any(_looped(program, site.call) for site in function.calls):
            continue
        assigned_values = [s for n in names_in(node.value) for s in function.assigned.get(n, ()) if s is not None]
        calls = [n for s in (node.value, *assigned_values) for n in walk(s) if isinstance(n, ast.Call)]
        grows = any(isinstance(n, ast.Attribute) and n.attr == target.attr for n in walk(node.value))
        if not grows and any(last_name(c) in _STATISTICS for c in calls):
            yield Hit(
                "val_in_training",
                SUSPECT,
                node,
                f"`{function.name}` keeps statistics of the validation tokens as `{ast.unparse(target)}`, at once and "
                "not as they are scored (#728).",
                "Probe: flip the last tokens; no earlier loss may change.",
            )


def _looped(program: Program, node: ast.AST) -> bool:
    return any(isinstance(above, LOOPS) for above in program.ancestors(node))


def _answers(program: Program, node: ast.Compare) -> Iterator[Hit]:
    """Targets compared with tokens from a file of the artifact: a paid prefix."""
    function = program.function_of(node)
    left, right = program.of(node.left, function), program.of(node.comparators[0], function)
    for tokens, other in ((left, right), (right, left)):
        if "VAL" in tokens and "HASH" not in tokens and "BLOB" in other and "VAL" not in other:
            yield Hit(
                "val_in_training",
                SUSPECT,
                node,
                f"`{function.name}` compares the targets with tokens read from a file: a stored prefix of the "
                "validation set (#168, #262).",
                "Probe: score with the file removed; the score must not change.",
            )
