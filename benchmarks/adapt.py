"""How many bits per byte each adapter saves on one artifact: python benchmarks/adapt.py ARTIFACT --data DATA [--json].

Scores the first `--positions` of the validation split without adaptation, then with every row below, over the same
windows. Prints the bits per byte saved, and the processor seconds of the whole scoring.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import torch

from pargolf.data.folder import open_data
from pargolf.evaluate.adapted import score_adapted
from pargolf.evaluate.adapters.adamw import AdamW
from pargolf.evaluate.adapters.adapter import Adapter
from pargolf.evaluate.adapters.count_mix import CountMix
from pargolf.evaluate.adapters.count_tilt import CountTilt
from pargolf.evaluate.adapters.hint_tilt import HintTilt
from pargolf.evaluate.adapters.online import Online
from pargolf.evaluate.adapters.sgd import SGD
from pargolf.evaluate.score import final, score
from pargolf.evaluate.windows import parse
from pargolf.run.pack import unpack
from pargolf.run.score import open_text

LITTLE = AdamW(lr=0.001, betas=(0.0, 0.999), epochs=1, chunk=512, batch=2, cosine=False, globs=("*",))
HELD = replace(LITTLE, anchor=0.02, chunk=256, batch=1)
ROWS: dict[str, Adapter] = {
    "SGD, as published": SGD(),
    "SGD, small chunks": SGD(lr=0.03, epochs=1, chunk=1024, batch=4, cosine=False),
    "AdamW, momentum .9": AdamW(lr=0.001, epochs=1, chunk=2048, batch=8, cosine=False, globs=("*",)),
    "AdamW, no momentum": LITTLE,
    "AdamW, anchored": HELD,
    "hint, as published": HintTilt(),
    "hint, short contexts": HintTilt(contexts=(4, 6, 10), threshold=0.6, boost=1.5),
    "counts": CountTilt(),
    "counts + AdamW": CountTilt(adapter=LITTLE),
    "counts + anchored": CountTilt(adapter=HELD),
    "online": Online(),
    "counts + online": CountTilt(adapter=Online()),
    "mixed": CountMix(),
    "mixed + counts + online": CountMix(adapter=CountTilt(adapter=Online())),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--positions", type=int, default=120_000, help="0: all")
    parser.add_argument("--windows", default="plain:256")
    parser.add_argument("--only", nargs="*", choices=list(ROWS), help="some of the rows")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    unpacked, text = unpack(args.artifact.read_bytes()), open_text(open_data(args.data))
    count, windows = args.positions or text.positions, parse(args.windows)
    text = replace(text, tokens=text.tokens[: count + 1], byte_counts=text.byte_counts[:count])
    began = time.process_time()
    without = final(score(unpacked.model, text, windows))
    rows = [{"row": "none", "bpb": without.bpb, "saved": 0.0, "seconds": time.process_time() - began}]
    for name in args.only or ROWS:
        began = time.process_time()
        *_, adapted = score_adapted(unpacked.model, text, windows, ROWS[name], without=without)
        seconds = time.process_time() - began
        rows.append({"row": name, "bpb": adapted.score.bpb, "saved": adapted.saved, "seconds": seconds})
        if not args.json:
            print(f"... {name}: {adapted.saved:.4f} saved", flush=True)
    if args.json:
        print(json.dumps(rows))
        return
    print(f"{windows}, {text.positions:,} positions")
    for row in rows:
        print(f"{row['row']:24} {row['bpb']:.4f}  saved {row['saved']:7.4f}  {row['seconds']:5.0f} s")


if __name__ == "__main__":
    main()
