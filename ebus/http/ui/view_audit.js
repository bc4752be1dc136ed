// What was done to tenants and by whom, and the trash of those that were deleted.

import { at, json, patiently } from "./api.js";
import { button, el, field, fill, table, tell } from "./dom.js";
import { bytes, moment } from "./format.js";
import { purge } from "./tenant_actions.js";

const PAGE = 100;

const said = (error) => tell(`${error.message} Trying again…`, "bad");

export async function auditView(main, { signal, query }) {
  const tenant = el("input", { type: "search", value: query.get("tenant"), placeholder: "acme", autocomplete: "off", "data-search": true });
  const body = el("tbody");
  const older = button("Older", () => read(before), { "data-next": true, disabled: true });
  main.replaceChildren(
    el("h1", { tabindex: "-1" }, "Audit"),
    el("form", { class: "filters", on: { submit: filter } }, field("Tenant", tenant), el("div", { class: "actions" }, el("button", {}, "Filter"))),
    table("Audit, newest first", ["at", "action", ["tenant", "name"], ["what", "name"], "who"], body),
    el("div", { class: "pages" }, older),
  );
  let before = null;

  function filter(event) {
    event.preventDefault();
    location.hash = at("#/audit", { tenant: tenant.value.trim() });
  }

  async function read(from) {
    const wanted = { limit: PAGE, before: from, tenant: query.get("tenant") };
    const { audit, next } = await patiently(() => json(at("/admin/audit", wanted), { signal }), signal, said);
    if (from == null) fill(body, audit.map(auditRow), 5, "Nothing was done yet.");
    else body.append(...audit.map(auditRow));
    before = next;
    older.hidden = next == null;
    older.disabled = next == null;
  }

  await read(null);
  older.disabled = before == null;
}

function auditRow({ at: when, who, how, action, tenant, what }) {
  return el(
    "tr",
    {},
    el("td", { class: "moment" }, moment(when)),
    el("td", {}, action.replace(/_/g, " ")),
    el("td", {}, el("a", { href: `#/tenant/${encodeURIComponent(tenant)}` }, tenant)),
    el("td", {}, Object.entries(what ?? {}).map(([name, value]) => el("div", {}, `${name}: ${typeof value === "string" ? value : JSON.stringify(value)}`))),
    el("td", {}, `${who}, ${how}`),
  );
}

export async function trashView(main, { signal }) {
  const body = el("tbody");
  main.replaceChildren(
    el("h1", { tabindex: "-1" }, "Trash"),
    el("p", { class: "quiet" }, "The files of tenants that were deleted. They stay until they are purged."),
    table("Trash", ["tenant", "deleted", ["size", "number"], ""], body),
  );
  async function read() {
    const { trash } = await patiently(() => json("/admin/trash", { signal }), signal, said);
    fill(body, trash.map(trashRow), 4, "It is empty.");
  }
  function trashRow(item) {
    const open = () => purge(item, read);
    return el(
      "tr",
      {},
      el("td", {}, item.tenant),
      el("td", { class: "moment" }, moment(item.deleted_at)),
      el("td", { class: "number" }, bytes(item.size_bytes)),
      el("td", { class: "actions" }, el("button", { type: "button", class: "danger", on: { click: open } }, "Purge")),
    );
  }
  await read();
}
