// Line charts as SVG.

import { el, short, svg } from "./dom.js";

const [WIDEST, NARROWEST, HEIGHT, LEFT, BOTTOM, TOP] = [720, 240, 240, 56, 24, 8];

/**
 * Draw a series, anew whenever the window's width changes.
 *
 * @param {object} given
 * @param {number[]} given.history what was seen
 * @param {number[]} [given.forecast] what follows it
 * @param {number[]} [given.lower] of the band around the forecast
 * @param {number[]} [given.upper]
 * @param {number[]} [given.spikes] at least 0, one for each of the history: drawn from below
 * @param {string} given.label what is told in place of the drawing
 */
export function chart(given) {
  let drawn = draw(given);
  window.addEventListener("resize", function again() {
    if (!drawn.isConnected) return window.removeEventListener("resize", again);
    const before = drawn;
    drawn = draw(given);
    before.replaceWith(drawn);
  });
  return drawn;
}

function draw({ history, forecast = [], lower = [], upper = [], spikes = [], label }) {
  const all = [...history, ...forecast, ...lower, ...upper].filter(Number.isFinite);
  let [low, high] = [Math.min(...all), Math.max(...all)];
  if (!(high > low)) [low, high] = [low - 1, high + 1];
  const count = history.length + forecast.length;
  // As wide as there is room, so that the words keep their size on a telephone.
  const width = Math.min(WIDEST, Math.max(NARROWEST, document.documentElement.clientWidth - 80));
  const bar = spikes.length ? (width - LEFT - 8) / count : 0;
  const x = (i) => LEFT + bar / 2 + ((width - LEFT - 8 - bar) * i) / Math.max(1, count - 1);
  const y = (value) => TOP + ((HEIGHT - TOP - BOTTOM) * (high - value)) / (high - low);
  const path = (values, from) => values
    .map((value, i) => [i, value])
    .filter(([, value]) => Number.isFinite(value))
    .map(([i, value], k) => `${k ? "L" : "M"}${x(from + i).toFixed(1)},${y(value).toFixed(1)}`)
    .join("");
  const from = history.length;
  const parts = [];
  for (const value of ticks(low, high)) {
    parts.push(
      svg("line", { class: "axis", x1: LEFT, x2: width - 8, y1: y(value), y2: y(value) }),
      svg("text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, short(value)),
    );
  }
  for (const i of new Set([0, from - 1, count - 1])) {
    const anchor = i === 0 ? "start" : "end";
    const name = i === from - 1 ? "last seen" : i < from ? `${i - from + 1}` : `+${i - from + 1}`;
    parts.push(svg("text", { x: x(i), y: HEIGHT - 6, "text-anchor": anchor }, name));
  }
  const most = Math.max(...spikes, 1e-12);
  spikes.forEach((value, i) => {
    const tall = (0.5 * (HEIGHT - TOP - BOTTOM) * value) / most;
    const thick = Math.max(1, bar - 1);
    parts.push(svg("rect", { class: "spike", x: x(i) - thick / 2, y: HEIGHT - BOTTOM - tall, width: thick, height: tall }));
  });
  if (lower.length) {
    const back = lower.map((value, i) => `L${x(from + i).toFixed(1)},${y(value).toFixed(1)}`).reverse();
    parts.push(svg("path", { class: "band", d: `${path(upper, from)}${back.join("")}Z` }));
  }
  parts.push(svg("path", { class: "history", d: path(history, 0) }));
  if (forecast.length) {
    parts.push(svg("path", { class: "forecast", d: path([history.at(-1), ...forecast], from - 1) }));
  }
  const drawn = svg("svg", { class: "chart", viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": label }, ...parts);
  drawn.style.maxWidth = `${width}px`;
  return drawn;
}

/** Return three to six round numbers within a range. */
function ticks(low, high) {
  const rough = (high - low) / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
  const found = [];
  for (let value = Math.ceil(low / step) * step; value <= high + step * 1e-9; value += step) {
    found.push(Math.abs(value) < step * 1e-9 ? 0 : value);
  }
  return found;
}

/** Return the meanings of a chart's marks: pairs of a class and words. */
export function legend(...entries) {
  return el("p", { class: "legend", "aria-hidden": "true" }, ...entries.map(([kind, words]) => el("span", { class: kind }, words)));
}

/** Return a table of the numbers in a chart, folded away. */
export function figures(summary, heads, rows) {
  const head = el("tr", {}, ...heads.map((name) => el("th", { scope: "col" }, name)));
  const body = rows.map((row) => el("tr", {}, ...row.map((cell) => el("td", {}, cell))));
  const table = el("table", {}, el("thead", {}, head), el("tbody", {}, ...body));
  const box = el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": summary }, table);
  return el("details", {}, el("summary", {}, summary), box);
}
