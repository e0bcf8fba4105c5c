// Image synthesis: pictures from seeds, or pictures of one domain from those of another.

import { el, field } from "./dom.js";
import { form, number } from "./form.js";
import { base64, imageField } from "./image.js";
import { answers } from "./server.js";

const MOST_SEED = 2 ** 31 - 1;

export function generate(model) {
  const conditional = "label" in model.endpoints.png.inputs;
  const labels = model.about.labels ?? [];
  const seed = el("input", { type: "number", min: 0, max: MOST_SEED, value: 0 });
  const count = el("input", { type: "number", min: 1, max: 16, value: 4 });
  const label = labels.length
    ? el("select", {}, ...labels.map((name, i) => el("option", { value: i }, name)))
    : el("input", { type: "number", min: 0, value: 0 });
  const fields = [
    field("First seed", seed, "one seed, one picture"),
    field("Pictures", count),
    ...(conditional ? [field("Label", label)] : []),
  ];
  return form("Generate", [el("div", { class: "row" }, ...fields)], async () => {
    const wanted = number(count, "Pictures", { least: 1, most: 16, whole: true });
    const first = number(seed, "First seed", { least: 0, most: MOST_SEED - wanted, whole: true });
    const of = conditional ? { label: number(label, "Label", { least: 0, whole: true }) } : {};
    const seeds = Array.from({ length: wanted }, (_, i) => first + i);
    const made = await answers(model, "png", seeds.map((each) => ({ seed: each, ...of })));
    return [el("div", { class: "pictures" }, ...made.map((each, i) => picture(each, `seed ${seeds[i]}`)))];
  });
}

export function translate(model, limits) {
  const image = imageField(limits.body, () => element.requestSubmit());
  const ways = model.endpoints.png_b_to_a ? [["png", "a to b"], ["png_b_to_a", "b to a"]] : [["png", "a to b"]];
  const direction = el("select", {}, ...ways.map(([endpoint, name]) => el("option", { value: endpoint }, name)));
  const element = form("Translate", [image.element, field("Direction", direction)], async () => {
    const row = { image: await base64(image.file()) };
    const [answer] = await answers(model, direction.value, [row]);
    return [picture(answer, `translated, ${direction.selectedOptions[0].text}`)];
  });
  return element;
}

function picture({ image_bytes: { b64 } }, caption) {
  const image = el("img", { class: "picture", alt: `Picture, ${caption}`, src: `data:image/png;base64,${b64}` });
  return el("figure", {}, image, el("figcaption", {}, caption));
}
