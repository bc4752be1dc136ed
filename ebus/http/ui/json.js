// JSON as it is stored: every digit, and every key in its place.
//
// `JSON.parse` would round numbers and drop keys that come twice; an event's data is shown as its
// text instead, taken apart where somebody looks.

/** Where the value ends that begins at `at`. The text is valid JSON. */
function endOf(text, at) {
  const first = text[at];
  if (first === '"') return endOfString(text, at);
  if (first !== "{" && first !== "[") {
    let end = at;
    while (end < text.length && !",]} \n\r\t".includes(text[end])) end++;
    return end;
  }
  let depth = 0;
  for (let end = at; end < text.length; end++) {
    const one = text[end];
    if (one === '"') end = endOfString(text, end) - 1;
    else if (one === "{" || one === "[") depth++;
    else if ((one === "}" || one === "]") && --depth === 0) return end + 1;
  }
  return text.length;
}

function endOfString(text, at) {
  for (let end = at + 1; end < text.length; end++) {
    if (text[end] === "\\") end++;
    else if (text[end] === '"') return end + 1;
  }
  return text.length;
}

function skip(text, at, what = "") {
  while (at < text.length && (" \n\r\t".includes(text[at]) || (what && text[at] === what))) at++;
  return at;
}

/** What the server says of positions: past 2^53 they are a `BigInt`, where the browser can. */
export function exact(text) {
  return JSON.parse(text, (_, value, context) =>
    Number.isInteger(value) && !Number.isSafeInteger(value) && /^-?\d+$/.test(context?.source) ? BigInt(context.source) : value,
  );
}

/** The values of an array, each as its text. */
export function items(text) {
  const found = [];
  let at = skip(text, skip(text, 0) + 1);
  while (at < text.length && text[at] !== "]") {
    const end = endOf(text, at);
    found.push(text.slice(at, end));
    at = skip(text, end, ",");
  }
  return found;
}

/** The members of an object, in order: key and value, each as its text. */
export function members(text) {
  const found = [];
  let at = skip(text, skip(text, 0) + 1);
  while (at < text.length && text[at] !== "}") {
    const endOfKey = endOf(text, at);
    const value = skip(text, endOfKey, ":");
    const end = endOf(text, value);
    found.push([text.slice(at, endOfKey), text.slice(value, end)]);
    at = skip(text, end, ",");
  }
  return found;
}

/** An event: `raw` as it came, its members as their texts in `texts`, and those for people. */
export function eventOf(raw) {
  const texts = Object.fromEntries(members(raw).map(([key, value]) => [JSON.parse(key), value]));
  const value = (name) => (name in texts ? JSON.parse(texts[name]) : null);
  return {
    raw,
    position: texts.position ?? "",
    data: texts.data ?? "null",
    metadata: texts.metadata ?? null,
    version: texts.version ?? null,
    type: value("type") ?? "",
    timestamp: value("timestamp") ?? "",
    stream: value("stream"),
    id: value("id"),
  };
}
