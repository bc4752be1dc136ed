// What a tenant does now: rates, size, head, the subscriptions that are behind, and what is asked.

import { poll, text } from "./api.js";
import { el, fill, table } from "./dom.js";
import { Rates, seriesOf, sparkline, sum } from "./figures.js";
import { bytes, compact, count, milliseconds, NOTHING, rate } from "./format.js";
import { checkpointRow, COLUMNS } from "./view_subscriptions.js";

const EVERY_MS = 2_000;
const MOST_SUBSCRIPTIONS = 8;

const TILES = {
  head: ["Head", "the last position"],
  appended: ["Events in/s"],
  delivered: ["Events out/s"],
  requests: ["Requests/s"],
  size: ["Database", "the tenant’s file"],
  wal: ["Write-ahead log", "beside it"],
};

export async function overviewView(main, { signal, who }) {
  const rates = new Rates();
  const tiles = Object.fromEntries(Object.entries(TILES).map(([name, said]) => [name, tile(name, ...said)]));
  const checkpoints = el("tbody");
  const routes = el("tbody");
  const refusals = el("tbody");
  const problem = el("p", { class: "problem", role: "alert" });
  main.replaceChildren(
    el("h1", { tabindex: "-1" }, who),
    problem,
    el("dl", { class: "tiles" }, Object.values(tiles).map(({ element }) => element)),
    el("section", {}, el("h2", {}, "Furthest behind"), table("Subscriptions that are furthest behind", COLUMNS, checkpoints)),
    el(
      "section",
      {},
      el("h2", {}, "Requests"),
      table("Requests by route", [["route", "name"], ["per s", "number"], ["all", "number"], ["average", "number"]], routes),
      el("p", { class: "quiet" }, "Since the server’s start. What this page asks is in it: a request every two seconds."),
    ),
    el("section", {}, el("h2", {}, "Refusals"), table("Refusals by reason", ["reason", ["all", "number"]], refusals)),
  );

  await poll(
    async () => {
      const metrics = await text("/metrics", { headers: { Accept: "text/plain" }, signal });
      const families = seriesOf(metrics.text);
      drawTiles(tiles, families, rates);
      drawBehind(checkpoints, families);
      drawRoutes(routes, families, rates);
      drawRefusals(refusals, families);
    },
    EVERY_MS,
    signal,
    (error) => (problem.textContent = error?.message ?? ""),
  );
}

function tile(name, label, meaning) {
  const value = el("span", { class: "value", id: `tile-${name}` }, NOTHING);
  const chart = el("span", { class: "chart" }, meaning);
  const element = el("div", { class: "tile" }, el("dt", {}, label), el("dd", {}, value, chart));
  return { element, value, chart, label };
}

function drawTiles(tiles, families, rates) {
  const counted = {
    appended: "ebus_events_appended_total",
    delivered: "ebus_events_delivered_total",
    requests: "ebus_requests_total",
  };
  for (const [name, family] of Object.entries(counted)) {
    rates.add(name, sum(families, family) ?? 0);
    const now = rates.now(name);
    tiles[name].value.textContent = rate(now);
    const label = `${tiles[name].label}, the last two minutes: now ${rate(now)}`;
    tiles[name].chart.replaceChildren(sparkline(rates.all(name), label));
  }
  tiles.head.value.textContent = count(sum(families, "ebus_head_position"));
  tiles.size.value.textContent = bytes(sum(families, "ebus_database_bytes"));
  tiles.wal.value.textContent = bytes(sum(families, "ebus_wal_bytes"));
}

function drawBehind(body, families) {
  const head = sum(families, "ebus_head_position");
  const lags = families.get("ebus_subscription_lag_events") ?? [];
  const behind = lags.filter(({ value }) => value > 0).sort((one, other) => other.value - one.value);
  const rows = behind.slice(0, MOST_SUBSCRIPTIONS).map(({ labels, value }) =>
    checkpointRow({ id: labels.subscription, position: head - value, lag: value }),
  );
  const nothing = lags.length ? "All subscriptions are level with the head." : "No subscription has saved a checkpoint.";
  fill(body, rows, COLUMNS.length, nothing);
}

function drawRoutes(body, families, rates) {
  const routes = new Map();
  for (const { labels, value } of families.get("ebus_requests_total") ?? []) {
    const name = `${labels.method} ${labels.route}`;
    routes.set(name, (routes.get(name) ?? 0) + value);
  }
  const rows = [...routes].sort(([, one], [, other]) => other - one);
  fill(
    body,
    rows.map(([name, all]) => {
      rates.add(name, all);
      const isMeant = (labels) => `${labels.method} ${labels.route}` === name;
      const took = sum(families, "ebus_request_duration_seconds_sum", isMeant);
      const timed = sum(families, "ebus_request_duration_seconds_count", isMeant);
      return el(
        "tr",
        {},
        el("td", {}, el("code", {}, name)),
        el("td", { class: "number" }, rate(rates.now(name))),
        el("td", { class: "number" }, compact(all)),
        el("td", { class: "number" }, milliseconds(timed ? took / timed : null)),
      );
    }),
    4,
    "None yet.",
  );
}

function drawRefusals(body, families) {
  const found = (families.get("ebus_refusals_total") ?? []).filter(({ value }) => value);
  found.sort((one, other) => other.value - one.value);
  const rows = found.map(({ labels, value }) =>
    el("tr", {}, el("td", {}, el("code", {}, labels.reason)), el("td", { class: "number" }, count(value))),
  );
  fill(body, rows, 2, "None.");
}
