"""The server: an OpenAI-compatible `/v1/completions` and a web page for one artifact.

    GET  /                 the page             GET /v1/models   the one model
    POST /v1/completions   OpenAI's API         POST /read       bits of each token of a text, adapting on request

By default it accepts connections from this machine only. On a loopback address, requests must name a loopback host, so
that other web pages cannot reach it by DNS rebinding.
"""

import asyncio
import json
import socket
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from pargolf.core.errors import UserError
from pargolf.exporting.source import Source
from pargolf.serving.completions import Piece, choice_json, complete, prompt_ids
from pargolf.serving.engine import Engine, Job
from pargolf.serving.reading import read
from pargolf.serving.requests import BODY, APIError, Completion, flag, parse_completion, parse_object

PAGE = Path(__file__).parent / "page"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
_POLICY = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'"
_TYPES = {"index.html": "text/html", "page.css": "text/css", "page.js": "text/javascript"}


class Server:
    """The routes, over one engine."""

    def __init__(self, source: Source, engine: Engine) -> None:
        self.source, self.engine = source, engine
        self.seeds = iter(range(1 << 62))

    async def models(self, request: Request) -> Response:
        """The list of models, which has one entry."""
        facts = {"recipe_digest": self.source.digest, "max_model_len": self.source.length}
        row = {"id": self.source.recipe, "object": "model", "created": 0, "owned_by": "pargolf", **facts}
        return JSONResponse({"object": "list", "data": [row]})

    async def completions(self, request: Request) -> Response:
        """Answer `/v1/completions`."""
        wanted = parse_completion(parse_object(await _body(request)), seed=next(self.seeds))
        prompts = [prompt_ids(self.source, prompt) for prompt in wanted.prompts]
        jobs = []
        for prompt, ids in zip(wanted.prompts, prompts):
            for number in range(wanted.n):
                jobs.append(Job(partial(complete, self.source, wanted, prompt, ids, wanted.seed + number)))
        self.engine.submit(jobs)
        head = {
            "id": f"cmpl-{uuid.uuid4().hex[:24]}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": self.source.recipe,
        }
        sizes = sum(len(ids) for ids in prompts)
        if wanted.stream:
            return StreamingResponse(_streamed(jobs, wanted, head, sizes), media_type="text/event-stream")
        return JSONResponse(await _while_there(request, jobs, _gathered(jobs, wanted, head, sizes)))

    async def read(self, request: Request) -> Response:
        """Answer `/read` with lines of JSON: first without adaptation, then with it."""
        wanted = parse_object(await _body(request))
        text = wanted.get("text")
        if not isinstance(text, str) or not text:
            raise APIError("'text' should be a string that is not empty.", param="text")
        ids = prompt_ids(self.source, text)
        job = Job(partial(read, self.source, ids, adapt=flag(wanted, "adapt")))
        self.engine.submit([job])
        return StreamingResponse(_lines(job), media_type="application/x-ndjson")


def build_app(source: Source, *, host: str = "127.0.0.1", waiting: int = 256) -> Starlette:
    """The application for an ASGI server; its engine starts and stops with it."""
    engine = Engine(waiting=waiting)
    server = Server(source, engine)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        try:
            yield
        finally:
            engine.close()

    routes = [
        Route("/", partial(_file, "index.html")),
        *(Route(f"/{name}", partial(_file, name)) for name in ("page.css", "page.js")),
        Route("/v1/models", server.models),
        Route("/v1/completions", server.completions, methods=["POST"]),
        Route("/read", server.read, methods=["POST"]),
    ]
    hosts = [*LOOPBACK, "[::1]"] if host in LOOPBACK else ["*"]
    middleware = [Middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False)]
    handlers = {APIError: _api_error, Exception: _bug, 404: _http_error, 405: _http_error}
    app = Starlette(routes=routes, middleware=middleware, exception_handlers=handlers, lifespan=lifespan)
    app.state.engine = engine
    return app


def serve(source: Source, *, host: str, port: int, ready: Callable[[str], None]) -> None:
    """Serve until interrupted; `ready` is called with the address when the port is open.

    Raises `UserError` if the port cannot be opened.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise UserError(
            f"Port {port} of {host} cannot be opened: {error.strerror or error}. Choose another --port."
        ) from error
    with listener:
        shown = f"[{host}]" if ":" in host else host
        ready(f"http://{shown}:{listener.getsockname()[1]}")
        config = uvicorn.Config(build_app(source, host=host), log_level="warning", timeout_graceful_shutdown=2)
        uvicorn.Server(config).run(sockets=[listener])


async def _body(request: Request) -> bytes:
    """Read the request's body. Raises `APIError` as soon as it is too long."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > BODY:
            raise APIError(f"A request may have {BODY:,} bytes.", status=413)
    return body


async def _file(name: str, request: Request) -> Response:
    headers = {"Content-Security-Policy": _POLICY, "X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache"}
    return FileResponse(PAGE / name, media_type=_TYPES[name], headers=headers)


async def _gathered(jobs: list[Job], request: Completion, head: dict[str, Any], prompt: int) -> dict[str, Any]:
    """The complete answer."""
    choices, written = [], 0
    for index, job in enumerate(jobs):
        pieces = [piece async for piece in job.pieces()]
        written += sum(piece.count for piece in pieces)
        text = "".join(piece.text for piece in pieces)
        tokens = [token for piece in pieces for token in piece.tokens]
        choices.append(choice_json(index, text, tokens, pieces[-1].finish, 0, request.logprobs is not None))
    return {**head, "choices": choices, "usage": _usage(prompt, written)}


async def _streamed(jobs: list[Job], request: Completion, head: dict[str, Any], prompt: int) -> AsyncIterator[str]:
    """Server-sent events of all choices, each piece as soon as it is ready."""
    arrived: asyncio.Queue[tuple[int, Piece | BaseException | None]] = asyncio.Queue()

    async def forward(index: int, job: Job) -> None:
        try:
            async for piece in job.pieces():
                arrived.put_nowait((index, piece))
            arrived.put_nowait((index, None))
        except Exception as error:
            arrived.put_nowait((index, error))

    tasks = [asyncio.create_task(forward(index, job)) for index, job in enumerate(jobs)]
    offsets, running, written = [0] * len(jobs), len(jobs), 0
    try:
        while running:
            index, piece = await arrived.get()
            if piece is None:
                running -= 1
            elif isinstance(piece, BaseException):
                yield _event(_error_of(piece).body())
                return
            elif piece.text or piece.finish or piece.tokens:
                written += piece.count
                logged = request.logprobs is not None
                choice = choice_json(index, piece.text, piece.tokens, piece.finish, offsets[index], logged)
                offsets[index] += len(piece.text)
                yield _event({**head, "choices": [choice]})
        if request.usage_in_stream:
            yield _event({**head, "choices": [], "usage": _usage(prompt, written)})
        yield "data: [DONE]\n\n"
    finally:
        for job, task in zip(jobs, tasks):
            job.cancelled = True
            task.cancel()


async def _lines(job: Job) -> AsyncIterator[str]:
    try:
        async for row in job.pieces():
            if row:
                yield json.dumps(row) + "\n"
    except Exception as error:
        yield json.dumps(_error_of(error).body()) + "\n"
    finally:
        job.cancelled = True


async def _while_there(request: Request, jobs: list[Job], work: Any) -> Any:
    """The value of `work`, which is cancelled when the client disconnects."""
    task = asyncio.ensure_future(work)
    try:
        while True:
            done, _ = await asyncio.wait([task], timeout=0.5)
            if done:
                return task.result()
            if await request.is_disconnected():
                raise APIError("The client is gone.", status=499)
    finally:
        task.cancel()
        for job in jobs:
            job.cancelled = True


def _usage(prompt: int, written: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}


def _event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


def _error_of(error: BaseException) -> APIError:
    """Convert an error to the one that the client gets."""
    if isinstance(error, APIError):
        return error
    if isinstance(error, UserError):
        return APIError(str(error))
    return APIError("The server failed on this request.", status=500, kind="server_error")


async def _api_error(request: Request, error: Exception) -> Response:
    reply = _error_of(error)
    return JSONResponse(reply.body(), status_code=reply.status)


async def _bug(request: Request, error: Exception) -> Response:
    reply = _error_of(error)
    return JSONResponse(reply.body(), status_code=reply.status)


async def _http_error(request: Request, error: Exception) -> Response:
    status = int(getattr(error, "status_code", 404))
    reply = APIError(
        f"{request.method} {request.url.path} is not served. There are POST /v1/completions and GET /v1/models.",
        status=status,
    )
    return JSONResponse(reply.body(), status_code=status)
