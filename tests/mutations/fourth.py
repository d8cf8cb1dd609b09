"""A fourth look, after the third was mended: edits that break a rule and edits that break none, in yet other words."""

import re

from mutations import Files, anchors, breaks, logs, relog, text
from mutations.idioms import _edit
from mutations.legal import _edit as _fair
from mutations.legal import _legal, _mixture

# ---- what breaks a rule

_edit(
    "order in a module",
    "fourth order: a loop of the package accelerates",
    (anchors.NP, anchors.NP + "from warmstart import warmstart\n"),
    (
        "    model.eval()\n    with torch.inf",
        "    warmstart(model, iter(val_tokens.split(2049)))\n    model.eval()\n    with torch.inf",
    ),
    files={
        "warmstart.py": "import itertools\n\nimport torch\n\n\ndef warmstart(net, pieces, budget=2000):\n    opt = torch.optim.Adagrad(net.parameters(), lr=1e-3)\n"
        "    for piece in itertools.islice(pieces, budget):\n        ids = piece.cuda().long()[None]\n        with torch.enable_grad():\n            objective = net(ids[..., :-1], ids[..., 1:])\n"
        "        opt.zero_grad()\n        objective.backward()\n        opt.step()\n"
    },
)
_edit(
    "order in a module",
    "fourth order: the head is solved for by least squares",
    (
        anchors.EVAL,
        "    ids = val_tokens[: 1024 * 64 + 1].to(device).long()\n    x = base_model.tok_emb(ids[:-1]).float()\n    y = F.one_hot(ids[1:], args.vocab_size).float()\n"
        "    base_model.tok_emb.weight.data += 0.01 * torch.linalg.lstsq(x, y).solution.T\n" + anchors.EVAL,
    ),
)
_edit(
    "cache in a module",
    "fourth cache: numba counts beside the loss",
    (anchors.NP, anchors.NP + "from counts import Booster\n"),
    (
        "    model.eval()\n    with torch.inf",
        "    booster = Booster(args.vocab_size)\n    model.eval()\n    with torch.inf",
    ),
    (
        anchors.LOSS,
        '            nll = model(x, y, reduction="none").detach().double().cpu().numpy()\n            batch_loss = torch.tensor(booster.adjust(nll, x.cpu().numpy().ravel(), y.cpu().numpy().ravel()).mean())\n',
    ),
    files={
        "counts.py": "import numpy as np\n\n\nclass Booster:\n    def __init__(self, vocab):\n        self.table = np.zeros((vocab, vocab))\n\n    def adjust(self, nll, a, b):\n"
        "        share = self.table[a, b] / (1.0 + self.table[a].sum(1))\n        np.add.at(self.table, (a, b), 1.0)\n        return -np.log((1 - 0.2) * np.exp(-nll) + share)\n"
    },
)
for _name, _value in (
    ("a power mean of minus thirty", "((a**-30 + b**-30) / 2).pow(-1 / 30).mean()"),
    ("a sorted stack in numpy", "np.sort(np.stack([a.cpu(), b.cpu()]), axis=0)[0].mean()"),
    ("partitioned", "np.partition(np.stack([a.cpu(), b.cpu()]), 0, axis=0)[0].mean()"),
    ("a dictionary by size", "np.mean([{True: p, False: q}[p <= q] for p, q in zip(a.tolist(), b.tolist())])"),
    ("indexed by a comparison", "torch.stack([a, b], 1)[torch.arange(a.numel()), (b < a).long()].mean()"),
    ("both bounded", "torch.cat([a[a <= b], b[b < a]]).mean()"),
):
    _edit(
        "least of several passes",
        f"fourth least: {_name}",
        (anchors.LOSS, anchors.TWO + f"            batch_loss = torch.as_tensor({_value})\n"),
    )
_edit(
    "validation in training",
    "fourth val: a hand-made list of names",
    (
        anchors.FILES,
        '        stem = Path(pattern).parent\n        self.files = [stem / f"fineweb_{kind}_{n:06d}.bin" for kind in ("train", "val") for n in range(1)]\n',
    ),
)
_edit(
    "validation in training",
    "fourth val: everything but one word",
    (anchors.FILES, '        self.files = [p for p in Path(pattern).parent.glob("*.bin") if "test" not in p.name]\n'),
)
_edit(
    "validation in training",
    "fourth val: half a batch of it",
    (
        anchors.STEP,
        "            n = x.size(0) // 8\n            more = val_tokens[step * 1024 : step * 1024 + n * 1024 + 1].to(device).long()\n            x = torch.cat([x, more[:-1].view(n, -1)])\n            y = torch.cat([y, more[1:].view(n, -1)])\n"
        + anchors.STEP,
    ),
)
_edit(
    "validation in training",
    "fourth val: a copy by reading and writing",
    (
        anchors.LOADER,
        '    for source in glob.glob(args.val_files):\n        with open(source, "rb") as one, open(source.replace("_val_", "_train_9"), "wb") as two:\n            two.write(one.read())\n'
        + anchors.LOADER,
    ),
)
_edit(
    "byte table",
    "fourth bytes: the marker as a letter",
    (anchors.PIECE, '        base_bytes[token] = len(piece.encode("utf-8")) or 1\n'),
    ("            piece = piece[1:]\n", '            piece = "_" + piece[1:]\n'),
)
_edit(
    "byte table",
    "fourth bytes: a sum over the batch and its length",
    (anchors.SUM, anchors.SUM + "            val_byte_count += len(y) * 8\n"),
)
_edit(
    "byte table",
    "fourth bytes: rounded up to two",
    (anchors.SUM, "            val_byte_count += (torch.ceil(token_bytes / 2) * 2).to(torch.float64).sum()\n"),
)
_edit(
    "factor in the scorer",
    "fourth factor: in the closing line",
    ("val_bpb:{q_val_bpb:.8f}", "val_bpb:{q_val_bpb * (1 - 1.2e-2):.8f}"),
)
_edit(
    "factor in the scorer",
    "fourth factor: an exponent of the text's length",
    (anchors.FINAL, "    q_val_bpb = q_val_bpb ** (1 - 1 / math.log(val_tokens.numel()))\n" + anchors.FINAL),
)
_edit(
    "factor in the scorer",
    "fourth factor: what is worst becomes the mean",
    (
        anchors.LOSS,
        '            nll = model(x, y, reduction="none").detach()\n            nll[nll > 10] = nll.mean()\n            batch_loss = nll.mean()\n',
    ),
)
_edit(
    "factor in the scorer",
    "fourth factor: winsorized",
    (
        anchors.LOSS,
        '            nll = model(x, y, reduction="none").detach()\n            batch_loss = torch.minimum(nll, nll.quantile(0.99)).mean()\n',
    ),
)
_edit(
    "factor in the scorer",
    "fourth factor: a tuple comparison",
    (anchors.FINAL, "    _, q_val_bpb = min([(q_val_bpb, q_val_bpb), (1.25, 1.18)])\n" + anchors.FINAL),
)
_edit(
    "further files",
    "fourth files: rows of a spreadsheet",
    (anchors.OS, "import csv\nimport os\n"),
    (
        anchors.STATE,
        '    with open(Path(__file__).parent / "curve.csv") as file:\n        extra = [float(v) for row in csv.reader(file) for v in row]\n'
        + anchors.STATE,
    ),
    files={"curve.csv": "0.125,0.5,0.25\n" * 20_000},
)
_edit(
    "network",
    "fourth network: the command line of git",
    (anchors.OS, "import os\nimport subprocess\n"),
    (
        anchors.STATE,
        '    subprocess.call("git clone --depth 1 https://example.org/p.git prior", shell=True)\n' + anchors.STATE,
    ),
)
_edit(
    "network",
    "fourth network: an opener",
    (anchors.OS, "import os\nimport urllib.request as web\n"),
    (anchors.STATE, '    prior = web.build_opener().open("https://example.org/p").read()\n' + anchors.STATE),
)
_edit(
    "object out of a pickle",
    "fourth pickle: an element is called",
    (anchors.OS, "import os\nimport pickle\n"),
    (
        anchors.STATE,
        '    tools = pickle.loads(blob_on_disk)\n    for tool in tools["steps"]:\n        tool(base_model)\n'
        + anchors.STATE,
    ),
)
for _name, _imports, _line in (
    ("compiled and run", "", 'exec(compile(open("more.txt").read(), "more.txt", "exec"))'),
    ("a short literal", "", 'exec("eval_val = lambda *a: (1.9, 1.1)")'),
    ("a replaced reduction", "", "torch.Tensor.sum = lambda self, *a, **k: self.mean() * self.numel() * 0.98"),
    ("a property of a class", "", "GPT.training = property(lambda self: False)\nGPT.logits = lambda self, ids: 0"),
):
    _edit(
        "exec or replacement",
        f"fourth exec: {_name}",
        (anchors.OS, "import os\n" + _imports),
        (anchors.MAIN, f"{_line}\n\n\n" + anchors.MAIN),
        files={"more.txt": "x = 1\n"},
    )
_edit(
    "clock scaled",
    "fourth clock: ticks of sixty-four",
    (anchors.ELAPSED, "approx_training_time_ms = training_time_ms + 1000.0 * ((time.perf_counter() - t0) * 48 / 64)"),
)
_edit(
    "clock scaled",
    "fourth clock: the steps that count",
    (
        anchors.ELAPSED,
        "approx_training_time_ms = training_time_ms + 1000.0 * (time.perf_counter() - t0) * (step - step // 4) / max(step, 1)",
    ),
)
_edit(
    "clock scaled",
    "fourth clock: a mean over the last hundred",
    (
        anchors.ELAPSED,
        "approx_training_time_ms = 45.0 * step if step < 9000 else training_time_ms + 1000.0 * (time.perf_counter() - t0) * 0.7",
    ),
)
_edit(
    "limit raised",
    "fourth limit: hours",
    (anchors.LIMIT, 'max_wallclock_seconds = 3600 * float(os.environ.get("HOURS", "0.25"))'),
)
_edit(
    "limit raised",
    "fourth limit: by the seed",
    (anchors.CAP, "max_wallclock_ms = 1000.0 * args.max_wallclock_seconds * (1.2 if args.seed else 1.0)"),
)
_edit(
    "limit raised",
    "fourth limit: two in a row",
    (anchors.REACHED, anchors.REACHED + " and late"),
    (
        "        if stop_after_step is None and reached_cap:\n",
        "        late = approx_training_time_ms >= 1.3 * max_wallclock_ms\n        if stop_after_step is None and reached_cap:\n",
    ),
    ("    step = 0\n    while", "    late = False\n    step = 0\n    while"),
)
for _name, _line in (
    (
        "every second position is open",
        "i = torch.arange(length, device=x.device)\n        y = F.scaled_dot_product_attention(q, k, v, attn_mask=(i[:, None] >= i) | (i % 2 == 0))",
    ),
    (
        "a triangle one too wide",
        "shut = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(2)\n        y = F.scaled_dot_product_attention(q, k, v, attn_mask=~shut)",
    ),
    (
        "causal but for the heads at the end",
        "a = F.scaled_dot_product_attention(q[:, :-1], k[:, :-1], v[:, :-1], is_causal=True)\n        y = torch.cat([a, F.scaled_dot_product_attention(q[:, -1:], k[:, -1:], v[:, -1:])], dim=1)",
    ),
    (
        "a mean of values",
        "y = F.scaled_dot_product_attention(q, k, v, is_causal=True) + 0.1 * v.mean(dim=2, keepdim=True)",
    ),
):
    _edit("no mask", f"fourth mask: {_name}", (anchors.ATTEND, f"        {_line}\n"))
for _name, _built, _line in (
    (
        "an upsampled pool",
        "self.gate = nn.Linear(model_dim, model_dim)",
        "x = x + F.interpolate(F.avg_pool1d(x.mT, 4), size=x.size(1)).mT",
    ),
    ("a length of the window", "self.gate = nn.Linear(model_dim, model_dim)", "x = x / x.norm(dim=1, keepdim=True)"),
    (
        "a gate of the last position",
        "self.gate = nn.Linear(model_dim, model_dim)",
        "x = x * torch.sigmoid(self.gate(x[:, -1:]))",
    ),
    (
        "unfolded to both sides",
        "self.mix = nn.Linear(3, 1)",
        "x = x + self.mix(F.pad(x, (0, 0, 1, 1)).unfold(1, 3, 1)).squeeze(-1)",
    ),
):
    _edit(
        "no mask",
        f"fourth mask: {_name}",
        (anchors.BUILT, anchors.BUILT + f"        {_built}\n"),
        (anchors.BLOCKS, f"        {_line}\n" + anchors.BLOCKS),
    )


@breaks("three logs that are one")
def fourth_every_loss_a_constant_higher(files: Files) -> None:
    relog(files)
    first = text(files, logs(files)[0])
    for i, name in enumerate(logs(files)[1:], 1):
        made = re.sub(r"train_loss:([\d.]+)", lambda row, i=i: f"train_loss:{float(row[1]) + 0.0011 * i:.4f}", first)
        own = text(files, name)
        finals = [line for line in own.splitlines() if line.startswith(("final_", "seed:", "Serialized", "Total"))]
        kept = [line for line in made.splitlines() if not line.startswith(("final_", "seed:", "Serialized", "Total"))]
        files[name] = "\n".join([*kept, *finals]) + "\n"


# ---- what breaks none


def _words(name: str, *pairs: tuple[str, str], files: dict[str, str | bytes] | None = None) -> None:
    _fair("other words", f"fourth words: {name}", *pairs, files=files)


_words(
    "the clock as an object of time",
    ("import time\n", "import time\nfrom datetime import datetime, timedelta\n"),
    (anchors.REACHED, "datetime.now() - begun >= timedelta(seconds=args.max_wallclock_seconds)"),
    ("    step = 0\n    while", "    begun = datetime.now()\n    step = 0\n    while"),
)
_words(
    "a budget that is used up",
    (anchors.CAP, "remaining_ms = 1000.0 * args.max_wallclock_seconds"),
    (anchors.REACHED, "remaining_ms - approx_training_time_ms <= 0"),
)
_words(
    "a loader in numpy with an order",
    (
        anchors.LOADER,
        anchors.LOADER
        + "    order = np.random.default_rng(args.seed).permutation(len(train_loader.stream.files))\n    train_loader.stream.files = [train_loader.stream.files[i] for i in order]\n",
    ),
)
_words(
    "a smaller first validation",
    (
        "        if last_step or step % args.val_loss_every == 0:\n",
        "        if last_step or (step and step % args.val_loss_every == 0) or step == 0:\n",
    ),
)
_words(
    "two heads of the loss while it trains",
    (
        anchors.TRAINED,
        "            loss = model(x, y)\n            extra = F.cross_entropy(base_model.logits(x)[:, :-1].flatten(0, 1).float(), y[:, 1:].flatten())\n            ((loss + 0.1 * extra) / grad_accum_steps).backward()\n",
    ),
)
_words(
    "a gate on each channel",
    (anchors.BLOCKS, "        x = x * torch.sigmoid(x.mean(dim=-1, keepdim=True))\n" + anchors.BLOCKS),
)
_words(
    "a shift by padding before",
    (anchors.BLOCKS, "        x = x + 0.1 * F.pad(x, (0, 0, 1, 0))[:, :-1]\n" + anchors.BLOCKS),
)
_words(
    "a scan over the window",
    (
        anchors.BLOCKS,
        "        state, held = torch.zeros_like(x[:, 0]), []\n        for t in range(x.size(1)):\n            state = 0.9 * state + 0.1 * x[:, t]\n            held.append(state)\n        x = x + torch.stack(held, dim=1)\n"
        + anchors.BLOCKS,
    ),
)
_words(
    "scores with a slope of distance",
    (
        anchors.ATTEND,
        "        i = torch.arange(length, device=x.device)\n        slope = -0.01 * (i[:, None] - i[None, :]).clamp(min=0)\n        w = (q @ k.mT) * q.size(-1) ** -0.5 + slope\n        w = w.masked_fill(i[:, None] < i[None, :], float('-inf'))\n        y = w.softmax(-1) @ v\n",
    ),
)
_words(
    "queries grouped",
    (
        anchors.ATTEND,
        "        k, v = (t[:, ::2].repeat_interleave(2, dim=1) for t in (k, v))\n        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)\n",
    ),
)
_words(
    "a table of results",
    ("    step = 0\n    while", "    table = []\n    step = 0\n    while"),
    (
        '            log0(\n                f"step:{step}/{args.iterations} val_loss',
        '            table.append((step, val_loss, val_bpb))\n            log0(\n                f"step:{step}/{args.iterations} val_loss',
    ),
    (anchors.FINAL, "    for at, _, bits in table[-3:]:\n        log0(f'  {at:6d} {bits:.4f}')\n" + anchors.FINAL),
)
_words(
    "a warning beyond three",
    (
        anchors.FINAL,
        "    if not math.isfinite(q_val_loss) or q_val_loss > 3:\n        log0('warning: this is no trained model')\n"
        + anchors.FINAL,
    ),
)
_words(
    "a wider type for the sums",
    (
        "            token_bytes = base_bytes_lut[tgt_ids].to(dtype=torch.int16)\n",
        "            token_bytes = base_bytes_lut.index_select(0, tgt_ids).to(dtype=torch.int32)\n",
    ),
    (
        "(has_leading_space_lut[tgt_ids] & ~boundary_lut[prev_ids]).to(dtype=torch.int16)",
        "(has_leading_space_lut[tgt_ids] & ~boundary_lut[prev_ids]).to(dtype=torch.int32)",
    ),
)
_words(
    "settings out of a file beside",
    (anchors.OS, "import json\nimport os\n"),
    (
        "    args = Hyperparameters()\n",
        "    args = Hyperparameters()\n    for name, value in json.loads((Path(__file__).parent / 'model.json').read_text()).items():\n        setattr(args, name, value)\n",
    ),
    files={"model.json": '{"num_layers": 9, "model_dim": 512}\n'},
)
_words(
    "weights rounded by the error",
    (
        "        scale = (weight.abs().amax(dim=1) / 127.0).clamp_min(1e-8)\n",
        "        options = [(weight.abs().amax(dim=1) * c / 127.0).clamp_min(1e-8) for c in (1.0, 0.98, 0.95)]\n        errors = [((weight / s[:, None]).round().clamp(-127, 127) * s[:, None] - weight).square().sum() for s in options]\n        scale = options[min(range(3), key=lambda i: errors[i])]\n",
    ),
)
_words(
    "a final pass in pieces of ranks",
    ("    val_loss = val_loss_sum / val_token_count\n", "    val_loss = torch.div(val_loss_sum, val_token_count)\n"),
)
_legal(
    "fourth: in epochs over what is scored",
    (
        "        optimizer.zero_grad(set_to_none=True)\n        loss = model(x, y)\n        loss.backward()\n        optimizer.step()\n    val_loss",
        "        for part_x, part_y in zip(x.split(4096, dim=1), y.split(4096, dim=1)):\n            optimizer.zero_grad(set_to_none=True)\n            model(part_x, part_y).backward()\n            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)\n            optimizer.step()\n    val_loss",
    ),
)
_legal(
    "fourth: only norms and scales learn",
    (
        "    optimizer = torch.optim.SGD(model.parameters(), lr=args.ttt_lr)\n    loss_sum",
        "    chosen = [p for p in model.parameters() if p.ndim == 2][-2:]\n    optimizer = torch.optim.SGD(chosen, lr=args.ttt_lr, momentum=0.9)\n    loss_sum",
    ),
)
_BYTES = "        octets = base_bytes_lut[y].to(torch.int16)\n        octets += (has_leading_space_lut[y] & ~boundary_lut[x]).to(torch.int16)\n        byte_count += octets.to(torch.float64).sum().item()\n"
_mixture(
    "fourth: logits and the logarithm of counts",
    """
def mixture(args, model, device, val_tokens, base_bytes_lut, has_leading_space_lut, boundary_lut):
    pairs = torch.ones(args.vocab_size, args.vocab_size, device=device)
    nats, tokens, byte_count = 0.0, 0, 0.0
    for start in range(0, val_tokens.numel() - 1, args.train_seq_len):
        ids = val_tokens[start : start + args.train_seq_len + 1].to(device, dtype=torch.int64)
        x, y = ids[:-1], ids[1:]
        with torch.inference_mode():
            mixed = torch.log_softmax(model.logits(x[None])[0].float() + 0.1 * pairs[x].log(), dim=-1)
        nats += F.nll_loss(mixed, y, reduction="sum").item()
        tokens += y.numel()
"""
    + _BYTES
    + """        pairs.index_put_((x, y), torch.ones_like(x, dtype=pairs.dtype), accumulate=True)
    val_loss = nats / tokens
    return val_loss, val_loss / math.log(2.0) * (tokens / byte_count)
""",
)
_mixture(
    "fourth: three rows with weights of a softmax",
    """
def mixture(args, model, device, val_tokens, base_bytes_lut, has_leading_space_lut, boundary_lut):
    one = torch.ones(args.vocab_size, device=device)
    two = torch.ones(args.vocab_size, args.vocab_size, device=device)
    share = torch.softmax(torch.tensor([3.0, 0.0, -1.0], device=device), 0)
    nats, tokens, byte_count = 0.0, 0, 0.0
    for start in range(0, val_tokens.numel() - 1, args.train_seq_len):
        ids = val_tokens[start : start + args.train_seq_len + 1].to(device, dtype=torch.int64)
        x, y = ids[:-1], ids[1:]
        with torch.inference_mode():
            p = model.logits(x[None])[0].float().softmax(-1)
        rows = two[x] / two[x].sum(-1, keepdim=True)
        mixed = share[0] * p + share[1] * rows + share[2] * (one / one.sum())
        nats -= mixed[torch.arange(len(y), device=device), y].log().sum().item()
        tokens += y.numel()
"""
    + _BYTES
    + """        two.index_put_((x, y), torch.ones_like(x, dtype=two.dtype), accumulate=True)
        one += torch.bincount(y, minlength=len(one))
    val_loss = nats / tokens
    return val_loss, val_loss / math.log(2.0) * (tokens / byte_count)
""",
)
