"""Generate text from a predictor, one token at a time, with temperature and nucleus sampling.

    p_i ~ exp(logit_i / temperature), cut to the smallest set of likeliest tokens whose mass reaches top_p

Temperature 0 is greedy. Nucleus (top-p) sampling is Holtzman et al. 2020, "The Curious Case of Neural Text
Degeneration". The predictor sees at most the last `length` tokens, as in scoring: when the text becomes longer, the
window moves on by a quarter of its length.

A model of this package uses a cache (`model/cache.py`), so that a token costs the work of one position; any other
predictor is shown the whole window for each token.
"""

from collections.abc import Collection, Iterator, Sequence

import torch
from torch import Tensor

from pargolf.core.errors import UserError
from pargolf.data.tokens import Tokenizer
from pargolf.evaluate.grades import LogitsError
from pargolf.evaluate.lookahead import Predictor
from pargolf.model.cache import Cache
from pargolf.model.transformer import Transformer

_GREEDY = 1e-30
"""A temperature below is as good as 0, and a float32 cannot be divided by it."""


def generate(
    predictor: Predictor,
    prompt: Sequence[int],
    *,
    tokens: int,
    length: int,
    stop: Collection[int] = (),
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Iterator[int]:
    """Yield up to `tokens` ids that follow `prompt`, ending before the first id in `stop` (BOS, EOS).

    The same predictor, prompt and seed give the same ids. Raises `UserError` for an empty prompt or settings
    out of range, at the first id.
    """
    drawn = sampled(
        predictor, prompt, tokens=tokens, length=length, temperature=temperature, top_p=top_p, seed=seed, device=device
    )
    for token, _ in drawn:
        if token in stop:
            return
        yield token


def sampled(
    predictor: Predictor,
    prompt: Sequence[int],
    *,
    tokens: int,
    length: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Iterator[tuple[int, Tensor]]:
    """Yield `tokens` ids, each with the logits (V,) float32 it was drawn from; arguments are those of `generate`."""
    _check(prompt, tokens, length, temperature, top_p)
    random = torch.Generator().manual_seed(seed)
    cache = Cache(predictor, length) if isinstance(predictor, Transformer) else None
    context = list(prompt)[-length:]
    for _ in range(tokens):
        logits_V = _next_logits(cache or predictor, context, device)
        token = _choose(logits_V, temperature, top_p, random)
        yield token, logits_V
        context.append(token)
        if len(context) > length:
            del context[: len(context) - (length - length // 4)]
            if cache is not None:
                cache.forget()


def continue_text(
    predictor: Predictor,
    tokenizer: Tokenizer,
    prompt: str,
    *,
    tokens: int,
    length: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int = 0,
) -> Iterator[str]:
    """Yield text that continues `prompt` as one document, in pieces of whole characters."""
    start = [tokenizer.bos, *map(int, tokenizer.encode(prompt))]
    written = generate(
        predictor,
        start,
        tokens=tokens,
        length=length,
        stop=(tokenizer.bos,),
        temperature=temperature,
        top_p=top_p,
        seed=seed,
    )
    ids: list[int] = []
    shown = ""
    for token in written:
        ids.append(token)
        text = tokenizer.decode(ids)
        # An incomplete character decodes to U+FFFD; wait for its other bytes.
        if not text.endswith("\ufffd"):
            yield text[len(shown) :]
            shown = text


def _next_logits(predictor: Predictor | Cache, context: list[int], device: torch.device | str) -> Tensor:
    """Logits (V) of the token after `context`, float32, on the CPU, where a seed gives the same numbers everywhere."""
    if isinstance(predictor, Cache):
        last_V = predictor(torch.tensor([context[predictor.shown :]], device=device))[0]
    else:
        with torch.no_grad():
            last_V = predictor(torch.tensor([context], device=device), first=len(context) - 1)[0, -1]
    logits_V = last_V.float().cpu()
    if not logits_V.isfinite().all():
        raise LogitsError("the predictor's logits are not finite, so there is nothing to sample from")
    return logits_V


def _choose(logits_V: Tensor, temperature: float, top_p: float, random: torch.Generator) -> int:
    if temperature < _GREEDY:
        return int(logits_V.argmax())
    p_V, order_V = ((logits_V - logits_V.max()) / temperature).softmax(0).sort(descending=True, stable=True)
    mass_before_V = p_V.cumsum(0) - p_V
    p_V[mass_before_V >= top_p] = 0
    return int(order_V[torch.multinomial(p_V, 1, generator=random)])


def _check(prompt: Sequence[int], tokens: int, length: int, temperature: float, top_p: float) -> None:
    if not prompt:
        raise UserError("an empty prompt has no next token: begin with the beginning-of-sequence token")
    if tokens < 0 or length < 1:
        raise UserError("generate at least 0 tokens from a context of at least 1")
    if not 0 <= temperature < float("inf"):
        raise UserError(f"temperature {temperature} should be 0 (greedy) or a positive number, usually near 1")
    if not 0 < top_p <= 1:
        raise UserError(f"top-p {top_p} should be above 0 and at most 1")
