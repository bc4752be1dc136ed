// Elements. Whatever is put into one is text: nothing here reads HTML.

/**
 * An element. `on` are listeners; `class`, `aria-…` and the like are attributes, left out when they
 * are null or false; children are elements, text, lists of them, or null.
 */
export function el(name, { on, ...attributes } = {}, ...children) {
  return filled(document.createElement(name), attributes, on, children);
}

/** An element of a picture. */
export function svg(name, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  return filled(element, attributes, null, children);
}

function filled(element, attributes, on, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  for (const [event, listener] of Object.entries(on ?? {})) element.addEventListener(event, listener);
  element.append(...children.flat(3).filter((child) => child != null && child !== false));
  return element;
}

/** A button that is no submit button. While what it starts goes on, to press it does nothing. */
export function button(label, act, attributes = {}) {
  const made = el("button", { type: "button", ...attributes }, label);
  made.addEventListener("click", async () => {
    if (made.ariaBusy === "true") return;
    made.ariaBusy = "true";
    try {
      await act();
    } finally {
      made.ariaBusy = null;
    }
  });
  return made;
}

let labels = 0;

/** A label and what it is of. */
export function field(label, input, hint = null) {
  input.id ||= `field-${++labels}`;
  const told = hint ? el("small", { id: `${input.id}-hint` }, hint) : null;
  if (told) input.setAttribute("aria-describedby", told.id);
  return el("div", { class: "field" }, el("label", { for: input.id }, label), input, told);
}

export function select(options, value, attributes = {}) {
  const made = el(
    "select",
    attributes,
    Object.entries(options).map(([name, label]) => el("option", { value: name }, label)),
  );
  made.value = value;
  return made;
}

/** A table with a head. A column is its label, or a label and the class of its cells. */
export function table(caption, columns, body) {
  return el(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    el(
      "table",
      {},
      el("caption", { class: "unseen" }, caption),
      el(
        "thead",
        {},
        el(
          "tr",
          {},
          columns.map((column) => {
            const [label, kind] = [column].flat();
            const heading = label || el("span", { class: "unseen" }, "what can be done");
            return el("th", { scope: "col", class: kind ?? null }, heading);
          }),
        ),
      ),
      body,
    ),
  );
}

/** Rows, or in their place that there are none. What had the focus has it again. */
export function fill(body, rows, columns, nothing) {
  const focused = body.contains(document.activeElement) ? document.activeElement : null;
  const called = focused && inRow(focused);
  body.replaceChildren(...(rows.length ? rows : [el("tr", {}, el("td", { colspan: columns, class: "quiet" }, nothing))]));
  if (!focused) return;
  const again = [...body.querySelectorAll("a, button")].find((one) => inRow(one) === called);
  refocus(focused, again ?? document.querySelector("main h1")); // and never what another row is revoked by
}

const inRow = (element) => `${element.closest("tr").cells[0].textContent}\n${element.textContent}`;

/** Focus it again. Where it was drawn anew: what is in its place, or else the heading. */
export function refocus(before, instead = null) {
  const main = document.getElementById("main");
  const named = () => [...main.querySelectorAll("button, a")].find((one) => one.textContent === before.textContent);
  (before.isConnected ? before : (instead ?? named() ?? main.querySelector("h1")))?.focus();
}

let lastMessage = 0;

/** Tell whoever uses the page something that passes. */
export function tell(text, kind = "good") {
  const number = ++lastMessage;
  const message = el(
    "p",
    { class: `message ${kind}`, role: kind === "bad" ? "alert" : null },
    text,
  );
  document.getElementById("messages").replaceChildren(message);
  setTimeout(() => number === lastMessage && message.remove(), kind === "bad" ? 10_000 : 4_000);
}

/** Put text into the clipboard. Returns whether it is there. */
export async function copy(text, what) {
  const isCopied = await write(text);
  if (isCopied) tell(`Copied ${what}.`);
  else tell(`The browser does not let the page copy ${what}.`, "bad");
  return isCopied;
}

async function write(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // It may not, or the page has not come by TLS.
  }
  const before = document.activeElement;
  const area = el("textarea", { class: "unseen", readonly: true });
  (document.querySelector("dialog[open]") ?? document.body).append(area);
  area.value = text;
  area.select();
  const isCopied = document.execCommand("copy");
  area.remove();
  before?.focus();
  return isCopied;
}
