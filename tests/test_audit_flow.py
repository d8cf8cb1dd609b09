"""The code rules on shapes that hide: names used for both splits, models scored again, functions nothing calls."""

import ast
import itertools
import subprocess

import pytest

from pargolf.audit.code.program import Program
from pargolf.audit.code.tree import Index, copied, walk
from pargolf.audit.code.values import UNKNOWN
from pargolf.audit.judge import audit
from pargolf.audit.report import HOLD, SUSPECT, UNVERIFIABLE
from pargolf.audit.rules.causality import causality
from pargolf.audit.rules.script.clocks import MOST_VISITS, clock_line, memory_of
from pargolf.audit.rules.script.late_stops import training_end
from pargolf.audit.rules.table import RULES

HEAD = """
import os, glob, torch
import torch.nn.functional as F
def load(pattern):
    return torch.cat([read_shard(p) for p in sorted(glob.glob(pattern))])
def evaluate(model, tokens):
    total = torch.zeros(())
    for start in range(0, tokens.numel(), 1024):
        x = tokens[start:start + 1025]
        total += F.cross_entropy(model(x[:-1]), x[1:])
    return total
def adapt_and_score(model, tokens):
    total = torch.zeros(())
    params = [p for p in model.parameters()]
    opt = torch.optim.SGD(params, lr=0.1)
    for start in range(0, tokens.numel(), 1024):
        x = tokens[start:start + 1025]
        with torch.no_grad():
            total += F.cross_entropy(model(x[:-1]), x[1:])
        loss = F.cross_entropy(model(x[:-1]), x[1:])
        loss.backward()
        opt.step()
    RESTORE
    return total
def adapt(model, val_tokens):
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    for epoch in range(3):
        loss = F.cross_entropy(model(val_tokens[:-1]), val_tokens[1:])
        loss.backward()
        opt.step()
        print(f"adaptation_epoch: {epoch} loss:{loss}")
def hessians(model, tokens):
    model.register_forward_hook(lambda *a: None)
    model(tokens)
def main():
    model = make_model()
    train, val = load("fineweb_train_*.bin"), load("fineweb_val_*.bin")
    for step in range(100):
        x, y = train[step:step + 64], train[step + 1:step + 65]
        loss = F.cross_entropy(model(x), y)
        loss.backward()
    BODY
    print("val_bpb", evaluate(model, val))
main()
"""


def program(body: str, restore: str = "pass") -> Program:
    return Program(ast.parse(HEAD.replace("BODY", body).replace("RESTORE", restore)), {})


def said(made: Program) -> set[tuple[str, str]]:
    return {(hit.rule, hit.status) for rule in RULES if rule.code for hit in rule.code(made)}


def test_training_and_scoring_alone_raise_nothing():
    assert said(program("pass")) == set()


def test_names_shared_by_both_splits_do_not_hide_an_update():
    again = """for epoch in range(3):
        x, y = val[:-1], val[1:]
        loss = F.cross_entropy(model(x), y)
        loss.backward()"""
    assert said(program(again)) == {("ttt_order", SUSPECT)}
    assert said(program(again.replace("val", "train"))) == set()


def test_a_model_scored_again_after_adapting_is_a_second_pass():
    twice = "print(adapt_and_score(model, val))"
    assert said(program(twice)) == {("two_pass", SUSPECT)}
    assert said(program(twice, "model.load_state_dict(saved)")) == set()
    assert said(program("print(adapt_and_score(copy.deepcopy(model), val))")) == set()


def test_a_list_that_is_filled_later_is_not_empty():
    body = """parts = []
    for i in range(3):
        parts.append(i)
    if parts:
        adapt(model, val)"""
    assert said(program(body)) == {("ttt_order", SUSPECT)}


def test_statistics_from_either_split_after_training_are_told_apart():
    assert said(program("hessians(model, train)")) == {("calibration_budget", HOLD)}
    assert said(program("hessians(model, val)")) == {("val_in_training", SUSPECT)}
    assert said(program("hessians(model, generate(model))")) == set()


def test_a_function_that_nothing_calls_but_the_log_shows_is_judged(tmp_path):
    folder = tmp_path / "records/track_10min_16mb/x"
    folder.mkdir(parents=True)
    (folder / "train_gpt.py").write_text(HEAD.replace("BODY", "pass").replace("RESTORE", "pass"))
    log = "final_exact val_loss:2.0 val_bpb:1.2\n"
    (folder / "train.log").write_text(log)
    assert not any(f.rule == "ttt_order" and f.status == SUSPECT for f in audit(folder).findings)
    (folder / "train.log").write_text("adaptation_epoch: 0 loss:2.1\n" + log)
    finding = next(f for f in audit(folder).findings if f.rule == "ttt_order" and f.status == SUSPECT)
    assert "never calls it" in finding.summary and finding.evidence[1].text.startswith("adaptation_epoch")


def test_a_script_outside_its_folder_is_read_when_the_folder_has_none(tmp_path):
    def git(*words: str) -> None:
        subprocess.run(["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b", *words], check=True)

    folder = tmp_path / "records/track_10min_16mb/x"
    folder.mkdir(parents=True)
    git("init", "-q", "-b", "main")
    (tmp_path / "train_gpt.py").write_text("val_bpb = 1\n")
    git("add", "-A")
    git("commit", "-q", "-m", "base")
    git("checkout", "-q", "-b", "entry")
    (folder / "README.md").write_text("# x\n")
    (tmp_path / "train_gpt.py").write_text(HEAD.replace("BODY", "adapt(model, val)").replace("RESTORE", "pass"))
    git("add", "-A")
    git("commit", "-q", "-m", "entry")
    git("checkout", "-q", "main")
    rules = {(f.rule, f.status) for f in audit(f"git:{tmp_path}@entry").findings}
    assert ("ttt_order", SUSPECT) in rules and ("outside_folder", HOLD) in rules


ATTENTION = """
import torch, torch.nn.functional as F
from flash_attn_interface import flash_attn_func, flash_attn_varlen_func
class Block(torch.nn.Module):
    def forward(self, x, ids):
        q = k = v = x
        CODE
        return y
Block()
"""


def attention_hits(code: str) -> set[str]:
    return {hit.status for hit in causality(Program(ast.parse(ATTENTION.replace("CODE", code)), {}))}


@pytest.mark.parametrize(
    ("code", "wanted"),
    [
        ("y = F.scaled_dot_product_attention(q, k, v, is_causal=True)", set()),
        ("y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)", {UNVERIFIABLE}),
        ("y = F.scaled_dot_product_attention(q, k, v, attn_mask=None, is_causal=unknown())", set()),
        ("y = F.scaled_dot_product_attention(q, k, v)", {SUSPECT}),
        ("y = F.scaled_dot_product_attention(q, k, v, attn_mask=None, is_causal=False)", {SUSPECT}),
        ("y = flash_attn_func(q, k, v, causal=True)", set()),
        ("y = flash_attn_func(q, k, v, window_size=(64, 0))", set()),
        ("y = flash_attn_func(q, k, v)", {SUSPECT}),
    ],
)
def test_attention_says_that_it_is_causal(code, wanted):
    assert attention_hits(code) == wanted


def test_a_smear_stops_where_attention_does():
    apart = "y = flash_attn_varlen_func(q, k, v, causal=True)\n        "
    smear = "y = torch.cat([x[:, :1], x[:, 1:] + g * x[:, :-1]], dim=1)"
    masked = "g = g * (ids[:, 1:] != 1)\n        " + smear
    assert attention_hits(apart + smear) == {HOLD}
    assert attention_hits(apart + masked) == set()
    assert attention_hits("y = flash_attn_func(q, k, v, causal=True)\n        " + smear) == set()


def test_an_update_on_the_context_of_a_window_waits_for_a_person():
    context = """for start in range(0, val.numel(), 64):
        x, y = val[start:start + 128], val[start + 1:start + 129]
        s = 64
        loss = F.cross_entropy(model(x[:s]), y[:s])
        loss.backward()
        total = F.cross_entropy(model(x), y)[s:]"""
    whole = context.replace("model(x[:s]), y[:s]", "model(x), y")
    assert said(program(whole)) == {("ttt_order", SUSPECT)}
    direct = context.replace("F.cross_entropy(model(x[:s]), y[:s])", "model(x[:s], y[:s])")
    assert said(program(direct)) == {("ttt_order", HOLD)}


def test_a_scorer_that_watches_layers_is_no_calibration():
    scorer = HEAD.replace(
        "    total = torch.zeros(())\n", "    total = torch.zeros(())\n    model.register_forward_hook(print)\n", 1
    )
    made = Program(ast.parse(scorer.replace("BODY", "pass").replace("RESTORE", "pass")), {})
    assert said(made) == set()
    assert said(program("hessians(model, val)")) == {("val_in_training", SUSPECT)}


def test_one_index_serves_several_readings():
    index = Index(ast.parse(HEAD.replace("BODY", "if on:\n        adapt(model, val)").replace("RESTORE", "pass")))
    index.tree.body.insert(0, ast.parse("import os\non = int(os.environ.get('ON', '0'))").body[1])
    index = Index(index.tree)
    first, second, third = (Program(index, env) for env in ({}, {"ON": "1"}, {}))
    assert said(first) == said(third) == set()
    assert said(second) == {("ttt_order", SUSPECT)}


def test_a_tree_is_walked_copied_and_asked_as_it_stands():
    tree = ast.parse(HEAD)
    marks = (ast.expr_context, ast.operator, ast.boolop, ast.unaryop, ast.cmpop)
    assert [*walk(tree)] == [node for node in ast.walk(tree) if not isinstance(node, marks)]
    twin = copied(tree)
    assert ast.dump(twin, include_attributes=True) == ast.dump(tree, include_attributes=True)
    assert not {*map(id, walk(twin))} & {*map(id, walk(tree))}
    index = Index(tree)
    assert all(index.holds(node, _is_return) == any(map(_is_return, walk(node))) for node in index.order)
    assert any(index.own_of(function.node, ast.Return) for function in index.definitions)
    for function in index.definitions:
        own = [node for node in index.own_nodes(function.node) if _is_return(node)]
        assert index.own_of(function.node, ast.Return) == own


def _is_return(node):
    return isinstance(node, ast.Return)


def test_attention_to_another_input_waits_for_a_person():
    block = """
class Block(torch.nn.Module):
    def forward(self, x, cond):
        q = self.q(x).transpose(1, 2)
        k = self.k(SOURCE).transpose(1, 2)
        return F.scaled_dot_product_attention(q, k, k, is_causal=False)
"""
    for source, status in (("cond", HOLD), ("torch.cat((cond, x))", HOLD), ("x", SUSPECT)):
        text = HEAD.replace("BODY", "Block()(1, 2)").replace("RESTORE", "pass").replace("def main", block + "def main")
        made = Program(ast.parse(text.replace("SOURCE", source)), {})
        assert {(h.rule, h.status) for h in causality(made)} == {("causality", status)}


def test_a_closure_s_tensors_are_those_of_the_function_around_it():
    slot = """
    def fit(tokens):
        delta = torch.zeros(1, requires_grad=True)
        opt = torch.optim.OPT
        def closure():
            loss = F.cross_entropy(model(tokens[:-1]) + delta, tokens[1:])
            loss.backward()
            return loss
        opt.step(closure)
        return F.cross_entropy(model(tokens[:-1]) + delta, tokens[1:])
    total = fit(val)"""
    assert said(program(slot.replace("OPT", "LBFGS([delta])"))) == {("slot", HOLD)}
    assert said(program(slot.replace("OPT", "LBFGS(model.parameters())"))) == {("ttt_order", SUSPECT)}


def test_a_sum_beside_the_reported_one_does_not_hide_it():
    body = """
    total = torch.zeros(())
    for start in range(0, val.numel(), 64):
        beside = 0.0
        with torch.no_grad():
            nll = F.cross_entropy(model(val[start:start + 64]), val[start + 1:start + 65])
            total += nll
            beside += nll.item()
        loss = F.cross_entropy(model(val[start:start + 64]), val[start + 1:start + 65])
        loss.backward()
    print("val_bpb", total)"""
    inside = f"""
    def score(model, val):{body.replace(chr(10), chr(10) + "    ")}
        return total
    score(model, val)"""
    assert said(program(inside)) == set()
    assert said(program(inside.replace("total += nll", "pass"))) == {("ttt_order", SUSPECT)}


def test_settings_do_not_carry_a_model_on():
    body = """
    class Args:
        lr = 0.1
    args = Args()
    def train(args, model, val):
        total = torch.zeros(())
        opt = torch.optim.SGD([torch.nn.Linear(2, 2).weight], lr=args.lr)
        for start in range(0, val.numel(), 64):
            total += F.cross_entropy(model(val[start:start + 64]), val[start + 1:start + 65])
            loss = F.cross_entropy(model(val[start:start + 64]), val[start + 1:start + 65])
            loss.backward()
            opt.step()
        return total
    def again(args, model, val):
        return evaluate(model, val)
    train(args, model, val)
    again(args, model, val)"""
    assert ("two_pass", SUSPECT) not in said(program(body))
    learns = body.replace("[torch.nn.Linear(2, 2).weight]", "model.parameters()")
    assert ("two_pass", SUSPECT) in said(program(learns))


def test_names_that_all_depend_on_each_other_are_followed_only_so_far():
    names = [f"t{i}" for i in range(14)]
    sums = "\n".join(f"        {a} = {b} + {c}" for a in names for b, c in itertools.pairwise(names) if a not in (b, c))
    loop = f"    {' = '.join(names)} = time.time()\n    while True:\n{sums}\n        if t0 - t1 > 900: break"
    tangled = Program(ast.parse(f"import time\ndef main():\n{loop}\nmain()"), {})
    function = tangled.by_name["main"][0]
    test = next(node for node in tangled.index.order if isinstance(node, ast.Compare))
    assert clock_line(tangled, test.left, function, 0) is None
    assert memory_of(tangled).visits > MOST_VISITS
    assert tangled.value(test.left, function) is UNKNOWN


WEIGHTED = """for start in range(0, val.numel(), 64):
        x, y = val[start:start + 64], val[start + 1:start + 65]
        nll = F.cross_entropy(model(x), y, reduction="none")
        total = total + nll{cap}.sum()
        weight = nll{clamp} * 0.9
        (weight * F.cross_entropy(model(x), y)).backward()
    print(f"val_bpb:{{total / val.numel() / 2.4:.4f}}")"""


def test_only_what_the_score_is_made_of_is_accused():
    start = "total = torch.zeros(())\n    "
    learned = program(start + WEIGHTED.format(cap="", clamp=".clamp(max=2.0)"))
    scored = program(start + WEIGHTED.format(cap=".clamp(max=2.0)", clamp=""))
    assert ("final_score", SUSPECT) not in said(learned)
    assert ("final_score", SUSPECT) in said(scored)


WRAPPED = """
import torch, torch.nn as nn, torch.nn.functional as F
class GPT(nn.Module):
    def forward(self, x, targets):
        h = self.embed(x) USED
        return F.cross_entropy(self.head(h), targets)
class Wrapped(nn.Module):
    def __init__(self, gpt):
        self.gpt = gpt
    def forward(self, x, targets):
        return self.gpt(x, targets)
print(Wrapped(GPT())(x, y))
"""


def test_a_model_may_hand_targets_on_to_the_model_inside():
    plain = Program(ast.parse(WRAPPED.replace("USED", "")), {})
    cheat = Program(ast.parse(WRAPPED.replace("USED", "+ self.embed(targets)")), {})
    assert [hit.status for hit in causality(plain)] == []
    assert SUSPECT in {hit.status for hit in causality(cheat)}


MIXED = """
import torch, torch.nn as nn
class Mix(nn.Module):
    def forward(self, x):
        q, k, v = self.q(x), self.k(x), self.v(x)
        return CODE
    def backward(self, dy):
        return dy.flip(dims=[1])
    def reordered(self, x):
        return x.flip(dims=[1])
print(Mix()(x)ALSO)
"""


def test_weights_over_layers_are_no_attention_and_gradients_see_the_whole_window():
    def statuses(code: str, also: str = "") -> set[str]:
        mixed = Program(ast.parse(MIXED.replace("CODE", code).replace("ALSO", also)), {})
        return {hit.status for hit in causality(mixed)}

    assert SUSPECT in statuses("torch.softmax(q @ k.transpose(1, 2), dim=-1) @ v")
    assert SUSPECT not in statuses("torch.softmax((q * k).sum(-1) @ v, dim=0) @ v", ".backward(x)")
    assert SUSPECT in statuses("v", ".reordered(x)")


LATE = """
import time, torch
def main():
    start, step, stop_after = time.perf_counter(), 0, None
    while True:
        loss.backward()
        step += 1
        reached = time.perf_counter() - start > 600
        if reached:
            RESULT
        if stop_after is not None and step >= stop_after:
            break
main()
"""


def test_a_stop_is_late_only_if_something_waits_for_it():
    late = Program(ast.parse(LATE.replace("RESULT", "stop_after = step + 4000")), {})
    told = Program(ast.parse(LATE.replace("RESULT", "milliseconds = 1000 * step; stop_after = step")), {})
    assert [hit.rule for hit in training_end(late)] == ["train_time"]
    assert [hit.status for hit in training_end(told)] == []
