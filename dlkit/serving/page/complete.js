// Text generation: a prompt in, its continuation out as it is written.

import { el, field } from "./dom.js";
import { form, number } from "./form.js";
import { complete as stream } from "./server.js";

export function complete(model) {
  const prompt = el("textarea", { class: "prose", rows: 3 });
  const most = el("input", { type: "number", min: 1, max: 4096, value: 200 });
  const temperature = el("input", { type: "number", min: 0, max: 2, step: 0.1, value: 0.8 });
  const seed = el("input", { type: "number", min: 0, step: 1, placeholder: "any" });
  const stop = el("button", { type: "button", class: "second", disabled: true }, "Stop");
  let going = null;
  stop.addEventListener("click", () => going?.abort());

  const fields = [
    field("Prompt", prompt),
    el("div", { class: "row" },
      field("Most tokens", most),
      field("Temperature", temperature, "0: always the likeliest"),
      field("Seed", seed, "the same gives the same text")),
  ];
  return form("Write", fields, async (output) => {
    const wish = {
      model: model.name,
      prompt: prompt.value,
      max_tokens: number(most, "Most tokens", { least: 1, most: 4096, whole: true }),
      temperature: number(temperature, "Temperature", { least: 0, most: 2 }),
    };
    if (seed.value.trim()) wish.seed = number(seed, "Seed", { least: 0, whole: true });
    const text = document.createTextNode("");
    output.replaceChildren(el("p", { class: "text" }, el("span", { class: "prompt" }, prompt.value), text));
    going = new AbortController();
    stop.disabled = false;
    try {
      await stream(wish, (piece) => text.appendData(piece), going.signal);
    } catch (error) {
      if (error.name === "AbortError" || !text.data) throw error;
      output.append(el("p", { class: "error" }, error.message)); // what was written stays
    } finally {
      stop.disabled = true;
    }
  }, [stop]);
}
