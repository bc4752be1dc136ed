// What the keys of the keyboard do.

import { el } from "./dom.js";
import { openDialog } from "./dialog.js";

const TYPING = "input, textarea, select, [contenteditable]";

const ELSEWHERE = [
  ["/", "to the filter"],
  ["j  k", "the next row, the one before"],
  ["Enter", "open or close the row"],
  ["n  p", "the next page, the one before"],
  [".", "pause the live tail, or go on"],
  ["Esc", "close what is open, leave a field"],
  ["?", "this list"],
];

/** `viewsNow` says which views there are; a view is reached by `g` and its key. */
export function listenToKeys(viewsNow) {
  let isGoing = false;
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    if (event.target.matches(TYPING)) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    if (document.querySelector("dialog[open]")) return;
    const views = viewsNow();
    if (isGoing) {
      isGoing = false;
      const to = Object.entries(views).find(([, view]) => view.key === event.key);
      if (to) {
        location.hash = `#/${to[0]}`;
        event.preventDefault();
      }
      return;
    }
    if (event.key === "g") isGoing = true;
    else if (act(event.key, views)) event.preventDefault();
  });
}

function act(key, views) {
  if (key === "?" && Object.keys(views).length) showKeys(views);
  else if (key === "/") return reach("[data-search]", (input) => input.focus());
  else if (key === "j") return move(1);
  else if (key === "k") return move(-1);
  else if (key === "n") return reach("[data-next]:not(:disabled)", (next) => next.click());
  else if (key === "p") return reach("[data-previous]:not(:disabled)", (previous) => previous.click());
  else if (key === ".") return reach("[data-pause]", (pause) => pause.click());
  else return false;
  return true;
}

function reach(selector, use) {
  const found = document.querySelector(selector);
  if (!found) return false;
  for (let outer = found.closest("details"); outer; outer = outer.parentElement.closest("details")) outer.open = true;
  use(found);
  return true;
}

function move(by) {
  const rows = [...document.querySelectorAll("[data-row]")];
  if (!rows.length) return false;
  const now = rows.findIndex((row) => row.closest("li, tr").contains(document.activeElement));
  rows[now < 0 ? 0 : Math.min(Math.max(now + by, 0), rows.length - 1)].focus();
  return true;
}

export function showKeys(views) {
  const keys = [
    ...Object.values(views)
      .filter((view) => view.key)
      .map((view) => [`g ${view.key}`, view.label]),
    ...ELSEWHERE,
  ];
  openDialog("Keys", (close) => [
    el(
      "dl",
      { class: "keys" },
      keys.map(([key, does]) => [el("dt", {}, key.split("  ").map((one) => el("kbd", {}, one))), el("dd", {}, does)]),
    ),
    el("div", { class: "actions" }, el("button", { type: "button", on: { click: () => close() } }, "Close")),
  ]);
}
