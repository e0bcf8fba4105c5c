// Anomaly detection: a row, a window or an image in; score, chance, verdict and reasons out.

import { chart, legend } from "./chart.js";
import { bars, el, field, short } from "./dom.js";
import { lastOf } from "./forecast.js";
import { form, number } from "./form.js";
import { heat, imageField, pixels } from "./image.js";
import { csvOf, namesOf, rowsOf } from "./numbers.js";
import { answers } from "./server.js";

const SHOWN = 12;

/** Return the form, or null where the model takes something else. */
export function anomaly(model, limits) {
  const inputs = model.endpoints.serving_default?.inputs ?? {};
  if (inputs.window) return ofWindow(model, inputs.window.shape);
  if (inputs.pixels) return ofImage(model, limits, inputs.pixels.shape);
  const columns = Object.entries(inputs).every(([name, spec]) => name === "rows" || spec.dtype === "string");
  return columns && Object.keys(inputs).length ? ofRow(model, inputs) : null;
}

async function asked(model, row) {
  const [answer] = await answers(model, "serving_default", [row]);
  return answer;
}

function verdict(model, answer) {
  const { threshold, false_positive_rate: rate } = model.about;
  const limit = threshold == null ? "" : ` An alarm is a score above ${short(threshold)}.`;
  const asked = rate == null ? "" : ` Asked for were alarms on ${100 * rate} % of normal examples.`;
  return [
    el("p", { class: `verdict ${answer.is_anomaly ? "alarm" : "calm"}` }, answer.is_anomaly ? "Anomaly" : "Normal"),
    el("p", {}, `Score ${short(answer.score)}, p-value ${short(answer.p_value, 3)}: the share of normal examples with that score or more.${limit}${asked}`),
  ];
}

function ofRow(model, inputs) {
  const numeric = inputs.rows ? namesOf(model.about.columns, inputs.rows.shape[1]) : [];
  const categories = Object.keys(inputs).filter((name) => name !== "rows");
  const example = model.example ?? {};
  const boxes = new Map();
  numeric.forEach((name, i) => {
    boxes.set(name, el("input", { inputmode: "decimal", value: example.rows?.[i] ?? "" }));
  });
  for (const name of categories) {
    const known = model.about.categories?.[name];
    const box = known
      ? el("select", {}, ...known.map((value) => el("option", {}, value)))
      : el("input", { value: example[name] ?? "" });
    if (known?.includes(example[name])) box.value = example[name];
    boxes.set(name, box);
  }
  const names = [...boxes.keys()];
  const paste = el("textarea", { rows: 2, spellcheck: "false" });
  const hint = "Fills the fields below: a line of CSV in their order, or a header line and a line.";
  paste.addEventListener("input", () => spread(paste.value, names, boxes));
  const grid = el("div", { class: "grid" }, ...names.map((name) => field(name, boxes.get(name))));
  const fields = [
    field("Paste a row", paste, hint),
    el("fieldset", {}, el("legend", {}, "Columns"), el("p", { class: "hint" }, "An empty number is a missing one."), grid),
  ];
  return form("Look at this row", fields, async () => {
    const row = Object.fromEntries(categories.map((name) => [name, boxes.get(name).value]));
    if (inputs.rows) {
      row.rows = numeric.map((name) => (boxes.get(name).value.trim() === "" ? NaN : number(boxes.get(name), name)));
    }
    const answer = await asked(model, row);
    const reasons = namesOf(model.about.feature_names ?? names, answer.feature_scores.length);
    const ranked = answer.feature_scores.map((value, i) => [reasons[i], value, short(value)]).sort((a, b) => b[1] - a[1]);
    return [...verdict(model, answer), el("h3", {}, "What is unusual, and how much"), bars("Scores of the columns", ranked.slice(0, SHOWN))];
  });
}

/** Put pasted cells into the fields that they belong to. */
function spread(text, names, boxes) {
  const lines = text.split(/\r?\n/).filter((line) => line.trim());
  if (!lines.length) return;
  const separator = [";", "\t"].find((each) => lines[0].includes(each)) ?? ",";
  const rows = lines.map((line) => line.split(separator).map((cell) => cell.trim().replace(/^"(.*)"$/, "$1")));
  const headed = rows.length > 1 && rows[0].some((cell) => boxes.has(cell));
  const header = headed ? rows[0] : names;
  header.forEach((name, i) => {
    const cell = rows[headed ? 1 : 0][i];
    if (boxes.has(name) && cell !== undefined) boxes.get(name).value = cell;
  });
}

function ofWindow(model, [, steps, width]) {
  const names = namesOf(model.about.columns, width);
  const input = el("textarea", { rows: 6, spellcheck: "false" });
  input.value = model.example?.window ? csvOf(model.example.window, names) : "";
  const hint = `At least ${steps} rows, the newest last; CSV or numbers.`;
  const fields = [field(`Window: ${names.join(", ")}`, input, hint)];
  return form("Look at this window", fields, async () => {
    const window = lastOf(rowsOf(input.value, names), steps);
    const answer = await asked(model, { window });
    const charts = names.flatMap((name, k) => {
      const spikes = answer.feature_scores.map((row) => row[k]);
      const worst = spikes.indexOf(Math.max(...spikes));
      const label = `${name}: most unusual at step ${worst + 1} of ${steps}`;
      return [el("h3", {}, name), chart({ history: window.map((row) => row[k]), spikes, label })];
    });
    return [...verdict(model, answer), ...charts, legend(["of-history", "values"], ["of-spike", "how unusual"])];
  });
}

function ofImage(model, limits, [, height, width, channels]) {
  const image = imageField(limits.body, () => element.requestSubmit());
  const hint = el("p", { class: "hint" }, `The browser brings it to ${width} × ${height} pixels.`);
  const element = form("Look at this image", [image.element, hint], async () => {
    const answer = await asked(model, { pixels: await pixels(image.file(), height, width, channels) });
    const figure = el("figure", {}, heat(answer.feature_scores, "Where the image is unusual"), el("figcaption", {}, "Where it is unusual"));
    return [...verdict(model, answer), figure];
  });
  return element;
}
