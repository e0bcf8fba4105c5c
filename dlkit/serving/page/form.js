// A form with its answer: busy while it is asked, errors as text, answers told to screen readers.

import { el } from "./dom.js";

/**
 * Make a form.
 *
 * @param {string} label what its button says
 * @param {Node[]} fields
 * @param {(output: Element) => Promise<Node[] | void>} ask gives the answer, or writes it itself
 * @param {Node[]} more beside the button
 */
export function form(label, fields, ask, more = []) {
  const button = el("button", { type: "submit" }, label);
  const output = el("div", { class: "answer", "aria-live": "polite", "aria-busy": "false" });
  const problem = el("p", { class: "error", role: "alert" });
  const element = el(
    "form",
    { novalidate: true },
    ...fields,
    el("div", { class: "row" }, button, ...more),
    problem,
    output,
  );
  let asked = 0;
  element.addEventListener("submit", async (event) => {
    event.preventDefault();
    const turn = ++asked;
    problem.textContent = "";
    button.disabled = true;
    output.setAttribute("aria-busy", "true");
    try {
      const found = await ask(output);
      if (found && turn === asked) output.replaceChildren(...found);
    } catch (error) {
      if (error.name !== "AbortError") {
        output.replaceChildren();
        problem.textContent = error.message;
      }
    } finally {
      button.disabled = false;
      output.setAttribute("aria-busy", "false");
    }
  });
  return element;
}

/** Return the number in an input, or say what is wrong with it. */
export function number(input, name, { least = -Infinity, most = Infinity, whole = false } = {}) {
  const value = input.value.trim() === "" ? NaN : Number(input.value);
  if (!Number.isFinite(value) || value < least || value > most || (whole && !Number.isInteger(value))) {
    const kind = whole ? "a whole number" : "a number";
    const range = most < Infinity ? ` from ${least} to ${most}` : least > -Infinity ? ` of at least ${least}` : "";
    throw new Error(`${name}: got “${input.value}”; accepted: ${kind}${range}.`);
  }
  return value;
}
