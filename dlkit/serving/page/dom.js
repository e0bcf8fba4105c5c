// Elements without HTML: whatever a label or an error holds becomes text, never markup.

const SVG = "http://www.w3.org/2000/svg";
let count = 0;

/** Make an element; `on` holds listeners, other attributes are set as they are. */
export function el(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

/** Make an element of a drawing. */
export function svg(name, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

function fill(element, { on = {}, ...attributes }, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (value === true) element.setAttribute(key, "");
    else if (value !== false && value != null) element.setAttribute(key, String(value));
  }
  for (const [key, listener] of Object.entries(on)) element.addEventListener(key, listener);
  element.append(...children.filter((child) => child != null));
  return element;
}

/** Return an id that nothing else on the page has. */
export function freshId() {
  count += 1;
  return `f${count}`;
}

/** Put a label over an input, and a hint under it where there is one. */
export function field(label, input, hint) {
  const id = freshId();
  input.id = id;
  const about = hint && el("span", { class: "hint", id: `${id}-hint` }, hint);
  if (about) input.setAttribute("aria-describedby", about.id);
  return el("div", { class: "field" }, el("label", { for: id }, label), input, about);
}

/** Return a table with a column of bars: rows are [name, value in [0, largest], text of the value]. */
export function bars(caption, rows) {
  const largest = Math.max(...rows.map((row) => row[1]), 1e-12);
  const brief = rows.every(([name]) => name.length <= 4);
  const body = rows.map(([name, value, text]) => {
    const bar = el("div", { class: "bar" });
    bar.style.width = `${(100 * Math.max(value, 0)) / largest}%`;
    return el("tr", {}, el("th", { scope: "row" }, ...breakable(name)), el("td", {}, bar), el("td", { class: "number" }, text));
  });
  return el("table", { class: brief ? "bars brief" : "bars", "aria-label": caption }, el("tbody", {}, ...body));
}

/** Let a name such as `mean_radius` go on in another line after what joins its words. */
function breakable(name) {
  return name.split(/(?<=_)/).flatMap((part, i) => (i ? [el("wbr"), part] : [part]));
}

/** Write a number in a few digits. */
export function short(value, digits = 5) {
  if (value == null || !Number.isFinite(value)) return "not a number";
  const size = Math.abs(value);
  return size !== 0 && (size >= 1e6 || size < 1e-3) ? value.toExponential(2) : String(Number(value.toPrecision(digits)));
}
