// JSON as a tree that opens and closes.

import { button, el } from "./dom.js";
import { upright } from "./format.js";
import { items, members } from "./json.js";

const AT_ONCE = 200;
const OPEN_LEVELS = 3;
const OPEN_ENTRIES = 40;

/** The tree of this text. What is closed is made when it is opened. */
export function tree(text) {
  return el("div", { class: "json" }, node(text, 0));
}

function node(text, level) {
  const first = text.trimStart()[0];
  if (first === "{") return branch(members(text), "{", "}", level);
  if (first === "[") return branch(items(text).map((item) => [null, item]), "[", "]", level);
  const kind = first === '"' ? "string" : first === "t" || first === "f" || first === "n" ? "word" : "number";
  return el("span", { class: kind }, upright(text.trim()));
}

function branch(entries, opening, closing, level) {
  if (!entries.length) return el("span", { class: "quiet" }, opening + closing);
  const list = el("ul");
  let shown = 0;
  const more = () => {
    const next = entries.slice(shown, shown + AT_ONCE);
    shown += next.length;
    list.append(...next.map(([key, value]) => entry(key, value, level + 1)));
    if (shown < entries.length) {
      const rest = button(`${entries.length - shown} more`, () => {
        rest.parentElement.remove();
        more();
      });
      list.append(el("li", {}, rest));
    }
  };
  const isOpen = level < OPEN_LEVELS && (level === 0 || entries.length <= OPEN_ENTRIES);
  const count = `${entries.length} ${opening === "{" ? "member" : "item"}${entries.length > 1 ? "s" : ""}`;
  const details = el(
    "details",
    { open: isOpen },
    el("summary", {}, el("span", { class: "quiet" }, `${opening} ${count} ${closing}`)),
    list,
  );
  if (isOpen) more();
  else details.addEventListener("toggle", more, { once: true });
  return details;
}

function entry(key, value, level) {
  return el("li", {}, key === null ? null : [el("span", { class: "key" }, upright(key)), ": "], node(value, level));
}
