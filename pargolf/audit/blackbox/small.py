"""The settings of a small run: the names that scripts give them, and their small values.

The depth, every switch and every rate stay as the script has them. Width, windows, batches, steps and the amounts of
calibration and adaptation are cut, so that a CPU reaches the score in seconds.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from pargolf.audit.blackbox.texts import VOCAB

WINDOW, STRIDE, BATCH = 128, 64, 1024
_GROUPS: tuple[tuple[Any, str], ...] = (
    (VOCAB, "vocab_size"),
    (128, "model_dim embedding_dim d_model n_embd hidden_size"),
    (8, "num_heads n_head"),
    (4, "num_kv_heads n_kv_head"),
    (WINDOW, "train_seq_len eval_seq_len ttt_eval_seq_len rope_train_seq_len ttt_train_seq_len max_seq_len seq_len"),
    (WINDOW, "train_max_seq_len block_size eval_context_len val_seq_len ttt_seq_len sliding_seq_len"),
    (STRIDE, "eval_stride sliding_window_stride ttt_stride stride sliding_stride"),
    (BATCH, "train_batch_tokens"),
    (BATCH, "val_batch_size val_batch_tokens"),
    (2, "iterations num_iterations max_steps"),
    (0, "warmup_steps val_loss_every compile_warmup_steps"),
    (0.5, "ema_decay"),
    (256, "ttt_chunk_tokens global_ttt_chunk_tokens ngram_chunk_tokens ttt_chunk_size_tokens chunk_tokens"),
    (1, "ttt_epochs global_ttt_epochs prequant_ttt_epochs pre_quant_ttt_epochs"),
    (2, "gptq_calibration_batches gptq_calib_batches gptq_calib_samples calib_batches gptq_num_calib ar_calib_seqs"),
    (2, "gptq_ar_seqs gptq_calib_seqs gptq_samples num_calib_batches calibration_batches gptq_nsamples calib_seqs"),
    (WINDOW, "gptq_ar_seq_len calib_seq_len gptq_seq_len ar_seq_len gptq_calib_seq_len"),
    (2, "slot_steps phased_ttt_prefix_docs ttt_steps etlb_steps"),
    (1 << 16, "ngram_buckets ngram_eval_buckets"),
    (0, "fused_ce_enabled fused_ce fused_mlp_enabled banked_fused_mlp_enabled compile_enabled torch_compile"),
)
SMALL = {name: value for value, names in _GROUPS for name in names.split()}
# What a call gives for an amount of calibration, where no setting does.
AMOUNTS = dict.fromkeys(("num_seqs", "n_seqs", "num_sequences", "num_batches", "n_batches", "n_samples", "nsamples"), 2)
_SHARDS, _TOKENIZER = f"./data/datasets/fineweb10B_sp{VOCAB}", f"./data/tokenizers/fineweb_{VOCAB}_bpe.model"
FOLDERS = {
    "DATA_DIR": "./data/",
    "DATA_PATH": _SHARDS,
    "TRAIN_FILES": f"{_SHARDS}/fineweb_train_*.bin",
    "VAL_FILES": f"{_SHARDS}/fineweb_val_*.bin",
    "TOKENIZER_PATH": _TOKENIZER,
}
PATHS = {
    r"^[^\s'\"*]*datasets/+(?:datasets/+)?fineweb\w+": _SHARDS,
    r"^[^\s'\"*]*tokenizers/+[\w.]+\.model": _TOKENIZER,
    r"^/(?:tmp|dev/shm)(?=/|$)": ".",
}
_NAME = re.compile(r"""["']([A-Z][A-Z0-9_]{2,60})["']""")


def environment(texts: Iterable[str], settings: Mapping[str, str]) -> dict[str, str]:
    """The environment of a small run.

    It has the reported run's settings, the data folders, and small numbers for names that the script or a module
    beside it reads.
    """
    read = {name for text in texts for name in _NAME.findall(text)}
    variables = {k: v for k, v in settings.items() if k in read and k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    small = {name: str(SMALL[name.lower()]) for name in read if name.lower() in SMALL}
    return {**variables, **small, **FOLDERS}
