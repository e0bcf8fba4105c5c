// The page at `/`: what is served, and for each model the form of its task.

import { anomaly } from "./anomaly.js";
import { classify } from "./classify.js";
import { complete } from "./complete.js";
import { el } from "./dom.js";
import { forecast } from "./forecast.js";
import { withKey } from "./key.js";
import { generate, translate } from "./pictures.js";
import { raw } from "./raw.js";
import { get } from "./server.js";

const state = document.getElementById("state");
const content = document.getElementById("content");

withKey(state, content, async () => {
  const { models, limits } = await get("page/models.json");
  const plural = models.length === 1 ? "model is" : "models are";
  state.textContent = `${models.length} ${plural} served.`;
  const links = models.map(({ name }) => el("li", {}, el("a", { href: `#model-${name}` }, name)));
  const toc = models.length > 1 && el("nav", { "aria-label": "Models" }, el("ul", { class: "toc" }, ...links));
  content.replaceChildren(...(toc ? [toc] : []), ...models.map((model) => section(model, limits)));
});

function section(model, limits) {
  const heading = el("h2", { id: `model-${model.name}` }, model.name);
  const element = el("section", { "aria-labelledby": heading.id }, heading);
  if (!model.endpoints) {
    const states = model.versions.map((each) => `version ${each.version}: ${each.state}`);
    element.append(el("p", { class: "quiet" }, `No version of it answers (${states.join(", ")}).`));
    return element;
  }
  const own = formOf(model, limits);
  const json = raw(model, limits);
  element.append(
    el("p", { class: "quiet" }, aboutOf(model)),
    own ?? json,
    el("details", {}, el("summary", {}, "Endpoints, inputs and outputs"), endpoints(model)),
  );
  if (own) element.append(el("details", {}, el("summary", {}, "Ask in JSON"), json));
  return element;
}

function aboutOf(model) {
  const { task, model: net, run } = model.about;
  const names = Object.entries(model.labels).filter(([, version]) => version === model.version);
  const labels = names.length ? ` (${names.map(([label]) => label).join(", ")})` : "";
  const others = model.versions.filter((each) => each.version !== model.version);
  const more = others.map((each) => `${each.version} ${each.state.toLowerCase()}`).join(", ");
  return [
    task ?? "no dlkit export: its inputs are known, not its task",
    net,
    run && `run ${run.slice(0, 8)}`,
    `version ${model.version}${labels}`,
    more && `other versions: ${more}`,
  ].filter(Boolean).join(" · ");
}

/** Return the form of a model's task, or null where none fits what it takes. */
function formOf(model, limits) {
  const inputs = model.endpoints.serving_default?.inputs ?? {};
  const task = model.about.task;
  if (task === "image-classification" && inputs.image) return classify(model, limits);
  if (task === "text-generation" && model.streams) return complete(model);
  if (task === "forecasting" && inputs.window) return forecast(model);
  if (task === "anomaly-detection") return anomaly(model, limits);
  if (task === "image-synthesis" && inputs.seed && model.endpoints.png) return generate(model);
  if (task === "image-synthesis" && inputs.image && model.endpoints.png) return translate(model, limits);
  return null;
}

function endpoints(model) {
  const parts = [];
  for (const [name, { inputs, outputs }] of Object.entries(model.endpoints)) {
    const rows = [
      ...Object.entries(inputs).map((each) => tensor("input", each)),
      ...Object.entries(outputs).map((each) => tensor("output", each)),
    ];
    const head = ["", "name", "type", "shape"].map((title) => el("th", { scope: "col" }, title));
    parts.push(
      el("h3", {}, name),
      el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `Tensors of ${name}` },
        el("table", {}, el("thead", {}, el("tr", {}, ...head)), el("tbody", {}, ...rows))),
    );
  }
  return el("div", {}, ...parts);
}

function tensor(kind, [name, { dtype, shape }]) {
  const sizes = shape === null ? "any" : `(${shape.map((size) => size ?? "any").join(", ")})`;
  const cells = [kind, name, dtype, sizes].map((text) => el("td", {}, text));
  return el("tr", {}, ...cells);
}
