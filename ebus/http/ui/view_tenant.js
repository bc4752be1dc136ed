// One tenant, as its admin sees it, and what can be done about it.

import { json, poll } from "./api.js";
import { button, el, fill, refocus, table } from "./dom.js";
import { Rates, sparkline } from "./figures.js";
import { bytes, count, moment, NOTHING, rate } from "./format.js";
import * as actions from "./tenant_actions.js";
import { said } from "./view_tenants.js";

const EVERY_MS = 2_000;
const RATES = { requests: "Requests/s", events_in: "Events in/s", events_out: "Events out/s", refusals: "Refusals/s" };

/** Those of the config file. */
const LIMITS = ["max_requests_per_second", "max_request_burst", "max_events_per_second", "max_stored_events", "max_stored_bytes"];

export async function tenantView(main, { signal, rest: [name] }) {
  const rates = new Rates();
  const state = el("span");
  const tiles = el("dl", { class: "tiles" });
  const facts = el("dl", { class: "facts" });
  const keys = el("tbody");
  const limits = el("tbody");
  const tools = el("div", { class: "actions" });
  const note = el("p", { class: "quiet" });
  const problem = el("p", { class: "problem", role: "alert" });
  main.replaceChildren(
    el("p", {}, el("a", { href: "#/tenants" }, "← Tenants")),
    el("div", { class: "headed" }, el("h1", { tabindex: "-1" }, name), state),
    problem,
    tiles,
    facts,
    note,
    tools,
    el("section", {}, el("h2", {}, "Keys"), table("Keys", ["name", "scope", "expires", ""], keys)),
    el("section", {}, el("h2", {}, "Limits of its own"), table("Limits", ["limit", ["value", "number"]], limits)),
    el("p", {}, el("a", { href: `#/audit?tenant=${encodeURIComponent(name)}` }, "What was done to it")),
  );

  let drawn = "";

  async function read() {
    const tenant = await json(`/admin/tenants/${encodeURIComponent(name)}`, { signal });
    for (const counter of Object.keys(RATES)) rates.add(counter, tenant.figures?.[counter]);
    drawTiles(tiles, tenant.figures, rates);
    const { figures: _, ...settings } = tenant;
    const now = JSON.stringify(settings);
    if (now !== drawn) draw(tenant); // or else buttons would lose the focus
    drawn = now;
  }

  function draw(tenant) {
    const isReadOnly = tenant.source === "file";
    state.replaceChildren(el("span", { class: `badge ${tenant.state}`, id: "state" }, tenant.state));
    facts.replaceChildren(
      fact("Created", moment(tenant.created_at)),
      fact("Durability", tenant.durability ?? "the server’s"),
      fact("Stands in", isReadOnly ? "the config file" : "the registry"),
    );
    note.textContent = isReadOnly ? "It is changed in the config file, not here." : "";
    const focused = tools.contains(document.activeElement) ? document.activeElement : null;
    const place = [...tools.children].indexOf(focused);
    tools.replaceChildren(...(isReadOnly ? [] : toolsOf(tenant)));
    if (focused) refocus(focused, tools.children[place]);
    fill(keys, tenant.keys.map((key) => keyRow(key, isReadOnly)), 4, "No key: nobody gets in.");
    const own = Object.entries(tenant.limits);
    fill(
      limits,
      own.map(([limit, value]) => el("tr", {}, el("td", {}, el("code", {}, limit)), el("td", { class: "number" }, count(value)))),
      2,
      "None: those of all tenants.",
    );
  }

  function toolsOf(tenant) {
    const isActive = tenant.state === "active";
    return [
      isActive
        ? button("Suspend", () => actions.suspend(name, read))
        : button("Resume", () => actions.resume(name, read), { class: "first" }),
      opens("Add a key", () => actions.addKey(name, read)),
      opens("Rotate a key", () => actions.rotateKey(name, tenant.keys, read)),
      opens("Limits", () => actions.changeLimits(name, tenant.limits, [...new Set([...LIMITS, ...Object.keys(tenant.limits)])], read)),
      opens("Durability", () => actions.changeDurability(name, tenant.durability, read)),
      opens("Delete", () => actions.deleteTenant(name, () => (location.hash = "#/tenants")), {
        class: "danger",
        disabled: isActive,
        title: isActive ? "Suspend it first" : null,
      }),
    ];
  }

  function keyRow(key, isReadOnly) {
    return el(
      "tr",
      {},
      el("td", {}, key.name || NOTHING),
      el("td", {}, key.scope),
      el("td", {}, key.expires_at ? moment(key.expires_at) : "never"),
      el("td", { class: "actions" }, isReadOnly ? null : opens("Revoke", () => actions.revokeKey(name, key.name, read))),
    );
  }

  await poll(read, EVERY_MS, signal, (error) => (problem.textContent = said(error)));
}

function opens(label, open, attributes = {}) {
  return el("button", { type: "button", on: { click: open }, ...attributes }, label);
}

function fact(name, value) {
  return el("div", {}, el("dt", {}, name), el("dd", {}, value));
}

function drawTiles(tiles, figures, rates) {
  const moving = Object.entries(RATES).map(([counter, label]) => {
    const now = rates.now(counter);
    return tile(label, rate(now), sparkline(rates.all(counter), `${label}: now ${rate(now)}`));
  });
  tiles.replaceChildren(
    tile("Head", count(figures?.head), "the last position"),
    tile("Database", bytes(figures?.size_bytes), "the tenant’s file"),
    ...moving,
  );
}

function tile(label, value, below) {
  return el("div", { class: "tile" }, el("dt", {}, label), el("dd", {}, el("span", { class: "value" }, value), el("span", { class: "chart" }, below)));
}
