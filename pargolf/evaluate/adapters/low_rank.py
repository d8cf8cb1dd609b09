"""Test-time adaptation per document with low-rank weights (LoRA) that are reset for every document.

    y = x W^T + (alpha / rank) (x A^T) B^T        A (rank, in) random, B (out, rank) zero at each document's start

A document is graded `chunk` positions at a time; after each chunk, one Adam step on the loss of these positions updates
its A and B. Documents do not influence each other, so documents of similar length are graded together in any order,
each with its own A and B. With `warm`, A is kept from the previous document in the same row of the batch. Then the
order matters, and it is that of the stream: sorted by length, as in the published scripts, earlier documents would
learn from later ones. The order is also that of the stream when the ledger learns from finished documents (`tilt`).
Between documents, `phases` of SGD may update the shared weights.

Source: Hu et al. 2021 (arXiv:2106.09685); pull requests 1530 (per document) and 1767 (warm A, alpha).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn

from pargolf.core.errors import UserError, near
from pargolf.core.ranges import Fraction, Length, Positive, Size
from pargolf.core.roles import matches, role
from pargolf.core.smaller import Smaller
from pargolf.evaluate.adapters.adapter import LedgerView, StepKind, choose, mean_nats
from pargolf.evaluate.adapters.chunks import set_lr, train_on
from pargolf.evaluate.adapters.phases import Phases
from pargolf.evaluate.windows import IntArray, Window, Windows, document_spans, per_document
from pargolf.model.linear import Linear


@dataclass(frozen=True)
class LowRank:
    """Low-rank weights per document on the linear modules that `globs` match; `batch` documents at a time.

    Needs windows of kind `document`. The last chunk of a document is not trained on, because nothing is graded after
    it.
    """

    rank: Size = 96
    alpha: float = 144.0
    lr: Positive = 0.0001
    betas: tuple[Fraction, Fraction] = (0.0, 0.99)
    chunk: Length = 48
    batch: Size = 64
    warm: bool = False
    globs: tuple[str, ...] = ("attn.q", "attn.k", "attn.v", "attn.out", "mlp.*")
    phases: Phases | None = None
    seed: int = 0
    by_document: ClassVar[bool] = True

    def at_scale(self, to: Smaller) -> "LowRank":
        """A rank in proportion, and one chunk per stride of the smaller context."""
        rank = max(self.rank // to.factor, 4)
        return replace(self, rank=rank, alpha=self.alpha * rank / self.rank, chunk=to.context // 4)

    def run(
        self,
        model: nn.Module,
        ledger: LedgerView,
        windows: Windows,
        *,
        starts: IntArray,
        batch_windows: int,
        device: torch.device | str,
    ) -> Iterator[StepKind]:
        """Grade all documents, phase after phase."""
        if not per_document(windows):
            raise UserError(f"low-rank adaptation is per document, so score with document:{windows.length},... windows")
        optimizer = None
        if self.phases:
            sgd = self.phases.sgd
            optimizer = torch.optim.SGD(choose(model, ("*",), frozen=sgd.frozen), lr=sgd.lr, momentum=sgd.momentum)
        model.requires_grad_(False)
        slots = attach(self, model)
        spans = list(document_spans(ledger.positions, starts))
        for begin, stop in self._segments(len(spans)):
            for group in _groups(spans[begin:stop], self.batch, by_length=not (self.warm or ledger.turn)):
                if ledger.turn is not None:
                    ledger.turn(group[0][0])
                slots.reset(len(group), warm=self.warm)
                yield from self._grade_group(model, slots, ledger, windows, group, device)
            if optimizer is not None and stop < len(spans):
                slots.rows = None
                yield from self._phase(model, optimizer, ledger, spans[begin][0], spans[stop - 1][1], windows, device)

    def _segments(self, documents: int) -> Iterator[tuple[int, int]]:
        phase_ends = self.phases.at if self.phases else ()
        return pairwise([0, *(count for count in phase_ends if count < documents), documents])

    def _grade_group(
        self,
        model: nn.Module,
        slots: "Slots",
        ledger: LedgerView,
        windows: Windows,
        group: Sequence[tuple[int, int]],
        device: torch.device | str,
    ) -> Iterator[StepKind]:
        """Grade documents in parallel: their first chunks, a step, their second chunks, ...

        Each process of a world has its own documents and their weights.
        """
        world = ledger.world
        optimizer = torch.optim.Adam(slots.parameters(), lr=self.lr, betas=self.betas)
        cuts = [list(_pieces(windows, begin, stop, self.chunk)) for begin, stop in group]
        for step in range(max(map(len, cuts))):
            present = [i for i, cut in enumerate(cuts) if step < len(cut)]
            for rows in _alike(present, cuts, step):
                own_rows = [row for row, i in enumerate(rows) if i % world.size == world.rank]
                slots.rows = torch.tensor([rows[row] for row in own_rows], device=device)
                yield "grade"
                ledger.grade(
                    _Rows(model, slots, slots.rows), [cuts[i][step] for i in rows], device=device, rows=own_rows
                )
            unfinished = [i for i in present if step + 1 < len(cuts[i])]
            if unfinished:
                yield "train"
                alike = list(_alike([i for i in unfinished if i % world.size == world.rank], cuts, step))

                def gradients(most: int, step: int = step, alike: list[list[int]] = alike) -> None:
                    optimizer.zero_grad(set_to_none=True)
                    for rows in (shape[i : i + most] for shape in alike for i in range(0, len(shape), most)):
                        slots.rows = torch.tensor(rows, device=device)
                        torch.autograd.backward(_loss(model, ledger, [cuts[i][step] for i in rows], device))

                ledger.train(self.batch, gradients, device)
                optimizer.step()

    def _phase(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        ledger: LedgerView,
        begin: int,
        stop: int,
        windows: Windows,
        device: torch.device | str,
    ) -> Iterator[StepKind]:
        """One pass of SGD over the finished positions begin..stop-1, chunk by chunk."""
        assert self.phases is not None
        sgd = self.phases.sgd
        chunks = math.ceil((stop - begin) / sgd.chunk)
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        for weight in weights:
            weight.requires_grad_(True)
        for chunk in range(chunks):
            first = begin + chunk * sgd.chunk
            set_lr(optimizer, sgd, chunk, chunks)
            tokens = ledger.graded(first, min(first + sgd.chunk, stop) + 1)
            yield from train_on(sgd, model, optimizer, tokens, windows.length, device, ledger)
        for weight in weights:
            weight.requires_grad_(False)


class LowRankLinear(nn.Module):
    """A linear module plus a low-rank change for each row of the batch; `x (B, T, in) -> (B, T, out)`."""

    def __init__(self, base: nn.Module, slots: "Slots", key: str) -> None:
        super().__init__()
        self.base = base
        self._slots = [slots]  # in a list, so that it is not registered as a submodule
        self._key = key

    def forward(self, x_BTI: Tensor) -> Tensor:
        """The base's product, plus the change while documents are adapted."""
        y_BTO: Tensor = self.base(x_BTI)
        slots = self._slots[0]
        if slots.rows is None:
            return y_BTO
        a_BRI, b_BOR = (slots.factors[f"{self._key}-{name}"][slots.rows].to(x_BTI.dtype) for name in "ab")
        change_BTO: Tensor = (x_BTI @ a_BRI.mT) @ b_BOR.mT
        return y_BTO + slots.scale * change_BTO


class _Rows:
    """The model with the low-rank weights of some slots, one per row of the batch."""

    def __init__(self, model: nn.Module, slots: "Slots", rows: Tensor) -> None:
        self._model, self._slots, self._rows = model, slots, rows

    def __call__(self, ids_BT: Tensor, *, first: int) -> Tensor:
        """Logits of the rows."""
        self._slots.rows = self._rows
        logits_BSV: Tensor = self._model(ids_BT, first=first)
        return logits_BSV

    def part(self, begin: int, end: int) -> "_Rows":
        """The model for some of the rows."""
        return _Rows(self._model, self._slots, self._rows[begin:end])


class Slots(nn.Module):
    """The low-rank factors of all documents in a batch; `rows` says which documents the next forward pass contains."""

    def __init__(self, spec: LowRank, shapes: Sequence[tuple[int, int]], device: torch.device) -> None:
        super().__init__()
        self.scale = spec.alpha / spec.rank
        self.rows: Tensor | None = None
        self.factors = nn.ParameterDict()
        for key, (outputs, inputs) in enumerate(shapes):
            self.factors[f"{key}-a"] = nn.Parameter(torch.empty(spec.batch, spec.rank, inputs, device=device))
            self.factors[f"{key}-b"] = nn.Parameter(torch.zeros(spec.batch, outputs, spec.rank, device=device))
        # The same draw for every slot, because the slot of a document must not change its grades.
        random = torch.Generator().manual_seed(spec.seed)
        self._first = [
            torch.randn(spec.rank, inputs, generator=random).to(device) / math.sqrt(inputs) for _, inputs in shapes
        ]
        self.reset(spec.batch, warm=False)

    @torch.no_grad()
    def reset(self, count: int, *, warm: bool) -> None:
        """Reset for new documents: B to zero, and A to its initial draw unless `warm`."""
        for key, first_RI in enumerate(self._first):
            self.factors[f"{key}-b"][:count].zero_()
            if not warm:
                self.factors[f"{key}-a"][:count] = first_RI


def attach(spec: LowRank, model: nn.Module) -> Slots:
    """Wrap the linear modules that the spec's globs match. Raises `UserError` for a glob that matches none."""
    linear = {name: m for name, m in model.named_modules() if isinstance(m, Linear | nn.Linear)}
    for glob in spec.globs:
        if not any(matches(f"{name}.weight", glob) for name in linear):
            known = sorted({role(f"{name}.weight") for name in linear})
            raise UserError(f"'{glob}' names no linear module to adapt.{near(glob, known)}")
    chosen = {n: m for n, m in linear.items() if any(matches(f"{n}.weight", glob) for glob in spec.globs)}
    weights = [module.weight for module in chosen.values()]
    slots = Slots(spec, [(w.shape[0], w.shape[1]) for w in weights], weights[0].device)
    for key, (name, module) in enumerate(chosen.items()):
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, LowRankLinear(module, slots, str(key)))
    return slots


def _groups(spans: Sequence[tuple[int, int]], batch: int, *, by_length: bool) -> Iterator[Sequence[tuple[int, int]]]:
    """Documents, `batch` at a time, in order of length or of the stream."""
    ordered = sorted(spans, key=lambda span: span[1] - span[0]) if by_length else spans
    return (ordered[i : i + batch] for i in range(0, len(ordered), batch))


def _pieces(windows: Windows, begin: int, stop: int, chunk: int) -> Iterator[Window]:
    """The windows of one document, cut so that each grades at most `chunk` positions with the same context."""
    for window in windows.over(stop - begin, starts=(0,)):
        for first in range(window.first, window.end, chunk):
            yield Window(begin + window.start, begin + min(first + chunk, window.end), begin + first)


def _alike(rows: Sequence[int], cuts: Sequence[Sequence[Window]], step: int) -> Iterator[list[int]]:
    """Group rows whose windows of this step have the same shape."""

    def shape(i: int) -> tuple[int, int]:
        window = cuts[i][step]
        return window.end - window.start, window.first - window.start

    return (list(members) for _, members in groupby(sorted(rows, key=shape), key=shape))


def _loss(model: nn.Module, ledger: LedgerView, batch: Sequence[Window], device: torch.device | str) -> Tensor:
    """The sum over documents of the mean loss of the positions just graded, so documents do not scale each other."""
    length, first = batch[0].end - batch[0].start, batch[0].first - batch[0].start
    rows = [torch.from_numpy(ledger.graded(w.start, w.end + 1).astype("int64")) for w in batch]
    ids_BT = torch.stack(rows).to(device)
    return mean_nats(model, ids_BT[:, :length], ids_BT[:, 1:], first=first) * len(batch)
