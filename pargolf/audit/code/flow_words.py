"""The words that show what flows in a script: file names of the splits, losses, lookups, and functions on bytes.

Flow follows values, not names. But where a value enters or changes its kind, a word of the library or of the published
data shows it. These are the words.
"""

import builtins
import fnmatch
import re
from functools import lru_cache

from pargolf.audit.code.tree import NONE, Labels

LOSSES = frozenset({"cross_entropy", "nll_loss", "log_softmax", "linear_cross_entropy", "logsumexp"})
GATHERS = frozenset({"append", "extend", "add_", "copy_", "put", "update"})
LOOKUPS = frozenset({"gather", "index_select", "take", "get", "take_along_axis"})
BYTES = frozenset({"frombuffer", "decompress", "read_bytes", "fromfile"})
LISTS = frozenset({"listdir", "iterdir", "scandir", "walk"})
MODELS = re.compile(r"^_?(?:\w*model|net|network|lm|gpt|module)$")
PIECES = frozenset({"id_to_piece", "IdToPiece", "id_to_token"})
EXPONENTIALS = frozenset({"exp", "exp_", "exp2", "expm1"})
_NAMED = {
    **dict.fromkeys(("val_tokens", "val_files", "val_data", "all_val_tokens", "val_tokens_np"), frozenset({"VAL"})),
    **dict.fromkeys(("train_files", "train_loader", "train_tokens"), frozenset({"TRAIN"})),
}
_SHARDS = ("fineweb_val_000000.bin", "fineweb_train_000000.bin", "fineweb_train_000001.bin")
SILENT = frozenset({"len", "print", "log0", "log", "isinstance", "range"})
BUILTINS = frozenset(dir(builtins)) | {"print", "log0", "log", "tqdm", "cdiv"}
# What takes no more of its arguments than their shape or type.
LIKENESSES = frozenset({"to", "view_as", "type_as", "expand_as", "reshape_as"})
FRESH = frozenset(
    {"zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "new_zeros", "new_ones", "new_full"}
)
PLAIN_METHODS = (
    GATHERS
    | LIKENESSES
    | {
        *(
            "to",
            "get",
            "pop",
            "index",
            "insert",
            "step",
            "zero_grad",
            "view",
            "reshape",
            "item",
            "write",
            "format",
            "join",
        ),
        *(
            "fill_",
            "load_state_dict",
            "setdefault",
            "remove",
            "count",
            "all_reduce",
            "broadcast",
            "add",
            "discard",
            "submit",
        ),
    }
)


def named_split(value: object) -> Labels:
    """The split that a string names, by the file names of the published data."""
    return _split_of(value) if isinstance(value, str) and len(value) < 200 else NONE


@lru_cache(maxsize=8192)
def _split_of(text: str) -> Labels:
    if "fineweb_val" in text or "val_*" in text or "_val_0" in text:
        return frozenset({"VAL"})
    if "fineweb_train" in text or "train_*" in text:
        return frozenset({"TRAIN"})
    return _of_pattern(text)


def _of_pattern(pattern: str) -> Labels:
    """The split whose shards a pattern of file names fits: `*val*.bin`, `fineweb_[!t]*`; both where it fits both."""
    if fits_both(pattern):
        return frozenset({"BOTH"})
    name = pattern.rpartition("/")[2]
    if not re.search(r"[*?\[]", name) or len(name) > 80 or not re.search(r"[a-z]", name.removesuffix(".bin")):
        return NONE
    fits = [fnmatch.fnmatch(shard, name) for shard in _SHARDS]
    return frozenset({"VAL"} if fits[0] and not any(fits[1:]) else {"TRAIN"} if all(fits[1:]) and not fits[0] else ())


def fits_both(pattern: str) -> bool:
    """Whether a pattern of file names fits the shards of both splits, in a folder that belongs to neither split."""
    folder, _, name = pattern.rpartition("/")
    if "*" not in name or re.search(r"train|val", folder.rpartition("/")[2]) or len(name) > 80:
        return False
    return all(fnmatch.fnmatch(shard, name) for shard in _SHARDS) and name.endswith((".bin", "*"))


def split_by_name(name: str) -> Labels:
    """The split by names that every lineage uses for its tokens, for scripts whose loader cannot be followed."""
    return _NAMED.get(name, NONE)
