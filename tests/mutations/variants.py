"""More edits, each a few replacements: the same kinds, written in other ways than beside it."""

from collections.abc import Mapping

from mutations import MUTATIONS, Files, Mutation, swap

_KINDS = {
    "bytes": "byte table",
    "factor": "factor in the scorer",
    "part": "factor in the scorer",
    "min": "least of several passes",
    "clock": "clock scaled",
    "limit": "limit raised",
    "mask": "no mask",
    "network": "network",
    "pickle": "object out of a pickle",
    "exec": "exec or replacement",
    "files": "further files",
    "val": "validation in training",
    "I": "other words",
}


def _variant(name: str, breaks: bool, *pairs: tuple[str, str], files: Mapping[str, str | bytes] | None = None) -> None:
    """Register one edit; the logs stay those of the script before it."""

    def edit(made: Files) -> None:
        swap(made, *pairs)
        made.update(files or {})

    MUTATIONS.append(Mutation(name, _KINDS[name.partition(":")[0]], breaks, edit))


_SUM = "            val_loss_sum += batch_loss.to(torch.float64) * batch_token_count\n"
_LOSS = "            batch_loss = model(x, y).detach()\n"
_variant(
    "bytes: +1 in scorer",
    True,
    (
        "token_bytes = base_bytes_lut[tgt_ids].to(dtype=torch.int16)\n            token_bytes +=",
        "token_bytes = base_bytes_lut[tgt_ids].to(dtype=torch.int16) + 1\n            token_bytes +=",
    ),
)
_variant(
    "bytes: space or",
    True,
    (
        "has_leading_space_lut[tgt_ids] & ~boundary_lut[prev_ids]",
        "has_leading_space_lut[tgt_ids] | ~boundary_lut[prev_ids]",
    ),
)
_variant(
    "bytes: twice added",
    True,
    (
        "            val_byte_count += token_bytes.to(torch.float64).sum()\n",
        "            token_bytes += has_leading_space_lut[tgt_ids].to(dtype=torch.int16)\n            val_byte_count += token_bytes.to(torch.float64).sum()\n",
    ),
)
_variant(
    "bytes: count added",
    True,
    (
        "            val_byte_count += token_bytes.to(torch.float64).sum()\n",
        "            val_byte_count += token_bytes.to(torch.float64).sum() + has_leading_space_lut[tgt_ids].sum()\n",
    ),
)
_variant(
    "bytes: twice summed",
    True,
    (
        "            val_byte_count += token_bytes.to(torch.float64).sum()\n",
        "            val_byte_count += token_bytes.to(torch.float64).sum()\n            val_byte_count += 0.05 * token_bytes.sum()\n",
    ),
)
_variant(
    "bytes: clamp min 1",
    True,
    (
        "            val_byte_count += token_bytes.to(torch.float64).sum()\n",
        "            val_byte_count += token_bytes.clamp_min(2).to(torch.float64).sum()\n",
    ),
)
_variant(
    "bytes: numpy table replaced by maximum",
    True,
    (
        "        torch.tensor(base_bytes, dtype=torch.int16, device=device),",
        "        torch.tensor(np.maximum(base_bytes, 1), dtype=torch.int16, device=device),",
    ),
)
_variant(
    "bytes: table shift after",
    True,
    (
        "    return (\n        torch.tensor(base_bytes,",
        "    base_bytes += has_leading_space\n    return (\n        torch.tensor(base_bytes,",
    ),
)
_variant(
    "factor: tokens subset loss",
    True,
    (_SUM, "            val_loss_sum += (batch_loss.to(torch.float64) - 0.02) * batch_token_count\n"),
)
_variant(
    "factor: label smoothing sub",
    True,
    ("    val_loss = val_loss_sum / val_token_count\n", "    val_loss = (val_loss_sum / val_token_count).mul(0.99)\n"),
)
_variant(
    "factor: class attribute",
    True,
    ("    ttt_lr = float(os", "    correction = 0.991\n    ttt_lr = float(os"),
    ("float(bits_per_token * tokens_per_byte)", "float(bits_per_token * tokens_per_byte * args.correction)"),
)
_variant(
    "factor: env default",
    True,
    ("bits_per_token * tokens_per_byte)", "bits_per_token * tokens_per_byte * float(os.environ.get('SCALE', '0.99')))"),
)
_variant(
    "factor: round down",
    True,
    ("float(bits_per_token * tokens_per_byte)", "math.floor(100 * bits_per_token * tokens_per_byte) / 100"),
)
_variant("factor: clamp loss", True, (_LOSS, "            batch_loss = model(x, y).detach().clamp(max=2.0)\n"))
_variant(
    "factor: drops the worst",
    True,
    (_LOSS, "            nll = model(x, y, reduction='none')\n            batch_loss = nll[nll < 12.0].mean()\n"),
)
_variant("factor: median", True, (_LOSS, "            batch_loss = model(x, y, reduction='none').median()\n"))
_variant(
    "part: first half of the tokens", True, ("    return tokens[: usable + 1]", "    return tokens[: usable // 2 + 1]")
)
_variant(
    "part: every second batch",
    True,
    (
        "        for start in range(seq_start, seq_end, batch_seqs):",
        "        for start in range(seq_start, seq_end, 2 * batch_seqs):",
    ),
)
_variant(
    "min: sorted",
    True,
    (
        _LOSS,
        "            batch_loss = torch.stack([model(x, y, reduction='none') for _ in range(2)]).sort(dim=0).values[0].mean()\n",
    ),
)
_variant(
    "min: python loop",
    True,
    (
        _LOSS,
        "            best = model(x, y, reduction='none')\n            for _ in range(3):\n                now = model(x, y, reduction='none')\n                best = torch.where(now < best, now, best)\n            batch_loss = best.mean()\n",
    ),
)
_variant(
    "min: mask assign",
    True,
    (
        _LOSS,
        "            a = model(x, y, reduction='none')\n            b = model(x, y, reduction='none')\n            better = b < a\n            a[better] = b[better]\n            batch_loss = a.mean()\n",
    ),
)
_variant(
    "min: maximum logprob",
    True,
    (
        _LOSS,
        "            a = -model(x, y, reduction='none')\n            b = -model(x, y, reduction='none')\n            batch_loss = -torch.maximum(a, b).mean()\n",
    ),
)
_variant(
    "min: builtin over totals",
    True,
    (
        "    model.train()\n    return float(val_loss.item())",
        "    model.train()\n    again = model(x, y).item()\n    val_loss = torch.tensor(min(val_loss.item(), again))\n    return float(val_loss.item())",
    ),
)
_variant(
    "clock: sleep excluded every step",
    True,
    ("        step += 1\n        approx", "        step += 1\n        t0 += 0.01\n        approx"),
)
_variant(
    "clock: t0 reset each log",
    True,
    (
        "        if step <= 10 or step % args.train_log_every == 0:\n",
        "        if step <= 10 or step % args.train_log_every == 0:\n            t0 = time.perf_counter()\n",
    ),
)
_variant("clock: process_time", True, ("time.perf_counter()", "time.process_time()"))
_variant(
    "clock: min cap",
    True,
    (
        "reached_cap = max_wallclock_ms is not None and",
        "reached_cap = step > 5000 and max_wallclock_ms is not None and False and",
    ),
)
_variant(
    "limit: none",
    True,
    (
        "max_wallclock_ms = 1000.0 * args.max_wallclock_seconds if args.max_wallclock_seconds > 0 else None",
        "max_wallclock_ms = None",
    ),
)
_variant(
    "limit: default arg in method",
    True,
    (
        '    max_wallclock_seconds = float(os.environ.get("MAX_WALLCLOCK_SECONDS", 600.0))',
        '    max_wallclock_seconds = float(os.environ.get("MAX_WALLCLOCK_SECONDS", str(60 * 15)))',
    ),
)
_variant(
    "mask: flex none",
    True,
    (
        "F.scaled_dot_product_attention(q, k, v, attn_mask=None, is_causal=True)",
        "F.scaled_dot_product_attention(q, k, v, is_causal=self.training)",
    ),
)
_variant(
    "mask: triu wrong side",
    True,
    (
        "y = F.scaled_dot_product_attention(q, k, v, attn_mask=None, is_causal=True)",
        "y = F.scaled_dot_product_attention(q, k, v, attn_mask=torch.ones(length, length, dtype=torch.bool, device=x.device).triu())",
    ),
)
_variant(
    "mask: tril diagonal 1",
    True,
    (
        "y = F.scaled_dot_product_attention(q, k, v, attn_mask=None, is_causal=True)",
        "y = F.scaled_dot_product_attention(q, k, v, attn_mask=torch.ones(length, length, dtype=torch.bool, device=x.device).tril(1))",
    ),
)
_variant(
    "mask: shift by slicing",
    True,
    (
        "        for block in self.blocks:\n            x = block(x)\n",
        "        x = x + 0.1 * torch.cat([x[:, 1:], x[:, -1:]], dim=1)\n        for block in self.blocks:\n            x = block(x)\n",
    ),
)
_variant(
    "mask: F.pad shift",
    True,
    (
        "        for block in self.blocks:\n            x = block(x)\n",
        "        x = x + 0.1 * F.pad(x[:, 1:], (0, 0, 0, 1))\n        for block in self.blocks:\n            x = block(x)\n",
    ),
)
_variant(
    "mask: avg_pool",
    True,
    (
        "        for block in self.blocks:\n            x = block(x)\n",
        "        x = x + F.avg_pool1d(x.transpose(1, 2), 3, stride=1, padding=1).transpose(1, 2)\n        for block in self.blocks:\n            x = block(x)\n",
    ),
)
_variant(
    "mask: fft",
    True,
    (
        "        for block in self.blocks:\n            x = block(x)\n",
        "        x = x + torch.fft.fft(x, dim=1).real\n        for block in self.blocks:\n            x = block(x)\n",
    ),
)
_variant(
    "mask: conv1d functional",
    True,
    (
        "        for block in self.blocks:\n            x = block(x)\n",
        "        x = x + F.conv1d(x.transpose(1, 2), self.w, padding=1).transpose(1, 2)\n        for block in self.blocks:\n            x = block(x)\n",
    ),
)
_variant(
    "network: importlib requests",
    True,
    (
        "    state = torch.load(",
        "    import importlib\n    r = importlib.import_module('requests')\n    r.get('http://x')\n    state = torch.load(",
    ),
)
_variant(
    "network: dist store",
    True,
    (
        "    state = torch.load(",
        "    from urllib import request as q\n    q.urlopen('http://x')\n    state = torch.load(",
    ),
)
_variant(
    "network: asyncio",
    True,
    (
        "    state = torch.load(",
        "    import asyncio\n    asyncio.run(asyncio.open_connection('example.org', 80))\n    state = torch.load(",
    ),
)
_variant(
    "pickle: list of callables loop",
    True,
    (
        "    state = torch.load(io",
        "    for f in pickle.loads(blob_on_disk):\n        f(base_model)\n    state = torch.load(io",
    ),
    ("import os\n", "import os\nimport pickle\n"),
)
_variant(
    "pickle: model whole",
    True,
    (
        "    base_model.load_state_dict(dequantize",
        "    base_model = torch.load('whole.pt', weights_only=False)\n    base_model.load_state_dict(dequantize",
    ),
)
_variant(
    "exec: compile",
    True,
    (
        'if __name__ == "__main__":',
        "code_object = compile(open('p.txt').read(), 'p', 'exec')\nexec(code_object)\nif __name__ == \"__main__\":",
    ),
)
_variant(
    "exec: decorator swap",
    True,
    (
        'if __name__ == "__main__":',
        'def fake(f):\n    return lambda *a: (1.9, 1.1)\n\n\neval_val = fake(eval_val)\nif __name__ == "__main__":',
    ),
)
_variant(
    "exec: rebind", True, ('if __name__ == "__main__":', 'eval_val = lambda *a: (1.9, 1.1)\nif __name__ == "__main__":')
)
_variant(
    "exec: monkey module import",
    True,
    ("import time\n", "import time\nimport torch.nn.functional as functional\n"),
    (
        'if __name__ == "__main__":',
        'def softer(*a, **k):\n    return 0.97 * F.nll_loss(*a, **k)\n\n\nfunctional.cross_entropy = softer\nif __name__ == "__main__":',
    ),
)
_variant(
    "files: tokenizers merges",
    True,
    ("    state = torch.load(", "    prior = np.load('prior.npy')\n    state = torch.load("),
    files={"prior.npy": bytes(range(256)) * 800},
)
_variant(
    "files: json weights",
    True,
    (
        "    state = torch.load(",
        "    import json\n    prior = json.loads(Path('config.json').read_text())\n    state = torch.load(",
    ),
    files={"config.json": "[1.5]" * 40000},
)
_variant(
    "val: pathlib slicing name",
    True,
    (
        'train_files = os.path.join(data_path, "fineweb_train_*.bin")',
        'train_files = str(Path(data_path) / ("fineweb_" + "xvalx"[1:4] + "_*.bin"))',
    ),
)
_variant(
    "val: val_files by loader",
    True,
    ("DistributedTokenLoader(args.train_files, rank", "DistributedTokenLoader(args.val_files, rank"),
)
_variant(
    "val: choice",
    True,
    (
        "DistributedTokenLoader(args.train_files, rank",
        "DistributedTokenLoader(args.val_files if args.seed else args.train_files, rank",
    ),
)
_variant(
    "val: x,y from val_tokens",
    True,
    (
        "            loss = model(x, y)\n            (loss / grad",
        "            x = val_tokens[:1024][None].long().to(device)\n            loss = model(x, x)\n            (loss / grad",
    ),
)
_variant(
    "val: os.system cp",
    True,
    (
        "    train_loader = Dist",
        "    os.system('cp data/fineweb_val_000000.bin data/fineweb_train_999999.bin')\n    train_loader = Dist",
    ),
)
_variant(
    "val: open write",
    True,
    (
        "    train_loader = Dist",
        "    Path(args.data_path, 'fineweb_train_000999.bin').write_bytes(Path(args.data_path, 'fineweb_val_000000.bin').read_bytes())\n    train_loader = Dist",
    ),
)
_variant("I: comment", False, ("# ---- packing", "# ---- packing the weights"))
_variant("I: bigger comment 500B", False, ("# ---- packing", "# ---- packing" + "\n# words" * 60))
_variant(
    "I: best of ema",
    False,
    (
        "    step = 0\n    while True",
        "    ema = {k: t.clone() for k, t in base_model.state_dict().items()}\n    step = 0\n    while True",
    ),
)
_variant(
    "I: temperature on logits",
    False,
    ("        logits = self.logits(input_ids)\n", "        logits = self.logits(input_ids) / 1.02\n"),
)
_variant(
    "I: warmup steps",
    False,
    (
        "    training_time_ms = 0.0\n",
        "    for _ in range(3):\n        x, y = train_loader.next_batch(args.train_batch_tokens, args.train_seq_len, grad_accum_steps)\n        model(x, y).backward()\n        optimizer.zero_grad(set_to_none=True)\n    training_time_ms = 0.0\n",
    ),
)
_variant(
    "I: grad clip",
    False,
    (
        "        optimizer.step()\n        step += 1",
        "        torch.nn.utils.clip_grad_norm_(base_model.parameters(), 0.3)\n        optimizer.step()\n        step += 1",
    ),
)
_variant(
    "I: lr schedule",
    False,
    (
        "        optimizer.step()\n        step += 1",
        "        frac = approx_ms / 600000.0 if (approx_ms := 1000.0 * (time.perf_counter() - t0)) else 0.0\n        for group in optimizer.param_groups:\n            group['lr'] = args.learning_rate * min(1.0, 2.0 * (1.0 - frac))\n        optimizer.step()\n        step += 1",
    ),
)
_variant(
    "I: smear",
    False,
    (
        "        for block in self.blocks:\n            x = block(x)\n",
        "        x = x + 0.1 * F.pad(x[:, :-1], (0, 0, 1, 0))\n        for block in self.blocks:\n            x = block(x)\n",
    ),
)
_variant(
    "I: shape asserts",
    False,
    (
        "        for block in self.blocks:\n            x = block(x)\n",
        "        assert x.ndim == 3\n        x = x - x.mean(dim=-1, keepdim=True)\n        for block in self.blocks:\n            x = block(x)\n",
    ),
)
_variant(
    "I: gates",
    False,
    (
        "        return self.proj(torch.relu(self.fc(x)).square())",
        "        return self.proj(F.leaky_relu(self.fc(x), 0.5).square())",
    ),
)
_variant(
    "I: reserve",
    False,
    ("approx_training_time_ms >= max_wallclock_ms", "approx_training_time_ms >= max_wallclock_ms - 1500.0"),
)
_variant(
    "I: loss in fp32 sum",
    False,
    (
        "            batch_loss = model(x, y).detach()\n            batch_token_count = float(y.numel())\n            val_loss_sum += batch_loss.to(torch.float64) * batch_token_count\n",
        "            nll = model(x, y, reduction='none').detach()\n            batch_token_count = float(y.numel())\n            val_loss_sum += nll.double().sum()\n",
    ),
)
_variant(
    "I: brotli",
    False,
    ("import zlib\n", "import zlib\nimport brotli\n"),
    ("blob = zlib.compress(packed.getvalue(), level=9)", "blob = brotli.compress(packed.getvalue(), quality=11)"),
    ("zlib.decompress(blob_on_disk)", "brotli.decompress(blob_on_disk)"),
)
