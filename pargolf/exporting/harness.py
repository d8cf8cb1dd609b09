"""An artifact as a language model of lm-evaluation-harness, so that its tasks use our scoring.

    lm = HarnessModel(source)
    rows = run_tasks(lm, ["lambada_openai"], include=None, limit=None)

Each text begins with BOS, like every document in training. A continuation is scored after its context, in one window if
both fit, else in sliding windows. The harness's rolling likelihoods (`bits_per_byte`, word and byte perplexity) use
windows without overlap, like the harness's own models.

Needs `pip install pargolf[eval]`. Tasks with data on the hub need the network; your own task needs a folder with its
YAML file.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from lm_eval import simple_evaluate
from lm_eval.api.model import TemplateLM
from lm_eval.tasks import TaskManager

from pargolf.core.errors import UserError, near
from pargolf.evaluate.generate import generate
from pargolf.evaluate.texts import TextGrades, score_texts
from pargolf.exporting.source import Source

_NEW_TOKENS = 256
"""The limit of generated tokens if a task has none."""
_AT_ONCE = 256
"""The number of texts that are scored together."""


@dataclass(frozen=True)
class TaskScore:
    """One number of the harness: task, metric and filter, the value, and its standard error if there is one."""

    task: str
    metric: str
    filter: str
    value: float
    stderr: float | None
    samples: int


class HarnessModel(TemplateLM):
    """The harness's interface of a model, on top of our ledger and our sampling."""

    def __init__(self, source: Source) -> None:
        super().__init__()
        self.source = source

    @property
    def eot_token_id(self) -> int:
        """The token that ends a document: the next one's BOS."""
        return self.source.tokenizer.bos

    @property
    def max_length(self) -> int:
        """The number of tokens in a window."""
        return self.source.length

    @property
    def tokenizer_name(self) -> str:
        """The name that the harness uses as the key of its caches."""
        return self.source.tokenizer.digest

    def tok_encode(self, string: str, **options: Any) -> list[int]:
        """Ids without BOS."""
        return [int(token) for token in self.source.tokenizer.encode(string)]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood in nats of whole texts, each a document."""
        texts = [self._with_bos(self.tok_encode(request.args[0])) for request in requests]
        return [-float(text.nats.sum(dtype=np.float64)) for text in self._scored(texts, stride=self.source.length)]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Generated text after each context, up to the first of its stop words."""
        return [self._written(*request.args) for request in requests]

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **options: Any
    ) -> list[tuple[float, bool]]:
        """Log-likelihood in nats of each continuation, and whether greedy decoding gives it."""
        texts = [self._with_bos([*context, *continuation]) for _, context, continuation in requests]
        answers = []
        for (_, _, continuation), grades in zip(requests, self._scored(texts, stride=None)):
            last = slice(len(grades.nats) - len(continuation), None)
            answers.append((-float(grades.nats[last].sum(dtype=np.float64)), bool(grades.likeliest[last].all())))
        return answers

    def _with_bos(self, ids: list[int]) -> list[int]:
        """The ids as a document, with BOS in front."""
        bos = self.source.tokenizer.bos
        return ids if ids[:1] == [bos] else [bos, *ids]

    def _scored(self, texts: list[list[int]], *, stride: int | None) -> list[TextGrades]:
        """The grades of each text; empty for a text without tokens."""
        none = TextGrades(np.zeros(0, np.float32), np.ones(0, np.bool_))
        graded = [none] * len(texts)
        full = [i for i, text in enumerate(texts) if len(text) > 1]
        vocab, length = self.source.model.spec.vocab, self.source.length
        for first in range(0, len(full), _AT_ONCE):
            part = full[first : first + _AT_ONCE]
            rows = score_texts(self.source.model, [texts[i] for i in part], vocab=vocab, length=length, stride=stride)
            for i, grades in zip(part, rows):
                graded[i] = grades
        return graded

    def _written(self, context: str, options: dict[str, Any]) -> str:
        words, bos = self.source.tokenizer, self.source.tokenizer.bos
        until = options.get("until") or []
        stops = [until] if isinstance(until, str) else list(until)
        temperature = float(options.get("temperature", 0.0)) if options.get("do_sample") else 0.0
        ids: list[int] = []
        tokens = int(options.get("max_gen_toks", _NEW_TOKENS))
        start = [bos, *self.tok_encode(context)]
        sampled = generate(
            self.source.model, start, tokens=tokens, length=self.source.length, stop=(bos,), temperature=temperature
        )
        for token in sampled:
            ids.append(token)
            text = words.decode(ids)
            ends = [text.index(stop) for stop in stops if stop and stop in text]
            if ends:
                return text[: min(ends)]
        return words.decode(ids)


def run_tasks(
    model: HarnessModel, tasks: Sequence[str], *, include: str | Path | None = None, limit: int | None = None
) -> list[TaskScore]:
    """Evaluate tasks by name; `include` is a folder with YAML files of tasks, `limit` caps the samples of each.

    Raises `UserError` for an unknown task, and if its data is not available.
    """
    manager = TaskManager(include_path=str(include), include_defaults=False) if include else TaskManager()
    unknown = [name for name in tasks if not manager.match_tasks([name])]
    if unknown and include:  # the harness's own tasks are thousands of files: read them only if needed
        manager = TaskManager(include_path=str(include))
        unknown = [name for name in tasks if not manager.match_tasks([name])]
    if unknown:
        raise UserError(f"The harness knows no task '{unknown[0]}'.{near(unknown[0], sorted(manager.all_tasks))}")
    try:
        results = simple_evaluate(
            model=model, tasks=list(tasks), task_manager=manager, limit=limit, log_samples=False, bootstrap_iters=0
        )
    except (OSError, ValueError, LookupError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"The tasks {', '.join(tasks)} cannot be run: {reason}. Are their data here?") from error
    assert results is not None
    return [row for task, values in results["results"].items() for row in _rows(task, values, results["n-samples"])]


def _rows(task: str, values: dict[str, Any], samples: dict[str, dict[str, int]]) -> list[TaskScore]:
    """The numbers of one task; the harness names them `metric,filter` and `metric_stderr,filter`."""
    rows = []
    for key, value in values.items():
        metric, _, filtered = key.partition(",")
        if isinstance(value, bool) or not isinstance(value, int | float) or not filtered or metric.endswith("_stderr"):
            continue
        error = values.get(f"{metric}_stderr,{filtered}")
        stderr = float(error) if isinstance(error, int | float) else None
        rows.append(TaskScore(task, metric, filtered, float(value), stderr, samples.get(task, {}).get("effective", 0)))
    return rows
