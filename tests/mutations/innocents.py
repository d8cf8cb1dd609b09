"""Edits that break no rule: other words for the same thing, and what is allowed although it looks like what is not."""

import base64
import json
import lzma

from mutations import NON_RECORD, SEEDS, Files, innocent, logs, moved, relog, score, swap, text

_IMPORTS = "import numpy as np\nimport torch\nimport torch.nn.functional as F\n\n\n"
_EVAL = "        q_val_loss, q_val_bpb = eval_val(args, model, rank, world_size, device, val_tokens, *luts)\n"


# ---- a mixture over the whole vocabulary, updated after it scored


_MIXTURE = """
def eval_mixture(args, model, device, val_tokens, base_bytes_lut, has_leading_space_lut, boundary_lut):
    counts = torch.full((args.vocab_size, args.vocab_size), 0.01, device=device)
    loss_sum, token_count, byte_count = 0.0, 0, 0.0
    for start in range(0, val_tokens.numel() - 1, args.train_seq_len):
        local = val_tokens[start : start + args.train_seq_len + 1].to(device, dtype=torch.int64)
        x, y = local[:-1], local[1:]
        with torch.inference_mode():
            network = torch.softmax(model.logits(x[None])[0].float(), dim=-1)
        MIX
        loss_sum += -torch.log(mixed.gather(1, y[:, None])).sum().item()
        token_count += y.numel()
        token_bytes = base_bytes_lut[y].to(torch.int16)
        token_bytes += (has_leading_space_lut[y] & ~boundary_lut[x]).to(torch.int16)
        byte_count += token_bytes.to(torch.float64).sum().item()
        counts.index_put_((x, y), torch.ones_like(y, dtype=counts.dtype), accumulate=True)
    val_loss = loss_sum / token_count
    return val_loss, val_loss / math.log(2.0) * (token_count / byte_count)


"""


def _mixture(files: Files, mix: str) -> None:
    swap(
        files,
        ("# ---- packing\n", _MIXTURE.lstrip("\n").replace("MIX", mix) + "# ---- packing\n"),
        (_EVAL, "        q_val_loss, q_val_bpb = eval_mixture(args, base_model, device, val_tokens, *luts)\n"),
    )
    relog(files)


@innocent("whole mixture")
def rows_of_counts_normalized(files: Files) -> None:
    _mixture(files, "rows = counts[x]\n        mixed = 0.9 * network + 0.1 * rows / rows.sum(dim=-1, keepdim=True)")


@innocent("whole mixture")
def rows_normalized_in_a_name_of_their_own(files: Files) -> None:
    _mixture(
        files,
        "bigram = counts[x]\n        total = bigram.sum(dim=1, keepdim=True)\n        bigram = bigram / total\n"
        "        mixed = torch.lerp(network, bigram, 0.1)",
    )


@innocent("whole mixture")
def a_mixture_of_logarithms(files: Files) -> None:
    _mixture(
        files,
        "prior = torch.log(counts[x])\n        mixed = torch.softmax(torch.log(network) + 0.1 * prior, dim=-1)",
    )


# ---- score first, split into helpers


_SPLIT = """
def score_chunk(model, x, y):
    with torch.no_grad():
        return model(x, y, reduction="none").to(torch.float64).sum()


def learn_chunk(model, optimizer, x, y):
    optimizer.zero_grad(set_to_none=True)
    loss = model(x, y)
    loss.backward()
    optimizer.step()


"""
_SCORING = (
    '        with torch.no_grad():\n            nll = model(x, y, reduction="none")\n'
    "        loss_sum += nll.to(torch.float64).sum()\n"
)
_LEARNING = (
    "        optimizer.zero_grad(set_to_none=True)\n        loss = model(x, y)\n        loss.backward()\n"
    "        optimizer.step()\n    val_loss = loss_sum"
)
_ON = ('"TTT_ENABLED", "0"', '"TTT_ENABLED", "1"')


def _logged_on(files: Files) -> None:
    relog(files)
    for name in logs(files):
        swap(files, ("ttt_enabled:0", "ttt_enabled:1"), name=name)


@innocent("score first")
def score_and_learn_in_two_helpers(files: Files) -> None:
    swap(
        files,
        ("def eval_val_ttt", _SPLIT.lstrip("\n") + "def eval_val_ttt"),
        (_SCORING, "        loss_sum += score_chunk(model, x, y)\n"),
        (_LEARNING, "        learn_chunk(model, optimizer, x, y)\n    val_loss = loss_sum"),
        _ON,
    )
    _logged_on(files)


@innocent("score first")
def score_then_learn_in_one_helper(files: Files) -> None:
    helper = _SPLIT.split("def learn_chunk")[0].replace(
        "def score_chunk(model, x, y)", "def visit(model, optimizer, x, y)"
    )
    helper = helper.replace("        return model(", "        nll = model(").rstrip("\n")
    helper += "\n    optimizer.zero_grad(set_to_none=True)\n    model(x, y).backward()\n    optimizer.step()\n    return nll\n\n\n"
    swap(
        files,
        ("def eval_val_ttt", helper.lstrip("\n") + "def eval_val_ttt"),
        (_SCORING, "        loss_sum += visit(model, optimizer, x, y)\n"),
        (_LEARNING, "    val_loss = loss_sum"),
        _ON,
    )
    _logged_on(files)


@innocent("score first")
def score_first_in_a_module(files: Files) -> None:
    moved(files, "def eval_val_ttt", "# ---- packing", "ttt.py", "import math\n\n" + _IMPORTS)
    swap(files, ("import numpy as np\n", "import numpy as np\nfrom ttt import eval_val_ttt\n"), _ON)
    _logged_on(files)


@innocent("score first")
def score_first_in_a_class(files: Files) -> None:
    swap(
        files,
        (
            "def eval_val_ttt",
            "class Adapter:\n    def __init__(self, model, rate):\n        self.model = model\n"
            "        self.optimizer = torch.optim.SGD(model.parameters(), lr=rate)\n        self.total = 0.0\n\n"
            "    def score(self, x, y):\n        with torch.no_grad():\n"
            '            self.total += self.model(x, y, reduction="none").to(torch.float64).sum()\n\n'
            "    def learn(self, x, y):\n        self.optimizer.zero_grad(set_to_none=True)\n"
            "        loss = self.model(x, y)\n        loss.backward()\n        self.optimizer.step()\n\n\ndef eval_val_ttt",
        ),
        (
            "    optimizer = torch.optim.SGD(model.parameters(), lr=args.ttt_lr)\n",
            "    adapter = Adapter(model, args.ttt_lr)\n",
        ),
        (_SCORING, "        adapter.score(x, y)\n"),
        (_LEARNING, "        adapter.learn(x, y)\n    loss_sum = adapter.total\n    val_loss = loss_sum"),
        _ON,
    )
    _logged_on(files)


@innocent("score first")
def score_first_switched_on(files: Files) -> None:
    swap(files, _ON)
    _logged_on(files)


# ---- variants over the cap, said to be so


@innocent("variant over the cap")
def a_row_of_the_readme_tells_of_a_larger_variant(files: Files) -> None:
    files["README.md"] = (
        text(files, "README.md")
        + "\n## Not submitted\n\n| variant | val_bpb | artifact bytes | fits |\n|---|---|---|---|\n"
        "| 11 layers | 1.2101 | 17,912,004 | no, over the cap |\n| 9 layers (this) | 1.2190 | 15,843,000 | yes |\n"
    )


@innocent("variant over the cap")
def a_record_of_a_larger_variant_in_the_json(files: Files) -> None:
    made = json.loads(text(files, "submission.json"))
    made["ablations"] = {"11_layers_over_cap": {"val_bpb": 1.2101, "bytes_total": 17_912_004, "submitted": False}}
    files["submission.json"] = json.dumps(made, indent=1)


@innocent("variant over the cap")
def a_log_of_a_larger_variant(files: Files) -> None:
    first = text(files, f"train_seed{SEEDS[0]}.log")
    lines = first.splitlines()
    lines[-5:-2] = [
        "Serialized model int8+zlib: 17900000 bytes",
        "Code size: 12000 bytes",
        "Total submission size int8+zlib: 17912000 bytes",
    ]
    lines[-2:] = [
        "final_int8_zlib_roundtrip val_loss:2.0432 val_bpb:1.2101 eval_time:1450ms",
        "final_int8_zlib_roundtrip_exact val_loss:2.04326870 val_bpb:1.21010880",
    ]
    files["over_the_cap/11_layers.log"] = "\n".join(lines) + "\n"
    files["README.md"] = (
        text(files, "README.md") + "\nover_the_cap/11_layers.log is a run over the cap, not submitted.\n"
    )


# ---- the same thing in other words


@innocent("other words")
def the_table_as_a_loop_over_pieces(files: Files) -> None:
    swap(
        files,
        (
            '        if piece.startswith("\\u2581"):\n',
            "        marked = piece[:1] == chr(0x2581)\n        if marked:\n",
        ),
        (
            '        base_bytes[token] = len(piece.encode("utf-8"))\n',
            "        base_bytes[token] = len(bytes(piece, 'utf-8'))\n",
        ),
    )
    relog(files)


@innocent("other words")
def the_table_by_replacing_the_marker(files: Files) -> None:
    swap(
        files,
        (
            '        if piece.startswith("\\u2581"):\n            has_leading_space[token] = True\n'
            "            piece = piece[1:]\n"
            '        base_bytes[token] = len(piece.encode("utf-8"))\n',
            '        has_leading_space[token] = piece.startswith("\\u2581")\n'
            '        base_bytes[token] = len(piece.removeprefix("\\u2581").replace("\\u2581", " ").encode())\n',
        ),
    )
    relog(files)


@innocent("other words")
def the_quotient_in_one_line(files: Files) -> None:
    swap(
        files,
        (
            "    bits_per_token = val_loss.item() / math.log(2.0)\n"
            "    tokens_per_byte = val_token_count.item() / val_byte_count.item()\n",
            "",
        ),
        (
            "    return float(val_loss.item()), float(bits_per_token * tokens_per_byte)",
            "    return val_loss.item(), (val_loss_sum / (math.log(2) * val_byte_count)).item()",
        ),
    )
    relog(files)


@innocent("other words")
def seconds_instead_of_milliseconds(files: Files) -> None:
    swap(
        files,
        ("1000.0 * (time.perf_counter() - t0)", "(time.perf_counter() - t0) * 1e3"),
        (
            "max_wallclock_ms = 1000.0 * args.max_wallclock_seconds if args.max_wallclock_seconds > 0 else None",
            "max_wallclock_ms = args.max_wallclock_seconds * 1e3",
        ),
        (
            "max_wallclock_ms is not None and approx_training_time_ms >= max_wallclock_ms",
            "approx_training_time_ms / 1e3 >= args.max_wallclock_seconds",
        ),
    )
    relog(files)


@innocent("other words")
def a_reserve_inside_the_limit(files: Files) -> None:
    swap(files, ("1000.0 * args.max_wallclock_seconds if", "1000.0 * (args.max_wallclock_seconds - 4.0) if"))
    relog(files)


@innocent("other words")
def attention_by_hand_with_a_mask(files: Files) -> None:
    swap(
        files,
        (
            "        y = F.scaled_dot_product_attention(q, k, v, attn_mask=None, is_causal=True)\n",
            "        scores = q @ k.transpose(-1, -2) / q.size(-1) ** 0.5\n"
            "        ahead = torch.triu(torch.ones(length, length, dtype=torch.bool, device=x.device), diagonal=1)\n"
            '        y = scores.masked_fill(ahead, float("-inf")).softmax(dim=-1) @ v\n',
        ),
    )
    relog(files)


@innocent("other words")
def a_causal_convolution(files: Files) -> None:
    swap(
        files,
        (
            "        self.blocks = nn.ModuleList(",
            "        self.conv = nn.Conv1d(model_dim, model_dim, 3)\n        self.blocks = nn.ModuleList(",
        ),
        (
            "        for block in self.blocks:\n",
            "        x = x + self.conv(F.pad(x.transpose(1, 2), (2, 0))).transpose(1, 2)\n        for block in self.blocks:\n",
        ),
    )
    relog(files)


@innocent("other words")
def settings_of_the_library(files: Files) -> None:
    swap(
        files,
        (
            "    torch.manual_seed(args.seed)\n",
            "    torch.backends.cuda.matmul.allow_tf32 = True\n    torch._dynamo.config.cache_size_limit = 64\n"
            '    torch.set_float32_matmul_precision("high")\n    torch.manual_seed(args.seed)\n',
        ),
    )
    relog(files)


@innocent("other words")
def the_driver_s_own_words_in_the_log(files: Files) -> None:
    swap(
        files,
        ("import os\n", "import os\nimport subprocess\n"),
        (
            "    torch.manual_seed(args.seed)\n",
            '    log0(subprocess.run(["nvidia-smi"], capture_output=True, text=True, check=False).stdout)\n'
            "    torch.manual_seed(args.seed)\n",
        ),
    )
    relog(files)


@innocent("other words")
def the_best_row_is_kept_for_the_log(files: Files) -> None:
    swap(
        files,
        ("    step = 0\n    while True:", '    best = float("inf")\n    step = 0\n    while True:'),
        (
            '            log0(\n                f"step:{step}/{args.iterations} val_loss',
            "            best = min(best, val_loss)\n"
            '            log0(\n                f"step:{step}/{args.iterations} val_loss',
        ),
    )
    relog(files)


@innocent("other words")
def the_files_by_pathlib(files: Files) -> None:
    swap(
        files,
        (
            "        self.files = [Path(name) for name in sorted(glob.glob(pattern))]\n",
            "        where = Path(pattern)\n        self.files = sorted(where.parent.glob(where.name))\n",
        ),
    )
    relog(files)


@innocent("other words")
def the_split_by_formatting(files: Files) -> None:
    swap(
        files,
        (
            'train_files = os.path.join(data_path, "fineweb_train_*.bin")',
            'train_files = os.path.join(data_path, "fineweb_{}_*.bin".format("train"))',
        ),
    )
    relog(files)


@innocent("other words")
def the_script_packed(files: Files) -> None:
    squeezed = base64.b85encode(lzma.compress(text(files).encode())).decode()
    files["train_gpt.py"] = f'import base64, lzma\nexec(lzma.decompress(base64.b85decode("{squeezed}")).decode())\n'
    relog(files)


@innocent("other words")
def pictures_and_a_tokenizer_s_notes(files: Files) -> None:
    files["curve.png"] = b"\x89PNG\r\n\x1a\n" + bytes(40_000)
    files["requirements.txt"] = "torch\nsentencepiece\nnumpy\n"
    files["analysis/plot.py"] = "import json\n\nprint(json.load(open('submission.json'))['val_bpb'])\n"


@innocent("other words")
def functions_and_names_of_one_s_own(files: Files) -> None:
    for old, new in (
        ("eval_val_ttt", "adapt_and_score"),
        ("eval_val", "measure"),
        ("val_loss_sum", "nats"),
        ("val_byte_count", "octets"),
        ("val_token_count", "pieces"),
        ("build_sentencepiece_luts", "byte_tables"),
    ):
        swap(files, (old, new))
    relog(files)


@innocent("other track", folder=NON_RECORD)
def one_run_of_an_hour(files: Files) -> None:
    for seed in SEEDS[1:]:
        del files[f"train_seed{seed}.log"]
    seed = SEEDS[0]
    swap(files, ('"MAX_WALLCLOCK_SECONDS", 600.0', '"MAX_WALLCLOCK_SECONDS", 3600.0'))
    log = text(files, f"train_seed{seed}.log").replace(
        "max_wallclock_seconds:600.000", "max_wallclock_seconds:3600.000"
    )
    files[f"train_seed{seed}.log"] = log
    made = json.loads(text(files, "submission.json"))
    made["val_bpb"], made["val_loss"] = score(seed), round(score(seed) * 1.6885, 6)
    made["seed_results"] = {str(seed): {"val_bpb": score(seed)}}
    files["submission.json"] = json.dumps(made)
    files["README.md"] = f"# Plain baseline for an hour\n\nOne seed: {score(seed):.4f} bits per byte.\n"


@innocent("other track", folder=NON_RECORD)
def an_hour_on_one_device(files: Files) -> None:
    one_run_of_an_hour(files)
    swap(files, ("world_size:8", "world_size:1"), name=f"train_seed{SEEDS[0]}.log")


@innocent("other track", folder=NON_RECORD)
def three_runs_outside_the_record_track(files: Files) -> None:
    files["README.md"] = text(files, "README.md") + "\nNot a record.\n"
