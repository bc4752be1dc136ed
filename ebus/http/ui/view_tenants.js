// All tenants, a page at a time, with what each of them does now.

import { ApiError, at, json, poll } from "./api.js";
import { button, el, field, fill, select, table } from "./dom.js";
import { showKey } from "./dialog.js";
import { Rates, sparkline } from "./figures.js";
import { bytes, count, rate } from "./format.js";
import { createTenant } from "./tenant_actions.js";

const EVERY_MS = 3_000;
const SIZES = { 25: "25", 100: "100", 500: "500" };

const SORTS = {
  tenant: ["name", (tenant) => tenant.tenant, 1],
  requests: ["requests a second", (_, rates) => -(rates.requests ?? -1), 1],
  events_in: ["events in a second", (_, rates) => -(rates.events_in ?? -1), 1],
  head: ["head", (tenant) => -(tenant.figures?.head ?? -1), 1],
  size: ["size", (tenant) => -(tenant.figures?.size_bytes ?? -1), 1],
};

const COLUMNS = [
  ["tenant", "name"],
  "state",
  ["requests/s", "number"],
  ["last minutes", "chart-cell"],
  ["events in/s", "number"],
  ["head", "number"],
  ["size", "number"],
];

export async function tenantsView(main, { signal, query }) {
  const rates = new Rates();
  const prefix = el("input", { type: "search", value: query.get("prefix"), placeholder: "acme", autocomplete: "off", spellcheck: "false", "data-search": true });
  const sort = select(Object.fromEntries(Object.entries(SORTS).map(([name, [label]]) => [name, label])), "tenant");
  const size = select(SIZES, "25");
  const body = el("tbody");
  const total = el("span", { class: "quiet", role: "status" });
  const problem = el("p", { class: "problem", role: "alert" });
  const previous = button("Back", () => turn(-1), { "data-previous": true, disabled: true });
  const next = button("Next", () => turn(1), { "data-next": true, disabled: true });
  main.replaceChildren(
    el(
      "div",
      { class: "headed" },
      el("h1", { tabindex: "-1" }, "Tenants"),
      el("button", { type: "button", class: "first", id: "create", on: { click: create } }, "Create a tenant"),
    ),
    el(
      "form",
      { class: "filters", on: { submit: (event) => event.preventDefault() } },
      field("Name begins with", prefix),
      field("Sort this page by", sort),
      field("Tenants a page", size),
    ),
    problem,
    table("Tenants", COLUMNS, body),
    el("div", { class: "pages" }, previous, next, total),
  );

  let starts = [""];
  let page = 0;
  let tenants = [];
  let asked = 0;

  async function turn(by) {
    page += by;
    await read();
  }

  async function read() {
    const number = ++asked;
    const wanted = { limit: size.value, after: starts[page], prefix: prefix.value.trim(), figures: "true" };
    const found = await json(at("/admin/tenants", wanted), { signal });
    if (number !== asked) return; // another question came after this one
    ({ tenants } = found);
    starts = starts.slice(0, page + 1);
    if (found.next) starts.push(found.next);
    previous.disabled = page === 0;
    next.disabled = !found.next;
    total.textContent = `Page ${page + 1}. ${count(found.count)} in all.`;
    take(rates, tenants);
    draw();
  }

  function draw() {
    const of = (tenant) => ({ requests: rates.now(`${tenant.tenant} requests`), events_in: rates.now(`${tenant.tenant} events_in`) });
    const [, by] = SORTS[sort.value];
    const sorted = [...tenants].sort((one, other) => order(by(one, of(one)), by(other, of(other))));
    fill(body, sorted.map((tenant) => tenantRow(tenant, rates)), COLUMNS.length, "There is no such tenant.");
  }

  function create() {
    createTenant((created) => {
      showKey(created);
      read().catch(() => {}); // the next round tells
    });
  }

  const again = () => {
    starts = [""];
    page = 0;
    read().catch((error) => {
      if (error instanceof ApiError) problem.textContent = error.message;
    });
  };
  prefix.addEventListener("input", again);
  size.addEventListener("change", again);
  sort.addEventListener("change", draw);
  await poll(read, EVERY_MS, signal, (error) => (problem.textContent = said(error)));
}

/** A server of a single tenant has no routes for its admin: the key is good for figures only. */
export function said(error) {
  if (error?.code === "not_found" || error?.code === "admin_key") {
    return "This server has a single tenant: its admin key is for the figures at /metrics.";
  }
  return error?.message ?? "";
}

function order(one, other) {
  return one < other ? -1 : one > other ? 1 : 0;
}

const COUNTED = ["requests", "events_in", "events_out"];

/** Take down the counters of these tenants, and forget those of all others. */
function take(rates, tenants) {
  const names = new Set();
  for (const { tenant, figures } of tenants) {
    for (const counter of COUNTED) {
      names.add(`${tenant} ${counter}`);
      rates.add(`${tenant} ${counter}`, figures?.[counter]);
    }
  }
  rates.keep(names);
}

function tenantRow({ tenant, state, figures }, rates) {
  const requests = `${tenant} requests`;
  const now = rates.now(requests);
  return el(
    "tr",
    {},
    el("td", {}, el("a", { href: `#/tenant/${encodeURIComponent(tenant)}`, "data-row": true }, tenant)),
    el("td", {}, el("span", { class: `badge ${state}` }, state)),
    el("td", { class: "number" }, rate(now)),
    el("td", { class: "chart-cell" }, sparkline(rates.all(requests), `Requests of ${tenant} a second: now ${rate(now)}`, 96, 20)),
    el("td", { class: "number" }, rate(rates.now(`${tenant} events_in`))),
    el("td", { class: "number" }, count(figures?.head)),
    el("td", { class: "number" }, bytes(figures?.size_bytes)),
  );
}
