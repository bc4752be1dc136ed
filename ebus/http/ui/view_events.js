// Events of the past, a page at a time, by filters that stand in the address.

import { ApiError, at, patiently, text } from "./api.js";
import { button, el, field, select } from "./dom.js";
import { eventRow } from "./event_row.js";
import { plural } from "./format.js";
import { items } from "./json.js";

const PAGE_EVENTS = 50;
const MOST_LOOKS = 20;

const FIELDS = {
  type: ["Type", "OrderPlaced", "Several: separate them with commas"],
  stream: ["Stream", "order-123"],
  stream_prefix: ["Stream begins with", "order-"],
  from: ["From position", "1"],
  to: ["To position", ""],
  since: ["Recorded since", "2026-01-31T00:00:00Z"],
  until: ["Recorded before", "2026-02-01T00:00:00Z"],
};

export async function eventsView(main, { signal, query }) {
  const inputs = Object.fromEntries(
    Object.entries(FIELDS).map(([name, [, placeholder]]) => [
      name,
      el("input", { placeholder, value: query.get(name), autocomplete: "off", spellcheck: "false", inputmode: name === "from" || name === "to" ? "numeric" : null }),
    ]),
  );
  inputs.type.dataset.search = "";
  const direction = select({ backward: "Newest first", forward: "Oldest first" }, query.get("direction") ?? "backward");
  const asked = [...Object.keys(FIELDS)].filter((name) => name !== "type" && query.get(name)).length;
  const list = el("ol", { class: "events" });
  const state = el("p", { class: "quiet", role: "status" }, "Reading…");
  const problem = el("p", { class: "problem", role: "alert" });
  const previous = button("Back", () => turn(-1), { "data-previous": true });
  const next = button("Next", () => turn(1), { "data-next": true });
  main.replaceChildren(
    el("h1", { tabindex: "-1" }, "Events"),
    el(
      "form",
      { class: "filters", role: "search", on: { submit: search, reset: () => (location.hash = "#/events") } },
      field(FIELDS.type[0], inputs.type, FIELDS.type[2]),
      field("Order", direction),
      el(
        "details",
        { open: asked > 0, class: "more" },
        el("summary", {}, asked ? `More filters (${asked})` : "More filters"),
        el("div", { class: "fields" }, Object.keys(FIELDS).slice(1).map((name) => field(FIELDS[name][0], inputs[name]))),
      ),
      el("div", { class: "actions" }, el("button", { class: "first" }, "Search"), el("button", { type: "reset" }, "Clear")),
    ),
    problem,
    list,
    el("div", { class: "pages" }, previous, next, state),
  );

  const begin = at("/events", {
    ...parameters(Object.fromEntries(query)),
    direction: query.get("direction") ?? "backward",
    limit: PAGE_EVENTS,
  });
  const pages = [begin];
  let page = 0;

  function search(event) {
    event.preventDefault();
    const said = Object.fromEntries(Object.entries(inputs).map(([name, input]) => [name, input.value.trim()]));
    const wanted = at("#/events", { ...said, direction: direction.value === "backward" ? "" : direction.value });
    if (wanted === location.hash) window.dispatchEvent(new HashChangeEvent("hashchange"));
    else location.hash = wanted;
  }

  async function turn(by) {
    page += by;
    await show();
    list.querySelector("[data-row]")?.focus();
  }

  async function show() {
    previous.disabled = next.disabled = true;
    problem.textContent = "";
    state.textContent = "Reading…";
    try {
      const { events, following } = await pageAt(pages[page], signal, (looked) => (state.textContent = looked));
      if (following) pages[page + 1] = following;
      list.replaceChildren(...events.map(eventRow));
      state.textContent = told(events.length, page, Boolean(following));
      next.disabled = !following;
    } catch (error) {
      if (signal.aborted || !(error instanceof ApiError)) throw error;
      state.textContent = "";
      problem.textContent = error.message;
    } finally {
      previous.disabled = page === 0;
    }
  }

  await show();
}

function parameters({ type, ...others }) {
  return { ...others, type: type ? type.split(",").map((one) => one.trim()) : "" };
}

/** A page. The server looks at so many events at a time; what it finds in several looks is one page. */
async function pageAt(path, signal, looking) {
  let events = [];
  let following = path;
  for (let looks = 0; following && !events.length && looks < MOST_LOOKS; looks++) {
    const answer = await patiently(() => text(following, { signal }), signal, (error) => looking(`${error.message} Trying again…`));
    events = items(answer.text);
    following = answer.next;
    if (looks) looking(`Looking… ${new URLSearchParams(following ?? "").get("from") ?? ""}`);
  }
  return { events, following };
}

function told(events, page, isMore) {
  if (events) return `Page ${page + 1}, ${plural(events, "event")}${isMore ? "" : ", the last page"}`;
  return isMore ? "Nothing found yet; there is more to look through: Next" : "There is no such event.";
}
