"""The model card of an export: the score, what it is based on, the bytes, and how the model was made.

Without a run's result the card says that the score is unknown; it never repeats an unproven number.
"""

import json

from pargolf.core.result import Result
from pargolf.core.version import VERSION
from pargolf.exporting.source import Source

_USE = """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(FOLDER, trust_remote_code=True)
model = AutoModelForCausalLM.from_pretrained(FOLDER, trust_remote_code=True)
ids = tokenizer("The state of our union", return_tensors="pt")
print(tokenizer.decode(model.generate(**ids, max_new_tokens=40)[0], skip_special_tokens=True))
```"""


def model_card(source: Source, *, rows: str, result: Result | None, licence: str = "unknown") -> str:
    """The card as Markdown; `rows` describe the recipe, and `result` is None if only the artifact is known."""
    return "\n\n".join(
        [
            _front(source, result, licence),
            f"# {source.recipe}, {source.bytes:,} bytes",
            f"A language model of {_parameters(source):,} parameters in an artifact of {source.bytes:,} bytes, trained "
            f"and packed by pargolf {VERSION}. `model.safetensors` holds the artifact's weights, dequantized to "
            "float32: these are the weights that were scored.",
            "## Score",
            _score(result),
            "## Use",
            _USE,
            f"The model was scored with windows of {source.length} tokens, and `generate` moves its window on where a "
            "text outgrows that. "
            + (
                "A document begins with the BOS token, and nothing before it is looked at."
                if source.model.spec.bos is not None
                else "Documents are packed together, as in training: the model may look back across a BOS token."
            ),
            "## Recipe",
            f"```\n{rows}\n```",
            "## Licence",
            _licence(licence),
            "",
        ]
    )


def _front(source: Source, result: Result | None, licence: str) -> str:
    """The YAML front matter for the hub; values are written as JSON, which is valid YAML."""
    lines = ["---", f"license: {json.dumps(licence)}", "library_name: transformers", "pipeline_tag: text-generation"]
    lines.append("tags: [pargolf, parameter-golf]")
    if result is not None and result.legal:
        metric = {"type": "bits_per_byte", "name": "bits per byte", "value": result.val_bpb}
        task = {"task": {"type": "text-generation"}, "dataset": {"name": "validation", "type": "validation"}}
        lines.append(
            "model-index: " + json.dumps([{"name": source.recipe, "results": [{**task, "metrics": [metric]}]}])
        )
    return "\n".join([*lines, "---"])


def _parameters(source: Source) -> int:
    return sum(p.numel() for p in source.model.parameters())


def _score(result: Result | None) -> str:
    if result is None:
        return "Not known here: the artifact was exported without the folder of its run."
    proof = "not recorded" if result.proof is None else result.proof.rests.words
    adapted = (
        ""
        if result.adaptation is None
        else "\n\nThe last score is of the model while it adapts to text that was scored already. Transformers does "
        "not adapt it, so compare with the row before."
    )
    table = ["| weights | windows | nats per token | bits per byte |", "|---|---|---|---|"]
    for name, row in result.scores.items():
        table.append(f"| {name.replace('_', ' ')} | {row.windows} | {row.loss:.6f} | {row.bpb:.6f} |")
    return (
        f"**{result.val_bpb:.6f} bits per byte**, {result.val_loss:.6f} nats per token. {result.sentence}\n\n"
        + "\n".join(table)
        + f"{adapted}\n\nBytes of the text: {proof}. Bytes of the submission: {result.bytes.model:,} model + "
        f"{result.bytes.code:,} code = {result.bytes.total:,} of a cap of {result.bytes.cap:,}. Artifact SHA-256 "
        f"`{result.artifact_sha256}`. Trained {result.train_seconds:.0f} s, {result.steps:,} steps, "
        f"{result.train_tokens:,} tokens, on {result.machine.processor}."
    )


def _licence(licence: str) -> str:
    if licence == "unknown":
        return "None was named for the weights. The code in the Python files is pargolf's, under the MIT licence."
    return f"The weights: {licence}. The code in the Python files is pargolf's, under the MIT licence."
