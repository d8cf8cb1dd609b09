"""What breaks no rule, in other people's idioms: legal adaptation, whole mixtures, other shapes of the same program."""

import json

from mutations import MUTATIONS, RATIO, SEEDS, Files, Mutation, anchors, innocent, logs, moved, relog, score, swap, text


def _edit(kind: str, name: str, *pairs: tuple[str, str], files: dict[str, str | bytes] | None = None) -> None:
    """Register an edit that breaks no rule, by what it replaces and the files that it adds."""

    def edit(made: Files) -> None:
        made.update(files or {})
        swap(made, *pairs)
        relog(made)

    MUTATIONS.append(Mutation(name, kind, False, edit))


# ---- mixtures over the whole vocabulary

_MIX = "whole mixture"


def _mixture(name: str, body: str, call: str = "mixture(args, base_model, device, val_tokens, *luts)") -> None:
    _edit(
        _MIX,
        f"mixture: {name}",
        ("# ---- packing\n", body.strip("\n") + "\n\n\n# ---- packing\n"),
        (anchors.CALL, f"        q_val_loss, q_val_bpb = {call}\n"),
    )


_BYTES = """        octets = base_bytes_lut[y].to(torch.int16)
        octets += (has_leading_space_lut[y] & ~boundary_lut[x]).to(torch.int16)
        byte_count += octets.to(torch.float64).sum().item()
"""
_END = """    val_loss = total / count
    return val_loss, val_loss / math.log(2.0) * (count / byte_count)
"""

_mixture(
    "numpy, rows of a table",
    """
def mixture(args, model, device, val_tokens, base_bytes_lut, has_leading_space_lut, boundary_lut):
    counts = np.full((args.vocab_size, args.vocab_size), 0.05)
    total, count, byte_count = 0.0, 0, 0.0
    for start in range(0, val_tokens.numel() - 1, args.train_seq_len):
        local = val_tokens[start : start + args.train_seq_len + 1].to(device, dtype=torch.int64)
        x, y = local[:-1], local[1:]
        with torch.inference_mode():
            logits = model.logits(x[None])[0].float().cpu().numpy()
        logits -= logits.max(axis=1, keepdims=True)
        p = np.exp(logits)
        p /= p.sum(axis=1, keepdims=True)
        left, right = x.cpu().numpy(), y.cpu().numpy()
        rows = counts[left]
        q = rows / rows.sum(axis=1, keepdims=True)
        mixed = 0.85 * p + 0.15 * q
        total += -np.log(mixed[np.arange(len(right)), right]).sum()
        count += len(right)
"""
    + _BYTES
    + """        np.add.at(counts, (left, right), 1.0)
"""
    + _END,
)
_mixture(
    "torch, logaddexp of two log distributions",
    """
def mixture(args, model, device, val_tokens, base_bytes_lut, has_leading_space_lut, boundary_lut):
    counts = torch.full((args.vocab_size, args.vocab_size), 0.02, device=device)
    weight = 0.1
    total, count, byte_count = 0.0, 0, 0.0
    for start in range(0, val_tokens.numel() - 1, args.train_seq_len):
        local = val_tokens[start : start + args.train_seq_len + 1].to(device, dtype=torch.int64)
        x, y = local[:-1], local[1:]
        with torch.inference_mode():
            network = F.log_softmax(model.logits(x[None])[0].float(), dim=-1)
        grams = torch.log_softmax(torch.log(counts[x]), dim=-1)
        mixed = torch.logaddexp(network + math.log(1.0 - weight), grams + math.log(weight))
        total += F.nll_loss(mixed, y, reduction="sum").item()
        count += y.numel()
"""
    + _BYTES
    + """        counts.index_put_((x, y), torch.ones_like(y, dtype=counts.dtype), accumulate=True)
"""
    + _END,
)
_mixture(
    "a class with a distribution and an update",
    """
class Bigram:
    def __init__(self, vocab, device):
        self.table = torch.full((vocab, vocab), 0.1, device=device)

    def distribution(self, context):
        rows = self.table[context]
        return rows / rows.sum(-1, keepdim=True)

    def observe(self, context, following):
        self.table.index_put_((context, following), torch.ones(len(context), device=context.device), accumulate=True)


def mixture(args, model, device, val_tokens, base_bytes_lut, has_leading_space_lut, boundary_lut):
    grams = Bigram(args.vocab_size, device)
    total, count, byte_count = 0.0, 0, 0.0
    for start in range(0, val_tokens.numel() - 1, args.train_seq_len):
        local = val_tokens[start : start + args.train_seq_len + 1].to(device, dtype=torch.int64)
        x, y = local[:-1], local[1:]
        with torch.no_grad():
            p = model.logits(x[None])[0].float().softmax(dim=-1)
        mixed = 0.9 * p + 0.1 * grams.distribution(x)
        total -= mixed.gather(1, y.unsqueeze(1)).log().sum().item()
        count += y.numel()
"""
    + _BYTES
    + """        grams.observe(x, y)
"""
    + _END,
)
_mixture(
    "hashed contexts, each a whole row",
    """
def mixture(args, model, device, val_tokens, base_bytes_lut, has_leading_space_lut, boundary_lut):
    buckets = 1 << 14
    table = np.full((buckets, args.vocab_size), 0.01, dtype=np.float32)
    total, count, byte_count = 0.0, 0, 0.0
    for start in range(0, val_tokens.numel() - 1, args.train_seq_len):
        local = val_tokens[start : start + args.train_seq_len + 1].to(device, dtype=torch.int64)
        x, y = local[:-1], local[1:]
        with torch.no_grad():
            p = torch.softmax(model.logits(x[None])[0].float(), -1).cpu().numpy()
        ids = x.cpu().numpy()
        before = np.concatenate([[0], ids[:-1]])
        keys = (ids * 1000003 + before * 8191) % buckets
        rows = table[keys]
        q = rows / rows.sum(axis=1, keepdims=True)
        mixed = 0.9 * p + 0.1 * q
        truth = y.cpu().numpy()
        total -= np.log(np.take_along_axis(mixed, truth[:, None], axis=1)).sum()
        count += len(truth)
"""
    + _BYTES
    + """        np.add.at(table, (keys, truth), 1.0)
"""
    + _END,
)
_mixture(
    "a unigram cache that decays",
    """
def mixture(args, model, device, val_tokens, base_bytes_lut, has_leading_space_lut, boundary_lut):
    recent = torch.ones(args.vocab_size, device=device)
    total, count, byte_count = 0.0, 0, 0.0
    for start in range(0, val_tokens.numel() - 1, args.train_seq_len):
        local = val_tokens[start : start + args.train_seq_len + 1].to(device, dtype=torch.int64)
        x, y = local[:-1], local[1:]
        with torch.no_grad():
            p = torch.softmax(model.logits(x[None])[0].float(), dim=-1)
        mixed = 0.97 * p + 0.03 * (recent / recent.sum())
        total += F.nll_loss(mixed.log(), y, reduction="sum").item()
        count += y.numel()
"""
    + _BYTES
    + """        recent = 0.999 * recent + torch.bincount(y, minlength=args.vocab_size)
"""
    + _END,
)
_mixture(
    "two networks, their mean",
    """
def mixture(args, model, other, device, val_tokens, base_bytes_lut, has_leading_space_lut, boundary_lut):
    total, count, byte_count = 0.0, 0, 0.0
    for start in range(0, val_tokens.numel() - 1, args.train_seq_len):
        local = val_tokens[start : start + args.train_seq_len + 1].to(device, dtype=torch.int64)
        x, y = local[:-1], local[1:]
        with torch.no_grad():
            p = (model.logits(x[None])[0].float().softmax(-1) + other.logits(x[None])[0].float().softmax(-1)) / 2
        total += F.nll_loss(torch.log(p), y, reduction="sum").item()
        count += y.numel()
"""
    + _BYTES
    + _END,
    "mixture(args, base_model, averaged_model(base_model), device, val_tokens, *luts)",
)


def _with_average(made: Files) -> None:
    copied = "def averaged_model(model):\n    import copy\n\n    return copy.deepcopy(model)\n\n\n"
    swap(made, ("def mixture(", copied + "def mixture("))
    relog(made)


_ONE = MUTATIONS.pop()


@innocent(_MIX)
def two_networks_and_their_mean(files: Files) -> None:
    _ONE.edit(files)
    _with_average(files)


# ---- score first

_SCORE = "score first"
_ON = ('"TTT_ENABLED", "0"', '"TTT_ENABLED", "1"')
_BODY = """        with torch.no_grad():
            nll = model(x, y, reduction="none")
        loss_sum += nll.to(torch.float64).sum()
"""
_LEARN = """        optimizer.zero_grad(set_to_none=True)
        loss = model(x, y)
        loss.backward()
        optimizer.step()
    val_loss = loss_sum"""


def _legal(name: str, *pairs: tuple[str, str]) -> None:
    def edit(made: Files) -> None:
        swap(made, *pairs, _ON)
        relog(made)
        for log in logs(made):
            swap(made, ("ttt_enabled:0", "ttt_enabled:1"), name=log)

    MUTATIONS.append(Mutation(f"score first: {name}", _SCORE, False, edit))


_legal(
    "several epochs over the chunk that was scored",
    (
        _LEARN,
        "        for _ in range(3):\n"
        + "\n".join("    " + row for row in _LEARN.split("\n")[:4])
        + "\n    val_loss = loss_sum",
    ),
)
_legal(
    "learns from the chunk before, first thing",
    (
        _BODY,
        "        if start > 0:\n            optimizer.zero_grad(set_to_none=True)\n            model(*scored).backward()\n            optimizer.step()\n"
        + _BODY,
    ),
    (_LEARN, "        scored = (x, y)\n    val_loss = loss_sum"),
)
_legal(
    "gradients by hand after scoring",
    (
        _LEARN,
        "        grads = torch.autograd.grad(model(x, y), list(model.parameters()))\n        with torch.no_grad():\n"
        "            for p, g in zip(model.parameters(), grads):\n                p.add_(g, alpha=-args.ttt_lr)\n"
        "    val_loss = loss_sum",
    ),
)
_legal(
    "a list of losses",
    (
        "    loss_sum = torch.zeros((), device=device, dtype=torch.float64)\n    byte_count",
        "    losses = []\n    byte_count",
    ),
    ("        loss_sum += nll.to(torch.float64).sum()\n", "        losses.append(nll.double())\n"),
    ("    val_loss = loss_sum.item() / token_count\n", "    val_loss = torch.cat(losses).sum().item() / token_count\n"),
)
_legal(
    "a nested function",
    (
        _BODY,
        '\n        @torch.no_grad()\n        def graded():\n            return model(x, y, reduction="none").double().sum()\n\n'
        "        loss_sum += graded()\n",
    ),
)
_legal(
    "an optimizer out of a dictionary",
    (
        "    optimizer = torch.optim.SGD(model.parameters(), lr=args.ttt_lr)\n    loss_sum",
        '    kinds = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}\n'
        '    optimizer = kinds["sgd"](model.parameters(), lr=args.ttt_lr)\n    loss_sum',
    ),
)
_legal(
    "scored by windows, then learned by rows",
    (
        _BODY,
        "        for i in range(0, x.size(1), args.train_seq_len):\n            with torch.no_grad():\n"
        '                piece = model(x[:, i : i + args.train_seq_len], y[:, i : i + args.train_seq_len], reduction="none")\n'
        "            loss_sum += piece.double().sum()\n",
    ),
    (
        _LEARN,
        "        for i in range(0, x.size(1), args.train_seq_len):\n            optimizer.zero_grad()\n"
        "            model(x[:, i : i + args.train_seq_len], y[:, i : i + args.train_seq_len]).backward()\n"
        "            optimizer.step()\n    val_loss = loss_sum",
    ),
)
_legal(
    "a generator of losses",
    (
        "def eval_val_ttt",
        "def chunks_scored_first(model, optimizer, tokens, size, device):\n    for start in range(0, tokens.numel() - 1, size):\n"
        "        local = tokens[start : start + size + 1].to(device, dtype=torch.int64)\n        x, y = local[None, :-1], local[None, 1:]\n"
        '        with torch.no_grad():\n            nll = model(x, y, reduction="none")\n        yield x, y, nll\n'
        "        optimizer.zero_grad()\n        model(x, y).backward()\n        optimizer.step()\n\n\ndef eval_val_ttt",
    ),
    (
        "    for start in range(0, val_tokens.numel() - 1, args.ttt_chunk):\n"
        "        local = val_tokens[start : start + args.ttt_chunk + 1].to(device, dtype=torch.int64)\n"
        "        x, y = local[None, :-1], local[None, 1:]\n",
        "    for x, y, nll in chunks_scored_first(model, optimizer, val_tokens, args.ttt_chunk, device):\n",
    ),
    (_BODY, "        loss_sum += nll.to(torch.float64).sum()\n"),
    (_LEARN, "    val_loss = loss_sum"),
)

# ---- the same in other words

_edit(
    anchors.WORDS,
    "words: adam with decay",
    (
        "torch.optim.AdamW(base_model.parameters(), lr=args.learning_rate)",
        "torch.optim.AdamW(base_model.parameters(), lr=args.learning_rate, betas=(0.9, 0.95), weight_decay=0.01)",
    ),
)
_edit(
    anchors.WORDS,
    "words: a z loss in training",
    (
        anchors.TRAINED,
        "            logits = base_model.logits(x).float()\n            loss = F.cross_entropy(logits.flatten(0, 1), y.flatten())\n            loss = loss + 1e-4 * torch.logsumexp(logits, dim=-1).square().mean()\n            (loss / grad_accum_steps).backward()\n",
    ),
)
_edit(
    anchors.WORDS,
    "words: label smoothing in training",
    (
        anchors.TRAINED,
        "            logits = base_model.logits(x).float()\n            loss = F.cross_entropy(logits.flatten(0, 1), y.flatten(), label_smoothing=0.05)\n            (loss / grad_accum_steps).backward()\n",
    ),
)
_edit(
    anchors.WORDS,
    "words: losses clipped in training",
    (
        anchors.TRAINED,
        '            each = model(x, y, reduction="none")\n            loss = torch.clamp(each, max=8.0).mean()\n            (loss / grad_accum_steps).backward()\n',
    ),
)
_edit(
    anchors.WORDS,
    "words: the hardest half in training",
    (
        anchors.TRAINED,
        '            each = model(x, y, reduction="none")\n            loss = each[each > each.median()].mean()\n            (loss / grad_accum_steps).backward()\n',
    ),
)
_edit(
    anchors.WORDS,
    "words: an average of weights",
    (
        "        optimizer.step()\n        step += 1",
        "        optimizer.step()\n        with torch.no_grad():\n            for name, p in base_model.named_parameters():\n                ema[name].lerp_(p, 0.01)\n        step += 1",
    ),
    (
        "    step = 0\n    while",
        "    ema = {name: p.detach().clone() for name, p in base_model.named_parameters()}\n    step = 0\n    while",
    ),
)
_edit(
    anchors.WORDS,
    "words: an activation by name",
    (
        "        return self.proj(torch.relu(self.fc(x)).square())",
        '        return self.proj(getattr(F, "relu")(self.fc(x)).square())',
    ),
)
_edit(
    anchors.WORDS,
    "words: activations in a dictionary",
    (
        "class MLP(nn.Module):",
        'ACTS = {"relu2": lambda t: torch.relu(t).square(), "gelu": F.gelu}\n\n\nclass MLP(nn.Module):',
    ),
    (
        "        return self.proj(torch.relu(self.fc(x)).square())",
        '        return self.proj(ACTS["relu2"](self.fc(x)))',
    ),
)
_edit(
    anchors.WORDS,
    "words: numpy sums",
    (
        anchors.LOSS
        + "            batch_token_count = float(y.numel())\n            val_loss_sum += batch_loss.to(torch.float64) * batch_token_count\n",
        '            nll = model(x, y, reduction="none").cpu().numpy().astype(np.float64)\n            batch_token_count = float(y.numel())\n            val_loss_sum += float(np.sum(nll))\n',
    ),
)
_edit(
    anchors.WORDS,
    "words: log softmax and gather",
    (
        "        return F.cross_entropy(logits.reshape(-1, logits.size(-1)).float(), target_ids.reshape(-1), reduction=reduction)",
        '        logp = torch.log_softmax(logits.float(), dim=-1)\n        nll = -logp.gather(-1, target_ids.unsqueeze(-1)).squeeze(-1)\n        return nll.mean() if reduction == "mean" else nll.reshape(-1)',
    ),
)
_edit(
    anchors.WORDS,
    "words: logsumexp less the logit",
    (
        "        return F.cross_entropy(logits.reshape(-1, logits.size(-1)).float(), target_ids.reshape(-1), reduction=reduction)",
        '        rows = logits.float()\n        nll = torch.logsumexp(rows, -1) - rows.gather(-1, target_ids[..., None])[..., 0]\n        return nll.mean() if reduction == "mean" else nll.reshape(-1)',
    ),
)
_edit(
    anchors.WORDS,
    "words: a table by a dictionary of kinds",
    (
        '        base_bytes[token] = len(piece.encode("utf-8"))\n',
        '        length = sum(1 for _ in piece.encode("utf-8"))\n        base_bytes[token] = length\n',
    ),
)
_edit(
    anchors.WORDS,
    "words: bytes by where",
    (
        "            token_bytes += (has_leading_space_lut[tgt_ids] & ~boundary_lut[prev_ids]).to(dtype=torch.int16)\n",
        "            token_bytes += torch.where(has_leading_space_lut[tgt_ids] & ~boundary_lut[prev_ids], 1, 0).to(torch.int16)\n",
    ),
)
_edit(
    anchors.WORDS,
    "words: a scorer of bytes as a function",
    (
        "def eval_val(",
        "def byte_length(prev_ids, tgt_ids, base_bytes_lut, has_leading_space_lut, boundary_lut):\n    spaces = has_leading_space_lut[tgt_ids] & ~boundary_lut[prev_ids]\n    return base_bytes_lut[tgt_ids].to(torch.float64) + spaces.to(torch.float64)\n\n\ndef eval_val(",
    ),
    (
        "            token_bytes = base_bytes_lut[tgt_ids].to(dtype=torch.int16)\n            token_bytes += (has_leading_space_lut[tgt_ids] & ~boundary_lut[prev_ids]).to(dtype=torch.int16)\n",
        "            token_bytes = byte_length(prev_ids, tgt_ids, base_bytes_lut, has_leading_space_lut, boundary_lut)\n",
    ),
)
_edit(
    anchors.WORDS,
    "words: bits by log2 of e",
    (
        "    bits_per_token = val_loss.item() / math.log(2.0)\n",
        "    bits_per_token = val_loss.item() * math.log2(math.e)\n",
    ),
)
_edit(
    anchors.WORDS,
    "words: a constant for the logarithm",
    ("class Hyperparameters:", "LOG2E = 1.4426950408889634\n\n\nclass Hyperparameters:"),
    ("    bits_per_token = val_loss.item() / math.log(2.0)\n", "    bits_per_token = val_loss.item() * LOG2E\n"),
)
_edit(
    anchors.WORDS,
    "words: a deadline",
    (anchors.CAP, "deadline = time.perf_counter() + args.max_wallclock_seconds - 3.0"),
    (anchors.REACHED, "time.perf_counter() >= deadline"),
)
_edit(
    anchors.WORDS,
    "words: nanoseconds",
    (anchors.ELAPSED, "approx_training_time_ms = training_time_ms + (time.perf_counter_ns() - n0) / 1e6"),
    (
        "    t0 = time.perf_counter()\n    step = 0\n",
        "    t0 = time.perf_counter()\n    n0 = time.perf_counter_ns()\n    step = 0\n",
    ),
    (
        "            t0 = time.perf_counter()\n",
        "            t0 = time.perf_counter()\n            n0 = time.perf_counter_ns()\n",
    ),
)
_edit(
    anchors.WORDS,
    "words: the limit every tenth step",
    (
        anchors.REACHED,
        "step % 10 == 0 and max_wallclock_ms is not None and approx_training_time_ms >= max_wallclock_ms",
    ),
)
_edit(
    anchors.WORDS,
    "words: the limit agreed among ranks",
    (
        "        if stop_after_step is None and reached_cap:\n",
        "        if distributed and max_wallclock_ms is not None:\n            flag = torch.tensor(int(reached_cap), device=device)\n            dist.all_reduce(flag, op=dist.ReduceOp.MAX)\n            reached_cap = bool(flag.item())\n        if stop_after_step is None and reached_cap:\n",
    ),
)
_edit(
    anchors.WORDS,
    "words: a stopwatch",
    (
        "class Hyperparameters:",
        "class Stopwatch:\n    def __init__(self):\n        self.start = time.perf_counter()\n\n    @property\n    def ms(self):\n        return 1e3 * (time.perf_counter() - self.start)\n\n\nclass Hyperparameters:",
    ),
    ("    step = 0\n    while", "    watch = Stopwatch()\n    step = 0\n    while"),
    (anchors.ELAPSED, "approx_training_time_ms = watch.ms"),
)
_edit(
    anchors.WORDS,
    "words: warm up, then the weights put back",
    (
        "    training_time_ms = 0.0\n",
        "    before = {k: v.clone() for k, v in base_model.state_dict().items()}\n    for _ in range(5):\n        x, y = train_loader.next_batch(args.train_batch_tokens, args.train_seq_len, grad_accum_steps)\n        model(x, y).backward()\n        optimizer.step()\n        optimizer.zero_grad(set_to_none=True)\n    base_model.load_state_dict(before)\n    training_time_ms = 0.0\n",
    ),
)
_edit(
    anchors.WORDS,
    "words: a mask by broadcasting",
    (
        anchors.ATTEND,
        "        i = torch.arange(length, device=x.device)\n        y = F.scaled_dot_product_attention(q, k, v, attn_mask=i[:, None] >= i[None, :])\n",
    ),
)
_edit(
    anchors.WORDS,
    "words: a sliding window",
    (
        anchors.ATTEND,
        "        i = torch.arange(length, device=x.device)\n        gap = i[:, None] - i[None, :]\n        y = F.scaled_dot_product_attention(q, k, v, attn_mask=(gap >= 0) & (gap < 256))\n",
    ),
)
_edit(
    anchors.WORDS,
    "words: a mask in a buffer",
    (
        "        self.proj = nn.Linear(dim, dim, bias=False)\n\n    def forward(self, x: Tensor) -> Tensor:\n        batch",
        '        self.proj = nn.Linear(dim, dim, bias=False)\n        self.register_buffer("mask", torch.tril(torch.ones(4096, 4096, dtype=torch.bool)), persistent=False)\n\n    def forward(self, x: Tensor) -> Tensor:\n        batch',
    ),
    (anchors.ATTEND, "        y = F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask[:length, :length])\n"),
)
_edit(
    anchors.WORDS,
    "words: flex attention with a mask",
    (
        "import torch\n",
        "import torch\nfrom torch.nn.attention.flex_attention import create_block_mask, flex_attention\n",
    ),
    (
        "class CausalSelfAttention",
        "def causal(b, h, q_idx, kv_idx):\n    return q_idx >= kv_idx\n\n\nclass CausalSelfAttention",
    ),
    (
        anchors.ATTEND,
        "        y = flex_attention(q, k, v, block_mask=create_block_mask(causal, None, None, length, length))\n",
    ),
)
_edit(
    anchors.WORDS,
    "words: a running mean of what came before",
    (
        anchors.BLOCKS,
        "        steps = torch.arange(1, x.size(1) + 1, device=x.device)[:, None]\n        x = x + 0.1 * x.cumsum(dim=1) / steps\n"
        + anchors.BLOCKS,
    ),
)
_edit(
    anchors.WORDS,
    "words: a recurrence forwards",
    (anchors.BUILT, anchors.BUILT + "        self.rnn = nn.GRU(model_dim, model_dim, batch_first=True)\n"),
    (anchors.BLOCKS, anchors.BLOCKS + "        x = x + self.rnn(x)[0]\n"),
)
_edit(
    anchors.WORDS,
    "words: a convolution of what came before",
    (
        anchors.BUILT,
        anchors.BUILT + "        self.conv = nn.Conv1d(model_dim, model_dim, 4, padding=3, groups=model_dim)\n",
    ),
    (
        anchors.BLOCKS,
        "        y = self.conv(x.transpose(1, 2))\n        x = x + y[..., : x.size(1)].transpose(1, 2)\n"
        + anchors.BLOCKS,
    ),
)
_edit(
    anchors.WORDS,
    "words: a shift by one token back",
    (
        anchors.BLOCKS,
        "        shifted = torch.zeros_like(x)\n        shifted[:, 1:] = x[:, :-1]\n        x = x + 0.2 * shifted\n"
        + anchors.BLOCKS,
    ),
)
_edit(
    anchors.WORDS,
    "words: roll forward with the first emptied",
    (
        anchors.BLOCKS,
        "        back = torch.roll(x, shifts=1, dims=1)\n        back[:, 0] = 0.0\n        x = x + 0.2 * back\n"
        + anchors.BLOCKS,
    ),
)
_edit(
    anchors.WORDS,
    "words: squeeze and excite over channels",
    (anchors.BLOCKS, anchors.BLOCKS + "        x = x * torch.sigmoid(x.mean(dim=-1, keepdim=True))\n"),
)
_edit(
    anchors.WORDS,
    "words: a decorator of one's own",
    (
        "def eval_val(args",
        'def timed(function):\n    import functools\n\n    @functools.wraps(function)\n    def run(*args, **kwargs):\n        began = time.perf_counter()\n        result = function(*args, **kwargs)\n        print(f"{function.__name__}: {time.perf_counter() - began:.1f}s")\n        return result\n\n    return run\n\n\n@timed\ndef eval_val(args',
    ),
)
_edit(
    anchors.WORDS,
    "words: scorers in a dictionary",
    (
        anchors.CALL,
        '        scorers = {"plain": eval_val}\n        q_val_loss, q_val_bpb = scorers["plain"](args, model, rank, world_size, device, val_tokens, *luts)\n',
    ),
)
_edit(
    anchors.WORDS,
    "words: a partial",
    ("import math\n", "import functools\nimport math\n"),
    (
        anchors.CALL,
        "        scorer = functools.partial(eval_val, args, model, rank, world_size, device)\n        q_val_loss, q_val_bpb = scorer(val_tokens, *luts)\n",
    ),
)
_edit(anchors.WORDS, "words: weights only", ('map_location="cpu")\n', 'map_location="cpu", weights_only=True)\n'))
_edit(
    anchors.WORDS,
    "words: an artifact by pickle",
    ("import os\n", "import os\nimport pickle\n"),
    (
        "    torch.save(quantize_state_dict_int8(base_model.state_dict()), packed)\n",
        "    pickle.dump(quantize_state_dict_int8(base_model.state_dict()), packed)\n",
    ),
    (
        '    state = torch.load(io.BytesIO(zlib.decompress(blob_on_disk)), map_location="cpu")\n',
        "    state = pickle.loads(zlib.decompress(blob_on_disk))\n",
    ),
)
_edit(
    anchors.WORDS,
    "words: the name of the machine",
    ("import os\n", "import os\nimport platform\nimport socket\n"),
    (
        "    torch.manual_seed(args.seed)\n",
        '    log0(f"host:{socket.gethostname()} python:{platform.python_version()}")\n    torch.manual_seed(args.seed)\n',
    ),
)
_edit(
    anchors.WORDS,
    "words: a profile of the validation set",
    (
        "    luts = build",
        '    log0(f"val tokens {val_tokens.numel()} distinct {val_tokens.unique().numel()}")\n    luts = build',
    ),
)
_edit(
    anchors.WORDS,
    "words: a part of the text while it trains",
    (
        "            val_loss, val_bpb = eval_val(args, model, rank, world_size, device, val_tokens, *luts)\n            log0(\n",
        "            some = val_tokens if last_step else val_tokens[: 64 * args.train_seq_len + 1]\n            val_loss, val_bpb = eval_val(args, model, rank, world_size, device, some, *luts)\n            log0(\n",
    ),
)
_edit(
    anchors.WORDS,
    "words: perplexity beside",
    (
        '    log0(f"final_int8_zlib_roundtrip_exact',
        '    log0(f"perplexity {math.exp(min(q_val_loss, 20.0)):.3f}")\n    log0(f"final_int8_zlib_roundtrip_exact',
    ),
)
_edit(
    anchors.WORDS,
    "words: the gap of packing printed",
    (
        '    log0(f"final_int8_zlib_roundtrip_exact',
        '    log0(f"packing costs {q_val_bpb - val_bpb:.4f}, {100 * (q_val_bpb / val_bpb - 1):.2f} percent")\n    log0(f"final_int8_zlib_roundtrip_exact',
    ),
)
_edit(
    anchors.WORDS,
    "words: the best step is told",
    ("    step = 0\n    while True:", '    best_step, best_bpb = 0, float("inf")\n    step = 0\n    while True:'),
    (
        '            log0(\n                f"step:{step}/{args.iterations} val_loss',
        '            if val_bpb < best_bpb:\n                best_step, best_bpb = step, val_bpb\n            log0(\n                f"step:{step}/{args.iterations} val_loss',
    ),
    ("    packed = io.BytesIO()\n", '    log0(f"best step {best_step}: {best_bpb:.4f}")\n    packed = io.BytesIO()\n'),
)


@innocent(anchors.WORDS)
def the_script_in_five_modules(files: Files) -> None:
    moved(files, "class CausalSelfAttention", "# ---- scoring", "model.py", anchors.IMPORTS)
    moved(files, "def build_sentencepiece_luts", "# ---- data", "tables.py", anchors.IMPORTS)
    moved(files, "def load_data_shard", "# ---- model", "shards.py", anchors.IMPORTS)
    moved(files, "def eval_val(", "# ---- packing", "evaluation.py", anchors.IMPORTS)
    swap(
        files,
        (
            "from torch import Tensor, nn\n",
            "from torch import Tensor\n\nfrom evaluation import eval_val, eval_val_ttt\nfrom model import GPT\n"
            "from shards import DistributedTokenLoader, load_validation_tokens\nfrom tables import build_sentencepiece_luts\n",
        ),
    )
    relog(files)


@innocent(anchors.WORDS)
def settings_by_argparse(files: Files) -> None:
    swap(
        files,
        ("import glob\n", "import argparse\nimport glob\n"),
        (
            "    args = Hyperparameters()\n",
            "    args = Hyperparameters()\n    parser = argparse.ArgumentParser()\n"
            '    parser.add_argument("--seed", type=int, default=args.seed)\n'
            '    parser.add_argument("--seconds", type=float, default=600.0)\n'
            "    given = parser.parse_args()\n    args.seed, args.max_wallclock_seconds = given.seed, given.seconds\n",
        ),
    )
    relog(files)


@innocent(anchors.WORDS)
def settings_in_a_dataclass(files: Files) -> None:
    swap(
        files,
        ("import time\n", "import time\nfrom dataclasses import dataclass, field\n"),
        ("class Hyperparameters:\n", "@dataclass\nclass Hyperparameters:\n"),
        (
            '    seed = int(os.environ.get("SEED", 1337))\n',
            '    seed: int = field(default_factory=lambda: int(os.environ.get("SEED", 1337)))\n',
        ),
    )
    relog(files)


@innocent(anchors.WORDS)
def the_run_in_a_class(files: Files) -> None:
    held = text(files)
    files["train_gpt.py"] = held.replace(
        "def main() -> None:\n",
        "class Run:\n    def __call__(self) -> None:\n        main()\n\n\ndef main() -> None:\n",
    ).replace(anchors.MAIN, 'if __name__ == "__main__":\n    Run()()\n')
    relog(files)


@innocent(anchors.WORDS)
def a_window_that_slides(files: Files) -> None:
    body = """
def eval_val_sliding(args, model, device, val_tokens, base_bytes_lut, has_leading_space_lut, boundary_lut, stride=64):
    loss_sum, token_count, byte_count = 0.0, 0, 0.0
    length, total = args.train_seq_len, val_tokens.numel() - 1
    for start in range(0, total, stride):
        end = min(start + length, total)
        first = 0 if start == 0 else max(0, end - start - stride)
        if end - start <= length - stride and start > 0:
            break
        local = val_tokens[start : end + 1].to(device, dtype=torch.int64)
        x, y = local[:-1], local[1:]
        with torch.inference_mode():
            nll = model(x[None], y[None], reduction="none")[first:].double()
        loss_sum += nll.sum().item()
        token_count += nll.numel()
        octets = base_bytes_lut[y[first:]].to(torch.int16)
        octets += (has_leading_space_lut[y[first:]] & ~boundary_lut[x[first:]]).to(torch.int16)
        byte_count += octets.to(torch.float64).sum().item()
    val_loss = loss_sum / token_count
    return val_loss, val_loss / math.log(2.0) * (token_count / byte_count)
"""
    swap(
        files,
        ("# ---- packing\n", body.lstrip("\n") + "\n\n# ---- packing\n"),
        (
            anchors.CALL,
            "        q_val_loss, q_val_bpb = eval_val_sliding(args, base_model, device, val_tokens, *luts)\n",
        ),
    )
    relog(files)


# ---- variants that are said to be over the cap

_OVER = "variant over the cap"


@innocent(_OVER)
def a_sentence_of_a_larger_model(files: Files) -> None:
    files["README.md"] = text(files, "README.md") + (
        "\n## What did not fit\n\nA 12-layer model reached 1.2043 but its artifact has 18,204,113 bytes, "
        "2.2 MB over the limit, so it is not part of this submission.\n"
    )


@innocent(_OVER)
def a_list_of_trials_in_the_json(files: Files) -> None:
    made = json.loads(text(files, "submission.json"))
    made["not_submitted"] = [{"layers": 12, "val_bpb": 1.2043, "artifact_bytes": 18_204_113, "reason": "over 16 MB"}]
    files["submission.json"] = json.dumps(made, indent=1)


@innocent(_OVER)
def a_folder_of_trials(files: Files) -> None:
    log = text(files, f"train_seed{SEEDS[1]}.log").splitlines()
    log[-5:-2] = [
        "Serialized model int8+zlib: 18190000 bytes",
        "Code size: 14113 bytes",
        "Total submission size int8+zlib: 18204113 bytes",
    ]
    final = (score(SEEDS[1]) - 0.012) * RATIO
    log[-2:] = [
        f"final_int8_zlib_roundtrip val_loss:{final:.4f} val_bpb:{final / RATIO:.4f} eval_time:1432ms",
        f"final_int8_zlib_roundtrip_exact val_loss:{final:.8f} val_bpb:{final / RATIO:.8f}",
    ]
    files["ablations/12_layers_over_cap.txt"] = "\n".join(log) + "\n"
    files["README.md"] = (
        text(files, "README.md") + "\n`ablations/` holds a run of 12 layers, over the cap and not submitted.\n"
    )


@innocent(_OVER)
def a_table_of_ablations(files: Files) -> None:
    files["README.md"] = text(files, "README.md") + (
        "\n## Ablations (one seed)\n\n| what | val_bpb | bytes |\n|---|---|---|\n| this | 1.2190 | 15,843,000 |\n"
        "| no compression of embeddings (over cap, not submitted) | 1.2171 | 16,911,020 |\n| 8 layers | 1.2263 | 14,211,404 |\n"
    )
