// One event in a list: a line of it, and all of it once it is opened.

import { copy, el } from "./dom.js";
import { upright } from "./format.js";
import { eventOf, members } from "./json.js";
import { tree } from "./json_tree.js";

const PREVIEW = 240;
const LARGEST_TREE = 2_000_000;

export function eventRow(raw) {
  const event = eventOf(raw);
  const row = el(
    "button",
    { type: "button", class: "row", "aria-expanded": "false", "data-row": true },
    el("span", { class: "position" }, event.position),
    el("span", { class: "type" }, upright(event.type)),
    el("span", { class: "stream" }, event.stream === null ? "" : [el("bdi", {}, upright(event.stream)), ` · ${event.version}`]),
    el("span", { class: "preview" }, upright(event.data.slice(0, PREVIEW).replace(/\s+/g, " "))),
    el("time", { class: "time" }, event.timestamp),
  );
  const item = el("li", { "data-position": event.position }, row);
  row.addEventListener("click", () => {
    const isOpen = row.getAttribute("aria-expanded") === "true";
    row.setAttribute("aria-expanded", String(!isOpen));
    if (isOpen) item.lastElementChild.remove();
    else item.append(opened(event));
  });
  return item;
}

function opened(event) {
  const facts = [
    ["id", event.id],
    ["stream", event.stream],
    ["version", event.version],
    ["time stamp", event.timestamp],
  ].filter(([, value]) => value !== null);
  for (const [key, value] of event.metadata ? members(event.metadata) : []) {
    facts.push([`metadata.${JSON.parse(key)}`, JSON.parse(value)]);
  }
  return el(
    "div",
    { class: "opened" },
    el("dl", {}, facts.map(([name, value]) => [el("dt", {}, upright(name)), el("dd", {}, upright(value))])),
    event.data.length > LARGEST_TREE
      ? el("pre", { class: "json" }, `${event.data.slice(0, LARGEST_TREE)}…`)
      : tree(event.data),
    el(
      "div",
      { class: "actions" },
      el("button", { type: "button", on: { click: () => copy(event.data, "the data") } }, "Copy data"),
      el("button", { type: "button", on: { click: () => copy(event.raw, "the event") } }, "Copy event"),
    ),
  );
}
