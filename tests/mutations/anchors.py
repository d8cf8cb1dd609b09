"""Pieces of the clean script where edits begin, each there once, and other texts that several files of edits share."""

ATTEND = "        y = F.scaled_dot_product_attention(q, k, v, attn_mask=None, is_causal=True)\n"
BEFORE_MAIN = "# ---- the run\n"
BLOCKS = "        for block in self.blocks:\n            x = block(x)\n"
BUILT = "        self.blocks = nn.ModuleList([Block(model_dim, num_heads) for _ in range(num_layers)])\n"
CALL = "        q_val_loss, q_val_bpb = eval_val(args, model, rank, world_size, device, val_tokens, *luts)\n"
CAP = "max_wallclock_ms = 1000.0 * args.max_wallclock_seconds if args.max_wallclock_seconds > 0 else None"
CLOCK = "clock scaled"
ELAPSED = "approx_training_time_ms = training_time_ms + 1000.0 * (time.perf_counter() - t0)"
EVAL = "    torch.cuda.synchronize()\n    t_eval = time.perf_counter()\n"
FACTOR = "factor in the scorer"
FILES = "        self.files = [Path(name) for name in sorted(glob.glob(pattern))]\n"
FINAL = '    torch.cuda.synchronize()\n    log0(\n        f"final_int8'
HYPER = "class Hyperparameters:"
IMPORTS = (
    "import math\nimport os\nimport glob\nimport time\nfrom pathlib import Path\n\nimport numpy as np\n"
    "import sentencepiece as spm\nimport torch\nimport torch.distributed as dist\nimport torch.nn.functional as F\n"
    "from torch import Tensor, nn\n\n\n"
)
LEAST = "least of several passes"
LIMIT = 'max_wallclock_seconds = float(os.environ.get("MAX_WALLCLOCK_SECONDS", 600.0))'
LOADER = "    train_loader = DistributedTokenLoader(args.train_files, rank, world_size, device)\n"
LOSS = "            batch_loss = model(x, y).detach()\n"
MAIN = 'if __name__ == "__main__":\n    main()\n'
MASK = "no mask"
NP = "import numpy as np\n"
ORDER = "order in a module"
OS = "import os\n"
PIECE = '        base_bytes[token] = len(piece.encode("utf-8"))\n'
RAISED = "limit raised"
REACHED = "max_wallclock_ms is not None and approx_training_time_ms >= max_wallclock_ms"
RETURN = "    return float(val_loss.item()), float(bits_per_token * tokens_per_byte)"
STATE = "    state = torch.load("
STEP = "            loss = model(x, y)\n            (loss / grad"
STEPPED = "        optimizer.step()\n        step += 1\n"
SUM = "            val_byte_count += token_bytes.to(torch.float64).sum()\n"
TRAINED = "            loss = model(x, y)\n            (loss / grad_accum_steps).backward()\n"
TWO = '            a = model(x, y, reduction="none")\n            b = model(x, y, reduction="none")\n'
VAL = "validation in training"
WORDS = "other words"
