// Dialogs: what is asked before something is done, and what is shown only once.

import { ApiError } from "./api.js";
import { copy, el, field, refocus } from "./dom.js";

/** Open one. `content` makes what is in it, given how to close it. */
export function openDialog(title, content) {
  const before = document.activeElement;
  const heading = el("h2", { id: "dialog-title" }, title);
  const dialog = el("dialog", { "aria-labelledby": "dialog-title" });
  const close = () => dialog.close();
  dialog.addEventListener("close", () => {
    dialog.remove();
    if (before) refocus(before);
  });
  dialog.append(heading, ...[content(close)].flat().filter(Boolean));
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

/**
 * Ask for some fields, then do something with what was entered. `fields` are `{name: [label, input,
 * hint]}`; `act` gets `{name: value}`. What the server refuses is said in the dialog.
 */
export function ask(title, text, fields, label, act, { isDangerous = false } = {}) {
  return openDialog(title, (close) => {
    const refused = el("p", { class: "problem", role: "alert" });
    const submit = el("button", { class: isDangerous ? "danger" : "first" }, label);
    const send = async (event) => {
      event.preventDefault();
      if (submit.ariaBusy === "true") return;
      submit.ariaBusy = "true"; // disabled, it would lose the focus
      refused.textContent = "";
      try {
        const entered = Object.entries(fields).map(([name, [, input]]) => [name, input.value.trim()]);
        const then = await act(Object.fromEntries(entered));
        close();
        then?.();
      } catch (error) {
        if (!(error instanceof ApiError)) throw error;
        refused.textContent = error.message;
      } finally {
        submit.ariaBusy = null;
      }
    };
    return el(
      "form",
      { on: { submit: send } },
      text && el("p", {}, text),
      Object.values(fields).map(([name, input, hint]) => field(name, input, hint)),
      refused,
      el("div", { class: "actions" }, el("button", { type: "button", on: { click: close } }, "Cancel"), submit),
    );
  });
}

/** Show a new key, the only time. */
export function showKey({ key, key_name: name, tenant }) {
  const shown = el("output", { class: "secret", id: "new-key" }, key);
  const copying = el("button", { type: "button" }, "Copy");
  copying.addEventListener("click", async () => {
    copying.textContent = (await copy(key, "the key")) ? "Copied" : "Copy it by hand";
  });
  const dialog = openDialog(`Key “${name}” of ${tenant.tenant}`, (close) => [
    el("p", {}, "This is the only time it is shown. Keep it where secrets are kept."),
    shown,
    el(
      "div",
      { class: "actions" },
      copying,
      el("button", { type: "button", class: "first", on: { click: close } }, "I have it"),
    ),
  ]);
  // Escape would lose it. A browser lets "cancel" be prevented only once in a row.
  dialog.setAttribute("closedby", "none");
  dialog.dataset.stays = "";
  dialog.addEventListener("cancel", (event) => event.preventDefault());
  dialog.addEventListener("keydown", (event) => event.key === "Escape" && event.preventDefault());
}
