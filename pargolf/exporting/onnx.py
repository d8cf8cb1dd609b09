"""A model as an ONNX graph, checked in ONNX Runtime before it is written.

    input_ids (batch, length) int64  ->  logits (batch, length, vocab) float32        any batch, any length from 2 on

The graph has no key-value cache: the input of each call is the whole text. Attention stops at BOS as in training.
`traced` numbers the documents without a running maximum, which ONNX does not have. The check runs texts of three
shapes, and the graph's logits must equal the model's up to 1e-4.

Needs `pip install pargolf[onnx]`: torch traces the graph through onnxscript.
"""

import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from pargolf.core.errors import UserError
from pargolf.core.files import write_bytes
from pargolf.exporting.source import Source
from pargolf.model.slots import Context
from pargolf.model.transformer import Transformer

TOLERANCE = 1e-4
"""The largest allowed difference between a logit of the graph and of the model."""
_SHAPES = ((2, 24), (1, 7), (3, 2))
_LONGEST = 1 << 16


class Traceable(nn.Module):
    """`ids (B, T) -> logits (B, T, V)`, with operations that exist in ONNX."""

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor) -> Tensor:
        """The model's logits."""
        bos = self.model.spec.bos
        if bos is None:
            logits: Tensor = self.model(input_ids)
            return logits
        begins_BT = input_ids == bos
        place_T = torch.arange(input_ids.shape[1])
        before_BTT = begins_BT[:, None] & (place_T <= place_T[:, None])
        since_BT = torch.where(before_BTT, place_T, 0).amax(-1)
        packed: Tensor = self.model(input_ids, 0, Context(input_ids, begins_BT.cumsum(-1), since_BT))
        return packed


def write_onnx(source: Source, out: Path) -> float:
    """Write the graph to the file `out`; returns the largest difference that the check found.

    Raises `UserError` if torch cannot trace the model, or if the graph's logits differ.
    """
    data = traced(source.model, {"recipe": source.recipe, "digest": source.digest, "length": str(source.length)})
    worst = difference(data, source.model)
    if worst > TOLERANCE:
        raise UserError(
            f"The graph's logits differ from the model's by {worst:.2g}, over {TOLERANCE:g}, so {out} was not written. "
            "Export to hf instead, and report this recipe."
        )
    write_bytes(out, data)
    return worst


def traced(model: Transformer, facts: Mapping[str, str]) -> bytes:
    """The graph, serialized; its metadata are `facts` and the size of the vocabulary.

    Raises `UserError` if torch cannot trace the model.
    """
    ids = example(model, *_SHAPES[0])
    shapes = {"input_ids": {0: torch.export.Dim("batch", max=_LONGEST), 1: torch.export.Dim("length", min=2)}}
    try:
        with _quiet():
            program = torch.onnx.export(
                Traceable(model).eval(),
                (ids,),
                dynamo=True,
                dynamic_shapes=shapes,
                input_names=["input_ids"],
                output_names=["logits"],
                verbose=False,
            )
    except Exception as error:  # torch has a different error class for each of its stages
        reason = " ".join(str(error.__cause__ or error).split())[:200]
        raise UserError(f"torch cannot write this model as ONNX: {reason}. Export to hf instead.") from error
    assert program is not None
    graph = program.model_proto
    onnx.helper.set_model_props(graph, {**facts, "vocab": str(model.spec.vocab)})
    data: bytes = graph.SerializeToString()
    return data


def difference(data: bytes, model: Transformer) -> float:
    """The largest difference between logits of ONNX Runtime and of the model, over texts of several shapes."""
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    worst = 0.0
    for batch, length in _SHAPES:
        ids = example(model, batch, length)
        (logits,) = session.run(None, {"input_ids": ids.numpy()})
        with torch.no_grad():
            worst = max(worst, float((torch.from_numpy(logits) - model(ids)).abs().max()))
    return worst


def example(model: Transformer, batch: int, length: int) -> Tensor:
    """Example ids (B, T); if the model separates documents, each row contains the start of one."""
    generator = torch.Generator().manual_seed(batch + length)
    ids = torch.randint(0, model.spec.vocab, (batch, length), generator=generator)
    if model.spec.bos is not None:
        ids[:, length // 3] = model.spec.bos
    return ids


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence torch's messages about its stages."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
