// Any model: a request in JSON, filled in with an example.

import { el, field } from "./dom.js";
import { form } from "./form.js";
import { parsed, predict } from "./server.js";

const LONGEST = 20_000; // characters of an answer that are shown

export function raw(model, limits) {
  const names = Object.keys(model.endpoints);
  const endpoint = el("select", {}, ...names.map((name) => el("option", {}, name)));
  if (names.includes("serving_default")) endpoint.value = "serving_default";
  const body = el("textarea", { rows: 8, spellcheck: "false" });
  const refill = () => { body.value = JSON.stringify(example(model, endpoint.value), null, 1); };
  endpoint.addEventListener("change", refill);
  refill();
  return form("Send", [field("Endpoint", endpoint), field("Request", body)], async () => {
    try {
      parsed(body.value);
    } catch (error) {
      throw new Error(`The request is not JSON: ${error.message}`);
    }
    if (new Blob([body.value]).size > limits.body) {
      throw new Error(`The request is larger than the ${limits.body} bytes that the server takes.`);
    }
    const text = JSON.stringify(await predict(model, body.value), null, 1);
    const rest = text.length > LONGEST ? [el("p", { class: "quiet" }, `and ${text.length - LONGEST} more characters`)] : [];
    return [el("pre", { tabindex: "0" }, text.slice(0, LONGEST)), ...rest];
  });
}

/** Return a request that the endpoint takes: the recorded one, else zeros. */
function example(model, endpoint) {
  const { inputs } = model.endpoints[endpoint];
  const recorded = endpoint === "serving_default" ? model.example : null;
  const row = recorded ?? Object.fromEntries(Object.entries(inputs).map(([name, spec]) => [name, zeros(spec)]));
  const names = Object.keys(row);
  return { signature_name: endpoint, instances: [names.length === 1 ? row[names[0]] : row] };
}

function zeros({ dtype, shape }) {
  const zero = dtype === "string" ? "text" : dtype === "bool" ? false : 0;
  const sizes = (shape ?? [null]).slice(1).map((size) => size ?? 1);
  // What nobody wants to read is left to be filled in.
  const large = sizes.reduce((product, size) => product * size, 1) > 5000;
  return large ? [] : sizes.reduceRight((inner, size) => Array.from({ length: size }, () => inner), zero);
}
