"""A third look: edits that break no rule, written before their author had read the rules as they then were."""

from mutations import Files, anchors, innocent, moved, relog, swap, text
from mutations.legal import _edit, _legal

_BATCH = "            x, y = train_loader.next_batch(args.train_batch_tokens, args.train_seq_len, grad_accum_steps)\n"
_PACKED = "    packed = io.BytesIO()\n"


def _words(name: str, *pairs: tuple[str, str], files: dict[str, str | bytes] | None = None) -> None:
    _edit(anchors.WORDS, f"third words: {name}", *pairs, files=files)


# ---- optimizers and averages

_words(
    "an optimizer by orthogonal steps",
    (
        anchors.HYPER,
        "def newton_schulz(g, steps=5):\n    a, b, c = 3.4445, -4.7750, 2.0315\n    x = g.bfloat16() / (g.norm() + 1e-7)\n    turned = x.size(0) > x.size(1)\n    x = x.T if turned else x\n    for _ in range(steps):\n        s = x @ x.T\n        x = a * x + (b * s + c * s @ s) @ x\n    return x.T if turned else x\n\n\n"
        "class Muon(torch.optim.Optimizer):\n    def __init__(self, params, lr=0.02, momentum=0.95):\n        super().__init__(params, dict(lr=lr, momentum=momentum))\n\n    @torch.no_grad()\n    def step(self):\n        for group in self.param_groups:\n            for p in group['params']:\n                if p.grad is None:\n                    continue\n                buf = self.state[p].setdefault('m', torch.zeros_like(p.grad))\n                buf.lerp_(p.grad, 1 - group['momentum'])\n                g = newton_schulz(p.grad.lerp(buf, group['momentum']))\n                p.add_(g.to(p), alpha=-group['lr'] * max(1, p.size(0) / p.size(1)) ** 0.5)\n\n\n"
        + anchors.HYPER,
    ),
    (
        "    optimizer = torch.optim.AdamW(base_model.parameters(), lr=args.learning_rate)\n",
        "    matrices = [p for n, p in base_model.named_parameters() if p.ndim == 2 and 'tok_emb' not in n]\n    others = [p for n, p in base_model.named_parameters() if p.ndim != 2 or 'tok_emb' in n]\n    optimizer, side = Muon(matrices), torch.optim.AdamW(others, lr=args.learning_rate)\n",
    ),
    (anchors.STEPPED, "        side.step()\n        side.zero_grad(set_to_none=True)\n" + anchors.STEPPED),
)
_words(
    "a moving average that is packed",
    (
        "    step = 0\n    while",
        "    ema = {name: p.detach().float().clone() for name, p in base_model.state_dict().items()}\n    step = 0\n    while",
    ),
    (
        anchors.STEPPED,
        "        optimizer.step()\n        with torch.no_grad():\n            for name, p in base_model.state_dict().items():\n                ema[name].lerp_(p.float(), 0.003)\n        step += 1\n",
    ),
    (
        _PACKED,
        "    base_model.load_state_dict({k: v.to(base_model.state_dict()[k].dtype) for k, v in ema.items()})\n"
        + _PACKED,
    ),
)
_words(
    "weights averaged over the last steps",
    ("    step = 0\n    while", "    bag, bagged = {}, 0\n    step = 0\n    while"),
    (
        anchors.STEPPED,
        anchors.STEPPED
        + "        if step > 11_000 and step % 50 == 0:\n            bagged += 1\n            for name, p in base_model.state_dict().items():\n                bag[name] = bag.get(name, 0) + p.detach().float()\n",
    ),
    (
        _PACKED,
        "    if bagged:\n        base_model.load_state_dict({name: total / bagged for name, total in bag.items()})\n"
        + _PACKED,
    ),
)
_words(
    "groups, warmup and a cooldown by time",
    (
        "    optimizer = torch.optim.AdamW(base_model.parameters(), lr=args.learning_rate)\n",
        "    decayed, plain = [], []\n    for p in base_model.parameters():\n        (decayed if p.ndim >= 2 else plain).append(p)\n    optimizer = torch.optim.AdamW([dict(params=decayed, weight_decay=0.1), dict(params=plain, weight_decay=0.0)], lr=args.learning_rate, betas=(0.9, 0.95), fused=True)\n    def scale(done, elapsed_ms):\n        if done < 100:\n            return (done + 1) / 100\n        share = elapsed_ms / (1000.0 * args.max_wallclock_seconds)\n        return min(1.0, max(0.0, (1.0 - share) / 0.3))\n",
    ),
    (
        "        optimizer.step()\n        step += 1\n",
        "        now_ms = training_time_ms + 1000.0 * (time.perf_counter() - t0)\n        for group in optimizer.param_groups:\n            group['lr'] = args.learning_rate * scale(step, now_ms)\n        torch.nn.utils.clip_grad_norm_(base_model.parameters(), 1.0)\n        optimizer.step()\n        step += 1\n",
    ),
)

# ---- data

_words(
    "a loader of random windows",
    (
        "class DistributedTokenLoader:\n",
        "class RandomWindows:\n    def __init__(self, pattern, rank, world_size, device, seed=1337):\n        self.maps = [np.memmap(p, dtype=np.uint16, mode='r', offset=1024) for p in sorted(glob.glob(pattern))]\n        self.rng, self.device, self.world = np.random.default_rng(seed + rank), device, world_size\n\n    def next_batch(self, global_tokens, seq_len, accum):\n        rows = global_tokens // (self.world * accum * seq_len)\n        shard = self.maps[self.rng.integers(len(self.maps))]\n        starts = self.rng.integers(0, len(shard) - seq_len - 1, size=rows)\n        block = np.stack([shard[s : s + seq_len + 1] for s in starts]).astype(np.int64)\n        ids = torch.from_numpy(block).pin_memory().to(self.device, non_blocking=True)\n        return ids[:, :-1], ids[:, 1:]\n\n\nclass DistributedTokenLoader:\n",
    ),
    (anchors.LOADER, "    train_loader = RandomWindows(args.train_files, rank, world_size, device)\n"),
)
_words(
    "batches fetched by a thread",
    ("import math\n", "import math\nimport queue\nimport threading\n"),
    (
        "# ---- model\n",
        "class Prefetch:\n    def __init__(self, loader, *shape):\n        self.waiting = queue.Queue(maxsize=4)\n        self.thread = threading.Thread(target=self.fill, args=(loader, shape), daemon=True)\n        self.thread.start()\n\n    def fill(self, loader, shape):\n        while True:\n            self.waiting.put(loader.next_batch(*shape))\n\n    def __next__(self):\n        return self.waiting.get()\n\n\n# ---- model\n",
    ),
    (
        anchors.LOADER,
        anchors.LOADER
        + "    batches = Prefetch(train_loader, args.train_batch_tokens, args.train_seq_len, grad_accum_steps)\n",
    ),
    (_BATCH, "            x, y = next(batches)\n"),
)
_words(
    "a generator of batches",
    (
        "# ---- model\n",
        "def batches(pattern, rows, length, device):\n    while True:\n        for path in sorted(Path().glob(pattern)):\n            with path.open('rb') as file:\n                file.seek(1024)\n                ids = torch.frombuffer(bytearray(file.read()), dtype=torch.uint16).to(torch.int64)\n            for start in range(0, ids.numel() - rows * length - 1, rows * length):\n                part = ids[start : start + rows * length + 1].to(device)\n                yield part[:-1].view(rows, length), part[1:].view(rows, length)\n\n\n# ---- model\n",
    ),
    (
        anchors.LOADER,
        "    stream = batches(args.train_files, args.train_batch_tokens // (world_size * grad_accum_steps * args.train_seq_len), args.train_seq_len, device)\n",
    ),
    (_BATCH, "            x, y = next(stream)\n"),
)
_words(
    "the shards are told by their digest",
    (anchors.OS, "import hashlib\nimport os\n"),
    (
        "    luts = build",
        "    for shard in sorted(glob.glob(args.val_files)):\n        with open(shard, 'rb') as file:\n            log0(f'val shard {Path(shard).name} sha256:{hashlib.file_digest(file, \"sha256\").hexdigest()[:16]}')\n    luts = build",
    ),
)
_words(
    "validation rows by a loader of the library",
    (anchors.OS, "import os\nfrom torch.utils.data import DataLoader, TensorDataset\n"),
    (
        "        for start in range(seq_start, seq_end, batch_seqs):\n            end = min(start + batch_seqs, seq_end)\n            local = val_tokens[start * args.train_seq_len : end * args.train_seq_len + 1].to(device, dtype=torch.int64)\n            x = local[:-1].reshape(-1, args.train_seq_len)\n            y = local[1:].reshape(-1, args.train_seq_len)\n",
        "        n = args.train_seq_len\n        rows = TensorDataset(val_tokens[seq_start * n : seq_end * n].view(-1, n), val_tokens[seq_start * n + 1 : seq_end * n + 1].view(-1, n))\n        for x, y in DataLoader(rows, batch_size=batch_seqs, shuffle=False):\n            x, y = x.to(device, dtype=torch.int64), y.to(device, dtype=torch.int64)\n",
    ),
)

# ---- what is beside the script

_words(
    "a script that plots",
    files={
        "plot_curves.py": "import re\nimport sys\nfrom pathlib import Path\n\nimport matplotlib.pyplot as plt\n\nfor path in sorted(Path(__file__).parent.glob('train_seed*.log')):\n    rows = re.findall(r'step:(\\d+)/\\d+ val_loss:([\\d.]+)', path.read_text())\n    plt.plot([int(s) for s, _ in rows], [float(v) for _, v in rows], label=path.stem)\nplt.legend()\nplt.savefig(sys.argv[1] if len(sys.argv) > 1 else 'curves.png')\n",
        "requirements.txt": "torch\nnumpy\nsentencepiece\nmatplotlib\n",
    },
)
_words(
    "a picture and a licence",
    files={"curves.png": b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 40, "LICENSE": "MIT License\n"},
)
_words(
    "tests of its own",
    files={
        "tests/test_model.py": "import torch\n\nfrom train_gpt import GPT\n\n\ndef test_causal():\n    net = GPT(64, 2, 32, 4)\n    a = torch.randint(0, 64, (1, 16))\n    b = a.clone()\n    b[:, 9:] = 0\n    assert torch.allclose(net.logits(a)[:, :9], net.logits(b)[:, :9], atol=1e-5)\n\n\ndef test_it_learns():\n    net = GPT(64, 2, 32, 4)\n    opt = torch.optim.SGD(net.parameters(), lr=0.1)\n    val_tokens = torch.randint(0, 64, (2, 17))\n    before = net(val_tokens[:, :-1], val_tokens[:, 1:])\n    before.backward()\n    opt.step()\n    assert net(val_tokens[:, :-1], val_tokens[:, 1:]) < before\n"
    },
)
_words(
    "a script that downloads the data",
    files={
        "download.sh": "#!/usr/bin/env bash\npython data/cached_challenge_fineweb.py --variant sp1024\n",
        "prepare.py": "from huggingface_hub import hf_hub_download\n\nif __name__ == '__main__':\n    hf_hub_download('willdepueoai/parameter-golf', 'tokenizers/fineweb_1024_bpe.model', repo_type='dataset', local_dir='data')\n",
    },
)


@innocent(anchors.WORDS)
def third_a_readme_that_tells_what_was_not_done(files: Files) -> None:
    files["README.md"] = text(files, "README.md") + (
        "\n## Compliance\n\n- [x] No validation tokens are seen in training; no test-time training, no two-pass scoring.\n- [x] No n-gram cache, "
        "no hashing of the target, no minimum over passes.\n- [x] No network access and no external files at evaluation.\n\n## What we tried and dropped\n\n"
        "We once adapted on the validation set before scoring it (1.02 bpb), which is against the rules, so it was removed. "
        "An oracle mixture that takes the best of two models for each token gave 1.11; it peeks at the target and is not used.\n"
    )


_words(
    "comments on what is forbidden",
    (
        "# ---- scoring\n",
        "# ---- scoring\n# Rules: never train on val_tokens before they are scored; never take min(loss_a, loss_b); do not exec() text, do not\n# requests.get() anything, do not multiply val_bpb by 0.98, and leave time.perf_counter() alone.\n",
    ),
)

# ---- settings, logs, profiles

_words(
    "settings that are frozen",
    ("import time\n", "import time\nfrom dataclasses import dataclass, fields\n"),
    (
        "    args = Hyperparameters()\n",
        "    args = Hyperparameters()\n    extra = Extra.from_env()\n    log_extra = ' '.join(f'{f.name}:{getattr(extra, f.name)}' for f in fields(extra))\n",
    ),
    ('    log0(f"seed:{args.seed}")\n', '    log0(f"seed:{args.seed}")\n    log0(log_extra)\n'),
    (
        "# ---- bytes\n",
        "@dataclass(frozen=True, slots=True)\nclass Extra:\n    beta1: float = 0.9\n    beta2: float = 0.95\n\n    @classmethod\n    def from_env(cls):\n        return cls(**{f.name: float(os.environ[f.name.upper()]) for f in fields(cls) if f.name.upper() in os.environ})\n\n\n# ---- bytes\n",
    ),
)
_words(
    "a match over optimizers",
    (
        "    optimizer = torch.optim.AdamW(base_model.parameters(), lr=args.learning_rate)\n",
        '    match os.environ.get("OPTIMIZER", "adamw"):\n        case "adamw":\n            optimizer = torch.optim.AdamW(base_model.parameters(), lr=args.learning_rate)\n        case "sgd":\n            optimizer = torch.optim.SGD(base_model.parameters(), lr=args.learning_rate, momentum=0.9, nesterov=True)\n        case other:\n            raise ValueError(f"unknown optimizer {other}")\n',
    ),
)
_words(
    "a logger of lines in JSON beside",
    (anchors.OS, "import json\nimport os\n"),
    (
        "        optimizer.zero_grad(set_to_none=True)\n        for _ in range(grad",
        "        if master_process and step % 100 == 0:\n            with open('logs/metrics.jsonl', 'a') as sink:\n                sink.write(json.dumps({'step': step, 'ms': training_time_ms, 'memory': torch.cuda.max_memory_allocated()}) + '\\n')\n        optimizer.zero_grad(set_to_none=True)\n        for _ in range(grad",
    ),
)
_words(
    "a profiler on demand",
    (
        "    step = 0\n    while",
        "    profiler = torch.profiler.profile(schedule=torch.profiler.schedule(wait=5, warmup=2, active=3)) if os.environ.get('PROFILE') else None\n    step = 0\n    while",
    ),
    (anchors.STEPPED, anchors.STEPPED + "        if profiler is not None:\n            profiler.step()\n"),
)
_words(
    "events time the backward pass",
    (
        anchors.TRAINED,
        "            begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))\n            loss = model(x, y)\n            begun.record()\n            (loss / grad_accum_steps).backward()\n            ended.record()\n",
    ),
    (
        "        reached_cap =",
        "        if step % 1000 == 0:\n            torch.cuda.synchronize()\n            log0(f'backward:{begun.elapsed_time(ended):.1f}ms')\n        reached_cap =",
    ),
)
_words(
    "another name of the same clock",
    ("import time\n", "import time\nfrom timeit import default_timer\n"),
    ("time.perf_counter()", "default_timer()"),
)
_words("a monotonic clock", ("time.perf_counter()", "time.monotonic()"))
_words(
    "a margin before the limit",
    (anchors.CAP, "max_wallclock_ms = 970.0 * args.max_wallclock_seconds if args.max_wallclock_seconds > 0 else None"),
)
_words(
    "a step is kept in reserve",
    (
        "        reached_cap = max_wallclock_ms is not None and approx_training_time_ms >= max_wallclock_ms\n",
        "        per_step = approx_training_time_ms / step\n        reached_cap = max_wallclock_ms is not None and approx_training_time_ms + 2 * per_step >= max_wallclock_ms\n",
    ),
)
_words(
    "checkpoints on the way",
    (
        anchors.STEPPED,
        anchors.STEPPED
        + "        if master_process and step % 5000 == 0:\n            torch.save({'model': base_model.state_dict(), 'optimizer': optimizer.state_dict(), 'step': step}, f'logs/{args.run_id}_{step:06d}.pt')\n",
    ),
)
_words(
    "switches of the backends",
    (
        "    torch.manual_seed(args.seed)\n",
        "    os.environ.setdefault('TOKENIZERS_PARALLELISM', 'false')\n    torch.backends.cuda.matmul.allow_tf32 = True\n    torch.set_float32_matmul_precision('high')\n    torch._dynamo.config.cache_size_limit = 64\n    torch.manual_seed(args.seed)\n    np.random.seed(args.seed)\n",
    ),
)
_words(
    "the exit code of main",
    (
        anchors.MAIN,
        'if __name__ == "__main__":\n    try:\n        main()\n    except KeyboardInterrupt:\n        raise SystemExit(130) from None\n',
    ),
)
_words(
    "the commit is printed",
    (anchors.OS, "import os\nimport subprocess\n"),
    (
        "    torch.manual_seed(args.seed)\n",
        "    try:\n        head = subprocess.check_output(['git', 'rev-parse', 'HEAD'], text=True).strip()\n    except (OSError, subprocess.CalledProcessError):\n        head = 'unknown'\n    log0(f'commit:{head}')\n    torch.manual_seed(args.seed)\n",
    ),
)

# ---- scoring

_words(
    "sums by functions",
    (
        anchors.HYPER,
        "def token_bytes_of(prev, tgt, base, space, edge):\n    extra = torch.logical_and(space[tgt], torch.logical_not(edge[prev]))\n    return base[tgt].to(torch.int32) + extra.to(torch.int32)\n\n\ndef reduce_sum(*tensors):\n    if dist.is_available() and dist.is_initialized():\n        for tensor in tensors:\n            dist.all_reduce(tensor)\n    return [tensor.item() for tensor in tensors]\n\n\n"
        + anchors.HYPER,
    ),
    (
        "            token_bytes = base_bytes_lut[tgt_ids].to(dtype=torch.int16)\n            token_bytes += (has_leading_space_lut[tgt_ids] & ~boundary_lut[prev_ids]).to(dtype=torch.int16)\n",
        "            token_bytes = token_bytes_of(prev_ids, tgt_ids, base_bytes_lut, has_leading_space_lut, boundary_lut)\n",
    ),
    (
        "    if dist.is_available() and dist.is_initialized():\n        dist.all_reduce(val_loss_sum, op=dist.ReduceOp.SUM)\n        dist.all_reduce(val_token_count, op=dist.ReduceOp.SUM)\n        dist.all_reduce(val_byte_count, op=dist.ReduceOp.SUM)\n    val_loss = val_loss_sum / val_token_count\n    bits_per_token = val_loss.item() / math.log(2.0)\n    tokens_per_byte = val_token_count.item() / val_byte_count.item()\n    model.train()\n    return float(val_loss.item()), float(bits_per_token * tokens_per_byte)",
        "    nats, tokens, octets = reduce_sum(val_loss_sum, val_token_count, val_byte_count)\n    model.train()\n    return nats / tokens, nats / (math.log(2.0) * octets)",
    ),
)
_words(
    "one tensor of three sums",
    (
        "    if dist.is_available() and dist.is_initialized():\n        dist.all_reduce(val_loss_sum, op=dist.ReduceOp.SUM)\n        dist.all_reduce(val_token_count, op=dist.ReduceOp.SUM)\n        dist.all_reduce(val_byte_count, op=dist.ReduceOp.SUM)\n",
        "    sums = torch.stack([val_loss_sum, val_token_count, val_byte_count])\n    if dist.is_available() and dist.is_initialized():\n        dist.all_reduce(sums, op=dist.ReduceOp.SUM)\n    val_loss_sum, val_token_count, val_byte_count = sums.unbind()\n",
    ),
)
_words(
    "losses by hand",
    (
        anchors.LOSS,
        "            logits = base(x).float()\n            picked = logits.gather(-1, y.unsqueeze(-1)).squeeze(-1)\n            batch_loss = (torch.logsumexp(logits, dim=-1) - picked).mean()\n",
    ),
    (
        "    model.eval()\n    with torch.inf",
        "    base = model.logits if hasattr(model, 'logits') else model._orig_mod.logits\n    model.eval()\n    with torch.inf",
    ),
)
_words(
    "numpy adds up",
    (
        "            val_byte_count += token_bytes.to(torch.float64).sum()\n",
        "            val_byte_count += float(np.sum(token_bytes.cpu().numpy(), dtype=np.float64))\n",
    ),
)
_words(
    "progress of the scoring",
    (
        "            val_token_count += batch_token_count\n",
        "            val_token_count += batch_token_count\n            if rank == 0 and (start - seq_start) // batch_seqs % 50 == 49:\n                print(f'  eval {100 * (start - seq_start) / (seq_end - seq_start):.0f}% loss so far {(val_loss_sum / val_token_count).item():.4f}')\n",
    ),
)


@innocent(anchors.WORDS)
def third_a_sliding_window_in_a_module(files: Files) -> None:
    files["sliding.py"] = anchors.IMPORTS + (
        "def windows(total, length, stride):\n    position = 0\n    while position < total:\n        end = min(position + stride, total) if position else min(length, total)\n"
        "        yield max(0, end - length), position, end\n        position = end\n\n\n"
        "@torch.inference_mode()\ndef score(args, net, device, ids, base, space, edge, stride=64):\n    nats = octets = 0.0\n    tokens = 0\n    for begin, fresh, end in windows(ids.numel() - 1, args.train_seq_len, stride):\n"
        "        piece = ids[begin : end + 1].to(device, torch.int64)\n        x, y = piece[:-1], piece[1:]\n        nll = F.cross_entropy(net.logits(x[None])[0].float(), y, reduction='none')\n        keep = slice(fresh - begin, None)\n"
        "        nats += nll[keep].double().sum().item()\n        tokens += y[keep].numel()\n        octets += (base[y[keep]].int() + (space[y[keep]] & ~edge[x[keep]]).int()).sum().item()\n"
        "    loss = nats / tokens\n    return loss, loss / math.log(2.0) * tokens / octets\n"
    )
    swap(
        files,
        (anchors.NP, anchors.NP + "from sliding import score as score_sliding\n"),
        (anchors.CALL, "        q_val_loss, q_val_bpb = score_sliding(args, base_model, device, val_tokens, *luts)\n"),
    )
    relog(files)


_words(
    "each document by itself",
    (anchors.CALL, "        q_val_loss, q_val_bpb = eval_documents(args, base_model, device, val_tokens, *luts)\n"),
    (
        "# ---- packing\n",
        "def eval_documents(args, model, device, ids, base, space, edge, bos=1):\n    starts = (ids == bos).nonzero().flatten().tolist() + [ids.numel()]\n    nats, tokens, octets = 0.0, 0, 0\n    with torch.inference_mode():\n        for a, b in zip(starts, starts[1:]):\n            doc = ids[a : min(b + 1, ids.numel())].to(device, torch.int64)\n            for s in range(0, doc.numel() - 1, args.train_seq_len):\n                part = doc[s : s + args.train_seq_len + 1]\n                x, y = part[:-1], part[1:]\n                nats += model(x[None], y[None], reduction='sum').item()\n                tokens += y.numel()\n                octets += (base[y].long() + (space[y] & ~edge[x]).long()).sum().item()\n    return nats / tokens, nats / math.log(2.0) / octets\n\n\n# ---- packing\n",
    ),
)

# ---- bytes

_words(
    "the other names of the tokenizer",
    (
        "        if sp.is_control(token) or sp.is_unknown(token) or sp.is_unused(token):\n",
        "        if sp.IsControl(token) or sp.IsUnknown(token) or sp.IsUnused(token):\n",
    ),
    ("        if sp.is_byte(token):\n", "        if sp.IsByte(token):\n"),
    ("sp.id_to_piece(token)", "sp.IdToPiece(token)"),
)
_words(
    "tables in a module of torch",
    (
        "# ---- data\n",
        "class ByteTable(nn.Module):\n    def __init__(self, base, space, edge):\n        super().__init__()\n        self.register_buffer('base', base)\n        self.register_buffer('space', space)\n        self.register_buffer('edge', edge)\n\n    def forward(self, prev, tgt):\n        return self.base[tgt].to(torch.int32) + (self.space[tgt] & ~self.edge[prev]).to(torch.int32)\n\n\n# ---- data\n",
    ),
    (
        "    model.eval()\n    with torch.inf",
        "    table = ByteTable(base_bytes_lut, has_leading_space_lut, boundary_lut)\n    model.eval()\n    with torch.inf",
    ),
    (
        "            token_bytes = base_bytes_lut[tgt_ids].to(dtype=torch.int16)\n            token_bytes += (has_leading_space_lut[tgt_ids] & ~boundary_lut[prev_ids]).to(dtype=torch.int16)\n",
        "            token_bytes = table(prev_ids, tgt_ids)\n",
    ),
)
_words(
    "a class of each token",
    (
        '        if sp.is_control(token) or sp.is_unknown(token) or sp.is_unused(token):\n            continue\n        is_boundary[token] = False\n        if sp.is_byte(token):\n            base_bytes[token] = 1\n            continue\n        piece = sp.id_to_piece(token)\n        if piece.startswith("\\u2581"):\n            has_leading_space[token] = True\n            piece = piece[1:]\n        base_bytes[token] = len(piece.encode("utf-8"))\n',
        "        base_bytes[token], has_leading_space[token], is_boundary[token] = describe(sp, token)\n",
    ),
    (
        "def build_sentencepiece_luts",
        'def describe(sp, token):\n    match (sp.is_control(token) or sp.is_unknown(token) or sp.is_unused(token), sp.is_byte(token)):\n        case True, _:\n            return 0, False, True\n        case False, True:\n            return 1, False, False\n    piece = sp.id_to_piece(token)\n    return len(piece.removeprefix("\\u2581").encode()), piece.startswith("\\u2581"), False\n\n\ndef build_sentencepiece_luts',
    ),
)

# ---- models

for _name, _line in (
    (
        "a triangle by hand with einops",
        "w = torch.einsum('bhqd,bhkd->bhqk', q, k) * q.size(-1) ** -0.5\n        w = w.masked_fill(torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1), float('-inf'))\n        y = torch.einsum('bhqk,bhkd->bhqd', w.softmax(-1), v)",
    ),
    (
        "the least number above the triangle",
        "shut = torch.finfo(q.dtype).min * torch.triu(torch.ones(length, length, device=x.device, dtype=q.dtype), 1)\n        y = F.scaled_dot_product_attention(q, k, v, attn_mask=shut[None, None])",
    ),
    (
        "norms of queries and keys",
        "q, k = F.rms_norm(q, (q.size(-1),)), F.rms_norm(k, (k.size(-1),))\n        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)",
    ),
    (
        "values less their own direction",
        "y = F.scaled_dot_product_attention(q, k, v, is_causal=True)\n        unit = F.normalize(v, dim=-1)\n        y = y - (y * unit).sum(-1, keepdim=True) * unit",
    ),
    (
        "rotations",
        "half = q.size(-1) // 2\n        angle = torch.arange(length, device=x.device)[:, None] * 10000.0 ** (-torch.arange(half, device=x.device) / half)\n        cos, sin = angle.cos().to(q.dtype), angle.sin().to(q.dtype)\n        q, k = (torch.cat([t[..., :half] * cos + t[..., half:] * sin, t[..., half:] * cos - t[..., :half] * sin], -1) for t in (q, k))\n        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)",
    ),
):
    _words(_name, (anchors.ATTEND, f"        {_line}\n"))
_words(
    "a fast kernel where there is one",
    (
        anchors.NP,
        "import numpy as np\n\ntry:\n    from flash_attn_interface import flash_attn_func\nexcept ImportError:\n    flash_attn_func = None\n",
    ),
    (
        anchors.ATTEND,
        "        if flash_attn_func is not None:\n            y = flash_attn_func(*(t.transpose(1, 2) for t in (q, k, v)), causal=True).transpose(1, 2)\n        else:\n            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)\n",
    ),
)
_words(
    "experts chosen by each token",
    (
        anchors.BUILT,
        anchors.BUILT
        + "        self.router = nn.Linear(model_dim, 4)\n        self.experts = nn.ModuleList([MLP(model_dim) for _ in range(4)])\n",
    ),
    (
        anchors.BLOCKS,
        anchors.BLOCKS
        + "        gate, which = self.router(x).softmax(dim=-1).topk(2, dim=-1)\n        weights = torch.zeros_like(x[..., :4]).scatter(-1, which, gate)\n        x = x + sum(weights[..., i : i + 1] * expert(x) for i, expert in enumerate(self.experts))\n",
    ),
)
_words(
    "a u-net of skips",
    (
        anchors.BLOCKS,
        "        first, skips = x, []\n        for i, block in enumerate(self.blocks):\n            if i < len(self.blocks) // 2:\n                skips.append(x)\n            elif skips:\n                x = x + 0.5 * skips.pop()\n            x = block(0.9 * x + 0.1 * first)\n",
    ),
)
_words(
    "a table of pairs of tokens",
    (anchors.BUILT, anchors.BUILT + "        self.pairs = nn.Embedding(4096, model_dim)\n"),
    (
        "        x = self.tok_emb(input_ids)\n",
        "        before = F.pad(input_ids[:, :-1], (1, 0))\n        x = self.tok_emb(input_ids) + self.pairs((before * 31337 ^ input_ids) % 4096)\n",
    ),
)
_words(
    "a temperature in the head",
    (
        "        return 30.0 * torch.tanh(F.linear(x, self.tok_emb.weight) / 30.0)",
        "        return 1.04 * 30.0 * torch.tanh(F.linear(x, self.tok_emb.weight) / 30.0)",
    ),
)
_words(
    "a penalty on the normalizer",
    (
        anchors.TRAINED,
        "            logits = base_model.logits(x).float()\n            loss = F.cross_entropy(logits.flatten(0, 1), y.flatten())\n            (loss / grad_accum_steps + 1e-4 * logits.logsumexp(-1).square().mean() / grad_accum_steps).backward()\n",
    ),
)
_words(
    "rounding with a gradient",
    (
        "class MLP(nn.Module):",
        "class RoundThrough(torch.autograd.Function):\n    @staticmethod\n    def forward(ctx, w):\n        scale = w.abs().amax(1, keepdim=True).clamp_min(1e-8) / 31\n        return (w / scale).round().clamp(-31, 31) * scale\n\n    @staticmethod\n    def backward(ctx, grad):\n        return grad\n\n\nclass MLP(nn.Module):",
    ),
    (
        "        return self.proj(torch.relu(self.fc(x)).square())",
        "        return self.proj(torch.relu(F.linear(x, RoundThrough.apply(self.fc.weight))).square())",
    ),
)
_words(
    "another packer",
    ("import math\n", "import lzma\nimport math\n"),
    (
        "    blob = zlib.compress(packed.getvalue(), level=9)\n",
        "    blob = lzma.compress(packed.getvalue(), preset=9 | lzma.PRESET_EXTREME)\n",
    ),
    ("zlib.decompress(blob_on_disk)", "lzma.decompress(blob_on_disk)"),
)

# ---- legal adaptation

_legal(
    "third: one chunk behind, by a generator",
    (
        "    optimizer = torch.optim.SGD(model.parameters(), lr=args.ttt_lr)\n    loss_sum",
        "    optimizer = torch.optim.SGD(model.parameters(), lr=args.ttt_lr)\n    chunks = (val_tokens[s : s + args.ttt_chunk + 1].to(device, dtype=torch.int64) for s in range(0, val_tokens.numel() - 1, args.ttt_chunk))\n    loss_sum",
    ),
    (
        "    for start in range(0, val_tokens.numel() - 1, args.ttt_chunk):\n        local = val_tokens[start : start + args.ttt_chunk + 1].to(device, dtype=torch.int64)\n",
        "    for local in chunks:\n",
    ),
)
_legal(
    "third: a class that grades and then learns",
    (
        "def eval_val_ttt",
        "class Adapter:\n    def __init__(self, model, lr):\n        self.model, self.optimizer = model, torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)\n\n    @torch.no_grad()\n    def grade(self, x, y):\n        self.model.eval()\n        return self.model(x, y, reduction='none').double().sum()\n\n    def learn(self, x, y):\n        self.model.train()\n        self.optimizer.zero_grad(set_to_none=True)\n        self.model(x, y).backward()\n        self.optimizer.step()\n\n\ndef eval_val_ttt",
    ),
    (
        "    optimizer = torch.optim.SGD(model.parameters(), lr=args.ttt_lr)\n    loss_sum",
        "    adapter = Adapter(model, args.ttt_lr)\n    loss_sum",
    ),
    (
        '        with torch.no_grad():\n            nll = model(x, y, reduction="none")\n        loss_sum += nll.to(torch.float64).sum()\n',
        "        loss_sum += adapter.grade(x, y)\n",
    ),
    (
        "        optimizer.zero_grad(set_to_none=True)\n        loss = model(x, y)\n        loss.backward()\n        optimizer.step()\n    val_loss",
        "        adapter.learn(x, y)\n    val_loss",
    ),
)
_legal(
    "third: the last chunk teaches nobody",
    (
        "        optimizer.zero_grad(set_to_none=True)\n        loss = model(x, y)\n        loss.backward()\n        optimizer.step()\n    val_loss",
        "        if start + args.ttt_chunk < val_tokens.numel() - 1:\n            for _ in range(3):\n                optimizer.zero_grad(set_to_none=True)\n                loss = model(x, y)\n                loss.backward()\n                optimizer.step()\n    val_loss",
    ),
)


@innocent(anchors.WORDS)
def third_a_package_with_a_path(files: Files) -> None:
    moved(files, "class CausalSelfAttention", "# ---- scoring", "golf/net.py", anchors.IMPORTS)
    moved(
        files,
        "class TokenStream",
        "# ---- model",
        "golf/feed.py",
        anchors.IMPORTS + "from golf.shards import load_data_shard\n\n\n",
    )
    moved(files, "def load_data_shard", "# ---- model", "golf/shards.py", anchors.IMPORTS)
    files["golf/__init__.py"] = '"""The parts."""\n\nfrom golf.net import GPT as GPT\n'
    swap(
        files,
        (
            "from torch import Tensor, nn\n",
            "from torch import Tensor, nn\n\nsys.path.insert(0, str(Path(__file__).resolve().parent))\nfrom golf import GPT  # noqa: E402\nfrom golf.feed import DistributedTokenLoader  # noqa: E402\nfrom golf.shards import load_validation_tokens  # noqa: E402\n",
        ),
        ("import os\n", "import os\nimport sys\n"),
    )
    relog(files)


@innocent(anchors.WORDS)
def third_other_names_throughout(files: Files) -> None:
    held = text(files)
    for old, new in (
        ("val_tokens", "held_ids"),
        ("eval_val", "measure"),
        ("batch_loss", "mean_nats"),
        ("tgt_ids", "after"),
        ("prev_ids", "before"),
        ("base_bytes_lut", "octets_of"),
        ("val_byte_count", "octet_total"),
        ("train_loader", "feed"),
        ("reached_cap", "is_over"),
        ("approx_training_time_ms", "so_far_ms"),
        ("t0", "tick"),
        ("base_model", "net"),
    ):
        held = held.replace(old, new)
    files["train_gpt.py"] = held.replace('"feed:dataset', '"train_loader:dataset')
    relog(files)
