"""The server gives what the model gives, to any number of clients, and one error object for whatever cannot be had."""

import asyncio
import json
import math
import re
import socket
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import pargolf
from pargolf.core.errors import UserError
from pargolf.evaluate.generate import generate
from pargolf.run.loading import read_source

app = pytest.importorskip("pargolf.serving.app", reason="pip install '.[serve]'", exc_type=ImportError)
TEXT = "the state of our union is strong"


class Running:
    """A server in a thread of its own."""

    def __init__(self, source, **options):
        self.app = app.build_app(source, **options)
        config = app.uvicorn.Config(self.app, port=0, log_level="warning", timeout_graceful_shutdown=1)
        self.server = app.uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)
        self.port = self.server.servers[0].sockets[0].getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"

    @property
    def load(self):
        return self.app.state.engine.load

    def stop(self):
        self.server.should_exit = True
        self.thread.join(10)
        assert not self.thread.is_alive()

    def post(self, path, value):
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        try:
            with urllib.request.urlopen(urllib.request.Request(self.address + path, body), timeout=60) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()


@pytest.fixture(scope="module")
def source(run):
    return read_source(run[0] / "model.pargolf")


@pytest.fixture(scope="module")
def server(source):
    running = Running(source)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def client(server):
    openai = pytest.importorskip("openai")
    return openai.OpenAI(base_url=f"{server.address}/v1", api_key="none", max_retries=0)


def ours(source, prompt, **options):
    words = source.tokenizer
    start = [words.bos, *map(int, words.encode(prompt))]
    return words.decode(list(generate(source.model, start, length=source.length, stop=(words.bos,), **options)))


# ---- OpenAI's API, by its own client


def test_a_completion_is_what_our_sampling_writes(source, client):
    made = client.completions.create(model="small", prompt=TEXT, max_tokens=30, temperature=0)
    assert made.choices[0].text == ours(source, TEXT, tokens=30, temperature=0)
    assert made.choices[0].finish_reason in ("length", "stop") and made.usage.completion_tokens > 0
    settings = {"max_tokens": 20, "temperature": 0.9, "top_p": 0.8, "seed": 5}
    drawn = client.completions.create(model="small", prompt=TEXT, n=2, **settings)
    assert drawn.choices[0].text == ours(source, TEXT, tokens=20, temperature=0.9, top_p=0.8, seed=5)
    assert drawn.choices[1].text == ours(source, TEXT, tokens=20, temperature=0.9, top_p=0.8, seed=6)
    again = client.completions.create(model="small", prompt=[TEXT, "free"], **settings)
    assert again.choices[0].text == drawn.choices[0].text and len(again.choices) == 2


def test_a_stream_is_the_same_text_and_its_logprobs(client):
    settings = {"model": "small", "prompt": "café", "max_tokens": 40, "seed": 3, "logprobs": 2, "temperature": 1.0}
    whole = client.completions.create(**settings).choices[0]
    events = list(client.completions.create(**settings, stream=True, stream_options={"include_usage": True}))
    choices = [event.choices[0] for event in events if event.choices]
    assert "".join(choice.text for choice in choices) == whole.text
    assert [p for c in choices for p in c.logprobs.token_logprobs] == whole.logprobs.token_logprobs
    assert choices[-1].finish_reason == whole.finish_reason and events[-1].usage.completion_tokens > 0
    assert len(choices) > 10


def test_an_echoed_prompts_logprobs_are_the_texts_losses(run, client):
    made = client.completions.create(model="small", prompt=TEXT, max_tokens=0, echo=True, logprobs=1)
    choice, losses = made.choices[0], pargolf.token_losses(run[0] / "model.pargolf", TEXT)
    assert choice.text == TEXT and "".join(choice.logprobs.tokens) == TEXT
    assert choice.logprobs.token_logprobs == pytest.approx((-losses.nats).tolist(), abs=1e-5)
    for token, own, top in zip(choice.logprobs.tokens, choice.logprobs.token_logprobs, choice.logprobs.top_logprobs):
        assert top[token] == own and max(top.values()) >= own and len(top) <= 2
    assert choice.logprobs.text_offset == np.cumsum([0, *map(len, choice.logprobs.tokens)])[:-1].tolist()


def test_a_stop_word_ends_the_text_before_it(client):
    settings = {"model": "small", "prompt": TEXT, "max_tokens": 40, "temperature": 0}
    whole = client.completions.create(**settings).choices[0].text
    stop = whole[10:13]
    for stream in (False, True):
        made = client.completions.create(**settings, stop=["never there", stop], stream=stream)
        choices = [event.choices[0] for event in made] if stream else made.choices
        assert "".join(choice.text for choice in choices) == whole[: whole.index(stop)]
        assert choices[-1].finish_reason == "stop"


def test_the_harness_scores_through_the_api(server, run, tmp_path, monkeypatch):
    lm_eval = pytest.importorskip("lm_eval")
    for library in ("transformers", "tenacity", "aiohttp"):
        pytest.importorskip(library)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    artifact = run[0] / "model.pargolf"
    folder = pargolf.export(artifact, to="hf", out=tmp_path / "hf")
    lines = tmp_path / "texts.jsonl"
    lines.write_text(json.dumps({"text": "the state of our"}) + "\n")
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "own.yaml").write_text(
        f"task: own\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {lines}}}}}\ntest_split: test\n"
        'output_type: loglikelihood\ndoc_to_text: "{{text}}"\ndoc_to_target: " union"\ntarget_delimiter: ""\n'
        "metric_list: [{metric: perplexity}, {metric: acc}]\n"
    )
    found = lm_eval.simple_evaluate(
        model="local-completions",
        model_args={
            "model": "small",
            "base_url": f"{server.address}/v1/completions",
            "tokenizer_backend": "huggingface",
            "tokenizer": str(folder),
            "trust_remote_code": True,
            "max_length": 64,
        },
        tasks=["own"],
        task_manager=lm_eval.tasks.TaskManager(include_path=str(tmp_path / "tasks"), include_defaults=False),
        log_samples=False,
        bootstrap_iters=0,
    )["results"]["own"]
    rows = {row.metric: row.value for row in pargolf.evaluate_tasks(artifact, ["own"], include=tmp_path / "tasks")}
    assert found["perplexity,none"] == pytest.approx(rows["perplexity"], rel=1e-4)
    assert found["acc,none"] == rows["acc"]


# ---- what cannot be had


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"prompt": 7}, "prompt"),
        ({"prompt": [1, 100_000]}, "prompt"),
        ({"prompt": [[1], []]}, "prompt"),
        ({"prompt": "a b " * 20_000}, "prompt"),
        ({"prompt": "\ud800"}, "prompt"),
        ({"max_tokens": 10**9}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": 10**400}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"n": 65}, "n"),
        ({"prompt": ["a"] * 9, "n": 8}, "n"),
        ({"logprobs": 1000}, "logprobs"),
        ({"stop": ["x"] * 99}, "stop"),
        ({"stop": ""}, "stop"),
        ({"stream": 1}, "stream"),
        ({"echo": "yes"}, "echo"),
        ({"best_of": 3}, "best_of"),
        ({"logit_bias": {"3": 100}}, "logit_bias"),
        ({"prompts": "a"}, "prompts"),
        (b"{", None),
        (b"[]", None),
        (b"[" * 100_000, None),
    ],
)
def test_a_request_that_does_not_fit_gets_the_apis_own_error(server, asked, param):
    status, body = server.post("/v1/completions", asked)
    error = json.loads(body)["error"]
    assert status == 400 and error["type"] == "invalid_request_error" and error["param"] == param
    assert error["message"] and "\n" not in error["message"]


def test_size_path_method_and_host_are_refused(server):
    assert server.post("/v1/completions", b" " * (2 << 20))[0] == 413
    assert server.post("/v1/chat", {})[0] == 404
    request = urllib.request.Request(f"{server.address}/v1/models", headers={"Host": "elsewhere.example"})
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.urlopen(request)
    assert server.post("/read", {"text": ""})[0] == 400


def test_a_port_in_use_is_one_line(run):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"Port {port} .* Choose another --port"):
            pargolf.serve(run[0] / "model.pargolf", port=port)


def test_a_client_that_hangs_up_leaves_nothing_behind(server):
    body = json.dumps({"prompt": TEXT, "max_tokens": 2048, "stream": True, "n": 4}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n"
    for stream in (True, False):
        sent = body if stream else body.replace(b'"stream": true', b'"stream":false')
        with socket.create_connection(("127.0.0.1", server.port)) as raw:
            raw.sendall(head.encode() + sent)
            if stream:
                assert b"200 OK" in raw.recv(1000)
            else:
                time.sleep(0.1)
        until = time.monotonic() + 20
        while server.load != (0, 0) and time.monotonic() < until:
            time.sleep(0.05)
        assert server.load == (0, 0)
    assert server.post("/v1/completions", {"prompt": "a", "max_tokens": 1})[0] == 200


def test_64_clients_at_once_are_all_served_in_turn(server):
    most, ended = 0, []

    def ask(number):
        nonlocal most
        tokens = 200 if number < 8 else 4
        status, body = server.post("/v1/completions", {"prompt": TEXT, "max_tokens": tokens, "seed": number})
        most = max(most, server.load[0])
        ended.append(number)
        return status, json.loads(body)["usage"]["completion_tokens"]

    with ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(ask, range(64)))
    assert {status for status, _ in answers} == {200} and most <= 8
    assert all(count <= 200 for _, count in answers)


def test_a_short_job_does_not_wait_for_a_long_ones_end():
    order = []

    def steps(name, count):
        for i in range(count):
            order.append(name)
            yield i

    async def both():
        engine = app.Engine(active=2, waiting=4)
        jobs = [app.Job(lambda: steps("long", 400)), app.Job(lambda: steps("short", 3))]
        engine.submit(jobs)
        counts = [len([piece async for piece in job.pieces()]) for job in jobs]
        engine.close()
        return counts

    assert asyncio.run(both()) == [400, 3]
    assert order[:6] == ["long", "short"] * 3


def test_a_full_queue_refuses_and_an_ended_server_tells_its_clients(source):
    async def crowd():
        engine = app.Engine(active=1, waiting=3)
        begun = threading.Event()

        def slow():
            for i in range(1000):
                begun.set()
                time.sleep(0.01)
                yield i

        jobs = [app.Job(slow) for _ in range(4)]
        engine.submit(jobs[:1])
        await asyncio.to_thread(begun.wait)
        engine.submit(jobs[1:])
        with pytest.raises(app.APIError) as caught:
            engine.submit([app.Job(slow)])
        assert caught.value.status == 429
        jobs[3].cancelled = True
        engine.submit([app.Job(slow)])  # its place is free
        await asyncio.to_thread(engine.close)
        with pytest.raises(app.APIError, match="shutting down"):
            [_ async for _ in jobs[0].pieces()]

    asyncio.run(crowd())


def test_a_step_that_fails_fails_alone():
    async def one():
        engine = app.Engine()

        def broken():
            yield 1
            raise UserError("this job is broken")

        bad, good = app.Job(broken), app.Job(lambda: iter([1, 2]))
        engine.submit([bad, good])
        assert [piece async for piece in good.pieces()] == [1, 2]
        with pytest.raises(UserError, match="broken"):
            [_ async for _ in bad.pieces()]
        engine.close()

    asyncio.run(one())


# ---- reading, score first


def test_a_reading_scores_each_part_before_it_learns_from_it(server, run):
    text = f"{TEXT}. " * 12
    status, body = server.post("/read", {"text": text, "adapt": True})
    plain, adapted = map(json.loads, body.splitlines())
    assert status == 200 and "".join(plain["pieces"]) == text and sum(plain["bytes"]) == len(text)
    step = 8
    assert adapted["adapted"][:step] == pytest.approx(plain["bits"][:step], abs=1e-3)
    assert sum(adapted["adapted"]) < 0.8 * sum(plain["bits"]) and adapted["verdict"].startswith("adapting saved")
    # What comes later changes nothing that was scored before.
    other = json.loads(server.post("/read", {"text": text[: len(text) // 2], "adapt": True})[1].splitlines()[1])
    count = len(other["adapted"]) // step * step - step
    assert other["adapted"][:count] == pytest.approx(adapted["adapted"][:count], abs=1e-3)
    assert len(server.post("/read", {"text": text})[1].splitlines()) == 1


# ---- the page in a browser

DESK, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def browser():
    chromium = pytest.importorskip("test_browser")
    yield from chromium.browser.__wrapped__()


@pytest.fixture
def page(browser, server):
    wrong, opened = [], []

    def opener(size=DESK, dark=False):
        page = browser.new_page(viewport=size, color_scheme="dark" if dark else "light")
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(server.address)
        opened.append(page)
        return page

    yield opener
    for one in opened:
        one.close()
    assert [words for words in wrong if "400 (Bad Request)" not in words] == []


@pytest.mark.browser
@pytest.mark.parametrize(("size", "dark"), [(DESK, False), (PHONE, True)])
def test_the_page_reads_colours_and_shows_adaptation_at_work(page, size, dark):
    from test_browser import CONTRAST

    one = page(size, dark)
    text = f"{TEXT}. " * 8 + "№ 7 — a ☃"  # characters of several tokens are shown whole
    one.fill("#prompt", text)
    one.click("#read")
    one.wait_for_selector("#adapted-number:visible", timeout=60_000)
    assert one.evaluate("document.getElementById('tokens').textContent") == text
    assert "3 tokens" in one.locator("#tokens .token").last.get_attribute("title")
    one.locator("#tokens .token").first.click()
    assert re.search(r"“.+”: \d+\.\d\d bits, \d+\.\d\d while it learns", one.inner_text("#detail"))
    plain, adapted = float(one.inner_text("#bpb")), float(one.inner_text("#adapted-bpb"))
    assert 0 < adapted < plain and "saved" in one.inner_text("#verdict")
    assert len(one.get_attribute("#adapted-line", "points").split()) > 50
    assert one.locator(".token[class*=heat-]").count() > 50
    assert one.evaluate("document.documentElement.scrollWidth") == size["width"]
    ground, contrasts = one.evaluate(CONTRAST)
    assert (sum(ground) < 200) == dark and min(contrasts.values()) >= 4.5, contrasts


@pytest.mark.browser
def test_the_page_goes_on_with_a_text_by_its_controls(page, source):
    one = page()
    assert source.digest in one.inner_text("#model")
    one.fill("#prompt", TEXT)
    one.fill("#max_tokens", "20")
    one.evaluate("document.getElementById('temperature').value = 0")
    one.click("#write")
    one.wait_for_selector("#write:not([disabled])", timeout=60_000)
    written = ours(source, TEXT, tokens=20, temperature=0)
    assert one.evaluate("document.getElementById('tokens').textContent") == TEXT + written
    assert math.isfinite(float(one.inner_text("#bpb")))
    one.fill("#max_tokens", "2048")
    one.click("#write")
    one.wait_for_selector(".written")
    one.click("#stop")
    one.wait_for_selector("#write:not([disabled])", timeout=20_000)
    one.fill("#prompt", "a b c d e f " * 1600)
    one.evaluate("document.getElementById('prompt').maxLength = 200000")
    one.fill("#prompt", "zq " * 20_000)
    one.click("#read")
    one.wait_for_selector("#error:visible", timeout=20_000)
    assert "are the most" in one.inner_text("#error")
