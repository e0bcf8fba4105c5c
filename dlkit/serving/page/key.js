// Show a page's content, asking for a key first where the server wants one.

import { el, field } from "./dom.js";
import { form } from "./form.js";
import { useKey } from "./server.js";

/** Run `show`; where the server answers 401, ask for a key and run it again. */
export async function withKey(state, content, show) {
  try {
    await show();
  } catch (error) {
    if (error.status !== 401) {
      state.textContent = error.message;
      return;
    }
    state.textContent = "This server needs a key.";
    const input = el("input", { type: "password", autocomplete: "off", spellcheck: "false" });
    const hint = "It is kept for this tab alone and sent to this server alone.";
    const ask = form("Use this key", [field("API key", input, hint)], async () => {
      useKey(input.value);
      try {
        await show();
        content.querySelector("h2")?.scrollIntoView();
      } catch (refused) {
        throw refused.status === 401 ? new Error("The server does not take this key.") : refused;
      }
    });
    content.replaceChildren(el("section", { "aria-label": "Key" }, ask));
    input.focus();
  }
}
