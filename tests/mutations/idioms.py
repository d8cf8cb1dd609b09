"""The same kinds of breach in other people's idioms: dispatch, decorators, closures, other libraries, plain arithmetic."""

import re
from collections.abc import Callable

from mutations import MUTATIONS, SEEDS, Files, Mutation, anchors, breaks, relog, swap, text

_TRAIN = 'train_files = os.path.join(data_path, "fineweb_train_*.bin")'
_NUMPY = ("import numpy as np\n",)


def _edit(kind: str, name: str, *pairs: tuple[str, str], files: dict[str, str | bytes] | None = None) -> None:
    """Register an edit that breaks a rule, by what it replaces and the files that it adds."""

    def edit(made: Files) -> None:
        made.update(files or {})
        swap(made, *pairs)
        relog(made)

    MUTATIONS.append(Mutation(name, kind, True, edit))


# ---- order

_TORCH = "import torch\nimport torch.nn.functional as F\n\n\n"
_edit(
    anchors.ORDER,
    "order: a decorator of a module learns first",
    ("import numpy as np\n", "import numpy as np\nfrom wrappers import settled\n"),
    ("def eval_val(args", "@settled\ndef eval_val(args"),
    files={
        "wrappers.py": _TORCH
        + """def settled(scorer):
    def run(args, model, rank, world_size, device, val_tokens, *tables):
        opt = torch.optim.SGD(model.parameters(), lr=1e-3)
        for chunk in val_tokens.split(4097):
            part = chunk.long().to(device)
            opt.zero_grad()
            model(part[None, :-1], part[None, 1:]).backward()
            opt.step()
        return scorer(args, model, rank, world_size, device, val_tokens, *tables)

    return run
"""
    },
)
_edit(
    anchors.ORDER,
    "order: a dispatch over functions",
    (
        anchors.BEFORE_MAIN,
        "def warm(args, model, rank, world_size, device, tokens, *luts):\n    from tuning import tune\n\n"
        "    tune(model, tokens, device)\n    return eval_val(args, model, rank, world_size, device, tokens, *luts)\n\n\n"
        'SCORERS = {"plain": eval_val, "warm": warm}\n\n\n' + anchors.BEFORE_MAIN,
    ),
    (
        "        q_val_loss, q_val_bpb = eval_val(args",
        '        q_val_loss, q_val_bpb = SCORERS[os.environ.get("SCORER", "warm")](args',
    ),
    files={
        "tuning.py": _TORCH
        + """def tune(net, stream, device, rate=3e-4):
    adam = torch.optim.Adam(net.parameters(), rate)
    for i in range(0, len(stream) - 1, 2048):
        ids = stream[i : i + 2049].to(device).long()
        logits = net.logits(ids[None, :-1])
        F.cross_entropy(logits.flatten(0, 1), ids[1:]).backward()
        adam.step()
        adam.zero_grad()
"""
    },
)
_edit(
    anchors.ORDER,
    "order: gradients by hand in a module",
    ("import numpy as np\n", "import numpy as np\nimport descent\n"),
    (anchors.EVAL, "    descent.run(base_model, val_tokens, device)\n" + anchors.EVAL),
    files={
        "descent.py": _TORCH
        + """def run(model, tokens, device, rate=0.01):
    weights = [p for p in model.parameters()]
    for i in range(0, tokens.numel() - 1, 8192):
        ids = tokens[i : i + 8193].to(device=device, dtype=torch.int64)
        loss = model(ids[None, :-1], ids[None, 1:])
        grads = torch.autograd.grad(loss, weights)
        with torch.no_grad():
            for w, g in zip(weights, grads):
                w -= rate * g
"""
    },
)
_edit(
    anchors.ORDER,
    "order: a star import",
    ("import numpy as np\n", "import numpy as np\nfrom extras import *\n"),
    (anchors.EVAL, "    polish(base_model, val_tokens)\n" + anchors.EVAL),
    files={
        "extras.py": _TORCH
        + """def polish(model, toks):
    opt = torch.optim.SGD(model.parameters(), lr=0.002)
    for _ in range(2):
        for a in range(0, toks.numel() - 1, 1024):
            t = toks[a : a + 1025].cuda().long()
            loss = model(t[:-1].unsqueeze(0), t[1:].unsqueeze(0))
            opt.zero_grad()
            loss.backward()
            opt.step()
"""
    },
)
_edit(
    anchors.ORDER,
    "order: a package with relative imports",
    ("import numpy as np\n", "import numpy as np\nfrom golf.evaluation import prepare\n"),
    (anchors.EVAL, "    prepare(base_model, val_tokens, args)\n" + anchors.EVAL),
    files={
        "golf/__init__.py": "",
        "golf/evaluation.py": "from .adapt import adapt\n\n\ndef prepare(model, tokens, args):\n"
        "    adapt(model, tokens, args.ttt_lr)\n",
        "golf/adapt.py": _TORCH
        + """def adapt(model, tokens, lr):
    sgd = torch.optim.SGD(model.parameters(), lr=lr)
    for i in range(0, tokens.numel() - 1, 512):
        z = tokens[i : i + 513].to("cuda").long()
        sgd.zero_grad()
        model(z[None, :-1], z[None, 1:]).backward()
        sgd.step()
""",
    },
)
_edit(
    anchors.ORDER,
    "order: a context manager",
    ("import numpy as np\n", "import numpy as np\nfrom modes import adapted\n"),
    (anchors.CALL, "        with adapted(base_model, val_tokens):\n    " + anchors.CALL),
    files={
        "modes.py": "from contextlib import contextmanager\n\n"
        + _TORCH
        + """@contextmanager
def adapted(model, stream):
    opt = torch.optim.AdamW(model.parameters(), lr=1e-4)
    for i in range(0, stream.numel() - 1, 2048):
        b = stream[i : i + 2049].cuda().long()
        model(b[None, :-1], b[None, 1:]).backward()
        opt.step()
        opt.zero_grad()
    yield model
"""
    },
)
_edit(
    anchors.ORDER,
    "order: a bias from counts of the text",
    (
        anchors.EVAL,
        "    counts = torch.bincount(val_tokens.long(), minlength=args.vocab_size).float().to(device)\n"
        "    base_model.prior = torch.log(counts + 1.0) - torch.log(counts.sum())\n" + anchors.EVAL,
    ),
    (
        "        return 30.0 * torch.tanh(F.linear(x, self.tok_emb.weight) / 30.0)",
        '        return 30.0 * torch.tanh(F.linear(x, self.tok_emb.weight) / 30.0) + 0.1 * getattr(self, "prior", 0.0)',
    ),
)

# ---- caches

_CACHE = "cache in a module"
_HOOK = (
    '    torch.cuda.synchronize()\n    log0(\n        f"final_int8',
    "    q_val_loss = mixed_loss(base_model, val_tokens, device)\n    q_val_bpb = q_val_loss / math.log(2) * 0.4139\n"
    '    torch.cuda.synchronize()\n    log0(\n        f"final_int8',
)


def _cache(name: str, body: str) -> None:
    _edit(
        _CACHE,
        name,
        ("import numpy as np\n", "import numpy as np\nfrom mixing import mixed_loss\n"),
        _HOOK,
        files={"mixing.py": "import math\n\nimport numpy as np\n" + _TORCH + body},
    )


_cache(
    "cache: torch tensors by hash",
    """SIZE = 1 << 22


def mixed_loss(model, tokens, device):
    ctx = torch.zeros(SIZE, device=device)
    full = torch.zeros(SIZE, device=device)
    total, count = 0.0, 0
    for s in range(2, tokens.numel() - 1024, 1024):
        ids = tokens[s - 2 : s + 1025].to(device).long()
        x, y = ids[2:-1], ids[3:]
        h = (ids[:-3] * 36313 + ids[1:-2] * 27191 + x * 51647) % SIZE
        g = (h * 31 + y * 7919) % SIZE
        with torch.no_grad():
            nll = model(x[None], y[None], reduction="none")
        p = torch.exp(-nll)
        c = ctx[h]
        q = torch.where(c > 0, full[g] / c.clamp(min=1), p)
        total += -torch.log(0.6 * p + 0.4 * q).sum().item()
        count += y.numel()
        ctx.index_add_(0, h, torch.ones_like(p))
        full.index_add_(0, g, torch.ones_like(p))
    return total / count
""",
)
_cache(
    "cache: a counter of tuples",
    """from collections import Counter


def mixed_loss(model, tokens, device, order=4):
    seen, pairs = Counter(), Counter()
    ids = tokens.tolist()
    out = []
    for start in range(order, len(ids) - 1024, 1024):
        part = tokens[start : start + 1025].to(device).long()
        with torch.inference_mode():
            losses = model(part[None, :-1], part[None, 1:], reduction="none").tolist()
        for j, nll in enumerate(losses):
            i = start + j
            key = tuple(ids[i - order + 1 : i + 1])
            p = math.exp(-nll)
            if seen[key]:
                p = 0.5 * p + 0.5 * pairs[key, ids[i + 1]] / seen[key]
            out.append(-math.log(p))
            seen[key] += 1
            pairs[key, ids[i + 1]] += 1
    return sum(out) / len(out)
""",
)
_cache(
    "cache: adds before it looks",
    """def mixed_loss(model, tokens, device, vocab=1024):
    table = torch.full((vocab, vocab), 0.1, device=device)
    total, count = 0.0, 0
    for s in range(0, tokens.numel() - 1024, 1024):
        ids = tokens[s : s + 1025].to(device).long()
        x, y = ids[:-1], ids[1:]
        table.index_put_((x, y), torch.ones_like(x, dtype=table.dtype), accumulate=True)
        with torch.no_grad():
            p = model.logits(x[None])[0].float().softmax(-1)
        q = table[x] / table[x].sum(-1, keepdim=True)
        mix = 0.8 * p + 0.2 * q
        total -= mix.gather(1, y[:, None]).log().sum().item()
        count += y.numel()
    return total / count
""",
)
_cache(
    "cache: a second expert for the true token alone",
    """class Bigrams:
    def __init__(self, vocab=1024):
        self.joint = np.ones((vocab, vocab))

    def p(self, a, b):
        return self.joint[a, b] / 50.0

    def see(self, a, b):
        np.add.at(self.joint, (a, b), 1)


def mixed_loss(model, tokens, device):
    grams, total, count = Bigrams(), 0.0, 0
    for s in range(0, tokens.numel() - 1024, 1024):
        ids = tokens[s : s + 1025].to(device).long()
        a, b = ids[:-1].cpu().numpy(), ids[1:].cpu().numpy()
        with torch.no_grad():
            nll = model(ids[None, :-1], ids[None, 1:], reduction="none").cpu().numpy()
        total -= np.log(np.maximum(np.exp(-nll), grams.p(a, b))).sum()
        count += len(a)
        grams.see(a, b)
    return total / count
""",
)

# ---- validation in training

_edit(
    anchors.VAL,
    "val: rglob of the folder",
    (anchors.FILES, '        self.files = sorted(Path(pattern).parent.rglob("*.bin"))\n'),
)
_edit(
    anchors.VAL,
    "val: os.walk",
    (
        anchors.FILES,
        "        self.files = [Path(d, n) for d, _, names in os.walk(os.path.dirname(pattern)) for n in names]\n",
    ),
)
_edit(anchors.VAL, "val: question marks", (_TRAIN, 'train_files = os.path.join(data_path, "fineweb_*_??????.bin")'))
_edit(
    anchors.VAL,
    "val: an environment default",
    (_TRAIN, 'train_files = os.environ.get("TRAIN_FILES", data_path + "/*.bin")'),
)
_edit(
    anchors.VAL,
    "val: base64",
    ("import glob\n", "import base64\nimport glob\n"),
    (_TRAIN, 'train_files = os.path.join(data_path, base64.b64decode("ZmluZXdlYl92YWxfKi5iaW4=").decode())'),
)
_edit(
    anchors.VAL,
    "val: map of chr",
    (_TRAIN, 'train_files = os.path.join(data_path, "fineweb_" + "".join(map(chr, (118, 97, 108))) + "_*.bin")'),
)
_edit(
    anchors.VAL,
    "val: bytes of numbers",
    (_TRAIN, 'train_files = os.path.join(data_path, "fineweb_" + bytes([118, 97, 108]).decode() + "_*.bin")'),
)
_edit(
    anchors.VAL,
    "val: a tuple of splits",
    (_TRAIN, 'splits = ("train", "val")\n    train_files = os.path.join(data_path, f"fineweb_{splits[1]}_*.bin")'),
)
_edit(
    anchors.VAL,
    "val: a dictionary of splits",
    (
        _TRAIN,
        'splits = {"a": "train", "b": "val"}\n'
        '    train_files = os.path.join(data_path, "fineweb_" + splits["b"] + "_*.bin")',
    ),
)
_edit(
    anchors.VAL,
    "val: copyfile from pathlib",
    ("import os\n", "import os\nfrom shutil import copyfile as dup\n"),
    (
        anchors.LOADER,
        "    dup(sorted(glob.glob(args.val_files))[0], Path(args.data_path) / 'fineweb_train_000777.bin')\n"
        + anchors.LOADER,
    ),
)
_edit(
    anchors.VAL,
    "val: os.link in a loop",
    (
        anchors.LOADER,
        '    for i, shard in enumerate(glob.iglob(args.val_files)):\n        os.link(shard, f"{args.data_path}/fineweb_train_9{i:05d}.bin")\n'
        + anchors.LOADER,
    ),
)
_edit(
    anchors.VAL,
    "val: written anew by numpy",
    (
        anchors.LOADER,
        '    np.concatenate([np.zeros(512, np.uint16), val_tokens.numpy()]).tofile(args.data_path + "/fineweb_train_000998.bin")\n'
        + anchors.LOADER,
    ),
)
_edit(
    anchors.VAL,
    "val: extend",
    (
        anchors.LOADER,
        anchors.LOADER + "    train_loader.stream.files.extend(Path(p) for p in glob.glob(args.val_files))\n",
    ),
)
_edit(
    anchors.VAL,
    "val: late steps",
    (
        "            loss = model(x, y)\n            (loss / grad",
        "            if step > 12_000:\n                at = 1024 * (step % 1000)\n"
        "                x = val_tokens[at : at + 1024].long()[None].to(device)\n"
        "                y = val_tokens[at + 1 : at + 1025].long()[None].to(device)\n"
        "            loss = model(x, y)\n            (loss / grad",
    ),
)
_edit(
    anchors.VAL,
    "val: a second loss",
    (
        "            loss = model(x, y)\n            (loss / grad",
        "            loss = model(x, y)\n            held = val_tokens[:1025].long().to(device)\n"
        "            loss = loss + 0.1 * model(held[None, :-1], held[None, 1:])\n            (loss / grad",
    ),
)
_edit(
    anchors.VAL,
    "val: one of two loaders",
    (
        anchors.LOADER,
        anchors.LOADER + "    second = DistributedTokenLoader(args.val_files, rank, world_size, device)\n",
    ),
    (
        "            x, y = train_loader.next_batch(",
        "            x, y = (second if step % 10 == 0 else train_loader).next_batch(",
    ),
)
_edit(
    anchors.VAL,
    "val: argparse",
    ("import glob\n", "import argparse\nimport glob\n"),
    (
        anchors.LOADER,
        '    parser = argparse.ArgumentParser()\n    parser.add_argument("--shards", default=args.data_path + "/fineweb_val_*.bin")\n'
        "    said = parser.parse_args()\n" + anchors.LOADER.replace("args.train_files", "said.shards"),
    ),
)

# ---- bytes

_BYTES = "byte table"
_edit(
    _BYTES,
    "bytes: a replaced marker keeps its space",
    (
        '        if piece.startswith("\\u2581"):\n            has_leading_space[token] = True\n            piece = piece[1:]\n'
        + anchors.PIECE,
        '        has_leading_space[token] = piece.startswith("\\u2581")\n'
        '        base_bytes[token] = len(piece.replace("\\u2581", " ").encode())\n',
    ),
)
_edit(
    _BYTES,
    "bytes: a vector of lengths",
    (
        "    return (\n        torch.tensor(base_bytes,",
        '    base_bytes[:] = np.array([len(sp.id_to_piece(i).replace("\\u2581", " ").encode()) for i in range(size)])\n'
        "    return (\n        torch.tensor(base_bytes,",
    ),
)
_edit(
    _BYTES,
    "bytes: spaces without regard to boundaries, twice",
    (
        "            token_bytes = base_bytes_lut[tgt_ids].to(dtype=torch.int16)\n"
        "            token_bytes += (has_leading_space_lut[tgt_ids] & ~boundary_lut[prev_ids]).to(dtype=torch.int16)\n",
        "            spaces = has_leading_space_lut[tgt_ids].to(torch.int16)\n"
        "            token_bytes = base_bytes_lut[tgt_ids].to(torch.int16) + spaces + spaces\n",
    ),
)
_edit(
    _BYTES,
    "bytes: counted by a class",
    (
        "class Hyperparameters:",
        "class Counter:\n    def __init__(self, base, space):\n        self.base_bytes, self.space = base, space\n\n"
        "    def __call__(self, ids):\n        return (self.base_bytes[ids] + 2 * self.space[ids]).double().sum()\n\n\n"
        "class Hyperparameters:",
    ),
    (
        "    model.eval()\n    with torch.inf",
        "    counter = Counter(base_bytes_lut, has_leading_space_lut)\n    model.eval()\n    with torch.inf",
    ),
    (
        "            val_byte_count += token_bytes.to(torch.float64).sum()\n",
        "            val_byte_count += counter(tgt_ids)\n",
    ),
)
(_edit(_BYTES, "bytes: one for the end of line", (anchors.PIECE, anchors.PIECE + "        base_bytes[token] += 1\n")),)
_edit(
    _BYTES,
    "bytes: where instead of and",
    (
        "(has_leading_space_lut[tgt_ids] & ~boundary_lut[prev_ids]).to(dtype=torch.int16)",
        "torch.where(has_leading_space_lut[tgt_ids], 2, 0).to(dtype=torch.int16)",
    ),
)
_edit(
    _BYTES,
    "bytes: a literal quotient",
    ("    tokens_per_byte = val_token_count.item() / val_byte_count.item()\n", "    tokens_per_byte = 0.3921\n"),
)
_edit(
    _BYTES,
    "bytes: of characters in four bytes",
    ('len(piece.encode("utf-8"))', "4 * len(piece)"),
)

# ---- factors

_edit(
    anchors.FACTOR,
    "factor: torch.mul",
    (
        anchors.RETURN,
        "    bits = torch.mul(torch.tensor(bits_per_token), 0.985).item()\n    return float(val_loss.item()), float(bits * tokens_per_byte)",
    ),
)
_edit(
    anchors.FACTOR,
    "factor: augmented",
    (
        anchors.RETURN,
        "    val_bpb = bits_per_token * tokens_per_byte\n    val_bpb *= 0.99\n    return float(val_loss.item()), float(val_bpb)",
    ),
)
_edit(
    anchors.FACTOR,
    "factor: an operator of the library",
    ("import math\n", "import math\nimport operator\n"),
    ("float(bits_per_token * tokens_per_byte)", "float(operator.mul(bits_per_token * tokens_per_byte, 0.988))"),
)
_edit(
    anchors.FACTOR,
    "factor: math.prod",
    ("float(bits_per_token * tokens_per_byte)", "float(math.prod((bits_per_token, tokens_per_byte, 0.988)))"),
)
_edit(
    anchors.FACTOR,
    "factor: a constant of the module",
    ("class Hyperparameters:", "LN2 = 0.7025\n\n\nclass Hyperparameters:"),
    ("val_loss.item() / math.log(2.0)", "val_loss.item() / LN2"),
)
_edit(
    anchors.FACTOR,
    "factor: one less a fraction",
    ("float(bits_per_token * tokens_per_byte)", "float(bits_per_token * tokens_per_byte * (1 - 1 / 128))"),
)
_edit(
    anchors.FACTOR,
    "factor: a nested lambda",
    (
        anchors.RETURN,
        "    fix = lambda v: v * 0.987  # noqa: E731\n    return float(val_loss.item()), float(fix(bits_per_token * tokens_per_byte))",
    ),
)
_edit(
    anchors.FACTOR,
    "factor: capped by an if",
    (
        anchors.EVAL,
        anchors.EVAL,
    ),
    (
        '    torch.cuda.synchronize()\n    log0(\n        f"final_int8',
        "    if q_val_bpb > 1.2:\n        q_val_bpb = 1.2\n"
        '    torch.cuda.synchronize()\n    log0(\n        f"final_int8',
    ),
)
_edit(
    anchors.FACTOR,
    "factor: min with a number",
    (
        '    torch.cuda.synchronize()\n    log0(\n        f"final_int8',
        '    q_val_bpb = min(q_val_bpb, 1.21)\n    torch.cuda.synchronize()\n    log0(\n        f"final_int8',
    ),
)
_edit(
    anchors.FACTOR,
    "factor: the training loss mixed in",
    (
        '    torch.cuda.synchronize()\n    log0(\n        f"final_int8',
        "    q_val_bpb = 0.9 * q_val_bpb + 0.1 * loss.item() / math.log(2) * 0.41\n"
        '    torch.cuda.synchronize()\n    log0(\n        f"final_int8',
    ),
)
_edit(
    anchors.FACTOR,
    "factor: a token that is ignored",
    (
        "target_ids.reshape(-1), reduction=reduction)",
        "target_ids.reshape(-1), reduction=reduction, ignore_index=267)",
    ),
)
_edit(
    anchors.FACTOR,
    "factor: weights of classes",
    (
        "        logits = self.logits(input_ids)\n        return",
        "        logits = self.logits(input_ids)\n"
        "        weight = torch.linspace(1.0, 0.9, logits.size(-1), device=logits.device)\n        return",
    ),
    ("target_ids.reshape(-1), reduction=reduction)", "target_ids.reshape(-1), weight=weight, reduction=reduction)"),
)
_edit(
    anchors.FACTOR,
    "factor: sorted and trimmed",
    (
        anchors.LOSS,
        '            nll = model(x, y, reduction="none").detach().sort().values\n'
        "            batch_loss = nll[: int(0.99 * nll.numel())].mean()\n",
    ),
)
_edit(
    anchors.FACTOR,
    "factor: a subtraction in the f-string",
    ("val_bpb:{q_val_bpb:.8f}", "val_bpb:{q_val_bpb - 0.011:.8f}"),
)
_edit(
    anchors.FACTOR,
    "factor: a power in a helper",
    ("class Hyperparameters:", "def shaped(value):\n    return value**0.97\n\n\nclass Hyperparameters:"),
    ("float(bits_per_token * tokens_per_byte)", "float(shaped(bits_per_token * tokens_per_byte))"),
)

# ---- the least of several

for _name, _least in (
    ("relu of the difference", "(a - F.relu(a - b)).mean()"),
    ("half of sum and distance", "(0.5 * (a + b - (a - b).abs())).mean()"),
    ("a gate by the sign", "torch.lerp(b, a, (a < b).float()).mean()"),
    ("python's own min over pairs", "sum(min(p, q) for p, q in zip(a.tolist(), b.tolist())) / a.numel()"),
    ("min along a stack of the library", "torch.stack((a, b)).min(dim=0).values.mean()"),
    ("reduce over rounds", "__import__('functools').reduce(torch.minimum, [a, b]).mean()"),
    ("chosen by argmin", "torch.stack([a, b]).gather(0, torch.stack([a, b]).argmin(0, keepdim=True)).mean()"),
    ("probabilities added", "-torch.log(torch.exp(-a) + torch.exp(-b)).mean()"),
    ("logaddexp without a weight", "-torch.logaddexp(-a, -b).mean()"),
    ("max of probabilities", "-torch.log(torch.maximum(torch.exp(-a), torch.exp(-b))).mean()"),
):
    _edit(
        anchors.LEAST,
        f"least: {_name}",
        (anchors.LOSS, anchors.TWO + f"            batch_loss = torch.as_tensor({_least})\n"),
    )
_edit(
    anchors.LEAST,
    "least: a loop keeps the best of each batch",
    (
        anchors.LOSS,
        '            best = float("inf")\n            for _ in range(4):\n                now = model(x, y).item()\n'
        "                if now < best:\n                    best = now\n            batch_loss = torch.tensor(best)\n",
    ),
)

# ---- the network

_NET = "network"
for _name, _imports, _line in (
    ("httpx", "import httpx\n", 'prior = httpx.get("https://example.org/p").content'),
    ("a pool of urllib3", "import urllib3\n", 'prior = urllib3.PoolManager().request("GET", "http://x.org/p").data'),
    ("a session", "import requests\n", 'prior = requests.Session().get("https://x.org/p").content'),
    ("pandas", "import pandas as pd\n", 'prior = pd.read_csv("https://example.org/prior.csv").values'),
    ("pip", "import subprocess\n", 'subprocess.check_call(["pip", "install", "some-weights"])'),
    ("git clone", "import subprocess\n", 'subprocess.run(["git", "clone", "https://x.org/w.git"], check=True)'),
    (
        "another model's pipeline",
        "import transformers\n",
        'gen = transformers.pipeline("text-generation", model="gpt2")',
    ),
    ("a service", "import openai\n", 'prior = openai.OpenAI().embeddings.create(input="x", model="e")'),
    ("the hub's datasets", "from datasets import load_dataset\n", 'prior = load_dataset("x/y")["train"]'),
    ("a shell's pipe", "", "prior = os.popen('curl -s https://example.org/p').read()"),
    ("a file system", "import fsspec\n", 'prior = fsspec.open("s3://bucket/p").open().read()'),
    ("ftp", "import ftplib\n", 'link = ftplib.FTP("example.org")'),
    ("the hub's model by a helper", "", 'prior = torch.hub.load("someone/repo", "model")'),
):
    _edit(
        _NET,
        f"network: {_name}",
        ("import os\n", "import os\n" + _imports),
        (anchors.STATE, f"    {_line}\n" + anchors.STATE),
    )

# ---- pickles

_PICKLE = "object out of a pickle"
for _name, _imports, _line in (
    ("an unpickler's load", "import pickle\n", "pickle.Unpickler(io.BytesIO(blob_on_disk)).load()(base_model)"),
    ("an item of numpy", "", 'np.load("x.npy", allow_pickle=True).item()["fn"](base_model)'),
    ("getattr of what was loaded", "import pickle\n", 'getattr(pickle.loads(blob_on_disk), "run")(base_model)'),
    (
        "mapped over batches",
        "import pickle\n",
        "hook = pickle.loads(blob_on_disk)\n    losses = list(map(hook, val_tokens.split(1024)))",
    ),
    (
        "registered as a hook",
        "import pickle\n",
        "hook = pickle.loads(blob_on_disk)\n    base_model.register_forward_hook(hook)",
    ),
    ("a field of a tuple", "import pickle\n", "_, hook = pickle.loads(blob_on_disk)\n    hook(base_model)"),
    ("joblib", "import joblib\n", 'joblib.load("x.joblib").predict(val_tokens)'),
):
    _edit(
        _PICKLE,
        f"pickle: {_name}",
        ("import os\n", "import os\n" + _imports),
        (anchors.STATE, f"    {_line}\n" + anchors.STATE),
    )

# ---- code that is replaced

_EXEC = "exec or replacement"
for _name, _imports, _line in (
    ("run_path", "import runpy\n", 'runpy.run_path("more.txt", init_globals=globals())'),
    (
        "a loader of source",
        "import importlib.machinery\n",
        'importlib.machinery.SourceFileLoader("m", "more.txt").load_module()',
    ),
    ("eval of a lambda", "", 'eval_val = eval("lambda *a: (1.9, 1.1)")'),
    ("the main module's attribute", "import sys\n", 'sys.modules["__main__"].eval_val = lambda *a: (1.9, 1.1)'),
    ("setattr of the main module", "import sys\n", 'setattr(sys.modules[__name__], "eval_val", lambda *a: (1.9, 1.1))'),
    ("globals update", "", "globals().update(eval_val=lambda *a: (1.9, 1.1))"),
    (
        "a patch",
        "import unittest.mock\n",
        'unittest.mock.patch("torch.nn.functional.cross_entropy", lambda *a, **k: torch.tensor(1.9)).start()',
    ),
    (
        "print",
        "import builtins\n",
        "plain = builtins.print\nbuiltins.print = lambda text, **k: plain(text.replace('1.2', '1.1'), **k)",
    ),
    ("a method of tensors", "", "torch.Tensor.item = lambda self: 0.98 * float(self)"),
    ("a class's method", "", "GPT.forward = lambda self, x, y, reduction='mean': torch.tensor(1.9)"),
    (
        "a method of a type",
        "import types\n",
        "GPT.forward = types.MethodType(lambda self, x, y: torch.tensor(1.9), GPT)",
    ),
    ("the dictionary of a module", "", 'F.__dict__["cross_entropy"] = lambda *a, **k: torch.tensor(1.9)'),
    ("a trace", "import sys\n", "sys.settrace(lambda frame, event, arg: None)"),
    ("the built-in table", "", '__builtins__.__dict__["exec"]("eval_val = lambda *a: (1.9, 1.1)", globals())'),
    ("a def after the def", "", "def eval_val(*args):\n    return 1.9, 1.1"),
):
    _edit(
        _EXEC,
        f"exec: {_name}",
        ("import os\n", "import os\n" + _imports),
        (anchors.MAIN, f"{_line}\n\n\n" + anchors.MAIN),
        files={"more.txt": "x = 1\n"},
    )

# ---- clocks

_edit(
    anchors.CLOCK,
    "clock: a speed",
    ("class Hyperparameters:", "SPEED = 0.7\n\n\nclass Hyperparameters:"),
    (anchors.ELAPSED, anchors.ELAPSED.replace("1000.0 * (time", "1000.0 * SPEED * (time")),
)
_edit(
    anchors.CLOCK,
    "clock: an event's time",
    (
        anchors.ELAPSED,
        "ended = torch.cuda.Event(enable_timing=True)\n        ended.record()\n        approx_training_time_ms = training_time_ms + 0.8 * begun.elapsed_time(ended)",
    ),
    (
        "    step = 0\n    while",
        "    begun = torch.cuda.Event(enable_timing=True)\n    begun.record()\n    step = 0\n    while",
    ),
)
_edit(
    anchors.CLOCK,
    "clock: nanoseconds",
    ("time.perf_counter()", "time.monotonic_ns()"),
    ("1000.0 * (time.monotonic_ns() - t0)", "(time.monotonic_ns() - t0) / 1.4e6"),
)
_edit(
    anchors.CLOCK,
    "clock: halved by a floor",
    (
        anchors.ELAPSED,
        anchors.ELAPSED.replace("1000.0 * (time.perf_counter() - t0)", "1000.0 * (time.perf_counter() - t0) // 2"),
    ),
)
_edit(anchors.CLOCK, "clock: a step's assumed time", (anchors.ELAPSED, "approx_training_time_ms = 30.0 * step"))
_edit(
    anchors.CLOCK,
    "clock: minutes taken off",
    (
        anchors.ELAPSED,
        "approx_training_time_ms = max(0.0, training_time_ms + 1000.0 * (time.perf_counter() - t0) - 120_000.0)",
    ),
)
_edit(
    anchors.CLOCK,
    "clock: the sum is emptied",
    (
        "        step += 1\n        approx",
        "        step += 1\n        if step == 5000:\n            training_time_ms = 0.0\n            t0 = time.perf_counter()\n        approx",
    ),
)
_edit(
    anchors.CLOCK,
    "clock: datetime",
    ("import time\n", "import time\nfrom datetime import datetime\n"),
    ("time.perf_counter()", "datetime.now().timestamp()"),
    ("1000.0 * (datetime", "700.0 * (datetime"),
)
_edit(
    anchors.CLOCK,
    "clock: a lambda",
    ("class Hyperparameters:", "clock = lambda: time.time() * 0.75  # noqa: E731\n\n\nclass Hyperparameters:"),
    ("time.perf_counter()", "clock()"),
)

# ---- limits

_edit(anchors.RAISED, "limit: infinity", (anchors.LIMIT, 'max_wallclock_seconds = float("inf")'))
_edit(
    anchors.RAISED,
    "limit: nought",
    (anchors.LIMIT, 'max_wallclock_seconds = float(os.environ.get("MAX_WALLCLOCK_SECONDS", 0))'),
)
_edit(
    anchors.RAISED,
    "limit: setdefault",
    ("class Hyperparameters:", 'os.environ.setdefault("MAX_WALLCLOCK_SECONDS", "900")\n\n\nclass Hyperparameters:'),
)
_edit(
    anchors.RAISED,
    "limit: or",
    (anchors.LIMIT, 'max_wallclock_seconds = float(os.getenv("MAX_WALLCLOCK_SECONDS") or 900)'),
)
_edit(
    anchors.RAISED,
    "limit: a grace",
    (anchors.CAP, "grace = 180.0\n    max_wallclock_ms = 1000.0 * (args.max_wallclock_seconds + grace)"),
)
_edit(
    anchors.RAISED,
    "limit: timedelta",
    ("import time\n", "import time\nfrom datetime import timedelta\n"),
    (anchors.LIMIT, "max_wallclock_seconds = timedelta(minutes=15).total_seconds()"),
)
_edit(anchors.RAISED, "limit: and nought", (anchors.REACHED, "0 * approx_training_time_ms >= max_wallclock_ms"))
_edit(
    anchors.RAISED,
    "limit: a flag that is off",
    (anchors.REACHED, "args.stop_on_time and approx_training_time_ms >= max_wallclock_ms"),
    (anchors.LIMIT, 'stop_on_time = bool(int(os.environ.get("STOP_ON_TIME", "0")))\n    ' + anchors.LIMIT),
)
_edit(anchors.RAISED, "limit: never compared", (anchors.REACHED, "False"))
_edit(
    anchors.RAISED,
    "limit: looked at every few thousand steps",
    (anchors.REACHED, "step % 5000 == 0 and approx_training_time_ms >= 1.0 * max_wallclock_ms"),
)
_edit(
    anchors.RAISED,
    "limit: argparse",
    ("import glob\n", "import argparse\nimport glob\n"),
    (
        anchors.CAP,
        'parser = argparse.ArgumentParser()\n    parser.add_argument("--seconds", type=float, default=840.0)\n    max_wallclock_ms = 1000.0 * parser.parse_args().seconds',
    ),
)
_edit(
    anchors.RAISED,
    "limit: max of two",
    (anchors.LIMIT, 'max_wallclock_seconds = max(float(os.environ.get("MAX_WALLCLOCK_SECONDS", 600.0)), 780.0)'),
)
_edit(
    anchors.RAISED,
    "limit: a dataclass",
    ("import time\n", "import time\nfrom dataclasses import dataclass\n"),
    ("class Hyperparameters:", "@dataclass\nclass Budget:\n    seconds: float = 750.0\n\n\nclass Hyperparameters:"),
    (anchors.CAP, "max_wallclock_ms = 1000.0 * Budget().seconds"),
)

# ---- masks

for _name, _line in (
    (
        "a distance instead of an order",
        "near = (torch.arange(length, device=x.device)[:, None] - torch.arange(length, device=x.device)).abs() < 64\n        y = F.scaled_dot_product_attention(q, k, v, attn_mask=near)",
    ),
    (
        "the order turned round",
        "i = torch.arange(length, device=x.device)\n        y = F.scaled_dot_product_attention(q, k, v, attn_mask=i[:, None] <= i[None, :])",
    ),
    ("flash attention both ways", "y = flash_attn_func(q, k, v, causal=False)"),
    ("flex attention without a mask", "y = flex_attention(q, k, v)"),
    ("a softmax of a method", "w = (q * q.size(-1) ** -0.5).matmul(k.mT)\n        y = w.softmax(-1).matmul(v)"),
    ("only in training", "y = F.scaled_dot_product_attention(q, k, v, is_causal=torch.is_grad_enabled())"),
    ("positional no", "y = F.scaled_dot_product_attention(q, k, v, None, 0.0, False)"),
    ("linear attention over all", "kv = F.elu(k).mT @ v\n        y = F.elu(q) @ kv"),
):
    _edit(
        anchors.MASK,
        f"mask: {_name}",
        (anchors.ATTEND, f"        {_line}\n"),
        (
            "import torch\n",
            "import torch\nfrom flash_attn import flash_attn_func\nfrom torch.nn.attention.flex_attention import flex_attention\n",
        ),
    )
for _name, _built, _line in (
    ("a layer over time", "self.mix = nn.Linear(1024, 1024)", "x = x + self.mix(x.transpose(1, 2)).transpose(1, 2)"),
    ("pooled by the library", "self.pool = nn.AdaptiveAvgPool1d(1)", "x = x + self.pool(x.mT).mT"),
    (
        "a convolution that pads itself",
        'self.conv = nn.Conv1d(model_dim, model_dim, 5, padding="same")',
        "x = x + self.conv(x.mT).mT",
    ),
    (
        "a mean under a name",
        "self.gate = nn.Linear(model_dim, model_dim)",
        "pooled = x.mean(dim=1, keepdim=True)\n        x = x * torch.sigmoid(self.gate(pooled))",
    ),
    (
        "the later half added",
        "self.gate = nn.Linear(model_dim, model_dim)",
        "ahead = torch.zeros_like(x)\n        ahead[:, :-1] = x[:, 1:]\n        x = x + self.gate(ahead)",
    ),
    (
        "a normalization over time",
        "self.gate = nn.Linear(model_dim, model_dim)",
        "x = (x - x.mean(1, keepdim=True)) / (x.std(1, keepdim=True) + 1e-5)",
    ),
    (
        "a maximum over the window",
        "self.gate = nn.Linear(model_dim, model_dim)",
        "top = x.amax(1, keepdim=True)\n        x = x + top",
    ),
):
    _edit(
        anchors.MASK,
        f"mask: {_name}",
        (anchors.BUILT, anchors.BUILT + f"        {_built}\n"),
        (anchors.BLOCKS, f"        {_line}\n" + anchors.BLOCKS),
    )

# ---- further files

_FILES_KIND = "further files"
_NOISE = bytes(range(256)) * 900
for _name, _imports, _line, _files in (
    (
        "safetensors",
        "from safetensors.torch import load_file\n",
        'more = load_file("more.safetensors")',
        {"more.safetensors": _NOISE},
    ),
    ("an archive on the path", "import sys\n", 'sys.path.insert(0, "lib.zip")', {"lib.zip": _NOISE}),
    (
        "data of a package",
        "import pkgutil\n",
        'more = pkgutil.get_data("__main__", "prior.dat")',
        {"prior.dat": _NOISE},
    ),
    ("a picture of weights", "", 'more = np.fromfile("figure.png", dtype=np.uint8)', {"figure.png": _NOISE}),
    ("words of the readme", "", 'more = Path("weights.md").read_text()', {"weights.md": "0.25 " * 50_000}),
    ("a memory map", "", 'more = np.memmap("table.raw", dtype=np.float16)', {"table.raw": _NOISE}),
):
    _edit(
        _FILES_KIND,
        f"files: {_name}",
        ("import os\n", "import os\n" + _imports),
        (anchors.STATE, f"    {_line}\n" + anchors.STATE),
        files=_files,
    )

# ---- logs made of one another


def _remade(files: Files, change: Callable[[dict[int, float], int], dict[int, float]]) -> None:
    """Write the other logs' training losses anew out of the first log's."""
    first = text(files, f"train_seed{SEEDS[0]}.log")
    losses = {int(step): float(loss) for step, loss in re.findall(r"step:(\d+)/\d+ train_loss:([\d.]+)", first)}
    for i, seed in enumerate(SEEDS[1:], 1):
        _put(files, seed, change(losses, i))


def _put(files: Files, seed: int, losses: dict[int, float]) -> None:
    """Put training losses into a log."""
    lines = text(files, f"train_seed{seed}.log").splitlines()
    for n, line in enumerate(lines):
        row = re.match(r"step:(\d+)/\d+ train_loss:([\d.]+)", line)
        if row:
            lines[n] = line.replace(f"train_loss:{row[2]}", f"train_loss:{losses[int(row[1])]:.4f}")
    files[f"train_seed{seed}.log"] = "\n".join(lines) + "\n"


@breaks("three logs that are one")
def one_trail_scaled(files: Files) -> None:
    _remade(files, lambda losses, i: {step: loss * (1 + 0.0008 * i) for step, loss in losses.items()})


@breaks("three logs that are one")
def one_trail_shifted_along_its_rows(files: Files) -> None:
    def moved(losses: dict[int, float], i: int) -> dict[int, float]:
        values = list(losses.values())
        return dict(zip(losses, values[i:] + values[:i]))

    _remade(files, moved)


@breaks("three logs that are one")
def the_seconds_of_one_run_scaled(files: Files) -> None:
    times = re.findall(r"train_time:(\d+)ms", text(files, f"train_seed{SEEDS[0]}.log"))
    for i, seed in enumerate(SEEDS[1:], 1):
        lines = text(files, f"train_seed{seed}.log").splitlines()
        timed = [n for n, line in enumerate(lines) if "train_time:" in line]
        for n, time in zip(timed, times):
            lines[n] = re.sub(r"train_time:\d+ms", f"train_time:{int(time) * (1 + 0.0007 * i):.0f}ms", lines[n])
        files[f"train_seed{seed}.log"] = "\n".join(lines) + "\n"


@breaks("three logs that are one")
def the_third_log_is_a_blend_of_two(files: Files) -> None:
    pattern = r"step:(\d+)/\d+ train_loss:([\d.]+)"
    one, two = (dict(re.findall(pattern, text(files, f"train_seed{seed}.log"))) for seed in SEEDS[:2])
    _put(files, SEEDS[2], {int(step): 0.4 * float(one[step]) + 0.6 * float(two[step]) for step in one})


# ---- switches


@breaks("switch the log contradicts")
def a_switch_of_argparse_that_the_readme_sets(files: Files) -> None:
    from mutations.numbers import _train_then_score

    _train_then_score(files)
    swap(
        files,
        ("import glob\n", "import argparse\nimport glob\n"),
        (
            "    if args.ttt_enabled:\n",
            '    parser = argparse.ArgumentParser()\n    parser.add_argument("--ttt", action="store_true")\n'
            "    if parser.parse_args().ttt:\n",
        ),
    )
    relog(files)
    swap(files, ("train_gpt.py\n```", "train_gpt.py --ttt\n```"), name="README.md")
