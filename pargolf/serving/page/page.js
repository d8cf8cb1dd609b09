// The page of `pargolf serve`: asks the server to read a text or to go on with it, and shows what each token cost.
"use strict";

const byId = (id) => document.getElementById(id);
const LIMITS = [2, 5, 9];
let running = null; // the request at work, which Stop aborts
let shown = { tokens: [], adapted: null };

function heat(bits) {
  return LIMITS.filter((limit) => bits >= limit).length;
}

function fail(message) {
  byId("error").textContent = message;
  byId("error").hidden = false;
}

function clear() {
  shown = { tokens: [], adapted: null };
  byId("tokens").replaceChildren();
  byId("verdict").textContent = "";
  byId("error").hidden = true;
  byId("adapted-number").hidden = byId("adapted-key").hidden = true;
  byId("plain-line").setAttribute("points", "");
  byId("adapted-line").setAttribute("points", "");
  byId("result").hidden = false;
}

function addToken(text, bits, bytes, written) {
  const token = document.createElement("span");
  token.className = `token heat-${heat(bits)}${written ? " written" : ""}`;
  token.textContent = text;
  token.title = `${bits.toFixed(2)} bits`;
  byId("tokens").append(token);
  shown.tokens.push({ bits, bytes, element: token });
}

// Running bits per byte after each token that has bytes.
function curve(bits) {
  const values = [];
  let total = 0;
  let size = 0;
  shown.tokens.forEach((token, i) => {
    total += bits(token, i);
    size += token.bytes;
    if (size > 0) values.push(total / size);
  });
  return values;
}

function draw() {
  const plain = curve((token) => token.bits);
  const adapted = shown.adapted ? curve((token, i) => shown.adapted[i]) : [];
  const top = Math.max(1, ...plain, ...adapted);
  const points = (values) =>
    values.map((v, i) => `${((600 * i) / Math.max(values.length - 1, 1)).toFixed(1)},${(118 - (114 * v) / top).toFixed(1)}`).join(" ");
  byId("plain-line").setAttribute("points", points(plain));
  byId("adapted-line").setAttribute("points", points(adapted));
  byId("bpb").textContent = plain.length ? plain.at(-1).toFixed(3) : "–";
  if (adapted.length) {
    byId("adapted-bpb").textContent = adapted.at(-1).toFixed(3);
    byId("adapted-number").hidden = byId("adapted-key").hidden = false;
  }
}

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
      shown.tokens.forEach((token, i) => {
        token.element.className = `token heat-${heat(row.adapted[i])}`;
        token.element.title = `${token.bits.toFixed(2)} bits, ${row.adapted[i].toFixed(2)} while it learns`;
      });
      byId("verdict").textContent = `${row.verdict[0].toUpperCase()}${row.verdict.slice(1)}.`;
    }
    draw();
  }
}

async function writeOn(text) {
  const encoder = new TextEncoder();
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
    const choice = event.choices[0];
    choice.logprobs.tokens.forEach((token, i) => {
      const bits = -choice.logprobs.token_logprobs[i] / Math.LN2;
      const bytes = token.startsWith("bytes:") ? (token.length - 6) / 4 : encoder.encode(token).length;
      // A character of several tokens is shown whole, with the last of them.
      const last = i === choice.logprobs.tokens.length - 1;
      const whole = choice.logprobs.tokens.length === 1;
      addToken(whole || (last && token.startsWith("bytes:")) ? choice.text : token.startsWith("bytes:") ? "" : token, bits, bytes, true);
    });
    draw();
  }
}

async function run(task) {
  clear();
  byId("write").disabled = byId("read").disabled = true;
  byId("stop").hidden = false;
  byId("state").textContent = "working";
  try {
    await task();
  } catch (error) {
    if (error.name !== "AbortError") fail(error.message);
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
for (const name of ["temperature", "top_p"]) {
  byId(name).addEventListener("input", () => (byId(`${name}-shown`).textContent = byId(name).value));
}
fetch("v1/models")
  .then((response) => response.json())
  .then((found) => {
    byId("model").textContent = `${found.data[0].id} · ${found.data[0].recipe_digest}`;
    document.title = `${found.data[0].id} · pargolf`;
  });
