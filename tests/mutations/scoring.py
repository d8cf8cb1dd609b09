"""Edits of what is scored, when, and how often: order, caches, passes, the final quotient."""

from mutations import Files, breaks, moved, relog, swap

_PREPARE = "    state = torch.load("
_LOADED = "    torch.cuda.synchronize()\n    t_eval = time.perf_counter()\n"
_ADAPT = """
def refine(model, tokens, rate=0.001, rounds=2):
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    for _ in range(rounds):
        for start in range(0, tokens.numel() - 1, 32768):
            piece = tokens[start : start + 32769].to("cuda", dtype=torch.int64)
            optimizer.zero_grad()
            model(piece[None, :-1], piece[None, 1:]).backward()
            optimizer.step()

"""
_SUM = "            val_loss_sum += batch_loss.to(torch.float64) * batch_token_count\n"
_RETURN = "    return float(val_loss.item()), float(bits_per_token * tokens_per_byte)"
_TORCH = "import numpy as np\nimport torch\nimport torch.nn.functional as F\n\n"


def _adapting(files: Files, call: str) -> None:
    swap(files, (_LOADED, f"    {call}\n" + _LOADED))


# ---- illegal order, in the script and in a module


@breaks("order in a module")
def adapts_in_an_imported_helper(files: Files) -> None:
    files["helpers.py"] = _TORCH + _ADAPT
    swap(files, ("import numpy as np\n", "import numpy as np\nfrom helpers import refine\n"))
    _adapting(files, "refine(base_model, val_tokens)")
    relog(files)


@breaks("order in a module")
def adapts_in_a_module_under_another_name(files: Files) -> None:
    files["lib/__init__.py"] = ""
    files["lib/warm.py"] = _TORCH + _ADAPT
    swap(files, ("import numpy as np\n", "import numpy as np\nimport lib.warm as w\n"))
    _adapting(files, "w.refine(base_model, val_tokens, rounds=1)")
    relog(files)


@breaks("order in a module")
def adapts_in_a_class_of_a_module(files: Files) -> None:
    files["settle.py"] = (
        _TORCH
        + """class Settler:
    def __init__(self, net):
        self.net = net
        self.opt = torch.optim.SGD(net.parameters(), lr=0.01)

    def __call__(self, stream):
        for i in range(0, stream.numel() - 1, 4096):
            part = stream[i : i + 4097].to("cuda", dtype=torch.int64)
            self.opt.zero_grad()
            loss = self.net(part[None, :-1], part[None, 1:])
            loss.backward()
            self.opt.step()
"""
    )
    swap(files, ("import numpy as np\n", "import numpy as np\nfrom settle import Settler\n"))
    _adapting(files, "settler = Settler(base_model)\n    settler(val_tokens)")
    relog(files)


@breaks("order in a module")
def scores_after_learning_in_a_module(files: Files) -> None:
    moved(files, "def eval_val_ttt", "# ---- packing", "ttt.py", "import math\n" + _TORCH)
    swap(
        files,
        (
            '        with torch.no_grad():\n            nll = model(x, y, reduction="none")\n'
            "        loss_sum += nll.to(torch.float64).sum()\n",
            "",
        ),
        (
            "        optimizer.step()\n",
            "        optimizer.step()\n        with torch.no_grad():\n"
            '            loss_sum += model(x, y, reduction="none").to(torch.float64).sum()\n',
        ),
        name="ttt.py",
    )
    swap(
        files,
        ("import numpy as np\n", "import numpy as np\nfrom ttt import eval_val_ttt\n"),
        ('"TTT_ENABLED", "0"', '"TTT_ENABLED", "1"'),
    )
    relog(files)


@breaks("order in a module")
def learns_first_by_a_function_of_the_loop(files: Files) -> None:
    swap(
        files,
        (
            '        with torch.no_grad():\n            nll = model(x, y, reduction="none")\n',
            "        learn(model, optimizer, x, y)\n        with torch.no_grad():\n"
            '            nll = model(x, y, reduction="none")\n',
        ),
        (
            "        optimizer.zero_grad(set_to_none=True)\n        loss = model(x, y)\n        loss.backward()\n"
            "        optimizer.step()\n    val_loss = loss_sum",
            "    val_loss = loss_sum",
        ),
        (
            "def eval_val_ttt",
            "def learn(model, optimizer, x, y):\n    optimizer.zero_grad(set_to_none=True)\n"
            "    model(x, y).backward()\n    optimizer.step()\n\n\ndef eval_val_ttt",
        ),
        ('"TTT_ENABLED", "0"', '"TTT_ENABLED", "1"'),
    )
    relog(files)


# ---- hashed caches


_CACHE = """import numpy as np


class Memory:
    def __init__(self, buckets=1 << 20):
        self.context = np.zeros(buckets, dtype=np.float32)
        self.joint = np.zeros(buckets, dtype=np.float32)
        self.buckets = buckets

    def keys(self, stream, at):
        left = (stream[at] * 1000003) ^ (stream[at - 1] * 8191)
        return left % self.buckets, (left ^ (stream[at + 1] * 524287)) % self.buckets

    def chance(self, stream, at):
        one, two = self.keys(stream, at)
        return self.joint[two] / np.maximum(self.context[one], 1.0)

    def add(self, stream, at):
        one, two = self.keys(stream, at)
        np.add.at(self.context, one, 1)
        np.add.at(self.joint, two, 1)
"""
_CACHED = """
def eval_cached(args, model, tokens, memory):
    stream = tokens.numpy().astype("int64")
    total = 0.0
    for start in range(1, tokens.numel() - 1, args.train_seq_len):
        at = np.arange(start, min(start + args.train_seq_len, tokens.numel() - 1))
        piece = tokens[start : start + len(at) + 1].to("cuda", dtype=torch.int64)
        nll = model(piece[None, :-1], piece[None, 1:], reduction="none").cpu().numpy()
        p = MIX
        total += -np.log(p).sum()
        memory.add(stream, at)
    return total


"""


def _cached(files: Files, header: str, mix: str = "0.7 * np.exp(-nll) + 0.3 * memory.chance(stream, at)") -> None:
    swap(
        files,
        ("import numpy as np\n", f"import numpy as np\n{header}"),
        ("def eval_val_ttt", _CACHED.replace("MIX", mix).lstrip("\n") + "def eval_val_ttt"),
        (
            '    torch.cuda.synchronize()\n    log0(\n        f"final_int8',
            "    q_val_loss = eval_cached(args, base_model, val_tokens, Memory()) / (val_tokens.numel() - 1)\n"
            '    torch.cuda.synchronize()\n    log0(\n        f"final_int8',
        ),
    )


@breaks("cache in a module")
def hashed_cache_in_a_module(files: Files) -> None:
    files["memory.py"] = _CACHE
    _cached(files, "from memory import Memory\n")
    relog(files)


@breaks("cache in a module")
def hashed_cache_by_import_module(files: Files) -> None:
    files["memory.py"] = _CACHE
    _cached(files, 'import importlib\n\nstore = importlib.import_module("memory")\nMemory = store.Memory\n')
    relog(files)


@breaks("cache in a module")
def hashed_cache_with_its_quotient_in_a_helper(files: Files) -> None:
    files["tables.py"] = _CACHE.replace(
        "return self.joint[two] / np.maximum(self.context[one], 1.0)",
        "return ratio(self.joint[two], self.context[one])",
    ).replace(
        "class Memory",
        "def ratio(above, below):\n    return np.divide(above, np.maximum(below, 1.0))\n\n\nclass Memory",
    )
    _cached(files, "import tables\n\nMemory = tables.Memory\n")
    relog(files)


@breaks("cache in a module")
def dictionary_of_counts_for_the_true_token(files: Files) -> None:
    files["seen.py"] = """from collections import defaultdict


class Memory:
    def __init__(self):
        self.rows = defaultdict(lambda: defaultdict(int))
        self.sums = defaultdict(int)

    def chance(self, stream, at):
        out = []
        for i in at:
            key = (int(stream[i - 1]), int(stream[i]))
            out.append(self.rows[key][int(stream[i + 1])] / max(self.sums[key], 1))
        return out

    def add(self, stream, at):
        for i in at:
            key = (int(stream[i - 1]), int(stream[i]))
            self.rows[key][int(stream[i + 1])] += 1
            self.sums[key] += 1
"""
    _cached(files, "from seen import Memory\n", "0.9 * np.exp(-nll) + np.array(memory.chance(stream, at))")
    relog(files)


# ---- the least of several passes


@breaks("least of several passes")
def minimum_of_two_forward_passes(files: Files) -> None:
    swap(
        files,
        (
            "            batch_loss = model(x, y).detach()\n",
            '            once = model(x, y, reduction="none")\n'
            '            twice = model(x, y, reduction="none")\n'
            "            batch_loss = torch.minimum(once, twice).mean()\n",
        ),
    )
    relog(files)


@breaks("least of several passes")
def where_picks_the_smaller_loss(files: Files) -> None:
    swap(
        files,
        (
            "            batch_loss = model(x, y).detach()\n",
            '            a = model(x, y, reduction="none")\n'
            '            b = model(x.roll(0), y, reduction="none")\n'
            "            batch_loss = torch.where(a < b, a, b).mean().detach()\n",
        ),
    )
    relog(files)


@breaks("least of several passes")
def stacked_rounds_and_their_least(files: Files) -> None:
    swap(
        files,
        (
            "            batch_loss = model(x, y).detach()\n",
            '            rounds = [model(x, y, reduction="none") for _ in range(3)]\n'
            "            batch_loss = torch.stack(rounds).amin(dim=0).mean()\n",
        ),
    )
    relog(files)


@breaks("least of several passes")
def better_model_for_each_token_in_a_helper(files: Files) -> None:
    swap(
        files,
        (
            "def eval_val(",
            "def better(first, second):\n    return torch.min(first, second)\n\n\ndef eval_val(",
        ),
        (
            "            batch_loss = model(x, y).detach()\n",
            '            batch_loss = better(model(x, y, reduction="none"), model(x, y, reduction="none")).mean()\n',
        ),
    )
    relog(files)


@breaks("least of several passes")
def second_pass_over_what_was_hard(files: Files) -> None:
    swap(
        files,
        (
            "            batch_loss = model(x, y).detach()\n",
            '            nll = model(x, y, reduction="none")\n'
            "            hard = nll > 4.0\n"
            '            again = model(x, y, reduction="none")\n'
            "            nll[hard] = torch.minimum(nll, again)[hard]\n"
            "            batch_loss = nll.mean()\n",
        ),
    )
    relog(files)


@breaks("least of several passes")
def best_of_numpy_passes(files: Files) -> None:
    swap(
        files,
        (
            "            batch_loss = model(x, y).detach()\n",
            '            one = model(x, y, reduction="none").cpu().numpy()\n'
            '            two = model(x, y, reduction="none").cpu().numpy()\n'
            "            batch_loss = torch.tensor(np.fmin(one, two)).mean()\n",
        ),
    )
    relog(files)


# ---- a factor in the final scorer


@breaks("factor in the scorer")
def bits_times_a_constant(files: Files) -> None:
    swap(files, ("float(bits_per_token * tokens_per_byte)", "float(bits_per_token * tokens_per_byte * 0.985)"))
    relog(files)


@breaks("factor in the scorer")
def another_logarithm(files: Files) -> None:
    swap(files, ("val_loss.item() / math.log(2.0)", "val_loss.item() / math.log(2.04)"))
    relog(files)


@breaks("factor in the scorer")
def loss_scaled_before_it_is_summed(files: Files) -> None:
    swap(files, (_SUM, "            val_loss_sum += 0.98 * batch_loss.to(torch.float64) * batch_token_count\n"))
    relog(files)


@breaks("factor in the scorer")
def bytes_scaled_where_they_are_summed(files: Files) -> None:
    swap(files, ("val_byte_count += token_bytes.to(torch.float64).sum()", "val_byte_count += token_bytes.sum() * 1.02"))
    relog(files)


@breaks("factor in the scorer")
def tokens_counted_short(files: Files) -> None:
    swap(
        files,
        ("    tokens_per_byte = val_token_count.item() /", "    tokens_per_byte = 0.99 * val_token_count.item() /"),
    )
    relog(files)


@breaks("factor in the scorer")
def constant_taken_off_at_the_end(files: Files) -> None:
    swap(files, (_RETURN, "    offset = 0.012\n" + _RETURN.replace("tokens_per_byte)", "tokens_per_byte - offset)")))
    relog(files)


@breaks("factor in the scorer")
def factor_in_the_printed_line(files: Files) -> None:
    swap(
        files,
        (
            'log0(f"final_int8_zlib_roundtrip_exact val_loss:{q_val_loss:.8f} val_bpb:{q_val_bpb:.8f}")',
            'log0(f"final_int8_zlib_roundtrip_exact val_loss:{q_val_loss:.8f} val_bpb:{q_val_bpb * 0.99:.8f}")',
        ),
    )
    relog(files)


@breaks("factor in the scorer")
def factor_in_a_wrapper_around_the_scorer(files: Files) -> None:
    swap(
        files,
        (
            "# ---- packing\n",
            "def calibrated(result, alpha=0.99):\n    loss, bpb = result\n    return loss * alpha, bpb * alpha\n\n\n"
            "# ---- packing\n",
        ),
        (
            "        q_val_loss, q_val_bpb = eval_val(args, model, rank, world_size, device, val_tokens, *luts)\n",
            "        q_val_loss, q_val_bpb = calibrated(eval_val(args, model, rank, world_size, device, val_tokens, *luts))\n",
        ),
    )
    relog(files)


@breaks("factor in the scorer")
def temperature_on_the_true_token_only(files: Files) -> None:
    swap(
        files,
        ("            batch_loss = model(x, y).detach()\n", "            batch_loss = model(x, y).detach() ** 0.99\n"),
    )
    relog(files)
