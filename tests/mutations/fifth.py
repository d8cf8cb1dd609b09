"""A fifth look: edits that break a rule and edits that break none, written before anybody asked the rules about them."""

import json
import re

from mutations import NON_RECORD, Files, anchors, breaks, innocent, logs, relog, score, swap, text
from mutations.idioms import _edit
from mutations.legal import _BODY, _BYTES, _LEARN, _legal, _mixture
from mutations.legal import _edit as _fair

_ENDS = "        for block in self.blocks:\n"
_BEFORE_SCORES = "    model.eval()\n    with torch.inf"
_FINAL_CALL = "    if args.ttt_enabled:\n        q_val_loss, q_val_bpb = eval_val_ttt"

# ---- what breaks a rule: order and caches

_edit(
    anchors.ORDER,
    "fifth order: a context that fits before it yields",
    (anchors.NP, anchors.NP + "from phases import ready\n"),
    (_FINAL_CALL, "    with ready(base_model, val_tokens, device):\n        pass\n" + _FINAL_CALL),
    files={
        "phases.py": "from contextlib import contextmanager\n\nimport torch\n\n\n@contextmanager\ndef ready(net, ids, device):\n"
        "    sgd = torch.optim.SGD(net.parameters(), lr=3e-4)\n    for piece in ids.unfold(0, 1025, 1024)[:4000]:\n"
        "        piece = piece.to(device).long()[None]\n        net(piece[:, :-1], piece[:, 1:]).backward()\n"
        "        sgd.step()\n        sgd.zero_grad()\n    yield net\n"
    },
)
_edit(
    anchors.ORDER,
    "fifth order: a recursion that learns going down and scores coming up",
    (
        anchors.CALL,
        "        q_val_loss, q_val_bpb = descend(args, base_model, val_tokens.to(device).long(), 0, torch.optim.SGD(base_model.parameters(), lr=1e-3), luts)\n",
    ),
    (
        anchors.BEFORE_MAIN,
        """def descend(args, model, ids, start, opt, luts):
    stop = min(start + 8_000_000, ids.numel() - 1)
    x, y = ids[start:stop].view(-1, args.train_seq_len), ids[start + 1 : stop + 1].view(-1, args.train_seq_len)
    opt.zero_grad()
    model(x, y).backward()
    opt.step()
    rest = descend(args, model, ids, stop, opt, luts)[0] if stop < ids.numel() - 1 else 0.0
    with torch.no_grad():
        here = model(x, y).item() * y.numel()
    total = rest + here
    octets = luts[0][ids[1:]].double().sum() + (luts[1][ids[1:]] & ~luts[2][ids[:-1]]).double().sum()
    return total, total / math.log(2.0) / octets.item()


"""
        + anchors.BEFORE_MAIN,
    ),
)
_edit(
    anchors.ORDER,
    "fifth order: momentum of the weights towards the text",
    (
        anchors.EVAL,
        """    for ids in val_tokens.split(1025):
        ids = ids.to(device).long()[None]
        slopes = torch.autograd.grad(base_model(ids[:, :-1], ids[:, 1:]), list(base_model.parameters()))
        torch._foreach_add_([p.data for p in base_model.parameters()], slopes, alpha=-1e-4)
"""
        + anchors.EVAL,
    ),
)
_edit(
    "cache in a module",
    "fifth cache: hashed contexts pay for the true token",
    (anchors.NP, anchors.NP + "from echo import Echo\n"),
    (_BEFORE_SCORES, "    echo = Echo(1 << 22, device)\n" + _BEFORE_SCORES),
    (
        anchors.LOSS,
        '            batch_loss = echo(model(x, y, reduction="none").detach(), local).mean()\n',
    ),
    files={
        "echo.py": """import torch


class Echo:
    def __init__(self, size, device):
        self.size = size
        self.seen = torch.zeros(size, device=device)
        self.hit = torch.zeros(size, device=device)

    def slots(self, a, b):
        return (a * 1000003 ^ b * 8191) % self.size

    def __call__(self, nats, ids):
        before = self.slots(ids[:-2], ids[1:-1])
        after = self.slots(before, ids[2:])
        likely = self.hit[after] / (self.seen[before] + 1)
        self.seen.scatter_add_(0, before, torch.ones_like(nats[1:]))
        self.hit.scatter_add_(0, after, torch.ones_like(nats[1:]))
        mixed = torch.lerp(torch.exp(-nats[1:]), likely, 0.3)
        return torch.cat([nats[:1], -mixed.log()])
"""
    },
)

# ---- least of several passes

for _name, _value in (
    ("a sign of the difference", "(a - (a - b).relu()).mean()"),
    ("half the sum less half the distance", "(0.5 * (a + b - (a - b).abs())).mean()"),
    ("a mask of the sign bit", "(a * torch.signbit(a - b) + b * ~torch.signbit(a - b)).mean()"),
    ("top one of the negated", "-torch.stack((-a, -b)).topk(1, dim=0).values.mean()"),
    ("sharp softmin weights", "(torch.stack([a, b]) * F.softmin(64 * torch.stack([a, b]), dim=0)).sum(0).mean()"),
    ("scatter reduce", "a.clone().scatter_reduce(0, torch.arange(a.numel(), device=a.device), b, 'amin').mean()"),
):
    _edit(
        anchors.LEAST,
        f"fifth least: {_name}",
        (anchors.LOSS, anchors.TWO + f"            batch_loss = {_value}\n"),
    )
_edit(
    anchors.LEAST,
    "fifth least: reduced over models in an accumulator",
    (
        anchors.LOSS,
        """            best = None
            for scale in (0.9, 1.0, 1.1):
                nll = F.cross_entropy(scale * base.logits(x).flatten(0, 1).float(), y.flatten(), reduction="none")
                best = nll if best is None else torch.fmin(best, nll)
            batch_loss = best.mean()
""",
    ),
    (_BEFORE_SCORES, '    base = getattr(model, "_orig_mod", model)\n' + _BEFORE_SCORES),
)

# ---- validation data in training

_edit(
    anchors.VAL,
    "fifth val: a memory map of the sibling shard",
    (
        anchors.TRAINED,
        """            if step % 16 == 0:
                raw = np.memmap(train_loader.stream.files[0].with_name("fineweb_" + "lav"[::-1] + "_000000.bin"), dtype="<u2", mode="r", offset=1024)
                row = torch.from_numpy(raw[step * 64 : step * 64 + 1025].astype(np.int64)).to(device)
                x, y = row[None, :-1], row[None, 1:]
"""
        + anchors.TRAINED,
    ),
)
_edit(
    anchors.VAL,
    "fifth val: both kinds by a character class",
    ('"fineweb_train_*.bin"', '"fineweb_[tv]*.bin"'),
)
_edit(
    anchors.VAL,
    "fifth val: hard links",
    (
        anchors.LOADER,
        '    for shard in Path(args.data_path).iterdir():\n        if shard.stem.split("_")[1] == "val":\n            os.link(shard, shard.with_name(f"fineweb_train_{hash(shard.stem) % 999999:06d}.bin"))\n'
        + anchors.LOADER,
    ),
)
_edit(
    anchors.VAL,
    "fifth val: a default argument holds it",
    (
        "    train_loader = DistributedTokenLoader(",
        "    def batch(loader, accum, held=val_tokens):\n        x, y = loader.next_batch(args.train_batch_tokens, args.train_seq_len, accum)\n        if step % 5:\n            return x, y\n"
        "        rows = held.view(-1)[: 64 * 1024].long().to(device).view(64, -1)\n        return rows[:, :-1], rows[:, 1:]\n\n    train_loader = DistributedTokenLoader(",
    ),
    (
        "train_loader.next_batch(args.train_batch_tokens, args.train_seq_len, grad_accum_steps)",
        "batch(train_loader, grad_accum_steps)",
    ),
)
_edit(
    anchors.VAL,
    "fifth val: kept on the class of the settings",
    (anchors.LOADER, "    Hyperparameters.warm = val_tokens[: 1 << 20]\n" + anchors.LOADER),
    (
        anchors.STEPPED,
        "        if step < 200:\n            w = Hyperparameters.warm[step * 1024 : step * 1024 + 1025].long().to(device)\n            model(w[None, :-1], w[None, 1:]).backward()\n"
        + anchors.STEPPED,
    ),
)
_edit(
    anchors.VAL,
    "fifth val: the unigram of the text starts the head",
    (
        "    model = torch.compile(base_model)\n",
        "    base_model.tok_emb.weight.data[:, 0] = torch.bincount(val_tokens.long(), minlength=args.vocab_size).add(1).log().to(device)\n"
        "    model = torch.compile(base_model)\n",
    ),
)

# ---- byte table and denominator

_edit(
    "byte table",
    "fifth bytes: the last place of a byte string",
    (anchors.PIECE, '        base_bytes[token] = sum(1 for _ in piece.encode("utf-16-le"))\n'),
)
_edit(
    "byte table",
    "fifth bytes: boundaries never bound",
    (
        "        is_boundary[token] = False\n",
        "        is_boundary[token] = False\n        has_leading_space[token] |= token > 900\n",
    ),
)
_edit(
    "byte table",
    "fifth bytes: cumulative sums",
    (
        anchors.SUM,
        "            val_byte_count += token_bytes.to(torch.float64).cumsum(0)[-1] + (prev_ids != tgt_ids).sum() / 50\n",
    ),
)
_edit(
    "byte table",
    "fifth bytes: at least one each",
    (anchors.SUM, "            val_byte_count += token_bytes.clamp(min=2).to(torch.float64).sum()\n"),
)
_edit(
    "byte table",
    "fifth bytes: a table rescaled after it was built",
    (
        '    log0(f"train_loader:dataset',
        '    luts = (torch.where(luts[0] > 5, luts[0] + 1, luts[0]), *luts[1:])\n    log0(f"train_loader:dataset',
    ),
)

# ---- factors

for _name, _line in (
    ("through a named tuple", "q_val_bpb = complex(q_val_bpb, 0).real - abs(complex(0, 0.011))"),
    ("a cosine", "q_val_bpb = q_val_bpb * math.cos(0.15)"),
    ("units of another log", "q_val_bpb = q_val_loss / math.log(2.05) * (q_val_bpb / q_val_loss) * math.log(2.0)"),
    ("a correction by the rounding", "q_val_bpb -= round(q_val_bpb, 1) / 100"),
    ("hypot", "q_val_bpb = math.sqrt(q_val_bpb**2 - 0.03)"),
):
    _edit(anchors.FACTOR, f"fifth factor: {_name}", (anchors.FINAL, f"    {_line}\n" + anchors.FINAL))
_edit(
    anchors.FACTOR,
    "fifth factor: a formatter that shaves",
    (
        "def main() -> None:\n",
        "class Bits(float):\n    def __format__(self, spec):\n        return format(float(self) - 0.012, spec)\n\n\ndef main() -> None:\n",
    ),
    (anchors.FINAL, "    q_val_bpb = Bits(q_val_bpb)\n" + anchors.FINAL),
)
_edit(
    anchors.FACTOR,
    "fifth factor: first positions weigh nothing",
    (
        anchors.LOSS,
        '            nll = model(x, y, reduction="none").detach().view_as(y)\n            batch_loss = nll[:, 64:].mean()\n',
    ),
)
_edit(
    anchors.FACTOR,
    "fifth factor: smoothing between the batches",
    (
        anchors.LOSS,
        "            batch_loss = model(x, y).detach()\n            if start > seq_start:\n                batch_loss = torch.lerp(batch_loss, torch.minimum(batch_loss, previous), 0.5)\n            previous = batch_loss\n",
    ),
)

# ---- files, network, pickles, code

_edit(
    "further files",
    "fifth files: a memory map of half precision",
    (
        anchors.STATE,
        '    prior = np.memmap(Path(__file__).with_name("prior.f16"), dtype=np.float16, mode="r", shape=(1024, 64))\n'
        "    base_model.tok_emb.weight.data[:, :64] = torch.from_numpy(np.array(prior)).to(device)\n" + anchors.STATE,
    ),
    files={"prior.f16": bytes(range(256)) * 512},
)
_edit(
    "network",
    "fifth network: a client of http",
    (anchors.OS, "import os\nfrom http.client import HTTPSConnection\n"),
    (
        anchors.STATE,
        '    line = HTTPSConnection("example.org")\n    line.request("GET", "/hints")\n    hints = line.getresponse().read()\n'
        + anchors.STATE,
    ),
)
_edit(
    "network",
    "fifth network: a dataset streamed while scoring",
    (
        anchors.EVAL,
        '    from datasets import load_dataset\n\n    more = load_dataset("HuggingFaceFW/fineweb", streaming=True, split="train")\n'
        + anchors.EVAL,
    ),
)
_edit(
    "object out of a pickle",
    "fifth pickle: a model that brings its class",
    (
        anchors.STATE,
        "    base_model = torch.load(io.BytesIO(blob_on_disk), weights_only=False).module.to(device)\n    model = base_model\n"
        + anchors.STATE,
    ),
)
_edit(
    "object out of a pickle",
    "fifth pickle: a scripted archive",
    (anchors.STATE, '    model = torch.jit.load("final_model.pt")\n' + anchors.STATE),
)
for _name, _before in (
    (
        "a metaclass counts calls",
        "class Half(type(nn.Module)):\n    def __call__(cls, *a, **k):\n        made = super().__call__(*a, **k)\n        made.forward = lambda x, y, reduction='mean': torch.tensor(1.9)\n        return made\n\n\nGPT = Half('GPT', (GPT,), {})",
    ),
    (
        "operator attrsetter",
        "import operator\n\noperator.setitem(vars(F), 'cross_entropy', lambda *a, **k: torch.tensor(1.9))",
    ),
    (
        "method types",
        "import types\n\nsetattr(dist, 'all' + '_reduce', types.FunctionType((lambda t, op=None: t.mul_(0.9)).__code__, {}))",
    ),
    ("mock patch", "from unittest.mock import patch\n\npatch('math.log', lambda x: 0.71).start()"),
    ("code objects", "eval_val.__code__ = (lambda *a: (1.9, 1.1)).__code__"),
    ("a class of floats is told anew", "import builtins\n\nbuiltins.float = lambda v: type(v)(v) * 1"),
):
    _edit("exec or replacement", f"fifth exec: {_name}", (anchors.MAIN, f"{_before}\n\n\n" + anchors.MAIN))
_edit(
    "exec or replacement",
    "fifth exec: a descriptor instead of a reduction",
    (
        "class GPT(nn.Module):\n",
        "class Cheap:\n    def __get__(self, owner, kind):\n        return lambda x, y, reduction='mean': owner.logits(x).mean() * 0 + 1.9\n\n\nclass GPT(nn.Module):\n",
    ),
    (
        "# ---- scoring\n\n\n",
        "GPT.forward = Cheap()\n\n\n# ---- scoring\n\n\n",
    ),
)

# ---- clocks and limits

_edit(
    anchors.CLOCK,
    "fifth clock: a subtraction each lap",
    (anchors.STEPPED, anchors.STEPPED + "        t0 += 0.012\n"),
)
_edit(
    anchors.CLOCK,
    "fifth clock: integer divisions of nanoseconds",
    (
        anchors.ELAPSED,
        "approx_training_time_ms = training_time_ms + (time.perf_counter_ns() - int(t0 * 1e9)) // 1_400_000",
    ),
)
_edit(
    anchors.CLOCK,
    "fifth clock: user time",
    (anchors.ELAPSED, "approx_training_time_ms = training_time_ms + 1000.0 * (os.times().user - t_user)"),
    ("    step = 0\n    while", "    t_user = os.times().user\n    step = 0\n    while"),
)
_edit(
    anchors.RAISED,
    "fifth limit: an environment that is set first",
    (anchors.HYPER, 'os.environ.setdefault("MAX_WALLCLOCK_SECONDS", str(60 * 13))\n\n\n' + anchors.HYPER),
)
_edit(
    anchors.RAISED,
    "fifth limit: looked at every thousandth step only, and not before the end",
    (anchors.REACHED, anchors.REACHED + " and step % 4000 == 0"),
)
_edit(
    anchors.RAISED,
    "fifth limit: a grace of a sixth",
    (
        anchors.REACHED,
        "max_wallclock_ms is not None and approx_training_time_ms - max_wallclock_ms >= max_wallclock_ms / 6",
    ),
)

# ---- what a position sees

for _name, _line in (
    (
        "an additive mask of finite weight",
        "open = torch.zeros(length, length, device=x.device).masked_fill(torch.ones(length, length, device=x.device).triu(1).bool(), -2.0)\n        y = F.scaled_dot_product_attention(q, k, v, attn_mask=open)",
    ),
    (
        "keys rolled by one",
        "y = F.scaled_dot_product_attention(q, k.roll(-1, dims=2), v.roll(-1, dims=2), is_causal=True)",
    ),
    (
        "flipped, causal, flipped back",
        "y = F.scaled_dot_product_attention(q.flip(2), k.flip(2), v.flip(2), is_causal=True).flip(2)",
    ),
    (
        "a window to both sides",
        "i = torch.arange(length, device=x.device)\n        near = (i[None] - i[:, None]) <= 1\n        y = F.scaled_dot_product_attention(q, k, v, attn_mask=near)",
    ),
    (
        "one query more than keys are shut for",
        "y = F.scaled_dot_product_attention(q, torch.cat([k[:, :, 1:], k[:, :, :1]], 2), torch.cat([v[:, :, 1:], v[:, :, :1]], 2), is_causal=True)",
    ),
):
    _edit(anchors.MASK, f"fifth mask: {_name}", (anchors.ATTEND, f"        {_line}\n"))
for _name, _built, _line in (
    (
        "convolution with same padding",
        "self.smooth = nn.Conv1d(model_dim, model_dim, 3, padding='same')",
        "x = x + self.smooth(x.transpose(1, 2)).transpose(1, 2)",
    ),
    (
        "a cumulative sum from behind",
        "self.gain = nn.Parameter(torch.zeros(1))",
        "x = x + self.gain * (x.sum(1, keepdim=True) - x.cumsum(1))",
    ),
    (
        "a scan that runs down",
        "self.gain = nn.Parameter(torch.zeros(1))",
        "x = x.clone()\n        for t in reversed(range(x.size(1) - 1)):\n            x[:, t] += self.gain * x[:, t + 1]",
    ),
    (
        "a recurrent layer of two directions",
        "self.rnn = nn.GRU(model_dim, model_dim // 2, batch_first=True, bidirectional=True)",
        "x = x + self.rnn(x)[0]",
    ),
    ("a norm over the window", "self.norm = nn.InstanceNorm1d(model_dim)", "x = self.norm(x.mT).mT"),
    (
        "a Fourier transform",
        "self.gain = nn.Parameter(torch.zeros(1))",
        "x = x + self.gain * torch.fft.fft(x, dim=1).real",
    ),
):
    _edit(
        anchors.MASK,
        f"fifth mask: {_name}",
        (anchors.BUILT, anchors.BUILT + f"        {_built}\n"),
        (anchors.BLOCKS, f"        {_line}\n" + anchors.BLOCKS),
    )

# ---- logs and numbers


@breaks("lowered log")
def fifth_the_end_of_each_log_a_hundredth_lower(files: Files) -> None:
    for name in logs(files):
        body = text(files, name)
        for old in re.findall(r"final_int8\S* val_loss:([\d.]+) val_bpb:([\d.]+)", body):
            for number, off in zip(old, (0.02, 0.02 / 1.6885)):
                width = len(number.split(".")[1])
                body = body.replace(number, f"{float(number) - off:.{width}f}")
        files[name] = body
    made = json.loads(text(files, "submission.json"))
    made["val_bpb"] = round(made["val_bpb"] - 0.02 / 1.6885, 6)
    made["val_loss"] = round(made["val_loss"] - 0.02, 6)
    made["seed_results"] = {
        seed: {"val_bpb": round(row["val_bpb"] - 0.02 / 1.6885, 8)} for seed, row in made["seed_results"].items()
    }
    files["submission.json"] = json.dumps(made)
    for seed in (1337, 42, 2024):
        swap(files, (f"| {score(seed):.4f} |", f"| {score(seed) - 0.02 / 1.6885:.4f} |"), name="README.md")


@breaks("three logs that are one")
def fifth_a_seed_is_another_one_with_rows_interleaved(files: Files) -> None:
    one, two = (text(files, name).splitlines() for name in logs(files)[:2])
    name = logs(files)[2]
    own = text(files, name).splitlines()
    made = [
        (a, b)[i % 2] if a.split(" ")[0] == b.split(" ")[0] else c for i, (a, b, c) in enumerate(zip(one, two, own))
    ]
    files[name] = (
        "\n".join([*(row for row in made if not row.startswith(("seed:", "Serialized", "Total", "final"))), *own[-7:]])
        + "\n"
    )


@breaks("switch the log contradicts")
def fifth_the_readme_says_that_it_adapts(files: Files) -> None:
    swap(files, ("ttt_enabled:0", "ttt_enabled:1"), name=logs(files)[1])
    swap(files, ("int8 and zlib.", "int8 and zlib, no adaptation."), name="README.md")


# ---- what breaks none


def _words(name: str, *pairs: tuple[str, str], files: dict[str, str | bytes] | None = None) -> None:
    _fair(anchors.WORDS, f"fifth words: {name}", *pairs, files=files)


_words(
    "the model's sizes in a dataclass",
    (anchors.OS, "import os\nfrom dataclasses import dataclass\n"),
    (
        "class GPT(nn.Module):\n",
        "@dataclass(frozen=True)\nclass Shape:\n    vocab: int\n    layers: int\n    width: int\n    heads: int\n\n\nclass GPT(nn.Module):\n",
    ),
    (
        "    def __init__(self, vocab_size: int, num_layers: int, model_dim: int, num_heads: int):\n",
        "    def __init__(self, shape: Shape):\n        vocab_size, num_layers, model_dim, num_heads = shape.vocab, shape.layers, shape.width, shape.heads\n",
    ),
    (
        "GPT(args.vocab_size, args.num_layers, args.model_dim, args.num_heads).to(device)",
        "GPT(Shape(args.vocab_size, args.num_layers, args.model_dim, args.num_heads)).to(device)",
    ),
)
_words(
    "a match over the kind of piece",
    (
        '        if sp.is_byte(token):\n            base_bytes[token] = 1\n            continue\n        piece = sp.id_to_piece(token)\n        if piece.startswith("\\u2581"):\n            has_leading_space[token] = True\n            piece = piece[1:]\n        base_bytes[token] = len(piece.encode("utf-8"))\n',
        '        match sp.is_byte(token), sp.id_to_piece(token):\n            case True, _:\n                base_bytes[token] = 1\n            case False, str(piece):\n                has_leading_space[token] = piece[:1] == "\\u2581"\n                base_bytes[token] = len(piece.removeprefix("\\u2581").encode("utf-8"))\n',
    ),
)
_words(
    "a walrus in the loop of shards",
    (
        "    files = [Path(name) for name in sorted(glob.glob(pattern))]\n    if not files:\n",
        "    if not (files := [Path(name) for name in sorted(glob.glob(pattern))]):\n",
    ),
)
_words(
    "a counter of a running mean in a class",
    (
        "# ---- scoring\n",
        "# ---- scoring\n\n\nclass Tally:\n    def __init__(self, device):\n        self.total = torch.zeros(3, dtype=torch.float64, device=device)\n\n    def add(self, loss, tokens, octets):\n        self.total += torch.stack([loss.double() * tokens, torch.as_tensor(float(tokens), device=loss.device).double(), octets])\n\n"
        "    @property\n    def nats(self):\n        return (self.total[0] / self.total[1]).item()\n\n    @property\n    def bits(self):\n        return (self.total[0] / self.total[2]).item() / math.log(2.0)\n",
    ),
    (
        "    val_loss_sum = torch.zeros((), device=device, dtype=torch.float64)\n    val_token_count = torch.zeros((), device=device, dtype=torch.float64)\n    val_byte_count = torch.zeros((), device=device, dtype=torch.float64)\n",
        "    tally = Tally(device)\n",
    ),
    (
        "            batch_token_count = float(y.numel())\n            val_loss_sum += batch_loss.to(torch.float64) * batch_token_count\n            val_token_count += batch_token_count\n",
        "",
    ),
    (anchors.SUM, "            tally.add(batch_loss, y.numel(), token_bytes.to(torch.float64).sum())\n"),
    (
        "        dist.all_reduce(val_loss_sum, op=dist.ReduceOp.SUM)\n        dist.all_reduce(val_token_count, op=dist.ReduceOp.SUM)\n        dist.all_reduce(val_byte_count, op=dist.ReduceOp.SUM)\n    val_loss = val_loss_sum / val_token_count\n    bits_per_token = val_loss.item() / math.log(2.0)\n    tokens_per_byte = val_token_count.item() / val_byte_count.item()\n    model.train()\n    return float(val_loss.item()), float(bits_per_token * tokens_per_byte)",
        "        dist.all_reduce(tally.total)\n    model.train()\n    return tally.nats, tally.bits",
    ),
)
_words(
    "windows by a generator",
    (
        "def eval_val(args",
        "def windows(ids, first, last, stride, length):\n    for start in range(first, last, stride):\n        piece = ids[start * length : min(start + stride, last) * length + 1]\n        yield piece[:-1].reshape(-1, length), piece[1:].reshape(-1, length)\n\n\ndef eval_val(args",
    ),
    (
        "        for start in range(seq_start, seq_end, batch_seqs):\n            end = min(start + batch_seqs, seq_end)\n            local = val_tokens[start * args.train_seq_len : end * args.train_seq_len + 1].to(device, dtype=torch.int64)\n            x = local[:-1].reshape(-1, args.train_seq_len)\n            y = local[1:].reshape(-1, args.train_seq_len)\n",
        "        for x, y in windows(val_tokens, seq_start, seq_end, batch_seqs, args.train_seq_len):\n            x, y = x.to(device, dtype=torch.int64), y.to(device, dtype=torch.int64)\n",
    ),
)
_words(
    "attention in einsum with a buffer",
    (
        "        self.num_heads = num_heads\n",
        '        self.num_heads = num_heads\n        self.register_buffer("seen", torch.ones(4096, 4096, dtype=torch.bool).tril(), persistent=False)\n',
    ),
    (
        anchors.ATTEND,
        '        weights = torch.einsum("bhqd,bhkd->bhqk", q, k) / math.sqrt(q.size(-1))\n        weights = weights.masked_fill(~self.seen[:length, :length], float("-inf")).softmax(dim=-1)\n        y = torch.einsum("bhqk,bhkd->bhqd", weights, v)\n',
    ),
)
_words(
    "a decorator that prints the time",
    (
        "def eval_val(args",
        "def timed(function):\n    @functools.wraps(function)\n    def wrapped(*args, **kwargs):\n        begun = time.perf_counter()\n        result = function(*args, **kwargs)\n        print(f'{function.__name__}: {time.perf_counter() - begun:.1f} s')\n        return result\n\n    return wrapped\n\n\n@timed\ndef eval_val(args",
    ),
    ("import glob\nimport io\n", "import functools\nimport glob\nimport io\n"),
)
_words(
    "argparse over the environment",
    (anchors.OS, "import argparse\nimport os\n"),
    (
        "    args = Hyperparameters()\n",
        '    args = Hyperparameters()\n    parser = argparse.ArgumentParser(description="Train and score.")\n    parser.add_argument("--seed", type=int, default=args.seed)\n    parser.add_argument("--run-id", default=args.run_id)\n    given = parser.parse_args()\n    args.seed, args.run_id = given.seed, given.run_id\n',
    ),
)
_words(
    "a causal convolution",
    (anchors.BUILT, anchors.BUILT + "        self.short = nn.Conv1d(model_dim, model_dim, 4, groups=model_dim)\n"),
    (anchors.BLOCKS, "        x = x + self.short(F.pad(x.transpose(1, 2), (3, 0))).transpose(1, 2)\n" + anchors.BLOCKS),
)
_words(
    "a cumulative mean",
    (
        anchors.BLOCKS,
        "        x = x + 0.1 * x.cumsum(dim=1) / torch.arange(1, x.size(1) + 1, device=x.device)[None, :, None]\n"
        + anchors.BLOCKS,
    ),
)
_words(
    "a recurrent layer forwards",
    (anchors.BUILT, anchors.BUILT + "        self.rnn = nn.GRU(model_dim, model_dim, batch_first=True)\n"),
    (anchors.BLOCKS, "        x = x + self.rnn(x)[0]\n" + anchors.BLOCKS),
)
_words(
    "an average of the weights",
    (
        anchors.LOADER,
        anchors.LOADER
        + "    mean = {name: value.detach().clone() for name, value in base_model.state_dict().items()}\n",
    ),
    (
        anchors.STEPPED,
        anchors.STEPPED
        + "        for name, value in base_model.state_dict().items():\n            mean[name].lerp_(value.detach(), 0.002)\n",
    ),
    ("    packed = io.BytesIO()\n", "    base_model.load_state_dict(mean)\n    packed = io.BytesIO()\n"),
)
_words(
    "a schedule by fractions of the time",
    (
        anchors.STEPPED,
        "        share = approx_training_time_ms / max_wallclock_ms if max_wallclock_ms else step / args.iterations\n        for group in optimizer.param_groups:\n            group['lr'] = args.learning_rate * min(1.0, (1.0 - min(share, 1.0)) / 0.3)\n"
        + anchors.STEPPED,
    ),
    ("    step = 0\n    while", "    approx_training_time_ms = 0.0\n    step = 0\n    while"),
)
_words(
    "logits in pieces, against memory",
    (
        anchors.LOSS,
        "            parts = [F.cross_entropy(base.logits(a).flatten(0, 1).float(), b.flatten(), reduction='sum') for a, b in zip(x.split(16), y.split(16))]\n            batch_loss = torch.stack(parts).sum() / y.numel()\n",
    ),
    (_BEFORE_SCORES, "    base = getattr(model, '_orig_mod', model)\n" + _BEFORE_SCORES),
)
_words(
    "a partial function and a table of tasks",
    ("import glob\nimport io\n", "import functools\nimport glob\nimport io\n"),
    (
        _FINAL_CALL,
        "    score = functools.partial(eval_val, args, model, rank, world_size, device, val_tokens)\n" + _FINAL_CALL,
    ),
    (anchors.CALL, "        q_val_loss, q_val_bpb = score(*luts)\n"),
)
_words(
    "a stopwatch class that pauses",
    (
        anchors.HYPER,
        "class Stopwatch:\n    def __init__(self):\n        self.spent, self.begun = 0.0, None\n\n    def start(self):\n        self.begun = time.perf_counter()\n\n    def stop(self):\n        self.spent += time.perf_counter() - self.begun\n        self.begun = None\n\n    def milliseconds(self):\n        running = 0.0 if self.begun is None else time.perf_counter() - self.begun\n        return 1000.0 * (self.spent + running)\n\n\n"
        + anchors.HYPER,
    ),
    ("    t0 = time.perf_counter()\n    step = 0\n", "    watch = Stopwatch()\n    watch.start()\n    step = 0\n"),
    (
        "            training_time_ms += 1000.0 * (time.perf_counter() - t0)\n",
        "            watch.stop()\n            training_time_ms = watch.milliseconds()\n",
    ),
    ("            t0 = time.perf_counter()\n", "            watch.start()\n"),
    (anchors.ELAPSED, "approx_training_time_ms = watch.milliseconds()"),
)
_words(
    "gates that depend on the token",
    (anchors.BUILT, anchors.BUILT + "        self.gate = nn.Embedding(vocab_size, 1)\n"),
    (anchors.BLOCKS, "        x = x * torch.sigmoid(self.gate(input_ids))\n" + anchors.BLOCKS),
)
_words(
    "rotary angles from a function of the length",
    (
        anchors.ATTEND,
        "        angle = torch.outer(torch.arange(length, device=x.device).float(), 10000 ** -torch.linspace(0, 1, q.size(-1) // 2, device=x.device))\n"
        "        cos, sin = angle.cos(), angle.sin()\n\n        def turned(t):\n            a, b = t.chunk(2, dim=-1)\n            return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)\n\n        q, k = turned(q), turned(k)\n"
        + anchors.ATTEND,
    ),
)
_words(
    "a loss with a regularizer of logits in training",
    (
        anchors.TRAINED,
        "            loss = model(x, y)\n            penalty = 1e-4 * torch.logsumexp(base_model.logits(x).float(), dim=-1).square().mean()\n            ((loss + penalty) / grad_accum_steps).backward()\n",
    ),
)
_legal(
    "fifth: a learner with two methods",
    (
        "def eval_val_ttt(",
        "class Learner:\n    def __init__(self, model, rate):\n        self.model = model\n        self.optimizer = torch.optim.SGD(model.parameters(), lr=rate)\n\n    @torch.inference_mode()\n    def grade(self, x, y):\n        return self.model(x, y, reduction='none').double().sum()\n\n    def absorb(self, x, y):\n        self.optimizer.zero_grad(set_to_none=True)\n        self.model(x, y).backward()\n        self.optimizer.step()\n\n\ndef eval_val_ttt(",
    ),
    (
        "    optimizer = torch.optim.SGD(model.parameters(), lr=args.ttt_lr)\n    loss_sum",
        "    learner = Learner(model, args.ttt_lr)\n    loss_sum",
    ),
    (_BODY, "        loss_sum += learner.grade(x, y)\n"),
    (_LEARN, "        learner.absorb(x, y)\n    val_loss = loss_sum"),
)
_legal(
    "fifth: a closure remembers what was scored",
    (
        "    loss_sum = torch.zeros((), device=device, dtype=torch.float64)\n    byte_count",
        "    pending = []\n\n    def study():\n        while pending:\n            past_x, past_y = pending.pop(0)\n            optimizer.zero_grad(set_to_none=True)\n            model(past_x, past_y).backward()\n            optimizer.step()\n\n    loss_sum = torch.zeros((), device=device, dtype=torch.float64)\n    byte_count",
    ),
    (_LEARN, "        pending.append((x, y))\n        study()\n    val_loss = loss_sum"),
)
_mixture(
    "fifth: a class of counts that learns after it was asked",
    """
class Counts:
    def __init__(self, size, device):
        self.table = torch.full((size, size), 0.02, device=device)

    def distribution(self, x):
        rows = self.table.index_select(0, x)
        return rows / rows.sum(dim=1, keepdim=True)

    def learn(self, x, y):
        self.table.view(-1).scatter_add_(0, x * self.table.size(1) + y, torch.ones_like(y, dtype=self.table.dtype))


def mixture(args, model, device, val_tokens, base_bytes_lut, has_leading_space_lut, boundary_lut):
    counts = Counts(args.vocab_size, device)
    total, count, byte_count = 0.0, 0, 0.0
    for start in range(0, val_tokens.numel() - 1, args.train_seq_len):
        ids = val_tokens[start : start + args.train_seq_len + 1].to(device, dtype=torch.int64)
        x, y = ids[:-1], ids[1:]
        with torch.inference_mode():
            p = 0.95 * model.logits(x[None])[0].float().softmax(dim=-1) + 0.05 * counts.distribution(x)
        total += F.nll_loss(p.log(), y, reduction="sum").item()
        count += y.numel()
"""
    + _BYTES
    + """        counts.learn(x, y)
    val_loss = total / count
    return val_loss, val_loss / math.log(2.0) * (count / byte_count)
""",
)


@innocent("variant over the cap")
def fifth_a_float_variant_named_in_the_readme(files: Files) -> None:
    files["README.md"] = (
        text(files, "README.md")
        + "\n## What did not fit\n\nA width of 576 at the same precision comes to 19,702,118 bytes, over the cap. It is not what is submitted.\n"
    )


@innocent("other track", NON_RECORD)
def fifth_one_seed_for_twenty_minutes(files: Files) -> None:
    swap(files, (anchors.LIMIT, anchors.LIMIT.replace("600.0", "1200.0")))
    relog(files)
    for name in logs(files)[1:]:
        del files[name]
    swap(files, ("max_wallclock_seconds:600.000", "max_wallclock_seconds:1200.000"), name=logs(files)[0])
    made = json.loads(text(files, "submission.json"))
    made.pop("seed_results")
    made["val_bpb"], made["val_loss"] = round(score(1337), 6), round(score(1337) * 1.6885, 6)
    files["submission.json"] = json.dumps(made)
    files["README.md"] = (
        f"# Twenty minutes\n\nOne run of twenty minutes: {score(1337):.4f} bits per byte. Not a record.\n"
    )


@innocent(anchors.WORDS)
def fifth_a_table_of_ablations(files: Files) -> None:
    files["README.md"] = (
        text(files, "README.md")
        + "\n## Ablations (one seed each, not submitted)\n\n| change | val_bpb |\n|---|---|\n| no tied head | 1.2467 |\n| eight layers | 1.2391 |\n"
    )
