// What the page asks of the server, and the key that it sends.

const STORED = "dlkit-key"; // of this tab alone: gone with it

export class Refused extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

/** Keep a key for this tab. */
export function useKey(key) {
  sessionStorage.setItem(STORED, key);
}

function headers(more = {}) {
  const key = sessionStorage.getItem(STORED);
  return key ? { ...more, Authorization: `Bearer ${key}` } : more;
}

async function sent(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused("The server cannot be reached.", 0);
  }
  if (!response.ok) throw new Refused(await reason(response), response.status);
  return response;
}

async function reason(response) {
  const text = await response.text();
  let told = text.slice(0, 500);
  try {
    const { error } = JSON.parse(text);
    told = typeof error === "string" ? error : error.message;
  } catch {
    // no JSON: a proxy's own page; its beginning is shown as text
  }
  return `${told || response.statusText} (status ${response.status})`;
}

/** Return a JSON document of the server. */
export async function get(path) {
  return (await sent(path, { headers: headers() })).json();
}

/** Ask a model's endpoint for one answer a row, or with `raw` for whatever the body asks. */
export async function predict(model, body) {
  const path = `v1/models/${encodeURIComponent(model.name)}:predict`;
  const response = await sent(path, {
    method: "POST",
    headers: headers({ "Content-Type": "application/json" }),
    body: typeof body === "string" ? body : written(body),
  });
  return parsed(await response.text());
}

/** Return the answers to rows; outputs by name even where there is only one. */
export async function answers(model, endpoint, instances) {
  const { predictions } = await predict(model, { signature_name: endpoint, instances });
  const names = Object.keys(model.endpoints[endpoint].outputs);
  return names.length === 1 ? predictions.map((value) => ({ [names[0]]: value })) : predictions;
}

/** Write JSON with bare NaN, which the server takes for a missing number. */
export function written(body) {
  const mark = "\u0000NaN";
  const text = JSON.stringify(body, (key, value) => (Number.isNaN(value) ? mark : value));
  return text.replaceAll(JSON.stringify(mark), "NaN");
}

/** Read JSON in which NaN and Infinity stand bare; both become null. */
export function parsed(text) {
  const tokens = /"(?:[^"\\]|\\.)*"|-?Infinity|NaN/g;
  return JSON.parse(text.replace(tokens, (token) => (token.startsWith('"') ? token : "null")));
}

/** Stream a completion; `onText` is given each piece. Returns why it ended. */
export async function complete(body, onText, signal) {
  const response = await sent("v1/completions", {
    method: "POST",
    headers: headers({ "Content-Type": "application/json" }),
    body: JSON.stringify({ ...body, stream: true }),
    signal,
  });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let finish = null;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) throw new Refused("The connection ended before the text did.", 0);
    const lines = (rest + value).split("\n\n");
    rest = lines.pop();
    for (const line of lines) {
      const data = line.replace(/^data: /, "");
      if (data === "[DONE]") return finish;
      const event = JSON.parse(data);
      if (event.error) throw new Refused(event.error.message, 0);
      for (const choice of event.choices) {
        onText(choice.text);
        finish = choice.finish_reason ?? finish;
      }
    }
  }
}
