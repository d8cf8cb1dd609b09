"""Inside the child: observe losses where they are computed, and everything that a script touches besides its model.

Torch passes every call to a mode before it runs. Four kinds of call give a position's loss: cross-entropy, negative
log-likelihood, and picking one entry of a row by `gather` or by an index, if the row is as wide as a vocabulary
(logits, log-probabilities or probabilities). Python reports files, sockets and pickled classes to an audit hook, and
optimizers report their steps. All of this is observed from within: a script that looks for an observer could hide.
"""

import contextlib
import io
import os
import stat
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.optimizer import register_optimizer_step_post_hook

from pargolf.audit.blackbox.contents import MOST_BYTES, sketch, written
from pargolf.audit.blackbox.wire import Sender
from pargolf.audit.sandbox.stand_ins import OnCpu

NARROWEST = 200
_CROSS = functional.cross_entropy
_LIKELIHOOD = (functional.nll_loss,)
_GATHER = (torch.gather, Tensor.gather)
_INDEX = (Tensor.__getitem__,)
_SKIP = ("/proc", "/sys", "/dev", "/etc", "/usr", "/lib")
_CODE = (".py", ".pyc", ".so", ".pth")
_EVENTS = {
    "pickle.find_class": "pickle",
    "subprocess.Popen": "program",
    "os.system": "program",
    "os.exec": "program",
    "socket.connect": "socket",
    "socket.getaddrinfo": "socket",
    "socket.sendto": "socket",
}


class Watch(OnCpu):
    """The mode that observes losses. Devices are replaced as in `OnCpu`."""

    def __init__(self, sender: Sender) -> None:
        super().__init__()
        self.sender = sender

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call the function, and send its losses if it computes any."""
        result = super().__torch_function__(func, types, args, kwargs)
        if func is _CROSS or func in _LIKELIHOOD:
            self._classes(args, kwargs or {}, logits=func is _CROSS)
        elif func in _GATHER:
            self._gathered(args, kwargs or {})
        elif func in _INDEX:
            self._indexed(*args)
        return result

    def _classes(self, args: Sequence[Any], kwargs: dict[str, Any], *, logits: bool) -> None:
        rows = args[0] if args else kwargs.get("input")
        targets = args[1] if len(args) > 1 else kwargs.get("target")
        if not isinstance(rows, Tensor) or not isinstance(targets, Tensor) or targets.is_floating_point():
            return
        if rows.dim() > 2 or rows.dim() == targets.dim() + 1 == 3:
            rows = rows.movedim(1, -1)
        if rows.dim() < 2 or rows.shape[-1] < NARROWEST or rows.numel() != targets.numel() * rows.shape[-1]:
            return
        self._send(rows, targets, logits=logits)

    def _gathered(self, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        rows, dim, picks = (*args, *kwargs.values(), None, None, None)[:3]
        if not isinstance(rows, Tensor) or not isinstance(picks, Tensor) or not rows.is_floating_point():
            return
        if rows.dim() < 2 or rows.shape[-1] < NARROWEST or dim not in (-1, rows.dim() - 1) or picks.shape[-1] != 1:
            return
        if picks.shape[:-1] == rows.shape[:-1]:
            self._send(rows, picks)

    def _indexed(self, rows: Tensor, index: Any) -> None:
        if not isinstance(index, tuple) or len(index) != rows.dim() or rows.dim() < 2:
            return
        if not rows.is_floating_point() or rows.shape[-1] < NARROWEST:
            return
        picks = index[-1]
        if not isinstance(picks, Tensor) or picks.dtype != torch.int64 or picks.numel() < 8:
            return
        if all(isinstance(i, (Tensor, np.ndarray)) for i in index[:-1]):
            with torch.no_grad(), torch._C.DisableTorchFunction():
                flat = rows.detach().double()
                losses = -flat.log() if _sums_to_one(flat) else flat.logsumexp(-1, keepdim=True) - flat
                self._emit(picks, losses[index], trained=rows.requires_grad)

    def _send(self, rows: Tensor, targets: Tensor, *, logits: bool = False) -> None:
        with torch.no_grad(), torch._C.DisableTorchFunction():
            flat = rows.detach().reshape(-1, rows.shape[-1])
            picks = targets.detach().reshape(-1, 1)
            inside = (picks >= 0) & (picks < flat.shape[1])
            picked = flat.gather(1, picks.clamp(0, flat.shape[1] - 1)).double()
            if not logits and _sums_to_one(flat):
                losses = -picked.log()
            else:
                losses = flat.double().logsumexp(1, keepdim=True) - picked
            losses = torch.where(inside, losses, -torch.ones_like(losses))
            self._emit(torch.where(inside, picks, -1), losses, trained=rows.requires_grad)

    def _emit(self, targets: Tensor, losses: Tensor, *, trained: bool) -> None:
        ids = targets.reshape(-1).numpy().astype("<i4")
        if losses.numel() == len(ids):
            self.sender.scored(ids, losses.reshape(-1).numpy().astype("<f8"), trained=trained)


def _sums_to_one(rows: Tensor) -> bool:
    first = rows.reshape(-1, rows.shape[-1])[:8].double()
    return bool((first >= 0).all() and ((first.sum(-1) - 1).abs() < 1e-3).all())


class Lines(io.TextIOBase):
    """A standard output that sends every line."""

    def __init__(self, sender: Sender) -> None:
        self.sender, self.rest = sender, ""

    encoding = "utf-8"

    def writable(self) -> bool:
        """True."""
        return True

    def write(self, text: str) -> int:
        """Send each complete line."""
        *lines, self.rest = (self.rest + text).split("\n")
        for line in lines:
            if line.strip():
                self.sender.printed(line)
        return len(text)

    def reconfigure(self, **_: Any) -> None:
        """Nothing to change: every line is sent at once."""

    def fileno(self) -> int:
        """The file for writes that bypass this object."""
        return 1


def watch(sender: Sender) -> Watch:
    """Begin to send steps, files, sockets and pickled classes. Losses are sent while the caller is in the mode."""
    busy = [False]

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if busy[0] or not (event == "open" or event in _EVENTS):
            return
        busy[0] = True
        try:
            if event != "open":
                sender.touched(_EVENTS[event], " ".join(str(a)[:200] for a in args[:2]))
            elif isinstance(args[0], (str, bytes, os.PathLike)):
                _opened(sender, str(Path.cwd() / os.fsdecode(args[0])), args[1], args[2])
        finally:
            busy[0] = False

    sys.addaudithook(hook)
    register_optimizer_step_post_hook(lambda optimizer, *_: sender.stepped(model=_of_model(optimizer)))
    return Watch(sender)


def _of_model(optimizer: torch.optim.Optimizer) -> bool:
    return any(isinstance(p, nn.Parameter) for group in optimizer.param_groups for p in group["params"])


def _opened(sender: Sender, path: str, mode: str | None, flags: int) -> None:
    if path.startswith((sys.prefix, sys.base_prefix, *_SKIP)) or path.endswith(_CODE):
        return
    writes = any(c in mode for c in "wax+") if mode else bool(flags & (os.O_WRONLY | os.O_RDWR))
    sender.touched("write" if writes else "read", path)
    if not writes:
        with contextlib.suppress(OSError):
            _sketched(sender, path)


def _sketched(sender: Sender, path: str) -> None:
    """Send the sketch of a file's content."""
    file = Path(path)
    status = file.stat()
    if stat.S_ISREG(status.st_mode) and 0 < status.st_size <= MOST_BYTES:
        sender.touched("content", f"{written(sketch(file.read_bytes()))} {path[:400]}")
