"""What logs and texts say of themselves: the validation set, the method behind the score, training on what is scored.

A fingerprint in a log, a tag of the reported score or a submission's own words are evidence, no proof: SUSPECT at most,
each with the probe that would prove it. Sources: #1854 #2109 #2130 (splits), #2041 #2118 (gates), #1376 #1972 (order),
#44 #262 (validation data in training), #886 #978 (what honest mixing is worth).
"""

import re
from collections.abc import Iterator

from pargolf.audit.facts import Facts
from pargolf.audit.ground import Missing, Surroundings, quoted
from pargolf.audit.known import CANONICAL_TOKENS
from pargolf.audit.logs import Line, Log
from pargolf.audit.verdict import HOLD, PASS, SUSPECT, RuleFinding


def split_overlap(facts: Facts, context: Surroundings, missing: Missing) -> Iterator[RuleFinding]:
    """Fingerprints in logs of a validation set that is not the standard one, or that training has seen."""
    for log in (*facts.own_logs, *facts.stray_logs):
        shards = log.settings.get("train_shards")
        tokens = log.val_tokens
        if (
            shards
            and tokens
            and shards[0].isdigit()
            and int(shards[0]) in (1499, 1502)
            and int(tokens.value) == 47_851_520
        ):
            yield RuleFinding(
                "split_overlap",
                SUSPECT,
                f"{shards[0]} training shards beside the full 47,851,520 validation tokens: the fingerprint of a split "
                "at 10,000 documents, so that documents 10,000 to 49,999 are in both. Probe: hash the documents.",
                quoted([shards[1], tokens.line]),
                {"train_shards": int(shards[0]), "val_tokens": int(tokens.value)},
            )
            return
        if tokens and int(tokens.value) in (9_662_464, 43_767_808):
            yield RuleFinding(
                "split_overlap",
                SUSPECT,
                f"{int(tokens.value):,} validation tokens: not the standard set of 50,000 documents.",
                quoted([tokens.line]),
                {"val_tokens": int(tokens.value)},
            )
            return
    prepared = _validation_documents(facts)
    if prepared is not None and any(log.val_tokens and log.val_tokens.value == 47_851_520 for log in facts.own_logs):
        yield RuleFinding(
            "split_overlap",
            HOLD,
            "The data script ends validation at 10,000 documents and the log scores all 50,000: 40,000 of them lie on "
            "the training side. Probe: hash documents of both sides.",
            quoted([prepared]),
        )
    elif any(log.val_tokens for log in facts.own_logs):
        known = all(int(log.val_tokens.value) in CANONICAL_TOKENS for log in facts.own_logs if log.val_tokens)
        if known:
            yield RuleFinding("split_overlap", PASS, "The number of validation tokens is that of the standard set.")
        else:
            missing.add("split_overlap: the number of validation tokens belongs to no known tokenizer")
    else:
        missing.add("split_overlap: no log prints the number of validation tokens")


def _validation_documents(facts: Facts) -> Line | None:
    """A data-preparation script in the folder whose default number of validation documents is 10,000."""
    for code in facts.codes:
        if "prepare" not in code.path and "tokenize" not in code.path:
            continue
        for number, text in enumerate(code.lines, 1):
            if (
                re.search(r"val[_-]docs.*\b10[_,]?000\b|\b10[_,]?000\b.*val[_-]docs", text, re.I)
                and "#" not in text[:2]
            ):
                return Line(code.path, number, text.strip()[:240])
    return None


def target_gates(facts: Facts, context: Surroundings, missing: Missing) -> Iterator[RuleFinding]:
    """Gates that open by the class of the token being scored: the log says how often they did."""
    gates = [g for log in facts.own_logs or facts.logs for g in log.gates if g.value > 0]
    if gates:
        yield RuleFinding(
            "ngram_target_key",
            SUSPECT,
            f"The log shows within-word or word gates that opened {max(g.value for g in gates):g} times: they follow "
            "the class of the token being scored (ruled out on #2041 and #2118). Probe: sum p over the vocabulary.",
            quoted(g.line for g in gates[:3]),
            {"opened": max(g.value for g in gates)},
        )


def logged_methods(facts: Facts, context: Surroundings, missing: Missing) -> Iterator[RuleFinding]:
    """What the log's own words say about how the reported score came about; a tag is evidence, not proof."""
    told: set[str] = set()
    for log in facts.own_logs or facts.logs:
        if log.prequant is not None:
            yield RuleFinding(
                "ttt_order",
                SUSPECT,
                "The log tells of adaptation on validation data before quantization, and so before the final score "
                "(#1376, #1972, C3). Probe: flip one target and see whether any score at or before it changes.",
                quoted([log.prequant]),
            )
        prefix = next((x for x in log.lines if re.match(r"paid_prefix\w*[:=]", x.text)), None)
        if prefix is not None and not re.match(r"paid_prefix_file[:=]\s*$", prefix.text):
            yield RuleFinding(
                "val_in_training",
                SUSPECT,
                "The log loads a paid prefix: stored validation tokens (#168). Probe: score with the file removed.",
                quoted([prefix]),
            )
        for finding in _tagged(facts, log):
            tag = f"{finding.rule} {finding.summary.split('`')[1]}"  # said once, not for every seed
            if tag not in told:
                told.add(tag)
                yield finding
        if log.prequant or prefix:
            return


def _tagged(facts: Facts, log: Log) -> Iterator[RuleFinding]:
    final = log.final
    claim = facts.bpb.number if facts.bpb is not None else None
    mixes = [m for m in log.mixes if re.search(r"mix|ppm|n_?gram|cache", m.tag)]
    mixed = next((m for m in mixes if claim and abs(m.bpb - claim) < 0.002), None)
    if mixed is not None:
        yield RuleFinding(
            "ngram_target_key",
            SUSPECT,
            f"The declared score is the log's `{mixed.tag}`: a mixture with counts, which has to be a normalised "
            "distribution before the token is seen (#1835, #677). Probe: sum p over the vocabulary.",
            quoted([mixed.line]),
        )
    if final is None:
        return
    if re.search(r"two_?pass|pass_?2|rescore", final.tag):
        yield RuleFinding(
            "two_pass",
            SUSPECT,
            f"The reported score is the log's `{final.tag}`: a second pass (#846, C4). Probe: count the scored "
            "contributions of each token; each must be one.",
            quoted([final.line]),
        )
    plain = [s.bpb for s in log.scores if re.search(r"roundtrip|sliding", s.tag) and "ngram" not in s.tag]
    if re.search(r"n_?gram|cache|ppm|mixer", final.tag) and plain and final.bpb < min(plain) - 0.03:
        yield RuleFinding(
            "ngram_target_key",
            SUSPECT,
            f"`{final.tag}` is {min(plain) - final.bpb:.3f} bits per byte below the network's own score; honest "
            "n-gram mixing is worth about 0.003 (#886, #978). Probe: sum p over the vocabulary.",
            quoted([final.line]),
            {"network": min(plain), "reported": final.bpb},
        )


def own_words(facts: Facts, context: Surroundings, missing: Missing) -> Iterator[RuleFinding]:
    """A submission that says itself that it trains on the validation set, or is over the cap, is believed."""
    pattern = re.compile(
        r"\bval[- _]only\b|\bvalidation-only\b|train(?:ed|ing|s)? (?:only )?on (?:the )?val(?:idation)?\b(?! loss)"
        r"|calibrat\w+ (?:on|with|using|from) (?:the )?val(?:idation)?\b",
        re.I,
    )
    denial = re.compile(
        r"\b(?:no|not|never|without|(?:do|does|is|are|ca|must|wo)n['\u2019]t|illegal|violat|avoid|instead|cannot|ban)"
        r"|score[- ]first|scored|test[- ]time|\bTTT\b",  # what adapts while scoring is `ttt_order`'s to judge
        re.I,
    )
    named = [Line(facts.folder.path, 0, facts.folder.path.replace("_", " ")), *facts.readme]
    named += [x.line for x in facts.leaves if isinstance(x.value, str)]
    for line in named:
        text = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", line.text)
        if pattern.search(text) and not denial.search(text):
            yield RuleFinding(
                "val_in_training",
                SUSPECT,
                "The submission's own words say that it trains or calibrates on the validation set (README FAQ, #44, "
                "#728). "
                "Probe: hash the training stream against the validation tokens.",
                quoted([line]),
            )
            return
