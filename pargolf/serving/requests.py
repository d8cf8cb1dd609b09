"""Checks of a client's request: each field by type and range, and the whole by its size.

The names are those of OpenAI's `/v1/completions`. A field that this server does not support is refused by name if it
would change the text, never ignored. An error has the API's form: a message, a type, and the field.
"""

import json
from dataclasses import dataclass
from typing import Any

BODY = 1 << 20
"""The largest request, in bytes."""
PROMPT_TOKENS = 8192
"""The most tokens of a prompt, and of a text that the page reads."""
NEW_TOKENS = 2048
CHOICES = 64
"""The largest number of prompts times `n`."""
STOPS, STOP_LENGTH = 16, 256
LOGPROBS = 20
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "suffix": (None, ""),
    "best_of": (None, 1),
    "presence_penalty": (None, 0),
    "frequency_penalty": (None, 0),
    "logit_bias": (None, {}),
}
"""Unsupported fields, with their values that change nothing."""
_SERVED = ("model", "prompt", "max_tokens", "temperature", "top_p", "n", "stream", "stream_options", "logprobs", "echo")
_KNOWN = {*_SERVED, "stop", "seed", "user", *_NEUTRAL}


class APIError(Exception):
    """An error for a client: `status` is the HTTP status, `param` the field."""

    def __init__(
        self, message: str, *, param: str | None = None, status: int = 400, kind: str = "invalid_request_error"
    ) -> None:
        super().__init__(message)
        self.message, self.param, self.status, self.kind = message, param, status, kind

    def body(self) -> dict[str, Any]:
        """The error object of the API."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": None}}


@dataclass(frozen=True)
class Completion:
    """A request for completions. `prompts` are texts or ids; `logprobs` None: none, else how many alternatives."""

    prompts: tuple[str | tuple[int, ...], ...]
    max_tokens: int = 16
    temperature: float = 1.0
    top_p: float = 1.0
    n: int = 1
    stream: bool = False
    usage_in_stream: bool = False
    logprobs: int | None = None
    echo: bool = False
    stop: tuple[str, ...] = ()
    seed: int = 0


def parse_object(body: bytes) -> dict[str, Any]:
    """The JSON object of a request. Raises `APIError`."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise APIError("The request's body is no JSON.") from None
    if not isinstance(value, dict):
        raise APIError("The request's body should be a JSON object.")
    return value


def parse_completion(body: dict[str, Any], *, seed: int) -> Completion:
    """Check a request; `seed` is used if it has none. Raises `APIError` with the first invalid field."""
    for name in body:
        if name not in _KNOWN:
            raise APIError(f"Unknown field '{name}'.", param=name)
    for name, neutral in _NEUTRAL.items():
        if body.get(name) not in neutral:
            raise APIError(f"'{name}' is not supported.", param=name)
    options = body.get("stream_options") or {}
    if not isinstance(options, dict):
        raise APIError("'stream_options' should be an object.", param="stream_options")
    request = Completion(
        prompts=_prompts(body.get("prompt")),
        max_tokens=whole(body, "max_tokens", 16, 0, NEW_TOKENS),
        temperature=number(body, "temperature", 1.0, 0.0, 10.0),
        top_p=number(body, "top_p", 1.0, 1e-6, 1.0),
        n=whole(body, "n", 1, 1, CHOICES),
        stream=flag(body, "stream"),
        usage_in_stream=flag(options, "include_usage"),
        logprobs=None if body.get("logprobs") is None else whole(body, "logprobs", 0, 0, LOGPROBS),
        echo=flag(body, "echo"),
        stop=_stops(body.get("stop")),
        seed=whole(body, "seed", seed, -(1 << 62), 1 << 62),
    )
    if len(request.prompts) * request.n > CHOICES:
        raise APIError(f"A request may ask for {CHOICES} choices, prompts times n.", param="n")
    return request


def whole(body: dict[str, Any], name: str, default: int, low: int, high: int) -> int:
    """A whole number within a range."""
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise APIError(f"'{name}' should be a whole number from {low} to {high}.", param=name)
    return value


def number(body: dict[str, Any], name: str, default: float, low: float, high: float) -> float:
    """A number within a range."""
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise APIError(f"'{name}' should be a number from {low:g} to {high:g}.", param=name)
    return float(value)


def flag(body: dict[str, Any], name: str) -> bool:
    """True or false; false if missing."""
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise APIError(f"'{name}' should be true or false.", param=name)
    return bool(value)


def _prompts(value: Any) -> tuple[str | tuple[int, ...], ...]:
    """Parse one or several prompts, each a text or ids."""
    if value is None or isinstance(value, str):
        return (value or "",)
    if isinstance(value, list) and value:
        if all(isinstance(item, str) for item in value):
            return tuple(value)
        if _ids(value):
            return (tuple(value),)
        if all(isinstance(item, list) and item and _ids(item) for item in value):
            return tuple(map(tuple, value))
    raise APIError(
        "'prompt' should be a string, a list of strings, or one or several lists of token ids.", param="prompt"
    )


def _ids(value: list[Any]) -> bool:
    return all(isinstance(item, int) and not isinstance(item, bool) for item in value)


def _stops(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    stops = [value] if isinstance(value, str) else value
    fits = isinstance(stops, list) and len(stops) <= STOPS
    if not fits or not all(isinstance(stop, str) and 0 < len(stop) <= STOP_LENGTH for stop in stops):
        raise APIError(f"'stop' should be up to {STOPS} strings of 1 to {STOP_LENGTH} characters each.", param="stop")
    return tuple(stops)
