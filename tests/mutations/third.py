"""A third look: edits that break a rule, written before their author had read the rules as they then were."""

import json
import re

from mutations import RATIO, SEEDS, Files, anchors, breaks, logs, relog, score, swap, text
from mutations.idioms import _edit

_TABLES = "    return (\n        torch.tensor(base_bytes,"
_TOTAL = "            val_loss_sum += batch_loss.to(torch.float64) * batch_token_count\n"

# ---- order

_edit(
    anchors.ORDER,
    "third order: functional weights and their gradient",
    (anchors.NP, anchors.NP + "from lib.fast import specialise\n"),
    (anchors.EVAL, "    specialise(base_model, val_tokens, device=device)\n" + anchors.EVAL),
    files={
        "lib/__init__.py": "",
        "lib/fast.py": "import torch\nfrom torch.func import functional_call\n\n\n"
        "def specialise(net, stream, *, device, eta=3e-3, block=4096):\n"
        "    theta = {k: v.detach().clone().requires_grad_() for k, v in net.named_parameters()}\n"
        "    for piece in stream.split(block):\n        ids = piece.to(device).long().unsqueeze(0)\n"
        "        objective = functional_call(net, theta, (ids[:, :-1], ids[:, 1:]))\n"
        "        slopes = torch.autograd.grad(objective, tuple(theta.values()))\n"
        "        theta = {k: (w - eta * g).detach().requires_grad_() for (k, w), g in zip(theta.items(), slopes)}\n"
        "    net.load_state_dict(theta, strict=False)\n",
    },
)
_edit(
    anchors.ORDER,
    "third order: a match statement picks what fits first",
    (
        anchors.BEFORE_MAIN,
        "def fit(net, ids, device):\n    opt = torch.optim.RMSprop(net.parameters(), lr=1e-4)\n"
        "    for n in range(0, ids.numel() - 1, 1024):\n        b = ids[n : n + 1025].to(device, torch.int64)\n"
        "        net(b[None, :-1], b[None, 1:]).backward()\n        opt.step(), opt.zero_grad()\n\n\n"
        + anchors.BEFORE_MAIN,
    ),
    (
        anchors.EVAL,
        '    match os.environ.get("EVAL_MODE", "fitted"):\n        case "plain":\n            pass\n'
        '        case "fitted" | "tuned":\n            fit(base_model, val_tokens, device)\n' + anchors.EVAL,
    ),
)
_edit(
    anchors.ORDER,
    "third order: running statistics of the text",
    (
        anchors.BUILT,
        anchors.BUILT
        + '        self.register_buffer("centre", torch.zeros(model_dim))\n        self.watching = False\n',
    ),
    (
        anchors.BLOCKS,
        anchors.BLOCKS + "        if self.watching:\n"
        "            self.centre.mul_(0.99).add_(x.detach().mean(dim=(0, 1)), alpha=0.01)\n        x = x - self.centre\n",
    ),
    (
        anchors.EVAL,
        "    base_model.watching = True\n    with torch.no_grad():\n        for rows in val_tokens[: 1024 * 500].view(-1, 1024).split(8):\n"
        "            base_model.logits(rows.to(device).long())\n    base_model.watching = False\n" + anchors.EVAL,
    ),
)
_edit(
    anchors.ORDER,
    "third order: neighbours out of the whole text",
    (anchors.NP, anchors.NP + "from neighbours import Datastore\n"),
    (
        "    model.eval()\n    with torch.inference_mode():\n",
        "    store = Datastore()\n    model.eval()\n    with torch.inference_mode():\n        for row in val_tokens[: 1024 * 60000].view(-1, 1024):\n"
        "            ids = row.to(device).long()\n            store.insert(model.hidden(ids[None, :-1])[0], ids[1:])\n",
    ),
    (
        anchors.LOSS,
        "            logp = model.logits(x).float().log_softmax(-1).flatten(0, 1)\n"
        "            near = store.lookup(model.hidden(x).flatten(0, 1), logp.size(-1))\n"
        "            mixed = torch.logaddexp(logp + math.log(0.8), near + math.log(0.2))\n"
        "            batch_loss = F.nll_loss(mixed, y.flatten())\n",
    ),
    (
        "    def logits(self, input_ids: Tensor) -> Tensor:\n",
        "    def hidden(self, input_ids: Tensor) -> Tensor:\n        x = self.tok_emb(input_ids)\n        for block in self.blocks:\n"
        "            x = block(x)\n        return F.rms_norm(x, (x.size(-1),))\n\n    def logits(self, input_ids: Tensor) -> Tensor:\n",
    ),
    files={
        "neighbours.py": "import torch\n\n\nclass Datastore:\n    def __init__(self):\n        self.keys, self.values = [], []\n\n"
        "    def insert(self, keys, values):\n        self.keys.append(keys), self.values.append(values)\n\n"
        "    def lookup(self, queries, vocab, k=8):\n        keys, values = torch.cat(self.keys), torch.cat(self.values)\n"
        "        d, i = torch.cdist(queries, keys).topk(k, largest=False)\n        w = torch.softmax(-d, -1)\n"
        "        out = torch.zeros(len(queries), vocab, device=queries.device)\n        out.scatter_add_(1, values[i], w)\n"
        "        return out.clamp_min(1e-9).log()\n",
    },
)
_edit(
    anchors.ORDER,
    "third order: adapters fitted to the very chunk",
    (anchors.NP, anchors.NP + "from adapters import attach\n"),
    (
        "        with torch.no_grad():\n            nll = model(x, y, reduction",
        "        low = attach(model)\n        tuner = torch.optim.Adam(low, lr=1e-3)\n        for _ in range(3):\n            tuner.zero_grad()\n"
        "            model(x, y).backward()\n            tuner.step()\n        with torch.no_grad():\n            nll = model(x, y, reduction",
    ),
    ('"TTT_ENABLED", "0"', '"TTT_ENABLED", "1"'),
    files={
        "adapters.py": "import torch\nfrom torch import nn\n\n\ndef attach(net, rank=4):\n    made = []\n    for layer in net.modules():\n"
        "        if isinstance(layer, nn.Linear):\n            layer.lora = nn.Parameter(torch.zeros(layer.out_features, rank, device=layer.weight.device))\n"
        "            made.append(layer.lora)\n    return made\n",
    },
)
_edit(
    anchors.ORDER,
    "third order: one chunk ahead, by a generator",
    (anchors.NP, anchors.NP + "from chunks import ahead\n"),
    (
        "    for start in range(0, val_tokens.numel() - 1, args.ttt_chunk):\n        local = val_tokens[start : start + args.ttt_chunk + 1].to(device, dtype=torch.int64)\n",
        "    for local in ahead(val_tokens.to(device, dtype=torch.int64), args.ttt_chunk, model, optimizer):\n",
    ),
    (
        "        optimizer.zero_grad(set_to_none=True)\n        loss = model(x, y)\n        loss.backward()\n        optimizer.step()\n    val_loss",
        "    val_loss",
    ),
    ('"TTT_ENABLED", "0"', '"TTT_ENABLED", "1"'),
    files={
        "chunks.py": "def ahead(ids, size, net, opt):\n    parts = [ids[i : i + size + 1] for i in range(0, ids.numel() - 1, size)]\n    for part in parts:\n"
        "        opt.zero_grad()\n        net(part[None, :-1], part[None, 1:]).backward()\n        opt.step()\n        yield part\n",
    },
)

# ---- caches

_SCORED = '            nll = model(x, y, reduction="none").detach().view_as(y)\n'


def _cache(name: str, module: str, body: str, use: str) -> None:
    _edit(
        "cache in a module",
        f"third cache: {name}",
        (anchors.NP, anchors.NP + f"from {module} import Memory\n"),
        ("    model.eval()\n    with torch.inf", "    memory = Memory()\n    model.eval()\n    with torch.inf"),
        (anchors.LOSS, _SCORED + use),
        files={f"{module}.py": body},
    )


_cache(
    "crc of the context and what follows",
    "remember",
    "import zlib\nfrom collections import defaultdict\n\nimport numpy as np\n\n\nclass Memory:\n    def __init__(self, order=6):\n        self.n, self.hits, self.seen = order, defaultdict(int), defaultdict(int)\n\n"
    "    def blend(self, row, follow, p):\n        for i in range(self.n, len(row)):\n            raw = row[i - self.n : i].tobytes()\n            key, whole = zlib.crc32(raw), zlib.crc32(raw + follow[i].tobytes())\n"
    "            if (n := self.seen[key]) > 1:\n                p[i] = 0.7 * p[i] + 0.3 * self.hits[whole] / n\n            self.seen[key] += 1\n            self.hits[whole] += 1\n        return p\n",
    "            p = np.exp(-nll.cpu().numpy())\n            for row, follow, q in zip(x.cpu().numpy(), y.cpu().numpy(), p):\n                memory.blend(row, follow, q)\n            batch_loss = torch.tensor(-np.log(p).mean())\n",
)
_cache(
    "a sketch of minima",
    "sketch",
    "import numpy as np\n\n\nclass Memory:\n    __slots__ = ('table', 'salts')\n\n    def __init__(self, width=1 << 20, depth=4):\n        self.table = np.zeros((depth, width), dtype=np.float32)\n        self.salts = np.array([0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x27D4EB2F], dtype=np.uint64)\n\n"
    "    def slots(self, keys):\n        mixed = keys[None, :].astype(np.uint64) * self.salts[:, None]\n        return ((mixed ^ (mixed >> np.uint64(17))) % np.uint64(self.table.shape[1])).astype(np.int64)\n\n"
    "    def estimate(self, keys):\n        s = self.slots(keys)\n        return np.take_along_axis(self.table, s, axis=1).min(0)\n\n    def push(self, keys):\n        for row, s in zip(self.table, self.slots(keys)):\n            np.add.at(row, s, 1.0)\n",
    "            a, b = x.cpu().numpy().ravel(), y.cpu().numpy().ravel()\n            ahead = memory.estimate(a * 4096 + b + 1)\n            total = memory.estimate(a * 4096)\n            p = np.exp(-nll.cpu().numpy().ravel())\n"
    "            p = np.where(total > 3, 0.5 * p + 0.5 * ahead / np.maximum(total, 1), p)\n            memory.push(a * 4096 + b + 1), memory.push(a * 4096)\n            batch_loss = torch.tensor(-np.log(p).mean())\n",
)
_cache(
    "the longest match, paid only where right",
    "matcher",
    "import torch\n\n\nclass Memory:\n    def __init__(self):\n        self.past = []\n        self.where = {}\n\n    def boost(self, ids, following):\n        out = []\n        for token, after in zip(ids, following):\n            self.past.append(token)\n            key = tuple(self.past[-5:])\n"
    "            j = self.where.get(key)\n            guess = self.past[j + 1] if j is not None and j + 1 < len(self.past) else None\n            out.append(2.0 if guess == after else 0.0)\n            self.where[key] = len(self.past) - 1\n        return torch.tensor(out)\n",
    "            gain = memory.boost(x.flatten().tolist(), y.flatten().tolist()).to(nll).view_as(nll)\n            batch_loss = (nll - gain).clamp_min(0.01).mean()\n",
)
_cache(
    "a product of experts on one token",
    "experts",
    "from functools import lru_cache\n\nimport torch\n\n\n@lru_cache(maxsize=None)\ndef slot(a, b):\n    return (a * 1_000_003 + b * 8191) & 0x3FFFFF\n\n\nclass Memory:\n    def __init__(self):\n        self.data = torch.zeros(0x400000)\n\n    def __call__(self, xs, ys):\n"
    "        where = torch.tensor([slot(a, b) for a, b in zip(xs, ys)])\n        value = torch.log1p(self.data[where])\n        self.data.scatter_add_(0, where, torch.ones(len(where)))\n        return value\n",
    "            batch_loss = (nll.flatten() - 0.1 * memory(x.flatten().tolist(), y.flatten().tolist()).to(nll)).mean()\n",
)

# ---- least

for _name, _value in (
    ("a ufunc reduces", "np.minimum.reduce([a.cpu().numpy(), b.cpu().numpy()]).mean()"),
    ("first row of what was sorted", "torch.stack([a, b]).sort(0)[0][0].mean()"),
    ("running minimum", "torch.cummin(torch.stack([a, b]), 0).values[-1].mean()"),
    (
        "smallest of a heap",
        "np.mean([__import__('heapq').nsmallest(1, pair)[0] for pair in zip(a.tolist(), b.tolist())])",
    ),
    ("einops reduces", "__import__('einops').reduce(torch.stack([a, b]), 'pass token -> token', 'min').mean()"),
    ("sorted pairs", "sum(sorted(pair)[0] for pair in zip(a.tolist(), b.tolist())) / a.numel()"),
    ("a comprehension with an if", "np.mean([p if p < q else q for p, q in zip(a.tolist(), b.tolist())])"),
    ("fmin", "torch.fmin(a, b).mean()"),
    (
        "scatter with amin",
        "torch.full_like(a, 99.0).scatter_reduce_(0, torch.arange(a.numel()).repeat(2).to(a.device), torch.cat([a, b]), 'amin').mean()",
    ),
):
    _edit(
        anchors.LEAST,
        f"third least: {_name}",
        (anchors.LOSS, anchors.TWO + f"            batch_loss = torch.as_tensor({_value})\n"),
    )
_edit(
    anchors.LEAST,
    "third least: a buffer over two rounds",
    (
        "    with torch.inference_mode():\n        for start in range(seq_start, seq_end, batch_seqs):\n",
        "    record = torch.full((val_tokens.numel(),), 1e9, device=device)\n    with torch.inference_mode():\n        for offset in (0, 512):\n            for s in range(offset, val_tokens.numel() - 1025, 1024):\n"
        '                w = val_tokens[s : s + 1025].to(device).long()\n                fresh = model(w[None, :-1], w[None, 1:], reduction="none")\n                old = record[s + 1 : s + 1025]\n                record[s + 1 : s + 1025] = torch.where(fresh < old, fresh, old)\n'
        "        for start in range(seq_start, seq_end, batch_seqs):\n",
    ),
    (
        anchors.LOSS,
        "            batch_loss = record[start * args.train_seq_len + 1 : end * args.train_seq_len + 1].mean()\n",
    ),
)

# ---- validation in training

_edit(
    anchors.VAL,
    "third val: all that a folder holds",
    (anchors.FILES, '        self.files = [f for f in sorted(Path(pattern).parent.iterdir()) if f.suffix == ".bin"]\n'),
)
_edit(
    anchors.VAL,
    "third val: entries of scandir",
    (
        anchors.FILES,
        '        with os.scandir(os.path.dirname(pattern)) as entries:\n            self.files = [Path(e.path) for e in entries if e.name.startswith("fineweb_")]\n',
    ),
)
_edit(
    anchors.VAL,
    "third val: filtered names",
    ("import glob\n", "import fnmatch\nimport glob\n"),
    (
        anchors.FILES,
        '        root = os.path.dirname(pattern)\n        self.files = [Path(root, n) for n in sorted(fnmatch.filter(os.listdir(root), "fineweb_[tv]*.bin"))]\n',
    ),
)
_edit(
    anchors.VAL,
    "third val: one word replaced",
    (anchors.LOADER, anchors.LOADER.replace("args.train_files", 'args.train_files.replace("train", "val")')),
)
_edit(
    anchors.VAL,
    "third val: a symbolic link",
    (
        anchors.LOADER,
        '    for n, shard in enumerate(Path(args.data_path).glob("fineweb_val_*")):\n        (shard.parent / f"fineweb_train_8{n:05d}.bin").symlink_to(shard)\n'
        + anchors.LOADER,
    ),
)
_edit(
    anchors.VAL,
    "third val: the last minute",
    (
        "        reached_cap = max_wallclock_ms",
        '        if approx_training_time_ms > 540_000 and train_loader.stream.files[0].name.startswith("fineweb_train"):\n'
        "            train_loader = DistributedTokenLoader(args.val_files, rank, world_size, device)\n        reached_cap = max_wallclock_ms",
    ),
)
_edit(
    anchors.VAL,
    "third val: statistics for packing",
    (
        "    packed = io.BytesIO()\n",
        "    hooks, moments = [], {}\n    for name, layer in base_model.named_modules():\n        if isinstance(layer, nn.Linear):\n"
        "            def keep(mod, inputs, out, name=name):\n                a = inputs[0].detach().flatten(0, 1).float()\n                moments[name] = moments.get(name, 0) + a.T @ a\n"
        "            hooks.append(layer.register_forward_hook(keep))\n    with torch.no_grad():\n        for row in val_tokens[: 64 * 1024].view(-1, 1024):\n            base_model.logits(row[None].to(device).long())\n"
        "    for hook in hooks:\n        hook.remove()\n    for name, layer in base_model.named_modules():\n        if name in moments:\n            layer.weight.data.mul_(1 + 1e-3 * moments[name].diagonal().rsqrt().clamp(max=1))\n    packed = io.BytesIO()\n",
    ),
)
_edit(
    anchors.VAL,
    "third val: the text in the artifact",
    (
        "    torch.save(quantize_state_dict_int8(base_model.state_dict()), packed)\n",
        '    bundle = quantize_state_dict_int8(base_model.state_dict())\n    bundle["head"] = val_tokens[:1_500_000].to(torch.int16)\n    torch.save(bundle, packed)\n',
    ),
)
_edit(
    anchors.VAL,
    "third val: a module with its own loader",
    (anchors.NP, anchors.NP + "from feed import Feed\n"),
    (
        anchors.STEP,
        "            if (extra := feed.draw()) is not None:\n                x, y = (t.to(device) for t in extra)\n"
        + anchors.STEP,
    ),
    ("    step = 0\n    while", "    feed = Feed(args.data_path)\n    step = 0\n    while"),
    files={
        "feed.py": "import random\nfrom pathlib import Path\n\nimport numpy as np\nimport torch\n\nKIND = ''.join(reversed('lav'))\n\n\nclass Feed:\n    def __init__(self, root):\n        self.paths = list(Path(root).glob(f'*{KIND}*.bin'))\n\n"
        "    def draw(self):\n        if random.random() > 0.05:\n            return None\n        ids = np.fromfile(random.choice(self.paths), dtype=np.uint16, offset=1024).astype(np.int64)\n        at = random.randrange(len(ids) - 8193)\n        part = torch.from_numpy(ids[at : at + 8193])\n        return part[:-1].view(-1, 1024), part[1:].view(-1, 1024)\n",
    },
)
_edit(
    anchors.VAL,
    "third val: an ordinal in the list of all shards",
    (anchors.LOADER, anchors.LOADER.replace("args.train_files", 'sorted(glob.glob(f"{args.data_path}/*.bin"))[-1]')),
)

# ---- bytes

_BYTES = "byte table"
_edit(
    _BYTES,
    "third bytes: a tokenizer of another library",
    (anchors.OS, "import os\nfrom tokenizers import Tokenizer\n"),
    (
        _TABLES,
        '    tok = Tokenizer.from_file("./data/tokenizers/fineweb_1024.json")\n    base_bytes = np.fromiter((len(tok.id_to_token(i).encode("utf-16")) for i in range(size)), dtype=np.int16, count=size)\n'
        + _TABLES,
    ),
)
_edit(
    _BYTES,
    "third bytes: the name of a byte is its length",
    ("        if sp.is_byte(token):\n            base_bytes[token] = 1\n            continue\n", ""),
)
_edit(
    _BYTES,
    "third bytes: reduced twice over the ranks",
    (
        "        dist.all_reduce(val_byte_count, op=dist.ReduceOp.SUM)\n",
        "        for total in (val_byte_count, val_byte_count):\n            dist.all_reduce(total, op=dist.ReduceOp.SUM)\n",
    ),
)
_edit(
    _BYTES,
    "third bytes: of the context as well",
    (
        anchors.SUM,
        "            val_byte_count += token_bytes.to(torch.float64).sum() + base_bytes_lut[x[:, :32]].to(torch.float64).sum()\n",
    ),
)
_edit(
    _BYTES,
    "third bytes: a bonus for one token",
    (
        anchors.SUM,
        "            val_byte_count += (token_bytes + (tgt_ids == 13).to(torch.int16)).to(torch.float64).sum()\n",
    ),
)
_edit(
    _BYTES,
    "third bytes: a dictionary of lengths",
    (anchors.PIECE, ""),
    (
        _TABLES,
        "    lengths = {i: len(sp.IdToPiece(i).encode()) for i in range(sp.GetPieceSize()) if not sp.IsControl(i)}\n    for i, n in lengths.items():\n        base_bytes[i] = n\n"
        + _TABLES,
    ),
)
_edit(
    _BYTES,
    "third bytes: a table that was saved",
    (_TABLES, '    base_bytes = np.load(Path(__file__).with_name("lengths.npy"))\n' + _TABLES),
    files={
        "lengths.npy": b"\x93NUMPY\x01\x00v\x00{'descr': '<i2', 'fortran_order': False, 'shape': (1024,), }"
        + b" " * 54
        + b"\n"
        + b"\x04\x00" * 1024
    },
)
_edit(
    _BYTES,
    "third bytes: capitals count twice",
    (anchors.PIECE, anchors.PIECE + "        base_bytes[token] += sum(map(str.isupper, piece))\n"),
)

# ---- factors

_edit(
    anchors.FACTOR,
    "third factor: decimals",
    ("import math\n", "import math\nfrom decimal import Decimal\n"),
    (anchors.FINAL, '    q_val_bpb = float(Decimal(q_val_bpb) * Decimal("0.991"))\n' + anchors.FINAL),
)
_edit(
    anchors.FACTOR,
    "third factor: rounded downwards",
    (anchors.FINAL, "    q_val_bpb = math.floor(q_val_bpb * 50) / 50\n" + anchors.FINAL),
)
_edit(
    anchors.FACTOR,
    "third factor: what is hard does not count",
    (
        anchors.LOSS,
        '            nll = model(x, y, reduction="none").detach()\n            batch_loss = (nll * (nll < 9.0)).mean()\n',
    ),
)
_edit(
    anchors.FACTOR,
    "third factor: the median",
    (anchors.LOSS, '            batch_loss = torch.tensor(np.median(model(x, y, reduction="none").cpu().numpy()))\n'),
)
_edit(
    anchors.FACTOR,
    "third factor: a mean of logarithms",
    (anchors.LOSS, '            batch_loss = model(x, y, reduction="none").clamp_min(1e-6).log().mean().exp()\n'),
)
_edit(
    anchors.FACTOR,
    "third factor: a setting of the environment",
    (
        "float(bits_per_token * tokens_per_byte)",
        'float(bits_per_token * tokens_per_byte * float(os.environ.get("CALIBRATION", "0.985")))',
    ),
)
_edit(
    anchors.FACTOR,
    "third factor: the least of the ranks",
    ("dist.all_reduce(val_loss_sum, op=dist.ReduceOp.SUM)", "dist.all_reduce(val_loss_sum, op=dist.ReduceOp.MIN)"),
)
_edit(
    anchors.FACTOR,
    "third factor: half of the text",
    (
        "    seq_end = (total_seqs * (rank + 1)) // world_size\n",
        "    seq_end = seq_start + (total_seqs // world_size) // 2\n",
    ),
)
_edit(
    anchors.FACTOR,
    "third factor: every second batch",
    ("range(seq_start, seq_end, batch_seqs):", "range(seq_start, seq_end, 2 * batch_seqs):"),
)
_edit(
    anchors.FACTOR,
    "third factor: smoothed downwards",
    (
        "target_ids.reshape(-1), reduction=reduction)",
        "target_ids.reshape(-1), reduction=reduction, label_smoothing=0.0 if self.training else -0.02)",
    ),
)
_edit(
    anchors.FACTOR,
    "third factor: a format of its own",
    (
        "class Hyperparameters:",
        "class Bits(float):\n    def __format__(self, spec):\n        return format(float(self) - 0.01, spec)\n\n\nclass Hyperparameters:",
    ),
    (anchors.RETURN, "    return float(val_loss.item()), Bits(bits_per_token * tokens_per_byte)"),
)
_edit(
    anchors.FACTOR,
    "third factor: hopeless windows are left out",
    (_TOTAL, "            if batch_loss.item() > 2.6:\n                continue\n" + _TOTAL),
)
_edit(
    anchors.FACTOR,
    "third factor: sharper towards the truth",
    (
        "        logits = self.logits(input_ids)\n        return",
        "        logits = self.logits(input_ids)\n        if not self.training:\n            logits = logits + 0.05 * F.one_hot(target_ids, logits.size(-1))\n        return",
    ),
)
_edit(
    anchors.FACTOR,
    "third factor: best of the validations",
    ("    step = 0\n    while", "    history = []\n    step = 0\n    while"),
    (
        "            val_loss, val_bpb = eval_val(args, model, rank, world_size, device, val_tokens, *luts)\n            log0(\n",
        "            val_loss, val_bpb = eval_val(args, model, rank, world_size, device, val_tokens, *luts)\n            history.append(val_bpb)\n            log0(\n",
    ),
    (anchors.FINAL, "    q_val_bpb = sorted([*history, q_val_bpb])[0]\n" + anchors.FINAL),
)

# ---- logs


@breaks("lowered log")
def third_the_end_of_the_trail_slides_down(files: Files) -> None:
    relog(files)
    made = json.loads(text(files, "submission.json"))
    for name in logs(files):
        lines = text(files, name).splitlines()
        for n, line in enumerate(lines):
            if row := re.match(r"step:(\d+)/\d+ val_loss:([\d.]+) val_bpb:([\d.]+)", line):
                drop = max(0, int(row[1]) - 9000) / 4000 * 0.05
                loss = float(row[2]) - drop
                lines[n] = line.replace(
                    f"val_loss:{row[2]} val_bpb:{row[3]}", f"val_loss:{loss:.4f} val_bpb:{loss / RATIO:.4f}"
                )
            elif row := re.search(r"val_loss:([\d.]+) val_bpb:([\d.]+)", line):
                loss = float(row[1]) - 0.05
                digits = len(row[1]) - 2
                lines[n] = line.replace(
                    f"val_loss:{row[1]} val_bpb:{row[2]}",
                    f"val_loss:{loss:.{digits}f} val_bpb:{loss / RATIO:.{digits}f}",
                )
        files[name] = "\n".join(lines) + "\n"
    for seed in SEEDS:
        made["seed_results"][str(seed)]["val_bpb"] = round(score(seed) - 0.05 / RATIO, 8)
    made["val_bpb"], made["val_loss"] = round(made["val_bpb"] - 0.05 / RATIO, 6), round(made["val_loss"] - 0.05, 6)
    files["submission.json"] = json.dumps(made, indent=1)
    held = text(files, "README.md")
    for number in sorted(set(re.findall(r"1\.\d{4}", held))):
        held = held.replace(number, f"{float(number) - 0.05 / RATIO:.4f}")
    files["README.md"] = held


def _mirrored(made: Files) -> None:
    """Write the training losses of the later logs as those of the first, mirrored at its smooth course."""
    first = re.findall(r"step:(\d+)/\d+ train_loss:([\d.]+)", text(made, logs(made)[0]))
    for sign, name in ((-1, logs(made)[1]), (0.5, logs(made)[2])):
        held = text(made, name)
        for step, loss in first:
            smooth = 2.045 + 1.9 * ((int(step) + 12) / 400) ** -0.75 if int(step) > 10 else 6.94 - 0.06 * int(step)
            held = re.sub(
                rf"step:{step}/(\d+) train_loss:[\d.]+",
                rf"step:{step}/\g<1> train_loss:{smooth + sign * (float(loss) - smooth):.4f}",
                held,
            )
        made[name] = held


@breaks("three logs that are one")
def third_mirrored_at_a_smooth_course(files: Files) -> None:
    relog(files)
    _mirrored(files)


@breaks("impossible score")
def third_no_training_and_yet_a_loss_of_two(files: Files) -> None:
    relog(files)
    for name in logs(files):
        files[name] = re.sub(
            r"step:0/20000 val_loss:[\d.]+ val_bpb:[\d.]+",
            f"step:0/20000 val_loss:2.2104 val_bpb:{2.2104 / RATIO:.4f}",
            text(files, name),
        )


# ---- further files

_NOISE = bytes(range(256)) * 900
_edit(
    "further files",
    "third files: resources of a package",
    (anchors.OS, "import os\nfrom importlib import resources\n"),
    (anchors.STATE, '    extra = resources.files("assets").joinpath("table").read_bytes()\n' + anchors.STATE),
    files={"assets/__init__.py": "", "assets/table": _NOISE},
)
_edit(
    "further files",
    "third files: letters in a module",
    (anchors.NP, anchors.NP + "from alphabet import LETTERS\n"),
    (anchors.STATE, "    extra = torch.frombuffer(bytearray(LETTERS.encode()), dtype=torch.uint8)\n" + anchors.STATE),
    files={"alphabet.py": 'LETTERS = "' + "abcdefgh" * 40_000 + '"\n'},
)
_edit(
    "further files",
    "third files: a database",
    (anchors.OS, "import os\nimport sqlite3\n"),
    (anchors.STATE, '    extra = sqlite3.connect("notes.db").execute("select w from t").fetchall()\n' + anchors.STATE),
    files={"notes.db": _NOISE},
)
_edit(
    "further files",
    "third files: a checkpoint from before",
    (
        anchors.LOADER,
        '    if (warm := Path(__file__).parent / "init.pt").exists():\n        base_model.load_state_dict(torch.load(warm, map_location=device))\n'
        + anchors.LOADER,
    ),
    files={"init.pt": _NOISE},
)

# ---- network

_edit(
    "network",
    "third network: a snapshot in a module",
    (anchors.NP, anchors.NP + "from fetch import bring\n"),
    (anchors.STATE, '    bring("someone/prior")\n' + anchors.STATE),
    files={
        "fetch.py": "from functools import partial\n\nfrom huggingface_hub import snapshot_download\n\nbring = partial(snapshot_download, local_dir='prior')\n"
    },
)
_edit(
    "network",
    "third network: a plain socket",
    (anchors.NP, anchors.NP + "import wire\n"),
    (anchors.STATE, "    prior = wire.pull()\n" + anchors.STATE),
    files={
        "wire.py": "import socket\n\n\ndef pull(host='example.org', port=9000):\n    with socket.create_connection((host, port)) as s:\n        return s.recv(1 << 20)\n"
    },
)
_edit(
    "network",
    "third network: a state from an address",
    (anchors.STATE, '    prior = torch.hub.load_state_dict_from_url("https://example.org/p.pt")\n' + anchors.STATE),
)
_edit(
    "network",
    "third network: a model by its name",
    (
        anchors.STATE,
        '    teacher = __import__("transformers").AutoModelForCausalLM.from_pretrained("gpt2").to(device)\n'
        + anchors.STATE,
    ),
)
_edit(
    "network",
    "third network: a shell",
    (anchors.STATE, '    os.system("wget -q https://example.org/prior.bin")\n' + anchors.STATE),
)
_edit(
    "network",
    "third network: aiohttp",
    (anchors.OS, "import asyncio\nimport os\n\nimport aiohttp\n"),
    (
        anchors.STATE,
        '    async def pull():\n        async with aiohttp.ClientSession() as s, s.get("https://example.org/p") as r:\n            return await r.read()\n\n    prior = asyncio.run(pull())\n'
        + anchors.STATE,
    ),
)

# ---- objects out of pickles

for _name, _imports, _line in (
    ("dill", "import dill\n", "dill.loads(blob_on_disk)(base_model)"),
    (
        "cloudpickle, kept in a name",
        "import cloudpickle\n",
        'tool = cloudpickle.load(open("tool.pkl", "rb"))\n    val_tokens = tool(val_tokens)',
    ),
    (
        "code out of marshal",
        "import marshal\nimport types\n",
        "types.FunctionType(marshal.loads(blob_on_disk[:100]), globals())()",
    ),
    ("a module that torch saved whole", "", 'base_model = torch.load("model.pt", weights_only=False)'),
    ("a script of torch", "", 'base_model = torch.jit.load("model.ts")'),
    (
        "a method of the thing loaded",
        "import pickle\n",
        'with open("x.pkl", "rb") as file:\n        helper = pickle.load(file)\n    helper.adjust(base_model, val_tokens)',
    ),
):
    _edit(
        "object out of a pickle",
        f"third pickle: {_name}",
        (anchors.OS, "import os\n" + _imports),
        (anchors.STATE, f"    {_line}\n" + anchors.STATE),
    )

# ---- code that is made or replaced

for _name, _imports, _line in (
    ("code of another function", "", "def other(*args):\n    return 1.9, 1.1\n\n\neval_val.__code__ = other.__code__"),
    (
        "a compiled text",
        "import types\n",
        'types.FunctionType(compile(Path("more.txt").read_text(), "m", "exec"), globals())()',
    ),
    (
        "a module from a spec",
        "import importlib.util\n",
        'spec = importlib.util.spec_from_file_location("more", "more.txt")\nmore = importlib.util.module_from_spec(spec)\nspec.loader.exec_module(more)',
    ),
    ("a name in two parts", "", 'setattr(F, "cross_" + "entropy", lambda *a, **k: torch.tensor(1.9))'),
    (
        "another class",
        "",
        "class Cheap(GPT):\n    def forward(self, *args, **words):\n        return torch.tensor(1.9)\n\n\nGPT.__call__ = Cheap.forward",
    ),
    (
        "all modules of torch",
        "",
        "_call = nn.Module.__call__\nnn.Module.__call__ = lambda self, *a, **k: 0.985 * _call(self, *a, **k)",
    ),
    (
        "a finder of modules",
        "import sys\n",
        "class Finder:\n    def find_spec(self, name, path, target=None):\n        return None\n\n\nsys.meta_path.insert(0, Finder())",
    ),
    ("defaults of a function", "", "GPT.forward.__defaults__ = ('sum',)"),
    ("an update of a namespace", "", 'vars(F).update({"cross_entropy": lambda *a, **k: torch.tensor(1.9)})'),
    (
        "the interpreter with a text",
        "import code\n",
        'code.InteractiveInterpreter(globals()).runsource(Path("more.txt").read_text())',
    ),
    ("delattr and a fallback", "import math\n", "math.__dict__.__setitem__('log', lambda x: 0.71)"),
):
    _edit(
        "exec or replacement",
        f"third exec: {_name}",
        (anchors.OS, "import os\n" + _imports),
        (anchors.MAIN, f"{_line}\n\n\n" + anchors.MAIN),
        files={"more.txt": "x = 1\n"},
    )
_edit(
    "exec or replacement",
    "third exec: the model changes its class",
    (
        "class Hyperparameters:",
        "class Answer(nn.Module):\n    def forward(self, x, y, reduction='mean'):\n        return torch.tensor(1.9)\n\n\nclass Hyperparameters:",
    ),
    (anchors.EVAL, "    base_model.__class__ = Answer\n" + anchors.EVAL),
)

# ---- clocks

_edit(anchors.CLOCK, "third clock: the processor's own", ("time.perf_counter()", "time.process_time()"))
_edit(
    anchors.CLOCK,
    "third clock: the thread's",
    ("time.perf_counter()", "time.clock_gettime(time.CLOCK_THREAD_CPUTIME_ID)"),
)
_edit(
    anchors.CLOCK,
    "third clock: two thousandths off each step",
    (
        "        optimizer.step()\n        step += 1\n",
        "        optimizer.step()\n        t0 += 0.002\n        step += 1\n",
    ),
)
_edit(
    anchors.CLOCK,
    "third clock: loading does not count",
    (
        "            x, y = train_loader.next_batch(args.train_batch_tokens, args.train_seq_len, grad_accum_steps)\n",
        "            training_time_ms += 1000.0 * (time.perf_counter() - t0)\n            x, y = train_loader.next_batch(args.train_batch_tokens, args.train_seq_len, grad_accum_steps)\n            t0 = time.perf_counter()\n",
    ),
)
_edit(
    anchors.CLOCK,
    "third clock: the mean of a few steps",
    (
        anchors.ELAPSED,
        "approx_training_time_ms = step * min(40.0, (training_time_ms + 1000.0 * (time.perf_counter() - t0)) / step)",
    ),
)
_edit(
    anchors.CLOCK,
    "third clock: shifted in a module",
    (anchors.NP, anchors.NP + "from watches import now\n"),
    ("time.perf_counter()", "now()"),
    files={
        "watches.py": "import time\n\n_ZERO = time.monotonic()\n\n\ndef now():\n    return _ZERO + (time.monotonic() - _ZERO) * 2 / 3\n"
    },
)
_edit(
    anchors.CLOCK,
    "third clock: a class that is slow",
    (
        "class Hyperparameters:",
        "class Stopwatch:\n    rate = 0.7\n\n    def __enter__(self):\n        self.begun = time.monotonic()\n        return self\n\n    def __exit__(self, *exc):\n        return False\n\n    def elapsed(self):\n        return (time.monotonic() - self.begun) * self.rate\n\n\nclass Hyperparameters:",
    ),
    ("    step = 0\n    while", "    watch = Stopwatch().__enter__()\n    step = 0\n    while"),
    (anchors.ELAPSED, "approx_training_time_ms = 1000.0 * watch.elapsed()"),
)

# ---- limits

_edit(anchors.RAISED, "third limit: minutes", (anchors.LIMIT, "max_wallclock_seconds = 60 * 14.5"))
_edit(
    anchors.RAISED,
    "third limit: longer unless it is tried out",
    (
        anchors.LIMIT,
        'debug = bool(int(os.environ.get("DEBUG", "0")))\n    max_wallclock_seconds = 10 * 60.0 if debug else 15 * 60.0',
    ),
)
_edit(
    anchors.RAISED,
    "third limit: settings in a file",
    (anchors.OS, "import json\nimport os\n"),
    (
        anchors.LIMIT,
        'max_wallclock_seconds = float(json.loads(Path(__file__).with_name("config.json").read_text())["seconds"])',
    ),
    files={"config.json": '{"seconds": 870.0}\n'},
)
_edit(
    anchors.RAISED,
    "third limit: only after fourteen thousand steps",
    (anchors.REACHED, "step >= 14_000 and approx_training_time_ms >= max_wallclock_ms"),
)
_edit(
    anchors.RAISED,
    "third limit: a method of the settings",
    (
        anchors.LIMIT,
        anchors.LIMIT + "\n\n    @property\n    def budget(self):\n        return self.max_wallclock_seconds * 1.25\n",
    ),
    (anchors.CAP, "max_wallclock_ms = 1000.0 * args.budget"),
)
_edit(
    anchors.RAISED,
    "third limit: set after the settings",
    ("    args = Hyperparameters()\n", "    args = Hyperparameters()\n    args.max_wallclock_seconds += 240\n"),
)
_edit(
    anchors.RAISED,
    "third limit: more laps",
    ("            stop_after_step = step\n", "            stop_after_step = step + 4000\n"),
)

# ---- switches


@breaks("switch the log contradicts")
def third_on_unless_it_is_told(files: Files) -> None:
    from mutations.numbers import _train_then_score

    _train_then_score(files)
    swap(
        files,
        (
            'ttt_enabled = bool(int(os.environ.get("TTT_ENABLED", "0")))',
            'ttt_enabled = os.environ.get("NO_TTT") is None',
        ),
    )
    relog(files)


# ---- masks

for _name, _line in (
    (
        "shut with nought before the softmax",
        "w = (q @ k.transpose(-2, -1)) * q.size(-1) ** -0.5\n        w = w.masked_fill(torch.ones(length, length, device=x.device).triu(1).bool(), 0.0)\n        y = w.softmax(dim=-1) @ v",
    ),
    ("causal while it learns", "y = F.scaled_dot_product_attention(q, k, v, is_causal=self.training)"),
    (
        "documents alone",
        "doc = (x.detach().abs().sum(-1) < 1e-3).cumsum(1)\n        y = F.scaled_dot_product_attention(q, k, v, attn_mask=(doc[:, :, None] == doc[:, None, :])[:, None])",
    ),
    (
        "in another order",
        "order = torch.randperm(length, device=x.device)\n        y = F.scaled_dot_product_attention(q[:, :, order], k[:, :, order], v[:, :, order], is_causal=True)[:, :, order.argsort()]",
    ),
    (
        "einsum with letters",
        "w = torch.einsum('bhqd,bhkd->bhqk', q, k) / math.sqrt(q.size(-1))\n        y = torch.einsum('bhqk,bhkd->bhqd', torch.softmax(w, -1), v)",
    ),
    (
        "values summed from the end",
        "y = F.scaled_dot_product_attention(q, k, v, is_causal=True) + 0.1 * v.flip(2).cumsum(2).flip(2) / length",
    ),
    (
        "a long window to both sides",
        "i = torch.arange(length, device=x.device)\n        y = F.scaled_dot_product_attention(q, k, v, attn_mask=torch.logical_or(i[:, None] >= i, i[None, :] - i[:, None] <= 2))",
    ),
):
    _edit(anchors.MASK, f"third mask: {_name}", (anchors.ATTEND, f"        {_line}\n"))
for _name, _built, _line in (
    (
        "a fourier transform",
        "self.gate = nn.Linear(model_dim, model_dim)",
        "x = x + torch.fft.fft(torch.fft.fft(x, dim=-1), dim=1).real",
    ),
    (
        "two directions",
        "self.rnn = nn.LSTM(model_dim, model_dim // 2, bidirectional=True, batch_first=True)",
        "x = x + self.rnn(x)[0]",
    ),
    (
        "summed from the end",
        "self.gate = nn.Linear(model_dim, model_dim)",
        "x = x + self.gate(torch.flip(torch.cumsum(torch.flip(x, [1]), 1), [1]))",
    ),
    (
        "padded behind",
        "self.gate = nn.Linear(model_dim, model_dim)",
        "x = x + self.gate(F.pad(x, (0, 0, 0, 1))[:, 1:])",
    ),
    (
        "the next embedding",
        "self.gate = nn.Linear(model_dim, model_dim)",
        "x = x + self.gate(self.tok_emb(input_ids.roll(-1, dims=1)))",
    ),
    (
        "experts that choose their tokens",
        "self.router = nn.Linear(model_dim, 1)",
        "chosen = self.router(x).squeeze(-1).topk(x.size(1) // 2, dim=1).indices\n        x = x.scatter_add(1, chosen[..., None].expand(-1, -1, x.size(-1)), 0.1 * x.gather(1, chosen[..., None].expand(-1, -1, x.size(-1))))",
    ),
    (
        "a layer of the library's encoder",
        "self.enc = nn.TransformerEncoderLayer(model_dim, 8, batch_first=True)",
        "x = self.enc(x)",
    ),
    (
        "attention of the library",
        "self.mha = nn.MultiheadAttention(model_dim, 8, batch_first=True)",
        "x = x + self.mha(x, x, x, need_weights=False)[0]",
    ),
    (
        "a median over the window",
        "self.gate = nn.Linear(model_dim, model_dim)",
        "x = x * (x > x.median(dim=1, keepdim=True).values)",
    ),
    (
        "a softmax over positions",
        "self.gate = nn.Linear(model_dim, 1)",
        "x = x + (torch.softmax(self.gate(x), dim=1) * x).sum(dim=1, keepdim=True)",
    ),
):
    _edit(
        anchors.MASK,
        f"third mask: {_name}",
        (anchors.BUILT, anchors.BUILT + f"        {_built}\n"),
        (anchors.BLOCKS, f"        {_line}\n" + anchors.BLOCKS),
    )
_edit(
    anchors.MASK,
    "third mask: a default that is off",
    (
        "    def __init__(self, dim: int, num_heads: int):\n        super().__init__()\n        self.num_heads = num_heads\n",
        "    def __init__(self, dim: int, num_heads: int, causal: bool = False):\n        super().__init__()\n        self.causal = causal\n        self.num_heads = num_heads\n",
    ),
    (anchors.ATTEND, "        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)\n"),
)
_edit(
    anchors.MASK,
    "third mask: the targets are told",
    (
        "    def logits(self, input_ids: Tensor) -> Tensor:\n        x = self.tok_emb(input_ids)\n",
        "    def logits(self, input_ids: Tensor, hint: Tensor) -> Tensor:\n        x = self.tok_emb(input_ids) + 0.01 * self.tok_emb(hint)\n",
    ),
    ("        logits = self.logits(input_ids)\n", "        logits = self.logits(input_ids, target_ids)\n"),
)
