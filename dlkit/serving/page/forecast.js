// Forecasting: a series in, what follows it out, with an interval.

import { chart, figures, legend } from "./chart.js";
import { el, field, short } from "./dom.js";
import { form } from "./form.js";
import { csvOf, namesOf, rowsOf } from "./numbers.js";
import { answers } from "./server.js";

export function forecast(model) {
  const { roles = {}, coverage } = model.about;
  const { inputs, outputs } = model.endpoints.serving_default;
  const [, lookback, width] = inputs.window.shape;
  const targets = outputs.forecast.shape[2];
  const channels = namesOf([...(roles.targets ?? []), ...(roles.past ?? []), ...(roles.future ?? [])], width);
  const series = table(`History: ${channels.join(", ")}`, `At least ${lookback} rows, the newest last; CSV or numbers.`,
    model.example?.window, channels);
  const read = { window: () => lastOf(rowsOf(series.input.value, channels), lookback) };
  const fields = [series.element];
  if (inputs.future) {
    const [, horizon, count] = inputs.future.shape;
    const names = namesOf(roles.future, count);
    const future = table(`Known of the future: ${names.join(", ")}`, `${horizon} rows.`, model.example?.future, names);
    read.future = () => lastOf(rowsOf(future.input.value, names), horizon);
    fields.push(future.element);
  }
  if (inputs.static) {
    const names = namesOf(roles.static, inputs.static.shape[1]);
    const fixed = table(`Known of the series: ${names.join(", ")}`, "One row.", model.example && [model.example.static], names);
    read.static = () => lastOf(rowsOf(fixed.input.value, names), 1)[0];
    fields.push(fixed.element);
  }
  return form("Forecast", fields, async () => {
    const row = Object.fromEntries(Object.keys(inputs).map((name) => [name, read[name]()]));
    const [answer] = await answers(model, "serving_default", [row]);
    const share = coverage ? `${Math.round(100 * coverage)} % interval` : "interval";
    return channels.slice(0, targets).flatMap((name, k) => drawn(name, k, row.window, answer, share));
  });
}

function drawn(name, k, window, answer, share) {
  const pick = (rows) => rows.map((row) => row[k]);
  const [ahead, lower, upper] = ["forecast", "lower", "upper"].map((key) => pick(answer[key]));
  const label = `${name}: ${ahead.length} steps ahead, from ${short(ahead[0])} to ${short(ahead.at(-1))}`;
  const rows = ahead.map((value, i) => [`+${i + 1}`, short(value), short(lower[i]), short(upper[i])]);
  return [
    el("h3", {}, name),
    chart({ history: pick(window), forecast: ahead, lower, upper, label }),
    legend(["of-history", "history"], ["of-forecast", "forecast"], ["of-band", share]),
    figures(`Figures of ${name}`, ["step", "forecast", "lower", "upper"], rows),
  ];
}

function table(label, hint, example, names) {
  const input = el("textarea", { rows: 6, spellcheck: "false" });
  input.value = example ? csvOf(example, names) : "";
  return { input, element: field(label, input, hint) };
}

/** Return the last rows, or say that there are too few. */
export function lastOf(rows, count) {
  if (rows.length < count) throw new Error(`Got ${rows.length} rows; at least ${count} are needed.`);
  return rows.slice(-count);
}
