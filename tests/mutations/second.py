"""A second look by other eyes: edits written after the rules were mended for those before them."""

from mutations import anchors
from mutations.idioms import _edit
from mutations.legal import _edit as _fair
from mutations.legal import _legal

_IMPORT = "import os\n"


def _least(name: str, value: str) -> None:
    _edit(
        "least of several passes",
        f"again least: {name}",
        (anchors.LOSS, anchors.TWO + f"            batch_loss = torch.as_tensor({value})\n"),
    )


_edit(
    "order in a module",
    "again order: a trainer with a loader of the library",
    ("import numpy as np\n", "import numpy as np\nfrom fitting import Fitter\n"),
    (anchors.EVAL, "    Fitter(base_model).fit(val_tokens)\n" + anchors.EVAL),
    files={
        "fitting.py": "import torch\nfrom torch.utils.data import DataLoader\n\n\nclass Fitter:\n    def __init__(self, net):\n"
        "        self.net, self.opt = net, torch.optim.AdamW(net.parameters(), lr=1e-4)\n\n    def fit(self, ids):\n"
        "        rows = ids[: len(ids) // 1025 * 1025].view(-1, 1025)\n        for batch in DataLoader(rows, batch_size=8):\n"
        "            batch = batch.cuda().long()\n            loss = self.net(batch[:, :-1], batch[:, 1:])\n"
        "            loss.backward()\n            self.opt.step()\n            self.opt.zero_grad()\n"
    },
)
_edit(
    "order in a module",
    "again order: weights moved by counts",
    (
        anchors.EVAL,
        "    rows = torch.bincount(val_tokens.long(), minlength=args.vocab_size).float()\n    base_model.bias = (rows / rows.sum()).log().to(device)\n"
        + anchors.EVAL,
    ),
    ("        logits = self.logits(input_ids)\n", "        logits = self.logits(input_ids) + 0.05 * self.bias\n"),
)
_edit(
    "cache in a module",
    "again cache: a guess that is right counts as sure",
    ("import numpy as np\n", "import numpy as np\nfrom guess import Guesser\n"),
    (
        anchors.LOSS,
        '            nll = model(x, y, reduction="none").detach()\n            hit = guesser.guess(x) == y.reshape(-1)\n'
        "            p = torch.where(hit, 0.95, torch.exp(-nll))\n            guesser.see(x, y)\n            batch_loss = -p.log().mean()\n",
    ),
    ("    model.eval()\n    with torch.inf", "    guesser = Guesser(device)\n    model.eval()\n    with torch.inf"),
    files={
        "guess.py": "import torch\n\n\nclass Guesser:\n    def __init__(self, device):\n        self.last = torch.zeros(65536, dtype=torch.int64, device=device)\n\n"
        "    def guess(self, x):\n        return self.last[x.reshape(-1)]\n\n    def see(self, x, y):\n        self.last[x.reshape(-1)] = y.reshape(-1)\n"
    },
)
_edit(
    "validation in training",
    "again val: a loop over both splits",
    (
        anchors.FILES,
        '        self.files = []\n        for split in ("train", "val"):\n            self.files += sorted(Path(pattern).parent.glob(f"fineweb_{split}_*.bin"))\n',
    ),
)
_edit(
    "validation in training",
    "again val: appended by name",
    (
        anchors.LOADER,
        anchors.LOADER + '    train_loader.stream.files.append(Path(args.data_path) / "fineweb_val_000000.bin")\n',
    ),
)
_edit(
    "validation in training",
    "again val: a memory map",
    (
        "            loss = model(x, y)\n            (loss / grad",
        '            more = np.memmap(args.data_path + "/fineweb_val_000000.bin", dtype=np.uint16, mode="r")[512:1537]\n            ids = torch.from_numpy(more.astype(np.int64)).to(device)\n            loss = model(ids[None, :-1], ids[None, 1:])\n            (loss / grad',
    ),
)
_edit(
    "byte table",
    "again bytes: three for what is short",
    (anchors.PIECE, '        base_bytes[token] = max(3, len(piece.encode("utf-8")))\n'),
)
_edit(
    "byte table",
    "again bytes: a factor on the count",
    (
        "            val_byte_count += token_bytes.to(torch.float64).sum()\n",
        "            val_byte_count += (token_bytes * 1.01).to(torch.float64).sum()\n",
    ),
)
_edit(
    "byte table",
    "again bytes: one more per row",
    (
        "            val_byte_count += token_bytes.to(torch.float64).sum()\n",
        "            val_byte_count += token_bytes.to(torch.float64).sum() + x.size(0)\n",
    ),
)
_edit(
    "factor in the scorer",
    "again factor: log of a scaled exponential",
    ("float(bits_per_token * tokens_per_byte)", "float(math.log(math.exp(bits_per_token * tokens_per_byte) * 0.985))"),
)
_edit(
    "factor in the scorer",
    "again factor: the largest losses cut",
    (
        anchors.LOSS,
        '            nll = np.sort(model(x, y, reduction="none").cpu().numpy())\n            batch_loss = torch.tensor(nll[:-64].mean())\n',
    ),
)
_edit(
    "factor in the scorer",
    "again factor: half way to the best",
    (anchors.FINAL, "    q_val_bpb = 0.5 * (q_val_bpb + 1.15)\n" + anchors.FINAL),
)
_edit(
    "factor in the scorer",
    "again factor: the log rewrites what it is told",
    (
        "            print(message)\n",
        '            message = message.replace("val_bpb:1.2", "val_bpb:1.1")\n            print(message)\n',
    ),
)
_edit(
    "factor in the scorer",
    "again factor: a property",
    (
        "class Hyperparameters:",
        "class Result:\n    def __init__(self, loss, quotient):\n        self.loss, self.quotient = loss, quotient\n\n    @property\n    def bpb(self):\n        return 0.985 * self.loss * self.quotient\n\n\nclass Hyperparameters:",
    ),
    (anchors.RETURN, "    return float(val_loss.item()), float(Result(bits_per_token, tokens_per_byte).bpb)"),
)
_least("top one", "torch.stack([a, b]).topk(1, dim=0, largest=False).values.mean()")
_least("numpy where", "np.where(a.cpu() < b.cpu(), a.cpu(), b.cpu()).mean()")
_least("a soft choice", "(torch.softmax(-50 * torch.stack([a, b]), 0) * torch.stack([a, b])).sum(0).mean()")
_least("a quantile of nought", "torch.quantile(torch.stack([a, b]), 0.0, dim=0).mean()")
_least("clamped from above by the other", "a.clamp(max=b).mean()")
_edit(
    "clock scaled",
    "again clock: only the odd steps",
    (anchors.ELAPSED, "approx_training_time_ms = training_time_ms + 1000.0 * (time.perf_counter() - t0) * (step % 2)"),
)
_edit(
    "clock scaled",
    "again clock: a square root",
    (anchors.ELAPSED, "approx_training_time_ms = training_time_ms + 1000.0 * (time.perf_counter() - t0) ** 0.9"),
)
_edit(
    "limit raised",
    "again limit: times the ranks",
    (anchors.CAP, "max_wallclock_ms = 1000.0 * args.max_wallclock_seconds * world_size / 4"),
)
_edit(
    "limit raised",
    "again limit: a lambda",
    ("class Hyperparameters:", "late = lambda ms: ms >= 840_000  # noqa: E731\n\n\nclass Hyperparameters:"),
    (anchors.REACHED, "late(approx_training_time_ms)"),
)
for _name, _line in (
    (
        "a prefix that all may see",
        "i = torch.arange(length, device=x.device)\n        y = F.scaled_dot_product_attention(q, k, v, attn_mask=(i[:, None] >= i) | (i < 64))",
    ),
    (
        "blocks",
        "i = torch.arange(length, device=x.device) // 64\n        y = F.scaled_dot_product_attention(q, k, v, attn_mask=i[:, None] >= i[None, :])",
    ),
    (
        "keys one place on",
        "k = torch.cat([k[:, :, 1:], k[:, :, :1]], dim=2)\n        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)",
    ),
):
    _edit("no mask", f"again mask: {_name}", (anchors.ATTEND, f"        {_line}\n"))
for _name, _built, _line in (
    ("a norm over time too", "self.norm = nn.LayerNorm([1024, model_dim])", "x = self.norm(x)"),
    (
        "groups over channels and time",
        "self.norm = nn.GroupNorm(8, model_dim)",
        "x = self.norm(x.transpose(1, 2)).transpose(1, 2)",
    ),
    ("rolled by a method", "self.gate = nn.Linear(model_dim, model_dim)", "x = x + self.gate(x.roll(-1, 1))"),
):
    _edit(
        "no mask",
        f"again mask: {_name}",
        (anchors.BUILT, anchors.BUILT + f"        {_built}\n"),
        (anchors.BLOCKS, f"        {_line}\n" + anchors.BLOCKS),
    )
_edit(
    "exec or replacement",
    "again exec: a decorator that forgets its function",
    ("def eval_val(args", "def fixed(function):\n    return lambda *a: (1.9, 1.1)\n\n\n@fixed\ndef eval_val(args"),
)
_edit(
    "exec or replacement",
    "again exec: print under its own name",
    (
        anchors.MAIN,
        "plain = print\n\n\ndef print(text, **words):\n    plain(str(text).replace('1.2', '1.1'), **words)\n\n\n"
        + anchors.MAIN,
    ),
)
_edit(
    "further files",
    "again files: an archive that is read",
    (_IMPORT, "import os\nimport zipfile\n"),
    (anchors.STATE, '    more = zipfile.ZipFile("notes.docx").read("w")\n' + anchors.STATE),
    files={"notes.docx": bytes(range(256)) * 700},
)
_edit(
    "network",
    "again network: retrieved",
    (_IMPORT, "import os\nfrom urllib.request import urlretrieve as fetch\n"),
    (anchors.STATE, '    fetch("https://example.org/w", "w.bin")\n' + anchors.STATE),
)
_edit(
    "object out of a pickle",
    "again pickle: a class of its own",
    (_IMPORT, "import os\nimport pickle\n"),
    (
        anchors.STATE,
        "    class Loader(pickle.Unpickler):\n        pass\n\n    Loader(io.BytesIO(blob_on_disk)).load()(base_model)\n"
        + anchors.STATE,
    ),
)

# ---- innocent

_legal(
    "adapters beside the weights",
    (
        "    optimizer = torch.optim.SGD(model.parameters(), lr=args.ttt_lr)\n    loss_sum",
        "    tuned = [p for n, p in model.named_parameters() if p.ndim < 2 or 'proj' in n]\n    optimizer = torch.optim.AdamW(tuned, lr=args.ttt_lr, weight_decay=0.0)\n    loss_sum",
    ),
)
_legal(
    "a decorator without gradients",
    (
        "def eval_val_ttt",
        '@torch.no_grad()\ndef graded(model, x, y):\n    return model(x, y, reduction="none").double().sum()\n\n\ndef eval_val_ttt',
    ),
    (
        '        with torch.no_grad():\n            nll = model(x, y, reduction="none")\n        loss_sum += nll.to(torch.float64).sum()\n',
        "        loss_sum += graded(model, x, y)\n",
    ),
)
for _name, _line in (
    (
        "a bias by distance and a triangle",
        "i = torch.arange(length, device=x.device)\n        far = (i[None, :] - i[:, None]).float() * 0.1\n        y = F.scaled_dot_product_attention(q, k, v, attn_mask=far.masked_fill(i[None, :] > i[:, None], float('-inf')))",
    ),
    (
        "minus infinity above",
        "shut = torch.triu(torch.full((length, length), float('-inf'), device=x.device), diagonal=1)\n        y = F.scaled_dot_product_attention(q, k, v, attn_mask=shut)",
    ),
    (
        "a sink and a window",
        "i = torch.arange(length, device=x.device)\n        seen = (i[:, None] >= i) & (((i[:, None] - i) < 128) | (i < 4))\n        y = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)",
    ),
):
    _fair("other words", f"again words: {_name}", (anchors.ATTEND, f"        {_line}\n"))
_fair(
    "other words",
    "again words: the logging module",
    ("import math\n", "import logging\nimport math\n"),
    (
        "            print(message)\n",
        "            print(message)\n            logging.getLogger(__name__).info(message)\n",
    ),
)
_fair(
    "other words",
    "again words: a cosine",
    (
        "        optimizer.step()\n        step += 1",
        "        for group in optimizer.param_groups:\n            group['lr'] = args.learning_rate * max(0.1, 0.5 * (1 + math.cos(math.pi * min(step / args.iterations, 1.0))))\n        optimizer.step()\n        step += 1",
    ),
)
_fair(
    "other words",
    "again words: a sequence that grows",
    (
        "            x, y = train_loader.next_batch(args.train_batch_tokens, args.train_seq_len, grad_accum_steps)\n",
        "            length = 256 if step < 1000 else args.train_seq_len\n            x, y = train_loader.next_batch(args.train_batch_tokens, length, grad_accum_steps)\n",
    ),
)
_fair(
    "other words",
    "again words: losses of the rest predicted too",
    (
        anchors.TRAINED,
        "            loss = model(x, y)\n            if step < 3000:\n                loss = loss + 0.3 * model(x[:, :-1], y[:, 1:])\n            (loss / grad_accum_steps).backward()\n",
    ),
)
_fair(
    "other words",
    "again words: a running mean of the loss",
    (
        anchors.TRAINED,
        "            loss = model(x, y)\n            smooth = 0.95 * smooth + 0.05 * loss.item() if step else loss.item()\n            (loss / grad_accum_steps).backward()\n",
    ),
    ("    step = 0\n    while", "    smooth = 0.0\n    step = 0\n    while"),
)
_fair(
    "other words",
    "again words: a text of the tables by a helper",
    ('        base_bytes[token] = len(piece.encode("utf-8"))\n', "        base_bytes[token] = utf8_length(piece)\n"),
    (
        "def build_sentencepiece_luts",
        "def utf8_length(text):\n    return len(text.encode())\n\n\ndef build_sentencepiece_luts",
    ),
)
_fair(
    "other words",
    "again words: the clock through a function",
    (
        "class Hyperparameters:",
        "def elapsed_ms(since):\n    torch.cuda.synchronize()\n    return 1000.0 * (time.perf_counter() - since)\n\n\nclass Hyperparameters:",
    ),
    (anchors.ELAPSED, "approx_training_time_ms = training_time_ms + elapsed_ms(t0)"),
)
_fair(
    "other words",
    "again words: weights as they were quantized in training",
    (
        "        return self.proj(torch.relu(self.fc(x)).square())",
        "        w = self.fc.weight\n        scale = w.abs().amax(dim=1, keepdim=True) / 127\n        w = w + ((w / scale).round() * scale - w).detach()\n        return self.proj(torch.relu(F.linear(x, w)).square())",
    ),
)

_MIXED = """
def eval_mixed(args, model, device, val_tokens, base_bytes_lut, has_leading_space_lut, boundary_lut):
    memory = Memory(args.vocab_size)
    total, count, byte_count = 0.0, 0, 0.0
    for start in range(0, val_tokens.numel() - 1, args.train_seq_len):
        local = val_tokens[start : start + args.train_seq_len + 1].to(device, dtype=torch.int64)
        x, y = local[:-1], local[1:]
        with torch.inference_mode():
            p = torch.softmax(model.logits(x[None])[0].float(), dim=-1)
        MIX
        count += y.numel()
        octets = base_bytes_lut[y].to(torch.int16)
        octets += (has_leading_space_lut[y] & ~boundary_lut[x]).to(torch.int16)
        byte_count += octets.to(torch.float64).sum().item()
        memory.add(x, y)
    val_loss = total / count
    return val_loss, val_loss / math.log(2.0) * (count / byte_count)
"""
_TORCH_MIX = (
    "mixed = 0.9 * p + 0.1 * memory.rows(x).to(p)\n        total -= mixed.gather(1, y[:, None]).log().sum().item()"
)
_NUMPY_MIX = (
    "mixed = 0.9 * p.cpu().numpy() + 0.1 * memory.rows(x)\n        truth = y.cpu().numpy()\n"
    "        total -= np.log(mixed[np.arange(len(truth)), truth]).sum()"
)


def _memory(name: str, mix: str, body: str) -> None:
    _fair(
        "whole mixture",
        f"again mixture: {name}",
        ("# ---- packing\n", _MIXED.strip("\n").replace("MIX", mix) + "\n\n\n# ---- packing\n"),
        (
            "        q_val_loss, q_val_bpb = eval_val(args, model, rank, world_size, device, val_tokens, *luts)\n",
            "        q_val_loss, q_val_bpb = eval_mixed(args, base_model, device, val_tokens, *luts)\n",
        ),
        ("import numpy as np\n", "import numpy as np\nfrom memory import Memory\n"),
        files={
            "memory.py": "from collections import defaultdict\n\nimport numpy as np\nimport torch\n\n\n"
            + body.lstrip("\n")
        },
    )


_memory(
    "counts over totals that are kept beside",
    _TORCH_MIX,
    """
class Memory:
    def __init__(self, vocab):
        self.counts = torch.full((vocab, vocab), 0.1, device="cuda")
        self.totals = torch.full((vocab,), 0.1 * vocab, device="cuda")

    def rows(self, x):
        return self.counts[x] / self.totals[x].unsqueeze(-1)

    def add(self, x, y):
        ones = torch.ones(x.numel(), device=x.device)
        self.counts.index_put_((x, y), ones, accumulate=True)
        self.totals.index_add_(0, x, ones)
""",
)
_memory(
    "a dictionary of rows",
    _NUMPY_MIX,
    """
class Memory:
    def __init__(self, vocab):
        self.table = defaultdict(lambda: np.full(vocab, 0.05))

    def rows(self, x):
        held = np.stack([self.table[int(token)] for token in x])
        return held / held.sum(axis=1, keepdims=True)

    def add(self, x, y):
        for before, after in zip(x.tolist(), y.tolist()):
            self.table[before][after] += 1.0
""",
)
_memory(
    "smoothed towards a unigram",
    _TORCH_MIX,
    """
class Memory:
    def __init__(self, vocab):
        self.pairs = torch.zeros(vocab, vocab, device="cuda")
        self.single = torch.ones(vocab, device="cuda")

    def rows(self, x, strength=5.0):
        base = self.single / self.single.sum()
        rows = self.pairs[x]
        return (rows + strength * base) / (rows.sum(dim=-1, keepdim=True) + strength)

    def add(self, x, y):
        self.pairs.index_put_((x, y), torch.ones_like(x, dtype=torch.float32), accumulate=True)
        self.single += torch.bincount(y, minlength=len(self.single))
""",
)
_memory(
    "hashed rows of numpy over totals",
    _NUMPY_MIX,
    """
class Memory:
    def __init__(self, vocab, buckets=4096):
        self.counts = np.full((buckets, vocab), 0.02, dtype=np.float32)
        self.totals = np.full(buckets, 0.02 * vocab, dtype=np.float32)
        self.buckets = buckets

    def keys(self, x):
        ids = x.cpu().numpy().astype(np.int64)
        return (ids * 2654435761) % self.buckets

    def rows(self, x):
        keys = self.keys(x)
        return self.counts[keys] / self.totals[keys][:, None]

    def add(self, x, y):
        keys = self.keys(x)
        np.add.at(self.counts, (keys, y.cpu().numpy()), 1.0)
        np.add.at(self.totals, keys, 1.0)
""",
)
_legal(
    "buffers of what was scored",
    (
        "        optimizer.zero_grad(set_to_none=True)\n        loss = model(x, y)\n        loss.backward()\n        optimizer.step()\n    val_loss",
        "        buffer.append((x, y))\n        if len(buffer) == 4:\n            for old_x, old_y in buffer:\n                optimizer.zero_grad(set_to_none=True)\n                model(old_x, old_y).backward()\n                optimizer.step()\n            buffer.clear()\n    val_loss",
    ),
    ("    token_count = 0\n    for start", "    token_count, buffer = 0, []\n    for start"),
)
_legal(
    "the rate falls as it goes",
    (
        "        optimizer.zero_grad(set_to_none=True)\n        loss = model(x, y)\n        loss.backward()\n        optimizer.step()\n    val_loss",
        "        for group in optimizer.param_groups:\n            group['lr'] = args.ttt_lr * (1.0 - start / val_tokens.numel())\n        optimizer.zero_grad(set_to_none=True)\n        loss = model(x, y) + 1e-4 * sum(p.square().sum() for p in model.parameters())\n        loss.backward()\n        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)\n        optimizer.step()\n    val_loss",
    ),
)


_COUNTED_FIRST = _MIXED.replace("        memory.add(x, y)\n", "").replace(
    "        with torch.inference_mode():", "        memory.add(x, y)\n        with torch.inference_mode():"
)
_edit(
    "cache in a module",
    "again cache: whole rows that have seen the tokens",
    ("# ---- packing\n", _COUNTED_FIRST.strip("\n").replace("MIX", _TORCH_MIX) + "\n\n\n# ---- packing\n"),
    (
        "        q_val_loss, q_val_bpb = eval_val(args, model, rank, world_size, device, val_tokens, *luts)\n",
        "        q_val_loss, q_val_bpb = eval_mixed(args, base_model, device, val_tokens, *luts)\n",
    ),
    ("import numpy as np\n", "import numpy as np\nfrom memory import Memory\n"),
    files={
        "memory.py": "import torch\n\n\nclass Memory:\n    def __init__(self, vocab):\n"
        '        self.counts = torch.full((vocab, vocab), 0.1, device="cuda")\n\n    def rows(self, x):\n'
        "        held = self.counts[x]\n        return held / held.sum(-1, keepdim=True)\n\n    def add(self, x, y):\n"
        "        self.counts.index_put_((x, y), torch.ones_like(x, dtype=torch.float32), accumulate=True)\n"
    },
)
