// The frame of the page: who is signed in, which view is shown, and what the keys do.

import { ApiError, forget, hasKey, json, keep, patiently } from "./api.js";
import { el, tell } from "./dom.js";
import { listenToKeys, showKeys } from "./keys.js";
import { showSignIn } from "./sign_in.js";
import { auditView, trashView } from "./view_audit.js";
import { eventsView } from "./view_events.js";
import { liveView } from "./view_live.js";
import { overviewView } from "./view_overview.js";
import { subscriptionsView } from "./view_subscriptions.js";
import { tenantView } from "./view_tenant.js";
import { tenantsView } from "./view_tenants.js";

const OF_TENANT = {
  overview: { label: "Overview", key: "o", show: overviewView },
  events: { label: "Events", key: "e", show: eventsView },
  live: { label: "Live", key: "l", show: liveView },
  subscriptions: { label: "Subscriptions", key: "s", show: subscriptionsView },
};

const OF_ADMIN = {
  tenants: { label: "Tenants", key: "t", show: tenantsView },
  tenant: { label: "Tenant", isHidden: true, show: tenantView },
  trash: { label: "Trash", key: "x", show: trashView },
  audit: { label: "Audit", key: "a", show: auditView },
};

const main = document.getElementById("main");
const bar = document.getElementById("bar");

let views = OF_TENANT;
let who = "";
let shown = new AbortController();

/** Whose key it is, as the server says. */
async function recognise() {
  const figures = await json("/metrics", { headers: { Accept: "application/json" } });
  if ("total_events" in figures) return { isAdmin: false, name: figures.tenant ?? "tenant" };
  return { isAdmin: true, name: "admin" };
}

async function start() {
  if (!hasKey()) {
    askForKey();
    return;
  }
  const { signal } = shown;
  try {
    enter(await patiently(recognise, signal, showWait));
  } catch (error) {
    if (signal.aborted) return; // signed out meanwhile
    if (!(error instanceof ApiError)) throw error;
    signOut(error.message);
  }
}

/** In place of the views while the server does not say yet whose key it is. */
function showWait(error) {
  main.replaceChildren(
    el("h1", {}, "ebus"),
    el("p", { class: "problem", role: "alert" }, `${error.message} The page tries again by itself.`),
    el("button", { type: "button", on: { click: () => signOut() } }, "Sign out"),
  );
}

function enter({ isAdmin, name }) {
  views = isAdmin ? OF_ADMIN : OF_TENANT;
  who = name;
  drawBar();
  route();
}

function askForKey(problem = "") {
  shown.abort();
  document.querySelector("dialog[open]")?.close();
  bar.hidden = true;
  document.title = "Sign in · ebus";
  showSignIn(main, problem, async (entered) => {
    keep(entered);
    try {
      enter(await recognise());
    } catch (error) {
      forget();
      throw error;
    }
  });
}

function signOut(problem = "") {
  forget();
  history.replaceState(null, "", location.pathname);
  askForKey(problem);
}

function drawBar() {
  const links = Object.entries(views)
    .filter(([, view]) => !view.isHidden)
    .map(([name, view]) => el("a", { href: `#/${name}`, title: `g ${view.key}` }, view.label));
  bar.replaceChildren(
    el("a", { class: "brand", href: "#/" }, "ebus"),
    el("span", { class: "where", id: "who" }, who),
    el("nav", { "aria-label": "Views" }, links, el("a", { href: "/docs" }, "API")),
    el(
      "div",
      { class: "tools" },
      el("button", { type: "button", title: "Light or dark", "aria-label": "Light or dark", on: { click: turnTheme } }, "◐"),
      el("button", { type: "button", title: "Keys ( ? )", "aria-label": "Keys", on: { click: () => showKeys(views) } }, "?"),
      el("button", { type: "button", id: "sign-out", on: { click: () => signOut() } }, "Sign out"),
    ),
  );
  bar.hidden = false;
}

function turnTheme() {
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  const next = (root.dataset.theme ?? system) === "dark" ? "light" : "dark";
  root.dataset.theme = next;
  localStorage.setItem("ebus-theme", next);
}

/** Show what the address says: `#/events?type=A`. */
function route() {
  if (bar.hidden) return;
  document.querySelector("dialog[open]:not([data-stays])")?.close(); // it was asked of another view
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  const [name, ...rest] = path.split("/").map(decoded);
  const view = Object.hasOwn(views, name) ? views[name] : Object.values(views)[0];
  shown.abort();
  shown = new AbortController();
  main.replaceChildren();
  document.title = `${view.label} · ${who} · ebus`;
  for (const link of bar.querySelectorAll("nav a")) {
    const isHere = link.textContent === view.label || (view === OF_ADMIN.tenant && link.textContent === "Tenants");
    link.toggleAttribute("aria-current", isHere);
    if (isHere) link.setAttribute("aria-current", "page");
  }
  const { signal } = shown;
  const context = { signal, query: new URLSearchParams(query), rest, who };
  Promise.resolve(view.show(main, context)).catch((error) => fail(error, signal));
  main.querySelector("h1")?.focus({ preventScroll: true });
  window.scrollTo(0, 0);
}

function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part; // somebody has written it by hand
  }
}

function fail(error, signal) {
  if (signal.aborted) return;
  if (!(error instanceof ApiError)) throw error;
  tell(error.message, "bad");
}

window.addEventListener("hashchange", route);
window.addEventListener("refused", ({ detail }) => bar.hidden || signOut(detail.message));
window.addEventListener("unhandledrejection", (event) => {
  if (event.reason instanceof ApiError) {
    event.preventDefault();
    tell(event.reason.message, "bad");
  } else if (event.reason?.name === "AbortError") {
    event.preventDefault(); // whoever asked is gone
  }
});
listenToKeys(() => (bar.hidden ? {} : views));
await start();
