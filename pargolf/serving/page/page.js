// The page of `pargolf serve`: asks the server to read a text or to go on with it, and shows what each token cost.
"use strict";

const byId = (id) => document.getElementById(id);
const LIMITS = [2, 5, 9]; // bits of a token, where its colour changes
const WIDTH = 600, HEIGHT = 120; // of the curve's drawing
const OPENING = 0.05; // the share of a text whose first peaks do not set the curve's scale
const BYTES = /^(?:bytes:)(?:\\x[0-9a-f]{2})+$/; // a token that is no whole character
let running = null; // the request at work, which Stop aborts
let shown = null; // tokens in order, their bits while the model learns, and the decoder of characters of several tokens

function clear() {
  shown = { tokens: [], adapted: null, decoder: new TextDecoder(), open: null };
  byId("tokens").replaceChildren();
  byId("verdict").textContent = "";
  byId("error").hidden = true;
  byId("adapted-number").hidden = byId("adapted-key").hidden = true;
  byId("result").hidden = false;
  draw();
}

function fail(message) {
  byId("error").textContent = message;
  byId("error").hidden = false;
  byId("result").hidden = shown.tokens.length === 0;
}

// ---- tokens

function sizeOf(piece) {
  return BYTES.test(piece) ? (piece.length - 6) / 4 : new TextEncoder().encode(piece).length;
}

// The text of a piece that can be shown; a character of several tokens appears with its last one.
function textOf(piece) {
  if (!BYTES.test(piece)) return shown.decoder.decode() + piece;
  const bytes = piece.slice(8).split("\\x").map((digits) => parseInt(digits, 16));
  return shown.decoder.decode(new Uint8Array(bytes), { stream: true });
}

function addToken(piece, bits, bytes, written) {
  const text = textOf(piece);
  const element = shown.open ?? document.createElement("span");
  element.textContent += text;
  shown.open = text ? null : element;
  if (!element.parentNode) byId("tokens").append(element);
  if (written) element.classList.add("written");
  shown.tokens.push({ bits, bytes, element });
  paint(element);
}

// Colour an element by the bits of its tokens, and say them in its title.
function paint(element) {
  const total = { count: 0, bits: 0, adapted: 0 };
  for (let i = shown.tokens.length - 1; i >= 0; i -= 1) {
    if (shown.tokens[i].element !== element) {
      if (total.count) break;
      continue;
    }
    total.count += 1;
    total.bits += shown.tokens[i].bits;
    total.adapted += shown.adapted?.[i] ?? 0;
  }
  colour(element, total);
}

function colour(element, { count, bits, adapted }) {
  const heat = LIMITS.filter((limit) => (shown.adapted ? adapted : bits) >= limit).length;
  element.className = `token heat-${heat}${element.classList.contains("written") ? " written" : ""}`;
  const learning = shown.adapted ? `, ${adapted.toFixed(2)} while it learns` : "";
  element.title = `${bits.toFixed(2)} bits${learning}${count > 1 ? `, in ${count} tokens` : ""}`;
}

function paintAll() {
  const totals = new Map();
  shown.tokens.forEach(({ bits, element }, i) => {
    const total = totals.get(element) ?? { count: 0, bits: 0, adapted: 0 };
    totals.set(element, { count: total.count + 1, bits: total.bits + bits, adapted: total.adapted + (shown.adapted?.[i] ?? 0) });
  });
  totals.forEach((total, element) => colour(element, total));
}

function tell(event) {
  const element = event.target.closest("#tokens .token");
  if (element) byId("detail").textContent = `“${element.textContent.replace(/\n/g, "⏎")}”: ${element.title}`;
}

// ---- the curve

// Bits per byte of all so far, after each token that ends a byte: [[bytes, bits per byte], ...].
function curve(bitsOf) {
  const points = [];
  let total = 0, size = 0;
  shown.tokens.forEach((token, i) => {
    total += bitsOf(token, i);
    size += token.bytes;
    if (size > 0) points.push([size, total / size]);
  });
  return points;
}

function draw() {
  const plain = curve((token) => token.bits);
  const adapted = shown.adapted ? curve((token, i) => shown.adapted[i]) : [];
  const size = plain.at(-1)?.[0] ?? 1;
  const settled = [...plain, ...adapted].filter(([bytes]) => bytes >= OPENING * size).map(([, value]) => value);
  const top = Math.max(0.5, 1.1 * Math.max(0, ...settled));
  const heightOf = (value) => HEIGHT * (1 - Math.min(value, top) / top);
  const points = (line) => line.map(([bytes, value]) => `${((WIDTH * bytes) / size).toFixed(1)},${heightOf(value).toFixed(1)}`);
  byId("plain-line").setAttribute("points", points(plain).join(" "));
  byId("adapted-line").setAttribute("points", points(adapted).join(" "));
  rule(top, heightOf);
  byId("bpb").textContent = plain.length ? plain.at(-1)[1].toFixed(3) : "–";
  if (adapted.length) {
    byId("adapted-bpb").textContent = adapted.at(-1)[1].toFixed(3);
    byId("adapted-number").hidden = byId("adapted-key").hidden = false;
  }
}

// Lines and numbers at round values from 0 to the top.
function rule(top, heightOf) {
  const step = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20].find((one) => top / one <= 4) ?? top;
  const lines = [], labels = [];
  for (let value = 0; value < top; value += step) {
    const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
    Object.entries({ x1: 0, x2: WIDTH, y1: heightOf(value), y2: heightOf(value) }).forEach(([name, at]) => line.setAttribute(name, at));
    const label = document.createElement("span");
    label.textContent = step < 1 ? value.toFixed(1) : value.toFixed(0);
    label.style.top = `${(100 * heightOf(value)) / HEIGHT}%`;
    lines.push(line);
    labels.push(label);
  }
  byId("grid").replaceChildren(...lines);
  byId("ticks").replaceChildren(...labels);
}

// ---- the server

async function* lines(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    rest += value;
    const parts = rest.split("\n");
    rest = parts.pop();
    yield* parts.filter((line) => line.trim());
  }
  if (rest.trim()) yield rest;
}

async function ask(path, body) {
  running = new AbortController();
  const response = await fetch(path, { method: "POST", body: JSON.stringify(body), signal: running.signal });
  if (!response.ok) throw new Error((await response.json()).error.message);
  return lines(response);
}

async function readText(text, adapt) {
  for await (const line of await ask("read", { text, adapt })) {
    const row = JSON.parse(line);
    if (row.error) throw new Error(row.error.message);
    if (row.pieces) row.pieces.forEach((piece, i) => addToken(piece, row.bits[i], row.bytes[i], false));
    if (row.adapted) {
      shown.adapted = row.adapted;
      paintAll();
      byId("verdict").textContent = `${row.verdict[0].toUpperCase()}${row.verdict.slice(1)}.`;
    }
    draw();
  }
}

async function writeOn(text) {
  const body = {
    prompt: text, stream: true, logprobs: 0,
    temperature: Number(byId("temperature").value), top_p: Number(byId("top_p").value),
    max_tokens: Number(byId("max_tokens").value), seed: Number(byId("seed").value),
  };
  for await (const line of await ask("v1/completions", body)) {
    const data = line.replace(/^data: /, "");
    if (data === "[DONE]") break;
    const event = JSON.parse(data);
    if (event.error) throw new Error(event.error.message);
    const { tokens, token_logprobs } = event.choices[0].logprobs;
    tokens.forEach((piece, i) => addToken(piece, -token_logprobs[i] / Math.LN2, sizeOf(piece), true));
    draw();
  }
}

// ---- the controls

async function run(task) {
  clear();
  byId("write").disabled = byId("read").disabled = true;
  byId("stop").hidden = false;
  byId("state").textContent = "working";
  try {
    await task();
  } catch (error) {
    if (error.name !== "AbortError") fail(error instanceof TypeError ? "The server does not answer. Is it still running?" : error.message);
  }
  running = null;
  byId("write").disabled = byId("read").disabled = false;
  byId("stop").hidden = true;
  byId("state").textContent = "ready";
}

byId("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = byId("prompt").value;
  run(async () => {
    if (text) await readText(text, false);
    await writeOn(text);
  });
});
byId("read").addEventListener("click", () => run(() => readText(byId("prompt").value, byId("adapt").checked)));
byId("stop").addEventListener("click", () => running?.abort());
for (const kind of ["pointerover", "click"]) byId("tokens").addEventListener(kind, tell);
for (const name of ["temperature", "top_p"]) {
  byId(name).addEventListener("input", () => (byId(`${name}-shown`).textContent = byId(name).value));
}
fetch("v1/models")
  .then((response) => response.json())
  .then((found) => {
    const digest = document.createElement("small");
    digest.textContent = found.data[0].recipe_digest;
    byId("model").replaceChildren(`${found.data[0].id} `, digest);
    document.title = `${found.data[0].id} · pargolf`;
  });
