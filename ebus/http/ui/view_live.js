// Events as they are appended, the newest on top.

import { ApiError } from "./api.js";
import { button, el, field } from "./dom.js";
import { eventRow } from "./event_row.js";
import { follow } from "./follow.js";
import { plural } from "./format.js";
import { eventOf } from "./json.js";

const MOST_ROWS = 500;
const MOST_CHARACTERS = 20_000_000; // of those rows, and of those that wait
const LAST_EVENTS = 20;

/** The last lines, as many as the page has room for. */
class Lines {
  #lines = [];
  #characters = 0;

  get count() {
    return this.#lines.length;
  }

  add(line) {
    this.#lines.push(line);
    this.#characters += line.length;
    while (this.count > MOST_ROWS || (this.#characters > MOST_CHARACTERS && this.count > 1)) {
      this.#characters -= this.#lines.shift().length;
    }
  }

  /** All of them, the oldest first; then there are none. */
  take() {
    const taken = this.#lines;
    this.#lines = [];
    this.#characters = 0;
    return taken;
  }
}

export async function liveView(main, { signal, query }) {
  const type = el("input", { value: query.get("type"), placeholder: "OrderPlaced", autocomplete: "off", "data-search": true });
  const prefix = el("input", { value: query.get("stream_prefix"), placeholder: "order-", autocomplete: "off" });
  const list = el("ol", { class: "events", "aria-label": "Newest first" });
  const state = el("span", { class: "state", role: "status" }, "Connecting…");
  const counted = el("span", { class: "quiet" });
  const pause = button("Pause", turn, { "data-pause": true, "aria-pressed": "false" });
  main.replaceChildren(
    el("h1", { tabindex: "-1" }, "Live"),
    el(
      "form",
      { class: "filters", on: { submit: filter } },
      field("Type", type, "Several: separate them with commas"),
      field("Stream begins with", prefix),
      el("div", { class: "actions" }, el("button", {}, "Filter"), pause, button("Clear", clear)),
    ),
    el("p", { class: "states" }, state, counted),
    list,
  );

  const shown = new Lines();
  const waiting = new Lines();
  let came = 0;
  let isPaused = false;
  let isDue = false;
  let seen = 0;

  function filter(event) {
    event.preventDefault();
    const said = new URLSearchParams();
    if (type.value.trim()) said.set("type", type.value.trim());
    if (prefix.value.trim()) said.set("stream_prefix", prefix.value.trim());
    location.hash = `#/live?${said}`;
  }

  function clear() {
    shown.take();
    list.replaceChildren();
  }

  function turn() {
    isPaused = !isPaused;
    pause.textContent = isPaused ? "Go on" : "Pause";
    pause.setAttribute("aria-pressed", String(isPaused));
    draw();
  }

  /** Once for all that came since the page was drawn last. */
  function draw() {
    isDue = false;
    if (isPaused) {
      const kept = came > waiting.count ? `; the last ${waiting.count} are kept` : "";
      counted.textContent = `${plural(came, "event")} waiting${kept}`;
      return;
    }
    const lines = waiting.take();
    list.prepend(...lines.map(eventRow).reverse());
    for (const line of lines) shown.add(line);
    while (list.childElementCount > shown.count) list.lastElementChild.remove();
    came = 0;
    counted.textContent = seen ? plural(seen, "event") : "Nothing yet: it waits for events.";
  }

  const on = {
    event(line) {
      seen++;
      came++;
      waiting.add(line);
      if (!isDue) {
        isDue = true;
        setTimeout(draw, 50);
      }
    },
    state(text, isLive) {
      state.textContent = text;
      state.classList.toggle("live", isLive);
      if (isLive && !seen) draw();
    },
  };
  const parameters = {
    type: query.getAll("type").flatMap((types) => types.split(",")).map((one) => one.trim()),
    stream_prefix: query.get("stream_prefix"),
    last: LAST_EVENTS,
  };
  try {
    await follow(parameters, (line) => eventOf(line).position, on, signal);
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    on.state(error.message, false);
  }
}
