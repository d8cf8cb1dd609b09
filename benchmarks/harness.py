"""Score an artifact with lm-evaluation-harness on its exported folder, beside our own number.

    python benchmarks/harness.py RUN/model.pargolf --data RUN/data

The harness scores each validation document alone (`lm_eval --model hf`, its own `bits_per_byte`), in windows side by
side. We score the same windows (`document:N,N`) of the same documents. Our score also counts the BOS token that ends
each document: it stands for no byte, and the harness does not score it. The third row leaves it out.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager

import pargolf
from pargolf.data.folder import open_data
from pargolf.evaluate.score import final, score
from pargolf.evaluate.windows import PerDocument
from pargolf.run.score import open_text

TASK = """task: validation
dataset_path: json
dataset_kwargs: {{data_files: {{test: {path}}}}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list: [{{metric: bits_per_byte}}]
"""


def main() -> None:
    words = argparse.ArgumentParser(description="The harness's bits per byte beside ours.")
    words.add_argument("artifact")
    words.add_argument("--data", required=True)
    options = words.parse_args()
    model, tokenizer = pargolf.load(options.artifact)
    length = pargolf.run.pack.read_artifact(options.artifact).plain.length
    data = open_data(options.data)
    text = open_text(data)
    graded = final(score(model, text, PerDocument(length, length)))
    tokens = np.asarray(text.tokens[0 : len(text.tokens)])
    ends = tokens[1:] == text.bos
    whole = float(graded.nats_N.sum(dtype=np.float64))
    inside = float(graded.nats_N[~ends].sum(dtype=np.float64))
    documents = [tokenizer.decode(part) for part in np.split(tokens, np.flatnonzero(tokens == text.bos))[1:]]
    theirs = harness(options.artifact, documents)
    size = sum(len(document.encode()) for document in documents)
    print(f"{len(documents)} documents, {size:,} bytes (ours: {text.bytes:,}), windows of {length}")
    print(f"ours, document:{length},{length}             {whole / np.log(2) / text.bytes:.6f} bits per byte")
    print(f"ours, without the documents' ends  {inside / np.log(2) / text.bytes:.6f}")
    print(f"lm_eval --model hf                 {theirs:.6f}")


def harness(artifact: str, documents: list[str]) -> float:
    """The harness's bits per byte of the documents, with the artifact's export."""
    with tempfile.TemporaryDirectory() as folder:
        lines = Path(folder) / "validation.jsonl"
        lines.write_text("".join(json.dumps({"text": document}) + "\n" for document in documents))
        (Path(folder) / "validation.yaml").write_text(TASK.format(path=lines))
        exported = pargolf.export(artifact, to="hf", out=Path(folder) / "hf")
        answer = simple_evaluate(
            model="hf",
            model_args={"pretrained": str(exported), "trust_remote_code": True, "device": "cpu"},
            tasks=["validation"],
            task_manager=TaskManager(include_path=folder, include_defaults=False),
            batch_size=8,
            log_samples=False,
            bootstrap_iters=0,
        )
    assert answer is not None
    return float(answer["results"]["validation"]["bits_per_byte,none"])


if __name__ == "__main__":
    main()
