"""The sandbox: small scripts written for it, one hostile, one that looks ahead, one that never ends."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pargolf.audit.code.script import read_code
from pargolf.audit.judge import audit
from pargolf.audit.read.facts import Facts, read_facts
from pargolf.audit.read.target import open_target
from pargolf.audit.report import FAIL, PASS
from pargolf.audit.rules.rule import Missing
from pargolf.audit.running import runner
from pargolf.audit.sandbox.child import best_level
from pargolf.audit.sandbox.foreign import _alarm
from pargolf.audit.sandbox.jail import Level
from pargolf.audit.sandbox.run import is_foreign, probe_script, smoke, try_script
from pargolf.core.errors import UserError

# A model in the field's habit: settings from the environment, CUDA everywhere, kernels that this machine lacks.
MODEL = """
import os
import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from flash_attn_interface import flash_attn_func
from torch import nn

@triton.jit
def kernel(x, N: tl.constexpr):
    pass

class Hyperparameters:
    vocab_size = int(os.environ.get("VOCAB_SIZE", 512))
    num_layers = int(os.environ.get("NUM_LAYERS", 3))
    model_dim = 128
    num_heads = 2

class Block(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)
        nn.init.orthogonal_(self.out.weight)
        nn.init.zeros_(self.out.weight)

    def forward(self, x):
        q, k, v = self.qkv(F.rms_norm(x, (x.size(-1),))).view(*x.shape[:2], 3, self.heads, -1).unbind(2)
        return x + self.out(flash_attn_func(q, k, v, causal=CAUSAL).reshape(x.shape))

class GPT(nn.Module):
    def __init__(self, vocab_size, num_layers, model_dim, num_heads):
        super().__init__()
        self.tok_emb = nn.Embedding(vocab_size, model_dim)
        self.blocks = nn.ModuleList([Block(model_dim, num_heads) for _ in range(num_layers)])
        self.register_buffer("ids", torch.arange(vocab_size, device="cuda"))
        self.register_buffer("staged", torch.empty(4, pin_memory=True))

    def forward(self, input_ids, target_ids):
        x = self.tok_emb(input_ids.cuda())
        for block in self.blocks:
            x = block(x)
        logits = F.linear(x, self.tok_emb.weight).reshape(-1, self.tok_emb.num_embeddings)
        return F.cross_entropy(logits.float(), target_ids.reshape(-1), reduction="mean")

def main():
    args = Hyperparameters()
    if not torch.cuda.is_available():
        raise RuntimeError("CUDA is required")
    device = torch.device("cuda", 0)
    base_model = GPT(
        vocab_size=args.vocab_size, num_layers=args.num_layers, model_dim=args.model_dim, num_heads=args.num_heads
    ).to(device)
    val_tokens = "fineweb_val_*.bin"
    print("val_bpb", torch.compile(base_model), val_tokens)

if __name__ == "__main__":
    main()
"""

HOSTILE = """
import ctypes, os, socket, subprocess
from torch import nn

class GPT(nn.Module):
    pass

def tries(name, act):
    try:
        found = act()
        return f"{name}={'refused' if found == -1 else 'done'}"
    except (OSError, MemoryError):
        return f"{name}=refused"

c = ctypes.CDLL(None)
raise RuntimeError(" ".join((
    tries("socket", lambda: c.socket(2, 1, 0)),
    tries("connect", lambda: socket.create_connection(("127.0.0.1", 9), timeout=1)),
    tries("fork", lambda: c.fork()),
    tries("run", lambda: subprocess.run(["true"])),
    tries("kill", lambda: c.kill(os.getppid(), 0)),
    tries("write", lambda: open(PLACE, "w")),
    tries("read", lambda: open(SECRET).read()),
    tries("memory", lambda: bytearray(64 << 30)),
    tries("file", lambda: open("big", "wb").write(bytes(80 << 20))),
    tries("home", lambda: open(os.path.expanduser("~/mine"), "w").write("x")),
    "secret=" + ("done" if "PARGOLF_TEST_TOKEN" in os.environ else "refused"),
)))
"""

ENDLESS = b"while True:\n    pass\n"
guarded = pytest.mark.skipif(best_level() is Level.NONE, reason="this system can confine nothing")


def facts_of(folder: Path, text: str) -> Facts:
    folder.mkdir(exist_ok=True)
    (folder / "train_gpt.py").write_text(text)
    (folder / "README.md").write_text("# a model\n\n```\nNUM_LAYERS=2 python train_gpt.py\n```\n")
    return read_facts(open_target(folder).folders[0])


@pytest.fixture(scope="module")
def tried(tmp_path_factory):
    """Each child once, two at a time: starting one costs what importing torch costs."""
    folder = tmp_path_factory.mktemp("scripts")
    secret, place = folder / "secret", folder / "place"
    secret.write_text("s")
    hostile = HOSTILE.replace("PLACE", repr(str(place))).replace("SECRET", repr(str(secret)))
    missing = Missing()
    kept = facts_of(folder / "kept", MODEL.replace("CAUSAL", "True"))
    facts_of(folder / "ahead", MODEL.replace("CAUSAL", "False"))
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(2) as pool:
        patch.setenv("PARGOLF_TEST_TOKEN", "x")
        waiting = {
            "kept": pool.submit(smoke, kept, missing, unsafe=True),
            "ahead": pool.submit(audit, folder / "ahead", runner=runner(unsafe=True)),
            "hostile": pool.submit(try_script, read_code("train_gpt.py", hostile.encode()), unsafe=True),
            "endless": pool.submit(try_script, read_code("train_gpt.py", ENDLESS), seconds=4, unsafe=True),
        }
        return {**{name: one.result() for name, one in waiting.items()}, "missing": missing, "place": place}


def test_a_script_is_built_as_it_ran_and_keeps_the_laws(tried):
    found, missing = tried["kept"], tried["missing"]
    assert [(f.rule, f.status) for f in found] == [("run", PASS), ("causality", PASS), ("normalization", PASS)], (
        found,
        missing.unchecked,
    )
    numbers = found[0].numbers
    assert (numbers["dim"], numbers["layers"], numbers["vocab"]) == (128, 2, 512)
    assert numbers["parameters"] == 512 * 128 + 2 * 4 * 128 * 128
    assert numbers["document_isolated"] is False
    assert set(numbers["replaced"]) == {"triton", "flash_attn_interface"}


def test_a_model_that_looks_ahead_is_proven_to(tried):
    report = tried["ahead"]
    finding = next(f for f in report.findings if f.rule == "causality" and f.status == FAIL)
    assert "Not causal: position 0 looked 63 tokens ahead" in finding.summary and report.verdict == FAIL


@guarded
def test_a_hostile_script_gets_nowhere(tried):
    result, place = tried["hostile"], tried["place"]
    said = dict(pair.split("=") for pair in result["error"].partition(": ")[2].split())
    assert said.pop("home") == "done"
    assert set(said.values()) == {"refused"}, said
    assert not place.exists() and result["guard"].level == best_level()


def test_a_script_without_end_is_ended(tried):
    result = tried["endless"]
    assert "laws" not in result and ("still running" in result["error"] or "stopped after" in result["error"])


def test_the_alarm_ends_what_runs_too_long():
    with pytest.raises(TimeoutError, match="still running after 1 s"), _alarm(1):
        while True:
            pass


def test_what_cannot_run_here_is_unchecked_not_blamed(tried, tmp_path, monkeypatch):
    """The hostile script's own answer: it raised at its top level, as a script that lacks something does."""
    monkeypatch.setattr("pargolf.audit.sandbox.run.try_script", lambda *_, **__: tried["hostile"])
    missing = Missing()
    assert smoke(facts_of(tmp_path / "x", "import torch\nval = 1 / 0\n"), missing) == []
    assert any("could not be built" in text and "RuntimeError" in text for text in missing.unchecked), missing
    with pytest.raises(UserError, match="not Python"):
        (tmp_path / "bad.py").write_text("def (:\n")
        probe_script(tmp_path / "bad.py")


def test_a_recipe_is_no_foreign_script(tmp_path):
    recipe, script = tmp_path / "mine.py", tmp_path / "train_gpt.py"
    recipe.write_text("from x import edit\nRECIPE: object = edit(1)\n")
    script.write_text("print('RECIPE')\n")
    assert (
        not is_foreign(recipe) and is_foreign(script) and not is_foreign("pr549") and not is_foreign(tmp_path / "no.py")
    )
