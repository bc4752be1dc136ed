// Subscriptions: where each has got to, how far it is behind, and what its consumers hold.

import { json, poll, request } from "./api.js";
import { button, el, field, fill, table, tell } from "./dom.js";
import { count, moment, plural } from "./format.js";
import { exact } from "./json.js";

const EVERY_MS = 2_000;
const MOST = 200;

export const COLUMNS = [["subscription", "name"], ["position", "number"], ["lag", "number"]];

export function checkpointRow({ id, position, lag }) {
  return el(
    "tr",
    {},
    el("td", {}, el("a", { href: `#/subscriptions/${encodeURIComponent(id)}`, "data-row": true }, id)),
    el("td", { class: "number" }, count(position)),
    el("td", { class: "number" }, el("span", { class: lag ? "behind" : "level" }, lag ? count(lag) : "0")),
  );
}

export async function subscriptionsView(main, context) {
  await (context.rest[0] ? oneView : listView)(main, context);
}

async function listView(main, { signal }) {
  const body = el("tbody");
  const prefix = el("input", { type: "search", placeholder: "mail", autocomplete: "off", "data-search": true });
  const state = el("p", { class: "quiet", role: "status" });
  const problem = el("p", { class: "problem", role: "alert" });
  main.replaceChildren(
    el("h1", { tabindex: "-1" }, "Subscriptions"),
    el("form", { class: "filters", on: { submit: (event) => event.preventDefault() } }, field("Name begins with", prefix)),
    problem,
    table("Subscriptions", COLUMNS, body),
    state,
  );
  const draw = async () => {
    const asked = prefix.value;
    const path = `/subscriptions?limit=${MOST}&prefix=${encodeURIComponent(asked)}`;
    const { subscriptions, head } = await json(path, { signal, read: exact });
    if (asked !== prefix.value) return;
    fill(body, subscriptions.map(checkpointRow), 3, "No subscription has saved a checkpoint.");
    const more = subscriptions.length === MOST ? `, the first ${MOST}; narrow them by name` : "";
    state.textContent = `${plural(subscriptions.length, "subscription")}${more}. The head is ${count(head)}.`;
  };
  prefix.addEventListener("input", () => draw().catch(() => {})); // the next round tells
  await poll(draw, EVERY_MS, signal, (error) => (problem.textContent = error?.message ?? ""));
}

async function oneView(main, { signal, rest: [id] }) {
  const path = `/subscriptions/${encodeURIComponent(id)}`;
  const facts = el("dl", { class: "facts" });
  const leases = el("tbody");
  const parked = el("tbody");
  const problem = el("p", { class: "problem", role: "alert" });
  main.replaceChildren(
    el("p", {}, el("a", { href: "#/subscriptions" }, "← Subscriptions")),
    el("h1", { tabindex: "-1" }, id),
    problem,
    facts,
    el("section", {}, el("h2", {}, "Leased"), table("Leases", ["events", ["attempt", "number"], "until"], leases)),
    el("section", {}, el("h2", {}, "Parked"), table("Parked", ["events", ["attempts", "number"], "reason", ""], parked)),
  );
  const draw = async () => {
    const found = await json(path, { signal, read: exact });
    facts.replaceChildren(
      ...[["Position", found.position], ["Lag", found.lag], ["Handed out up to", found.frontier], ["Waiting for another try", found.waiting.length]]
        .map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, count(value)))),
    );
    fill(leases, found.leases.map(leaseRow), 3, "Nobody holds any.");
    fill(parked, found.parked.map((one) => parkedRow(path, one, draw)), 4, "None.");
  };
  await poll(draw, EVERY_MS, signal, (error) => (problem.textContent = error?.message ?? ""));
}

function range({ first_position: first, last_position: last }) {
  return first === last ? count(first) : `${count(first)} – ${count(last)}`;
}

function leaseRow(lease) {
  return el(
    "tr",
    {},
    el("td", {}, range(lease)),
    el("td", { class: "number" }, `${lease.attempt} of ${lease.max_attempts}`),
    el("td", {}, moment(lease.expires_at)),
  );
}

function parkedRow(path, one, draw) {
  const act = (method, end, done) => async () => {
    await request(`${path}/parked/${one.first_position}${end}`, { method });
    tell(done);
    await draw();
  };
  return el(
    "tr",
    {},
    el("td", {}, range(one)),
    el("td", { class: "number" }, count(one.attempts ?? one.attempt)),
    el("td", {}, one.reason ?? ""),
    el(
      "td",
      { class: "actions" },
      button("Redeliver", act("POST", "/redeliver", "It is handed out again.")),
      button("Drop", act("DELETE", "", "It is forgotten.")),
    ),
  );
}
