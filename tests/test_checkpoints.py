"""Checkpoints as people left them: prefixes, wrappers, other formats and codecs, and the frontier's artifacts."""

import gzip
import io
import json
import lzma
import os
import pickle
import zlib

import brotli
import numpy as np
import pytest
import safetensors.torch
import torch
from backports import zstd
from test_frontier import filled
from test_import import GOLDEN, artifact, golden, saved

import pargolf
from pargolf.core.errors import UserError
from pargolf.recipes import catalog
from pargolf.run.folder import RunFolder
from pargolf.upstream.checkpoints import read_checkpoint
from pargolf.upstream.importing import fit_recipe


def read(data, tmp_path, name="final_model.pt"):
    (tmp_path / name).write_bytes(data)
    return read_checkpoint(tmp_path / name)


def same(found, told):
    assert found.keys() == told.keys()
    assert all(torch.equal(found[name], w) and found[name].dtype == w.dtype for name, w in told.items())


# --- names and wrappers


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "model.", "module._orig_mod.", "model.module."])
def test_what_wrapping_puts_before_names_is_taken_off(prefix, tmp_path):
    state = golden("baseline")
    same(read(saved({prefix + name: w for name, w in state.items()}), tmp_path), state)
    held, told = artifact("pr1009", golden("pr1009"))
    held = {
        "w": {prefix + name: w for name, w in held["w"].items()},
        "m": {prefix + name: kind for name, kind in held["m"].items()},
    }
    same(read(zlib.compress(saved(held)), tmp_path), told)


def test_names_of_compiled_parts_and_of_averages_are_those_of_the_model(tmp_path):
    state = golden("baseline")
    inner = {name.replace("blocks.0.", "blocks.0._orig_mod."): w for name, w in state.items()}
    same(read(saved(inner), tmp_path), state)
    sharded = {name.replace("blocks.1.", "blocks.1._checkpoint_wrapped_module."): w for name, w in state.items()}
    same(read(saved({f"_fsdp_wrapped_module.{name}": w for name, w in sharded.items()}), tmp_path), state)
    same(
        read(saved({f"module._orig_mod._fsdp_wrapped_module.{name}": w for name, w in state.items()}), tmp_path), state
    )
    averaged = {f"module.{name}": w for name, w in state.items()} | {"n_averaged": torch.tensor(3)}
    same(read(saved(averaged), tmp_path), state)
    with pytest.raises(UserError, match="is there twice"):
        read(saved(state | {f"_orig_mod.{name}": w for name, w in state.items()}), tmp_path)


@pytest.mark.parametrize("key", ["model", "state_dict", "model_state_dict", "ema"])
def test_a_state_dict_is_taken_out_of_what_holds_it(key, tmp_path):
    state = golden("baseline")
    optimizer = {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]}
    same(read(saved({key: state, "optimizer": optimizer, "step": 9, "args": {"lr": 0.1}}), tmp_path), state)
    same(read(saved({"model": {key: state}}), tmp_path), state)
    same(read(saved({"model": {"name": "x"}, "params": {"lr": 0.1}, key: state}), tmp_path), state)


def test_of_two_state_dicts_none_is_guessed(tmp_path):
    state = golden("baseline")
    average = {name: w * 0 for name, w in state.items()}
    with pytest.raises(UserError, match=r"several state dicts, model and ema, and they may differ"):
        read(saved({"model": state, "ema": average, "step": 3}), tmp_path)


# --- formats


def shuffled(data, stride=2):
    return b"BSHF" + bytes([stride]) + b"".join(data[k::stride] for k in range(stride))


CODECS = {
    "zstd of two frames": lambda raw: zstd.compress(raw[:500]) + zstd.compress(raw[500:]),
    "gzip": gzip.compress,
    "gzip of two members": lambda raw: gzip.compress(raw[:9]) + gzip.compress(raw[9:]),
    "lzma alone": lambda raw: lzma.compress(raw, format=lzma.FORMAT_ALONE),
    "brotli": brotli.compress,
    "byte-shuffled brotli": lambda raw: brotli.compress(shuffled(raw)),
    "byte-shuffled xz, by three": lambda raw: lzma.compress(shuffled(raw, 3)),
    "twice": lambda raw: gzip.compress(zlib.compress(raw)),
}


@pytest.mark.parametrize("codec", CODECS)
def test_every_codec_of_the_field_is_told_by_its_bytes(codec, tmp_path):
    held, told = artifact("pr549", golden("pr549"))
    same(read(CODECS[codec](saved(held)), tmp_path, "m.ptz"), told)


@pytest.mark.parametrize("codec", [*CODECS, "torch alone"])
def test_code_never_runs_whatever_is_around_it(codec, tmp_path):
    class Hostile:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    for raw in (pickle.dumps({"a": Hostile()}), saved({"a": Hostile()})):
        packed = CODECS[codec](raw) if codec in CODECS else raw
        with pytest.raises(UserError, match=r"asks to run (posix|nt|os)\.mkdir, and nothing"):
            read(packed, tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("codec", ["gzip", "lzma alone", "brotli", "zstd of two frames"])
def test_no_codec_fills_the_memory(codec, tmp_path, monkeypatch):
    monkeypatch.setattr("pargolf.upstream.unpacking.LIMIT", 1 << 20)
    with pytest.raises(UserError, match="over 1,048,576 bytes"):
        read(CODECS[codec](bytes(1 << 22)), tmp_path)


def test_safetensors_and_old_torch_saves_are_read(tmp_path):
    state = golden("pr295")
    same(read(safetensors.torch.save(state), tmp_path, "model.safetensors"), state)
    old = io.BytesIO()
    torch.save(state, old, _use_new_zipfile_serialization=False)
    same(read(old.getvalue(), tmp_path), state)


def test_weights_of_our_own_runs_are_read(run, tmp_path):
    recipe = RunFolder.open(run[0]).read_recipe()
    state = read_checkpoint(run[0] / "weights.safetensors")
    fitted, weights = fit_recipe(recipe, state, system="baseline")
    assert fitted == recipe
    same(weights, state)
    with pytest.raises(UserError, match="saved by pargolf"):
        fit_recipe(catalog.find("baseline"), state, system="baseline")


def arrays(state):
    return {name: w.float().numpy() for name, w in state.items()}


def test_safetensors_in_parts_are_read_by_their_index(tmp_path):
    state = {name: w.contiguous() for name, w in golden("baseline").items()}
    parts = {f"model-0000{k + 1}-of-00002.safetensors": list(state)[k::2] for k in range(2)}
    for part, names in parts.items():
        safetensors.torch.save_file({name: state[name] for name in names}, tmp_path / part)
    places = {name: part for part, names in parts.items() for name in names}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    same(read_checkpoint(index), state)
    with pytest.raises(UserError, match=r"is one of 2 parts. Name their list, model\.safetensors\.index\.json"):
        read_checkpoint(tmp_path / next(iter(parts)))
    for said, facts in {
        "lists '../x', which does not lie beside it": {"weight_map": {"a": "../x"}},
        "has no weight_map": {"weight_map": [1]},
        "differ: 'more' is in one of them": {"weight_map": places | {"more": next(iter(parts))}},
    }.items():
        index.write_text(json.dumps(facts))
        with pytest.raises(UserError, match=said):
            read_checkpoint(index)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_is_called_a_program(tmp_path):
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "model.pt")
    with pytest.raises(UserError, match=r"is a TorchScript program.*state_dict"):
        read_checkpoint(tmp_path / "model.pt")


def test_what_mlx_saves_is_read(tmp_path):
    state = {name: w.float() for name, w in golden("baseline").items()}
    out = io.BytesIO()
    halves = state["tok_emb.weight"].bfloat16()
    raw = halves.view(torch.int16).numpy().view("V2")
    np.savez(out, **(arrays(state) | {"tok_emb.weight": raw}))
    same(read(out.getvalue(), tmp_path, "run_mlx_model.npz"), state | {"tok_emb.weight": halves})


@pytest.mark.parametrize("protocol", [2, 4, pickle.HIGHEST_PROTOCOL])
def test_the_mlx_scripts_artifact_is_read(protocol, tmp_path):
    """A pickle of numpy arrays in the official container, as `train_gpt_mlx.py` writes it."""
    held, told = artifact("baseline", golden("baseline"))
    for part in (part for part in held.values() if isinstance(part, dict)):
        part |= {name: w.numpy() for name, w in part.items() if torch.is_tensor(w)}
    same(read(zlib.compress(pickle.dumps(held, protocol=protocol), 9), tmp_path, "m.int8.ptz"), told)


@pytest.mark.parametrize(
    "array", [np.array([{}], dtype=object), np.array(["x"]), np.zeros(2, "f4,i4"), np.array([1 + 2j])]
)
def test_arrays_of_other_things_than_numbers_are_refused(array, tmp_path):
    with pytest.raises(UserError):
        read(pickle.dumps({"a": array}), tmp_path)


def test_an_artifact_all_of_whose_tensors_were_kept_is_read(tmp_path):
    kept = {"a.weight": torch.ones(3, 2, dtype=torch.float16), "b": torch.arange(3)}
    held = {"__quant_format__": "int8_clean_per_row_v1", "quantized": {}, "scales": {}, "dtypes": {}}
    held |= {"passthrough": kept, "passthrough_orig_dtypes": {"a.weight": "bfloat16"}}
    same(
        read(zlib.compress(saved(held)), tmp_path), {"a.weight": torch.ones(3, 2, dtype=torch.bfloat16), "b": kept["b"]}
    )


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "is a Git LFS pointer"),
        (b"<!DOCTYPE html><html>", "is a page of HTML"),
        (b"PGRP" + bytes(40), "group by group with lrzip"),
        (b"\x05\x00\x00\x00\x00\x00\x00\x00{nono}", "not a complete safetensors"),
        (b"PK\x03\x04 and no more", "not a torch.save file"),
        (b"\x80\x04.", "is damaged"),
    ],
)
def test_what_is_no_checkpoint_is_called_what_it_is(data, said, tmp_path):
    with pytest.raises(UserError, match=said) as caught:
        read(data, tmp_path)
    assert "\n" not in str(caught.value)


def test_a_foreign_file_is_sent_to_import(tmp_path):
    (tmp_path / "m.int6.ptz").write_bytes(zlib.compress(b"x"))
    with pytest.raises(UserError, match=r"no artifact of pargolf.*pargolf import .*m\.int6\.ptz --system"):
        pargolf.inspect(tmp_path / "m.int6.ptz")


# --- 1855 and 2135


def published(system):
    """The small model of `test_frontier` as its script's state dict."""
    ours, layers = {n: p.detach().clone() for n, p in filled(system).named_parameters()}, 11
    pick = lambda part: torch.stack([ours[f"blocks.{i}.{part}.weight"] for i in range(layers)])  # noqa: E731
    state = {
        "tok_emb.weight": ours["embed.tokens.weight"],
        "qo_bank": torch.cat([pick("attn.q"), pick("attn.out")]),
        "kv_bank": torch.cat([pick("attn.k"), pick("attn.v")]),
        "mlp_up_bank": pick("mlp.up"),
        "mlp_down_bank": pick("mlp.down"),
        "skip_weights": torch.stack([ours[f"graph.skip.{5 + i}.weight"] for i in range(8)]),
        "skip_gates": torch.stack([ours[f"graph.skip.{5 + i}.gate"] for i in range(8)]),
        "smear_gate.weight": ours["entry.token_smear.score.weight"],
        "smear_lambda": ours["entry.token_smear.amount"],
        "parallel_post_lambdas": torch.ones(layers, 2, 2),
        "parallel_resid_lambdas": torch.full((layers, 2), 1.1),
    }
    for i in range(layers):
        for name in ("attn_scale", "mlp_scale", "attn.q_gain"):
            state[f"blocks.{i}.{name}"] = ours[f"blocks.{i}.{name}"]
        state[f"blocks.{i}.resid_mix"] = ours[f"graph.mix.{i}.weight"]
        state[f"blocks.{i}.attn.attn_gate_w"] = ours[f"blocks.{i}.attn.outputs.head_gate.score.weight"]
        if i >= 8:
            state["parallel_post_lambdas"][i, 0] = ours[f"blocks.{i}.residual.attn"]
            state["parallel_post_lambdas"][i, 1] = ours[f"blocks.{i}.residual.mlp"]
            state["parallel_resid_lambdas"][i] = ours[f"blocks.{i}.residual.keep"]
    if system == "pr2135":
        state |= {"softcap_pos": ours["head.cap.above"][0], "softcap_neg": ours["head.cap.below"][0]}
    return state


def gptq_artifact(state):
    """Codes, scales and factors as `gptq_mixed_quantize` stores them, by rounding alone; and what they come to."""
    flat = {name: w for name, w in state.items() if not name.endswith("bank")}
    pairs = {"qo_bank": ("attn.c_q", "attn.proj"), "kv_bank": ("attn.c_k", "attn.c_v")}
    for bank, parts in (pairs | {"mlp_up_bank": ("mlp.fc",), "mlp_down_bank": ("mlp.proj",)}).items():
        for i, w in enumerate(state[bank]):
            flat[f"blocks.{i % 11}.{parts[i // 11]}.weight"] = w
    held, kinds, told = {}, {}, {}
    for number, (name, w) in enumerate(flat.items()):
        if name.endswith("attn_gate_w"):
            scale = (w.abs().amax(1) / 127).half()
            codes = (w / scale.float()[:, None]).round().clamp(-127, 127).to(torch.int8)
            held |= {f"{name}.gq": codes, f"{name}.gs": scale}
            kinds[name], told[name] = "gate_int8_row", codes.float() * scale.float()[:, None]
        elif w.dim() == 2 and ("attn.c_" in name or ".proj." in name or ".fc." in name or "tok_emb" in name):
            most = 63 if "tok_emb" in name else 31
            scale = (w.std(1) * 4 / most).half()
            codes = (w / scale.float()[:, None]).round().clamp(-most, most).to(torch.int8)
            held |= {f"{name}.q": codes, f"{name}.scale": scale}
            kinds[name], value = f"gptq (int{7 if most == 63 else 6})", codes.float() * scale.float()[:, None]
            if number % 5 == 0:
                more, product = factors(name, w - value, by_groups=number % 2 == 0)
                held |= more
                kinds[name] += "+lqer_asym" if number % 2 == 0 else "+lqer"
                value = value + product
            told[name] = value.bfloat16() if "tok_emb" in name else value
        else:
            held[name], kinds[name], told[name] = w.half(), "passthrough (float16)", w.half().float()
    return {"w": held, "m": kinds}, told


def factors(name, error, *, by_groups, rank=4, group=32):
    """Two thin matrices as the scripts store them, and their product."""
    u, s, v = torch.linalg.svd(error, full_matrices=False)
    left, right = u[:, :rank] * s[:rank], v[:rank]
    if by_groups:
        groups = right.reshape(-1, group)
        scales = (left.abs().amax() / 1.5).half(), (groups.abs().amax(1) / 7.5).half()
        a = (left / scales[0].float()).round().clamp(-2, 1).to(torch.int8)
        b = (groups / scales[1].float()[:, None]).round().clamp(-8, 7).to(torch.int8)
        product = (a.float() * scales[0].float()) @ (b.float() * scales[1].float()[:, None]).reshape(right.shape)
        b, end = b.reshape(right.shape), "_a"
    else:
        scales = [(w.abs().amax(1).clamp_min(1e-10) / 7).half() for w in (left, right)]
        a, b = ((w / s.float()[:, None]).round().clamp(-7, 7).to(torch.int8) for w, s in zip((left, right), scales))
        product = (a * scales[0].float()[:, None]) @ (b * scales[1].float()[:, None])
        end = ""
    names = (f"{name}.{part}{end}" for part in ("lqA", "lqAs", "lqB", "lqBs"))
    return dict(zip(names, (a, scales[0], b, scales[1]))), product


@pytest.mark.usefixtures("quick_code")
@pytest.mark.parametrize("system", ["pr1855", "pr2135"])
def test_the_frontiers_state_dicts_give_the_scripts_own_logits(system, tmp_path):
    (tmp_path / "final_model.pt").write_bytes(saved(published(system)))
    made = pargolf.import_checkpoint(tmp_path / "final_model.pt", system=system, out=tmp_path / "run", rope_dims=4)
    assert made["layers"] == 11 and pargolf.inspect(tmp_path / "run" / "model.pargolf")["parameters"] > 0
    folder = RunFolder.open(tmp_path / "run")
    model = folder.read_recipe().model.build(0)
    model.load_state_dict(folder.read_weights())
    told = np.load(GOLDEN / f"{system}.npz")
    with torch.no_grad():
        logits = model(torch.from_numpy(told["ids"].astype("int64"))[None])[0]
    torch.testing.assert_close(logits, torch.from_numpy(told["logits_1"]), atol=2e-5, rtol=0)


@pytest.mark.usefixtures("quick_code")
@pytest.mark.parametrize("codec", ["brotli", "byte-shuffled brotli"])
@pytest.mark.parametrize("system", ["pr1855", "pr2135"])
def test_the_frontiers_artifacts_import(system, codec, tmp_path):
    held, told = gptq_artifact(published(system))
    assert {kind.split("+")[-1] for kind in held["m"].values()} > {"lqer", "lqer_asym", "gate_int8_row"}
    (tmp_path / "final_model.int6.ptz").write_bytes(CODECS[codec](saved(held)))
    found = read_checkpoint(tmp_path / "final_model.int6.ptz")
    assert found.keys() == told.keys()
    for name, w in told.items():
        torch.testing.assert_close(found[name], w, atol=1e-6, rtol=0)
    made = pargolf.import_checkpoint(tmp_path / "final_model.int6.ptz", system=system, out=tmp_path / "run")
    assert made["parameters"] == sum(p.numel() for p in filled(system).parameters())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda state: state.pop("qo_bank"), "lacks"),
        (lambda state: state.update(extra=torch.ones(2)), "no tensor called extra"),
        (lambda state: state.update(kv_bank=state["kv_bank"][:20]), "is a stack of 22"),
        (lambda state: state.update(smear_lambda=torch.ones(2)), "fits the others"),
        (lambda state: state.pop("tok_emb.weight"), "no model of pull requests"),
    ],
)
def test_a_state_dict_that_is_not_the_frontiers_is_refused(change, said, tmp_path):
    state = published("pr1855")
    change(state)
    with pytest.raises(UserError, match=said):
        fit_recipe(catalog.find("pr1855"), state, system="pr1855")
