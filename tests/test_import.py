"""Published checkpoints become run folders: every container and codec, the numbers as those scripts load them."""

import io
import json
import lzma
import os
import pickle
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from backports import zstd
from safetensors.torch import load_file
from torch import Tensor

import pargolf
from pargolf.core.errors import UserError
from pargolf.data.folder import open_data
from pargolf.model.xsa import XSA
from pargolf.recipes import catalog
from pargolf.run.folder import RunFolder
from pargolf.run.pack import read_artifact
from pargolf.upstream import load
from pargolf.upstream.checkpoints import read_checkpoint
from pargolf.upstream.importing import Unseen, fit_recipe
from pargolf.upstream.quantizers import quantize
from pargolf.upstream.state_dicts import SYSTEMS

GOLDEN = Path(__file__).parent / "golden"
SECTIONS = {"baseline": 8, "pr543": 8, "pr861": 5}  # bits of the first container; the others use the second
CODECS = {
    "zlib": lambda b: zlib.compress(b, 9),
    "zstd": lambda b: zstd.compress(b, 22),
    "xz": lambda b: lzma.compress(b, preset=6),
}


def golden(system: str) -> dict[str, Tensor]:
    tensors = load_file(GOLDEN / f"{system}_v0.safetensors")
    return {k.removeprefix("state."): v for k, v in tensors.items() if k.startswith("state.")}


def config_of(system: str) -> dict:
    return json.loads((GOLDEN / "manifest.json").read_text())[f"{system}_v0.safetensors"]["config"]


def saved(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def unstacked(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """549 and 910 take their banks apart before they export."""
    out = dict(state)
    names = {"qo_bank": ("attn.c_q", "attn.proj"), "kv_bank": ("attn.c_k", "attn.c_v")}
    names |= {"mlp_up_bank": ("mlp.fc",), "mlp_down_bank": ("mlp.proj",)}
    for bank, parts in names.items():
        if bank in out:
            stack = out.pop(bank)
            n = len(stack) // len(parts)
            for i in range(len(stack)):
                out[f"blocks.{i % n}.{parts[i // n]}.weight"] = stack[i]
    return out


def artifact(system: str, state: dict[str, Tensor]) -> tuple[object, dict[str, Tensor]]:
    """The container that the system's script writes, and the numbers that its loader makes of it."""
    state = unstacked(state)
    wide = [name for name, w in state.items() if w.dim() == 2 and w.numel() > 500 and "tok_emb" not in name]
    told: dict[str, Tensor] = {}
    if system in SECTIONS:
        held: dict = {"__quant_format__": "int8_clean_per_row_v1", "quantized": {}, "scales": {}, "dtypes": {}}
        held |= {"passthrough": {}, "passthrough_orig_dtypes": {}, "qmeta": {}}
        for name, w in state.items():
            if name in wide:
                codes, scales = quantize(system, w, bits=SECTIONS[system])
                held["quantized"][name], held["scales"][name] = codes, scales
                held["dtypes"][name], held["qmeta"][name] = "bfloat16", {"scheme": "per_row", "axis": 0}
                told[name] = (codes.float() * scales.float()[:, None]).bfloat16()
            elif w.dim() < 2:
                held["passthrough"][name] = told[name] = w
            else:
                held["passthrough"][name], held["passthrough_orig_dtypes"][name] = w.half(), "float32"
                told[name] = w.half().float()
        return held, told
    flat, kinds = {}, {}
    for name, w in state.items():
        table = name in ("tok_emb.weight", "bigram.embed.weight", "ve_shared.embed.weight")
        if name in wide:
            bits = 8 if table else 6
            flat[f"{name}.q"], flat[f"{name}.scale"] = codes, scales = quantize(system, w, bits=bits)
            kinds[name] = {"type": f"int{bits}"}
            values = codes.float() * scales.float()[:, None]
        else:
            flat[name], kinds[name] = w.half(), "passthrough"
            values = w.half().float()
        told[name] = values.bfloat16() if table else values
    return {"w": flat, "m": kinds}, told


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_state_dict_is_read_and_run_like_its_script_does(system, tmp_path):
    state = golden(system)
    (tmp_path / "final_model.pt").write_bytes(saved(state))
    read = read_checkpoint(tmp_path / "final_model.pt")
    assert all(torch.equal(read[name], w) for name, w in state.items()) and set(read) == set(state)
    config = config_of(system)
    unseen = Unseen(**{key: config[key] for key in ("xsa", "rope_dims", "ve_layers", "train_seq_len")})
    fitted, weights = fit_recipe(catalog.find(system), read, system=system, unseen=unseen)
    theirs = load(system, state, **config)
    assert fitted.model == replace(theirs.spec, init=fitted.model.init)
    assert all(torch.equal(p, weights[name]) for name, p in theirs.named_parameters())


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("system", SYSTEMS)
def test_an_artifact_is_dequantized_as_its_script_does(system, codec, tmp_path):
    held, told = artifact(system, golden(system))
    path = tmp_path / "final_model.int6.ptz"
    path.write_bytes(CODECS[codec](saved(held)))
    read = read_checkpoint(path)
    assert set(read) == set(told)
    for name, w in told.items():
        assert read[name].dtype == w.dtype and torch.equal(read[name], w), name


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_run_folder_computes_what_the_state_dict_computes(system, quick_code, tmp_path):
    """Packed in whole float32, the folder's model gives the very logits of `upstream.load`."""
    state = golden(system)
    (tmp_path / "final_model.pt").write_bytes(saved(state))
    out = tmp_path / "run"
    made = pargolf.import_checkpoint(tmp_path / "final_model.pt", system=system, out=out)
    folder = RunFolder.open(out)
    recipe = folder.read_recipe()
    model = recipe.model.build(0)
    model.load_state_dict(folder.read_weights())
    blocks = recipe.model.blocks
    knobs = {
        **config_of(system),
        "rope_dims": blocks[-1].attn.rope.dims or 0,
        "xsa": sum(XSA() in block.attn.outputs for block in blocks),
        "ve_layers": [i for i, block in enumerate(blocks) if block.attn.values],
        "train_seq_len": recipe.train.seq_len,
    }
    theirs = load(system, state, **knobs)
    tokens = load_file(GOLDEN / f"{system}_v0.safetensors")["tokens"].long()[:, :-1]
    with torch.no_grad():
        assert torch.equal(model(tokens), theirs(tokens))
    unpacked = read_artifact(out / "model.pargolf")
    for name, (grid, codes) in recipe.quant.encode(folder.read_weights()).items():
        assert torch.equal(dict(unpacked.model.named_parameters())[name], grid.decode(codes)), name
    assert made["model"] == (out / "model.pargolf").stat().st_size
    assert pargolf.inspect(out / "model.pargolf")["parameters"] == made["parameters"]
    assert pargolf.pack(out)["model"] > 0


class Hostile:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("codec", [None, *CODECS])
def test_code_in_a_pickle_never_runs(codec, tmp_path):
    data = saved({"tok_emb.weight": torch.ones(2, 2), "x": Hostile(tmp_path / "ran")})
    path = tmp_path / "final_model.pt"
    path.write_bytes(CODECS[codec](data) if codec else data)
    with pytest.raises(UserError, match=r"asks to run (posix|nt|os)\.mkdir, and nothing"):
        read_checkpoint(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (b"", "is empty"),
        (b"not a checkpoint", "no checkpoint that is known"),
        (pickle.dumps({"a": 1}), "not a tensor"),
        (zlib.compress(b"no zip"), "no checkpoint that is known"),
        (zlib.compress(saved({"a": torch.ones(9)}))[:-40], "cut off"),
        (saved({"a": torch.ones(900)})[:-500], "not a torch.save file"),
        (saved({"a": 3}), "not a tensor"),
        (saved([torch.ones(2)]), "state dict was expected"),
        (saved({}), "state dict was expected"),
        (saved({"a": torch.ones(1).expand(1 << 40)}), "more numbers than the file holds"),
        (saved({"a": torch.eye(3).to_sparse()}), "dense"),
        (saved({"w": {"a.q": torch.ones(3, 2, dtype=torch.int8)}, "m": {"a": {"type": "int6"}}}), "a.scale"),
        (saved({"quantized": {"a": torch.ones(3, 2)}, "scales": {"a": torch.ones(2)}}), "do not fit"),
    ],
)
def test_what_is_no_checkpoint_is_refused_with_the_reason(data, line, tmp_path):
    path = tmp_path / "final_model.pt"
    path.write_bytes(data)
    with pytest.raises(UserError, match=line) as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_an_archive_whose_names_are_no_text_is_refused(tmp_path):
    path = tmp_path / "final_model.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("é", "x")
    path.write_bytes(path.read_bytes().replace("é".encode(), b"\xf6\xf6"))
    with pytest.raises(UserError, match=r"is not a torch\.save file"):
        read_checkpoint(path)


def test_decompression_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("pargolf.upstream.unpacking.LIMIT", 1 << 20)
    for codec in CODECS.values():
        (tmp_path / "a.ptz").write_bytes(codec(bytes(1 << 22)))
        with pytest.raises(UserError, match="over 1,048,576 bytes"):
            read_checkpoint(tmp_path / "a.ptz")


def test_another_system_s_file_other_data_and_a_used_folder_are_refused(run, data, tmp_path):
    path = tmp_path / "final_model.pt"
    path.write_bytes(saved(golden("pr295")))
    with pytest.raises(UserError, match="has no tensor called"):
        pargolf.import_checkpoint(path, system="pr861", out=tmp_path / "a")
    with pytest.raises(UserError, match="tokens and"):
        pargolf.import_checkpoint(path, system="pr295", data=data, out=tmp_path / "a")
    with pytest.raises(UserError, match="Did you mean pr295"):
        pargolf.import_checkpoint(path, system="pr29", out=tmp_path / "a")
    assert not (tmp_path / "a").exists()
    with pytest.raises(UserError, match="--force"):
        pargolf.import_checkpoint(path, system="pr295", out=run[0])


def test_with_data_an_imported_run_can_be_scored_and_packed_again(data, cli, quick_code, tmp_path):
    """A state dict over the data's own vocabulary, on the command line."""
    state = golden("pr1009")
    vocab = open_data(data).vocab
    torch.manual_seed(0)
    state["tok_emb.weight"] = 0.1 * torch.randn(vocab, state["tok_emb.weight"].shape[1])
    state["ve_shared.embed.weight"] = 0.1 * torch.randn(vocab, state["ve_shared.embed.weight"].shape[1])
    held, _ = artifact("pr1009", state)
    (tmp_path / "m.int6.ptz").write_bytes(CODECS["zstd"](saved(held)))
    words = ["import", tmp_path / "m.int6.ptz", "--system", "pr1009", "--data", data, "--out", tmp_path / "run"]
    done = cli(*words)
    assert done.returncode == 0, done.stderr
    assert "pargolf score" in done.stdout
    scored = pargolf.score(tmp_path / "run" / "model.pargolf", data=data, windows="plain:64").result()
    assert 0 < scored["bpb"] < 10
    before = read_artifact(tmp_path / "run" / "model.pargolf")
    pargolf.pack(tmp_path / "run")
    again = read_artifact(tmp_path / "run" / "model.pargolf")
    assert again.tokenizer == before.tokenizer
