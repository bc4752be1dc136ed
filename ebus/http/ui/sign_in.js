// Where a key is typed in.

import { ApiError } from "./api.js";
import { el, field } from "./dom.js";

/** `enter` is called with the key; what it refuses is said beside the field. */
export function showSignIn(main, problem, enter) {
  // Without a name the browser never puts it into an address, whatever becomes of the form.
  const input = el("input", {
    type: "password",
    id: "key",
    autocomplete: "current-password",
    spellcheck: "false",
    autocapitalize: "off",
    required: true,
  });
  const refused = el("p", { class: "problem", role: "alert", id: "refused" }, problem);
  const submit = el("button", { class: "first" }, "Sign in");
  const form = el(
    "form",
    { class: "sign-in", on: { submit: send } },
    el("h1", {}, "ebus"),
    el("p", { class: "quiet" }, "Sign in with a tenant’s API key, or with the server’s admin key."),
    field("API key", input, "It stays in this tab until you sign out or close it."),
    refused,
    submit,
    el("p", {}, el("a", { href: "/docs" }, "Documentation of the API")),
  );

  async function send(event) {
    event.preventDefault();
    submit.disabled = true;
    refused.textContent = "";
    try {
      const key = input.value.trim();
      if (!/^[\x21-\x7e]+$/.test(key)) throw new ApiError(0, { detail: "A key has no spaces, and no characters beyond ASCII." });
      await enter(key);
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      refused.textContent = error.message;
      input.select();
    } finally {
      submit.disabled = false;
    }
  }

  main.replaceChildren(form);
  input.focus();
}
