// Image classification: an image in, its label and the probabilities out.

import { bars, el } from "./dom.js";
import { form } from "./form.js";
import { base64, imageField } from "./image.js";
import { answers } from "./server.js";

const SHOWN = 10;

export function classify(model, limits) {
  const image = imageField(limits.body, () => element.requestSubmit());
  const element = form("Classify", [image.element], async () => {
    const row = { image: await base64(image.file()) };
    const [answer] = await answers(model, "serving_default", [row]);
    const labels = model.about.labels ?? answer.probabilities.map((_, i) => String(i));
    const ranked = answer.probabilities
      .map((p, i) => [labels[i], p, `${(100 * p).toFixed(1)} %`])
      .sort((a, b) => b[1] - a[1]);
    const rest = ranked.length - SHOWN;
    return [
      el("p", { class: "verdict" }, answer.label),
      bars("Probabilities", ranked.slice(0, SHOWN)),
      ...(rest > 0 ? [el("p", { class: "quiet" }, `and ${rest} more labels`)] : []),
    ];
  });
  return element;
}
