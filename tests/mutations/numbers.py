"""Edits of bytes, logs, clocks and limits."""

import json
import random
import re

from mutations import RATIO, SEEDS, Files, breaks, logs, relog, score, swap, text

_PIECE = '        base_bytes[token] = len(piece.encode("utf-8"))\n'
_SPACE = '        if piece.startswith("\\u2581"):\n            has_leading_space[token] = True\n            piece = piece[1:]\n'


# ---- byte tables


@breaks("byte table")
def space_counted_in_the_table_and_in_the_scorer(files: Files) -> None:
    swap(files, (_SPACE + _PIECE, _SPACE.replace("piece = piece[1:]", 'piece = " " + piece[1:]') + _PIECE))
    relog(files)


@breaks("byte table")
def space_added_by_a_conditional(files: Files) -> None:
    swap(
        files,
        (_PIECE, '        base_bytes[token] = len(piece.encode("utf-8")) + (1 if has_leading_space[token] else 0)\n'),
    )
    relog(files)


@breaks("byte table")
def marker_kept_in_the_piece(files: Files) -> None:
    swap(files, ("            piece = piece[1:]\n", ""))
    relog(files)


@breaks("byte table")
def marker_counted_as_its_three_bytes(files: Files) -> None:
    swap(
        files,
        (
            _SPACE + _PIECE,
            '        raw = piece.encode("utf-8")\n        base_bytes[token] = len(raw)\n'
            '        has_leading_space[token] = raw[:3] == b"\\xe2\\x96\\x81"\n',
        ),
    )
    relog(files)


@breaks("byte table")
def control_tokens_counted(files: Files) -> None:
    swap(
        files,
        (
            "        if sp.is_control(token) or sp.is_unknown(token) or sp.is_unused(token):\n            continue\n",
            "        if sp.is_unused(token):\n            continue\n",
        ),
    )
    relog(files)


@breaks("byte table")
def byte_pieces_counted_by_their_name(files: Files) -> None:
    swap(files, ("        if sp.is_byte(token):\n            base_bytes[token] = 1\n            continue\n", ""))
    relog(files)


@breaks("byte table")
def at_least_two_bytes(files: Files) -> None:
    swap(files, (_PIECE, '        base_bytes[token] = max(len(piece.encode("utf-8")), 2)\n'))
    relog(files)


@breaks("byte table")
def table_from_a_comprehension_with_markers(files: Files) -> None:
    swap(
        files,
        (
            "    return (\n        torch.tensor(base_bytes,",
            "    pieces = [sp.id_to_piece(i) for i in range(int(sp.vocab_size()))]\n"
            '    base_bytes[: len(pieces)] = [len(p.encode("utf-8")) for p in pieces]\n'
            "    return (\n        torch.tensor(base_bytes,",
        ),
    )
    relog(files)


@breaks("byte table")
def space_counted_whatever_comes_before(files: Files) -> None:
    swap(
        files,
        (
            "token_bytes += (has_leading_space_lut[tgt_ids] & ~boundary_lut[prev_ids]).to(dtype=torch.int16)",
            "token_bytes += 2 * has_leading_space_lut[tgt_ids].to(dtype=torch.int16)",
        ),
    )
    relog(files)


@breaks("byte table")
def bytes_in_a_wider_encoding(files: Files) -> None:
    swap(files, ('len(piece.encode("utf-8"))', 'len(piece.encode("utf-16-le"))'))
    relog(files)


@breaks("byte table")
def table_in_a_module_with_one_more(files: Files) -> None:
    held = text(files)
    first, last = held.index("def build_sentencepiece_luts"), held.index("# ---- data")
    table = held[first:last].replace(_PIECE, '        base_bytes[token] = len(piece.encode("utf-8")) + 1\n')
    files["luts.py"] = "import numpy as np\nimport sentencepiece as spm\nimport torch\n\n\n" + table
    files["train_gpt.py"] = held[:first] + held[last:]
    swap(files, ("import numpy as np\n", "import numpy as np\nfrom luts import build_sentencepiece_luts\n"))
    relog(files)


# ---- logs


def _lower(files: Files, by: float, pattern: str) -> None:
    """Take some bits per byte off the scores of the lines that fit a pattern, and what is declared with them."""
    for name in logs(files):
        lines = text(files, name).splitlines()
        files[name] = "\n".join(_lowered(line, by) if re.match(pattern, line) else line for line in lines) + "\n"
    made = json.loads(text(files, "submission.json"))
    made["val_bpb"] -= by
    made["val_loss"] -= by * RATIO
    for held in made["seed_results"].values():
        held["val_bpb"] -= by
    files["submission.json"] = json.dumps(made)
    readme = text(files, "README.md")
    for seed in SEEDS:
        readme = readme.replace(f"{score(seed):.4f}", f"{score(seed) - by:.4f}")
    files["README.md"] = re.sub(r"seeds: [\d.]+", f"seeds: {made['val_bpb']:.4f}", readme)


def _lowered(line: str, by: float) -> str:
    def less(found: re.Match[str], off: float) -> str:
        digits = len(found[2].partition(".")[2])
        return f"{found[1]}{float(found[2]) - off:.{digits}f}"

    line = re.sub(r"(val_loss:)([\d.]+)", lambda found: less(found, by * RATIO), line)
    return re.sub(r"(val_bpb:)([\d.]+)", lambda found: less(found, by), line)


@breaks("lowered log")
def final_lines_lowered_together(files: Files) -> None:
    _lower(files, 0.02, "final_")


@breaks("lowered log")
def final_lines_lowered_by_a_little_more_than_packing_costs(files: Files) -> None:
    _lower(files, 0.012, "final_")


@breaks("lowered log")
def final_lines_lowered_much(files: Files) -> None:
    _lower(files, 0.09, "final_")


@breaks("lowered log")
def final_lines_and_last_row_lowered(files: Files) -> None:
    _lower(files, 0.05, r"final_|step:13000/20000 val_loss")


@breaks("lowered log")
def validation_rows_below_the_training_loss(files: Files) -> None:
    _lower(files, 0.2, r"final_|step:\d{4,5}/20000 val_loss")


@breaks("three logs that are one")
def the_same_log_under_three_seeds(files: Files) -> None:
    first = text(files, f"train_seed{SEEDS[0]}.log")
    for seed in SEEDS[1:]:
        files[f"train_seed{seed}.log"] = first.replace(f"seed:{SEEDS[0]}", f"seed:{seed}")


@breaks("three logs that are one")
def copies_with_other_final_lines(files: Files) -> None:
    first = text(files, f"train_seed{SEEDS[0]}.log")
    for seed in SEEDS[1:]:
        own = text(files, f"train_seed{seed}.log").splitlines()[-2:]
        held = first.replace(f"seed:{SEEDS[0]}", f"seed:{seed}").splitlines()[:-2]
        files[f"train_seed{seed}.log"] = "\n".join([*held, *own]) + "\n"


@breaks("three logs that are one")
def one_trail_shifted_by_a_constant(files: Files) -> None:
    first = text(files, f"train_seed{SEEDS[0]}.log")
    for i, seed in enumerate(SEEDS[1:], 1):
        shifted = "\n".join(_lowered(line, 0.0004 * i) for line in first.splitlines()) + "\n"
        shifted = re.sub(
            r"train_loss:([\d.]+)", lambda found, i=i: f"train_loss:{float(found[1]) - 0.0007 * i:.4f}", shifted
        )
        shifted = re.sub(r"train_time:(\d+)ms", lambda found, i=i: f"train_time:{int(found[1]) + 13 * i}ms", shifted)
        files[f"train_seed{seed}.log"] = shifted.replace(f"seed:{SEEDS[0]}", f"seed:{seed}")


@breaks("three logs that are one")
def one_trail_with_noise_on_top(files: Files) -> None:
    first = text(files, f"train_seed{SEEDS[0]}.log")
    for seed in SEEDS[1:]:
        noise = random.Random(seed)

        def shaken(found: re.Match[str], noise: random.Random = noise) -> str:
            return f"{found[1]}{float(found[2]) + noise.gauss(0, 0.0003):.4f}"

        held = re.sub(r"(train_loss:|val_loss:)([\d.]{6})(?=\D)", shaken, first)
        files[f"train_seed{seed}.log"] = held.replace(f"seed:{SEEDS[0]}", f"seed:{seed}")


@breaks("three logs that are one")
def copies_renamed_and_reordered(files: Files) -> None:
    first = text(files, f"train_seed{SEEDS[0]}.log")
    for seed in SEEDS[1:]:
        del files[f"train_seed{seed}.log"]
        files[f"logs/run_{seed}.txt"] = "\n" + first.replace(f"seed:{SEEDS[0]}", f"seed: {seed}").replace("ms ", "ms  ")


@breaks("impossible score")
def half_a_bit_per_byte(files: Files) -> None:
    _scaled(files, 0.4)


@breaks("impossible score")
def less_than_any_model_of_the_size(files: Files) -> None:
    _scaled(files, 0.7)


@breaks("impossible score")
def near_nothing(files: Files) -> None:
    _scaled(files, 0.01)


def _scaled(files: Files, factor: float) -> None:
    """Every loss and score of logs, submission.json and README times a factor: nothing contradicts anything."""

    def times(found: re.Match[str]) -> str:
        return f"{found[1]}{float(found[2]) * factor:.{len(found[2].partition('.')[2])}f}"

    for name in logs(files):
        files[name] = re.sub(r"((?:val_loss|val_bpb|train_loss):)([\d.]+)", times, text(files, name))
    made = json.loads(text(files, "submission.json"))
    made["val_bpb"] *= factor
    made["val_loss"] *= factor
    for held in made["seed_results"].values():
        held["val_bpb"] *= factor
    files["submission.json"] = json.dumps(made)
    files["README.md"] = re.sub(r"(\| \d+ \| |seeds: )([\d.]+)", times, text(files, "README.md"))


# ---- clocks and limits


_ELAPSED = "approx_training_time_ms = training_time_ms + 1000.0 * (time.perf_counter() - t0)"


@breaks("clock scaled")
def milliseconds_of_nine_hundred(files: Files) -> None:
    swap(files, ("1000.0 * (time.perf_counter() - t0)", "900.0 * (time.perf_counter() - t0)"))
    relog(files)


@breaks("clock scaled")
def clock_of_a_helper_runs_slow(files: Files) -> None:
    swap(
        files,
        ("class Hyperparameters:", "def now():\n    return time.perf_counter() * 0.8\n\n\nclass Hyperparameters:"),
        ("time.perf_counter() - t0", "now() - t0"),
        ("t0 = time.perf_counter()", "t0 = now()"),
    )
    relog(files)


@breaks("clock scaled")
def elapsed_divided_in_a_method(files: Files) -> None:
    swap(
        files,
        (
            "class Hyperparameters:",
            "class Timer:\n    def __init__(self):\n        self.begin = time.perf_counter()\n\n"
            "    def ms(self):\n        return 1000.0 * (time.perf_counter() - self.begin) / 1.3\n\n\nclass Hyperparameters:",
        ),
        ("    t0 = time.perf_counter()\n    step = 0\n", "    timer = Timer()\n    step = 0\n"),
        ("            t0 = time.perf_counter()\n", "            timer = Timer()\n"),
        ("1000.0 * (time.perf_counter() - t0)", "timer.ms()"),
    )
    relog(files)


@breaks("clock scaled")
def seconds_taken_off_the_clock(files: Files) -> None:
    swap(files, (_ELAPSED, _ELAPSED + " - 90_000.0"))
    relog(files)


@breaks("clock scaled")
def clock_replaced_in_the_library(files: Files) -> None:
    swap(
        files,
        (
            "class Hyperparameters:",
            "_real = time.perf_counter\ntime.perf_counter = lambda: 0.75 * _real()\n\n\nclass Hyperparameters:",
        ),
    )
    relog(files)


@breaks("clock scaled")
def clock_begins_late(files: Files) -> None:
    swap(
        files,
        ("        step += 1\n", "        step += 1\n        if step == 2000:\n            t0 = time.perf_counter()\n"),
    )
    relog(files)


@breaks("limit raised")
def limit_of_nine_hundred_seconds(files: Files) -> None:
    swap(files, ('"MAX_WALLCLOCK_SECONDS", 600.0', '"MAX_WALLCLOCK_SECONDS", 900.0'))
    relog(files)


@breaks("limit raised")
def limit_raised_where_it_is_compared(files: Files) -> None:
    swap(files, ("approx_training_time_ms >= max_wallclock_ms", "approx_training_time_ms >= 1.25 * max_wallclock_ms"))
    relog(files)


@breaks("limit raised")
def limit_in_a_default_argument(files: Files) -> None:
    swap(
        files,
        (
            "class Hyperparameters:",
            "def over(elapsed_ms, limit_ms=780_000.0):\n    return elapsed_ms >= limit_ms\n\n\nclass Hyperparameters:",
        ),
        (
            "max_wallclock_ms is not None and approx_training_time_ms >= max_wallclock_ms",
            "over(approx_training_time_ms)",
        ),
    )
    relog(files)


@breaks("limit raised")
def limit_with_more_milliseconds_a_second(files: Files) -> None:
    swap(files, ("max_wallclock_ms = 1000.0 * args", "max_wallclock_ms = 1300.0 * args"))
    relog(files)


@breaks("limit raised")
def limit_by_an_expression(files: Files) -> None:
    swap(
        files,
        (
            'max_wallclock_seconds = float(os.environ.get("MAX_WALLCLOCK_SECONDS", 600.0))',
            "minutes = 14\n    max_wallclock_seconds = 60.0 * minutes",
        ),
    )
    relog(files)


# ---- a switch whose run the log contradicts


@breaks("switch the log contradicts")
def the_log_dumps_a_switch_that_the_script_leaves_off(files: Files) -> None:
    _train_then_score(files)
    relog(files)
    for name in logs(files):
        swap(files, ("ttt_enabled:0 ttt_lr:0.01", "ttt_enabled:1 ttt_lr:0.01"), name=name)


@breaks("switch the log contradicts")
def the_log_prints_what_only_the_switch_prints(files: Files) -> None:
    _train_then_score(files)
    swap(
        files,
        ("    val_loss = loss_sum.item()", '    print(f"ttt: {token_count} tokens")\n    val_loss = loss_sum.item()'),
    )
    relog(files)
    for name in logs(files):
        swap(files, ("final_int8_zlib_roundtrip val", "ttt: 62021632 tokens\nfinal_int8_zlib_roundtrip val"), name=name)


@breaks("switch the log contradicts")
def the_log_shows_another_limit_than_the_script(files: Files) -> None:
    for name in logs(files):
        swap(files, ("max_wallclock_seconds:600.000", "max_wallclock_seconds:840.000"), name=name)


@breaks("switch the log contradicts")
def the_readme_turns_the_switch_on(files: Files) -> None:
    _train_then_score(files)
    relog(files)
    swap(files, ("torchrun --standalone", "TTT_ENABLED=1 torchrun --standalone"), name="README.md")


@breaks("switch the log contradicts")
def a_dump_of_settings_in_python_s_form(files: Files) -> None:
    _train_then_score(files)
    relog(files)
    for name in logs(files):
        swap(files, ("ttt_enabled:0 ttt_lr:0.01", "ttt_enabled: True\nttt_lr: 0.01"), name=name)


def _train_then_score(files: Files) -> None:
    """Behind the switch, each chunk is scored after the model has learned from it."""
    learning = (
        "        optimizer.zero_grad(set_to_none=True)\n        loss = model(x, y)\n        loss.backward()\n"
        "        optimizer.step()\n"
    )
    scoring = '        with torch.no_grad():\n            nll = model(x, y, reduction="none")\n'
    swap(files, (learning + "    val_loss", "    val_loss"), (scoring, learning + scoring))


# ---- bytes that are not counted


@breaks("larger script")
def the_committed_script_is_larger_than_the_logged_one(files: Files) -> None:
    swap(files, ("# ---- packing\n", "# " + "padding " * 30_000 + "\n# ---- packing\n"))


@breaks("larger script")
def a_table_of_weights_in_the_committed_script(files: Files) -> None:
    swap(files, ("# ---- packing\n", 'TABLE = "' + "7f3a" * 50_000 + '"\n\n\n# ---- packing\n'))


@breaks("larger script")
def the_log_counts_a_smaller_script(files: Files) -> None:
    for name in logs(files):
        size = re.search(r"Code size: (\d+)", text(files, name))
        assert size is not None
        swap(files, (size[0], f"Code size: {int(size[1]) // 3}"), name=name)
