"""A model that leaves the house gives the numbers that it was scored by, in whatever reads it."""

import json
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
import small
import torch

import pargolf
from pargolf.core.errors import UserError
from pargolf.evaluate.generate import generate
from pargolf.evaluate.texts import score_texts
from pargolf.exporting.huggingface import write_folder
from pargolf.exporting.source import Source
from pargolf.recipes import catalog
from pargolf.recipes.scale import scaled
from pargolf.run.loading import read_source
from pargolf.ship.modeling import modeling_file, tokenization_file
from pargolf.study.device import measured

TEXT = "the state of our union is strong, and café № 7 is open"


@pytest.fixture(scope="module")
def artifact(run):
    return run[0] / "model.pargolf"


# ---- in Python


def test_a_model_is_loaded_with_its_tokenizer(artifact):
    model, tokenizer = pargolf.load(artifact)
    ids = tokenizer.encode(TEXT)
    assert tokenizer.decode(ids) == TEXT
    assert b"".join(tokenizer.bytes_of(int(i)) for i in ids) == TEXT.encode()
    assert tokenizer.bytes_of(tokenizer.bos) == b""
    assert not model.training
    assert model(torch.tensor([[tokenizer.bos, *ids.tolist()]])).shape == (1, len(ids) + 1, tokenizer.vocab)


def test_a_texts_losses_are_the_models_own(artifact):
    losses = pargolf.token_losses(artifact, "the state")
    model, tokenizer = pargolf.load(artifact)
    with torch.no_grad():
        logs = model(torch.tensor([[tokenizer.bos, *losses.ids]]))[0, :-1].double().log_softmax(-1)
    assert losses.nats == pytest.approx(-logs[range(len(losses.ids)), losses.ids].numpy(), abs=1e-5)
    assert "".join(losses.pieces) == "the state" and losses.bytes.sum() == 9
    assert losses.bpb == pytest.approx(float(losses.nats.sum()) / np.log(2) / 9)
    with pytest.raises(UserError, match="empty"):
        pargolf.token_losses(artifact, "")


def test_a_missing_or_another_tokenizer_says_where_to_get_the_right_one(artifact, tmp_path):
    alone = tmp_path / "model.pargolf"
    shutil.copyfile(artifact, alone)
    with pytest.raises(UserError, match=r"tokenizer\.model in the folder of the run"):
        pargolf.load(alone)
    assert pargolf.load(alone, tokenizer=artifact.with_name("tokenizer.model")).tokenizer.vocab == 300
    other = tmp_path / "tokenizer.model"
    shutil.copyfile("tests/golden/tokenizer.model", other)
    with pytest.raises(UserError, match="is not the tokenizer that"):
        pargolf.load(alone)


def test_an_artifact_of_a_newer_format_is_refused_in_one_line(artifact, tmp_path):
    data = bytearray(artifact.read_bytes())
    data[8] += 1  # the format, behind the magic
    (tmp_path / "model.pargolf").write_bytes(data)
    with pytest.raises(UserError, match="Upgrade pargolf") as caught:
        pargolf.load(tmp_path / "model.pargolf")
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"^\S+: The artifact has format"):
        pargolf.bench_device(tmp_path / "model.pargolf", onnx=False).result()


# ---- Hugging Face


@pytest.fixture(scope="module")
def transformers():
    return pytest.importorskip("transformers", reason="transformers is not installed: pip install '.[hf-export]'")


@pytest.fixture(scope="module")
def folder(artifact, tmp_path_factory):
    return pargolf.export(artifact, to="hf", out=tmp_path_factory.mktemp("hf") / "small", licence="cc0-1.0")


@pytest.fixture(scope="module")
def loaded(transformers, folder):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    return model, transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=True)


def test_transformers_gives_the_logits_of_the_artifact(artifact, loaded):
    ours, tokenizer = pargolf.load(artifact)
    theirs, words = loaded
    ids = torch.tensor(
        [[tokenizer.bos, *tokenizer.encode(TEXT).tolist(), tokenizer.bos, *tokenizer.encode("people").tolist()]]
    )
    assert words(TEXT)["input_ids"] == [tokenizer.bos, *tokenizer.encode(TEXT)]
    with torch.no_grad():
        assert (theirs(ids).logits - ours(ids)).abs().max() < 1e-5
        loss = theirs(ids, labels=ids).loss
    # What stands before a document's BOS changes nothing behind it.
    at = ids[0].tolist().index(tokenizer.bos, 1)
    assert (theirs(ids).logits[:, at:] - theirs(ids[:, at:]).logits).abs().max() < 1e-5
    assert float(loss) > 0 and not theirs.training


@pytest.mark.parametrize("prompt", ["the state", TEXT])
def test_generate_with_its_cache_writes_what_our_sampling_writes(artifact, loaded, prompt):
    ours, tokenizer = pargolf.load(artifact)
    theirs, words = loaded
    start = [tokenizer.bos, *map(int, tokenizer.encode(prompt))]
    wanted = list(generate(ours, start, tokens=30, length=16, stop=(tokenizer.bos,), temperature=0))
    given = theirs.generate(**words(prompt, return_tensors="pt"), max_new_tokens=30, do_sample=False)[0].tolist()
    assert [i for i in given[len(start) :] if i != tokenizer.bos] == wanted and len(wanted) > 20


def test_padded_rows_and_beams_give_what_each_row_alone_gives(loaded):
    theirs, words = loaded
    prompts = ["the state of our union", "free", "strong people"]
    together = theirs.generate(**words(prompts, return_tensors="pt", padding=True), max_new_tokens=8, do_sample=False)
    for prompt, row in zip(prompts, together):
        alone = theirs.generate(**words(prompt, return_tensors="pt"), max_new_tokens=8, do_sample=False)[0]
        assert row[-8:].tolist() == alone[-8:].tolist()
    ids = words("the state", return_tensors="pt")
    kept = theirs.generate(**ids, max_new_tokens=6, num_beams=3, do_sample=False)
    assert torch.equal(kept, theirs.generate(**ids, max_new_tokens=6, num_beams=3, do_sample=False, use_cache=False))
    padded = words(prompts, return_tensors="pt", padding=True)
    with torch.no_grad():
        logits = theirs(**padded).logits[1, -1]
        assert (logits - theirs(**words("free", return_tensors="pt")).logits[0, -1]).abs().max() < 1e-5


def test_special_names_in_a_text_are_text_and_a_saved_tokenizer_is_the_same(transformers, loaded, tmp_path):
    _, words = loaded
    spelled = "a <s> in a text"
    ids = words(spelled)["input_ids"]
    assert ids.count(words.bos_token_id) == 1 and words.decode(ids, skip_special_tokens=True) == spelled
    words.save_pretrained(tmp_path / "again")
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "again", trust_remote_code=True)
    assert again(TEXT)["input_ids"] == words(TEXT)["input_ids"]


def test_the_folder_reads_itself_and_its_card_says_what_the_run_says(folder, run):
    modeling = (folder / "modeling_pargolf.py").read_text()
    assert "import pargolf" not in modeling and "from pargolf" not in modeling
    assert '"""Causal attention' in modeling and "BigramHash" not in modeling
    card, result = (folder / "README.md").read_text(), run[1]
    for words in (
        f"{result.val_bpb:.6f}",
        result.proof.rests.words,
        f"{result.bytes.total:,}",
        "cc0-1.0",
        "initial values",
    ):
        assert words in card
    with pytest.raises(UserError, match="exists"):
        pargolf.export(run[0] / "model.pargolf", out=folder)


@pytest.mark.parametrize("name", catalog.names())
def test_every_recipe_goes_to_transformers(name, transformers, tmp_path, monkeypatch):
    recipe = scaled(catalog.find(name), "mini")
    recipe = replace(recipe, model=replace(recipe.model, vocab=64))
    model = recipe.model.build(seed=1).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=generator))
    tokenizer = pargolf.data.tokens.load_tokenizer("tests/golden/tokenizer.model")
    folder = write_folder(
        Source(model, tokenizer, 32, name, recipe.digest, 1),
        tmp_path / name,
        modeling=modeling_file(recipe.model, name),
        tokenization=tokenization_file(name),
        card="",
    )
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    ids = torch.randint(0, 64, (2, 24), generator=generator)
    ids[:, 9] = 1
    with torch.no_grad():
        assert (theirs(ids).logits - model(ids)).abs().max() < 1e-5


def test_plain_bytes_and_byte_level_bpe_go_along(transformers, tmp_path):
    model = small.model(vocab=257, bos=256).build(seed=0).eval()
    source = Source(model, pargolf.data.tokens.ByteTokenizer(), 16, "bytes", "0" * 16, 1)
    texts = {"modeling": modeling_file(model.spec, "b"), "tokenization": tokenization_file("b"), "card": ""}
    folder = write_folder(source, tmp_path / "bytes", **texts)
    words = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    assert words("é")["input_ids"] == [256, 195, 169] and words.decode([195, 169]) == "é"
    tokenizers = pytest.importorskip("tokenizers")
    bpe = tokenizers.ByteLevelBPETokenizer()
    bpe.train_from_iterator([TEXT], vocab_size=270, special_tokens=["<|bos|>"])
    theirs = pargolf.data.huggingface.hugging_face_tokenizer(bpe._tokenizer.to_str().encode())
    folder = write_folder(replace(source, tokenizer=theirs), tmp_path / "bpe", **texts)
    words = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    assert words(TEXT)["input_ids"] == [theirs.bos, *theirs.encode(TEXT)]
    assert json.loads((folder / "config.json").read_text())["bos_token_id"] == theirs.bos
    assert "pargolf" in sys.modules  # the exported files were loaded beside it, not through it


# ---- ONNX, safetensors


@pytest.fixture(scope="module")
def onnx():
    return pytest.importorskip("pargolf.exporting.onnx", reason="pip install '.[onnx]'", exc_type=ImportError)


@pytest.fixture(scope="module")
def graph(onnx, artifact, tmp_path_factory):
    return pargolf.export(artifact, to="onnx", out=tmp_path_factory.mktemp("onnx") / "model.onnx")


def test_an_onnx_graph_gives_the_logits_for_any_batch_and_length(onnx, graph, artifact):
    out = graph
    model, _ = pargolf.load(artifact)
    assert onnx.difference(out.read_bytes(), model) < 1e-5
    session = onnx.onnxruntime.InferenceSession(out.read_bytes())
    for shape in ((4, 40), (1, 3)):
        ids = onnx.example(model, *shape)
        with torch.no_grad():
            assert session.run(None, {"input_ids": ids.numpy()})[0] == pytest.approx(model(ids).numpy(), abs=1e-4)
    with torch.no_grad():  # a graph of other weights is noticed
        next(model.parameters()).add_(1.0)
    assert onnx.difference(out.read_bytes(), model) > onnx.TOLERANCE


def test_safetensors_hold_the_weights_and_what_they_are(artifact, tmp_path):
    safetensors = pytest.importorskip("safetensors")
    out = pargolf.export(artifact, to="safetensors", out=tmp_path / "model.safetensors")
    model, _ = pargolf.load(artifact)
    with safetensors.safe_open(out, "pt") as file:
        facts = file.metadata()
        assert {name: file.get_tensor(name).shape for name in file.keys()} == {  # noqa: SIM118
            name: p.shape for name, p in model.named_parameters()
        }
        assert torch.equal(file.get_tensor("embed.tokens.weight"), model.embed.tokens.weight)
    assert facts["recipe"] == "small" and json.loads(facts["roles"])["blocks.0.mlp.up.weight"] == "mlp.up"
    with pytest.raises(UserError, match="--force"):
        pargolf.export(artifact, to="safetensors", out=out)
    with pytest.raises(UserError, match="safetensors"):
        pargolf.export(artifact, to="safetensor", out=out)


# ---- lm-evaluation-harness

DOCUMENTS = ["the state of our union is strong and its people are free to speak write read think", "free people, café"]
TASKS = {
    "own_text": """output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: bits_per_byte}]
""",
    "own_choice": """output_type: multiple_choice
doc_to_text: "{{text}}"
doc_to_choice: [" strong", " 7q7q"]
doc_to_target: 0
metric_list: [{metric: acc}]
""",
}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    lines = folder / "texts.jsonl"
    lines.write_text("".join(json.dumps({"text": text}) + "\n" for text in DOCUMENTS), encoding="utf-8")
    for name, rows in TASKS.items():
        data = f"dataset_path: json\ndataset_kwargs: {{data_files: {{test: {lines}}}}}\ntest_split: test\n"
        (folder / f"{name}.yaml").write_text(f"task: {name}\n{data}{rows}", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def lm_eval(monkeypatch_module):
    monkeypatch_module.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch_module.setenv("HF_DATASETS_OFFLINE", "1")
    return pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install '.[eval]'")


@pytest.fixture(scope="module")
def monkeypatch_module():
    with pytest.MonkeyPatch.context() as patched:
        yield patched


def test_the_harness_runs_on_our_scoring(lm_eval, artifact, tasks):
    rows = {row.task: row for row in pargolf.evaluate_tasks(artifact, list(TASKS), include=tasks)}
    assert rows["own_choice"].metric == "acc" and rows["own_choice"].samples == 2
    # The harness's windows lie side by side; so does document:16,16 over the same texts.
    model, tokenizer = pargolf.load(artifact)
    texts = [[tokenizer.bos, *map(int, tokenizer.encode(text))] for text in DOCUMENTS]
    graded = score_texts(model, texts, vocab=tokenizer.vocab, length=16, stride=16)
    bits = sum(float(grades.nats.sum()) for grades in graded) / np.log(2)
    assert rows["own_text"].value == pytest.approx(bits / sum(len(text.encode()) for text in DOCUMENTS), abs=1e-6)


def test_the_harness_gives_the_same_through_transformers(lm_eval, transformers, artifact, folder, tasks):
    pytest.importorskip("accelerate")
    found = lm_eval.simple_evaluate(
        model="hf",
        model_args={"pretrained": str(folder), "trust_remote_code": True, "device": "cpu", "add_bos_token": True},
        tasks=list(TASKS),
        task_manager=lm_eval.tasks.TaskManager(include_path=str(tasks), include_defaults=False),
        log_samples=False,
        bootstrap_iters=0,
    )["results"]
    rows = {row.task: row.value for row in pargolf.evaluate_tasks(artifact, list(TASKS), include=tasks)}
    assert found["own_choice"]["acc,none"] == rows["own_choice"]
    assert found["own_text"]["bits_per_byte,none"] == pytest.approx(rows["own_text"], abs=1e-5)


def test_a_model_of_the_harness_writes_until_a_stop_word(lm_eval, artifact):
    harness = pytest.importorskip("pargolf.exporting.harness", exc_type=ImportError)
    model = harness.HarnessModel(read_source(artifact))
    whole = model._written("the state", {"max_gen_toks": 12, "until": []})
    assert len(whole) > 3 and model._written("the state", {"max_gen_toks": 12, "until": whole[2:4]}) == whole[:2]


def test_unknown_tasks_and_missing_data_are_one_line(lm_eval, artifact, tasks, tmp_path):
    with pytest.raises(UserError, match="own_text"):
        pargolf.evaluate_tasks(artifact, ["own_texts"], include=tasks)
    (tmp_path / "gone.yaml").write_text((tasks / "own_text.yaml").read_text().replace("texts.jsonl", "gone.jsonl"))
    with pytest.raises(UserError, match="Are their data here"):
        pargolf.evaluate_tasks(artifact, ["own_text"], include=tmp_path)
    with pytest.raises(UserError, match="at least one"):
        pargolf.evaluate_tasks(artifact, [])


def test_what_an_artifact_costs_is_measured_in_processes_of_their_own(artifact, graph):
    (ours,) = pargolf.bench_device(artifact, tokens=40, onnx=False).result()
    theirs = measured("onnx", graph, 40, [])
    assert (ours.engine, theirs.engine) == ("pargolf", "onnx") and ours.file_bytes == artifact.stat().st_size
    for row in (ours, theirs):
        assert min(row.libraries, row.reading, row.first_token, row.written, row.scored) > 0
        assert 20 < row.megabytes < 4000 and row.cold_start > row.first_token
    assert theirs.megabytes < ours.megabytes  # torch is not in that process
    with pytest.raises(UserError, match="could not be measured"):
        measured("onnx", artifact, 4, [])
