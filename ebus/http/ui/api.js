// The API of the server, and the key that opens it.
//
// The key is kept for this tab only and goes out in a header: it never stands in an address.

const KEPT = "ebus-key";
const TIMEOUT_MS = 20_000;
const CHANGE_TIMEOUT_MS = 60_000; // an admin's change is answered when every worker has it
export const LONGEST_WAIT_MS = 30_000;
const LONGEST_RETRY_AFTER_MS = 600_000;

let key = sessionStorage.getItem(KEPT);

export const hasKey = () => key !== null;

export function keep(entered) {
  key = entered;
  sessionStorage.setItem(KEPT, entered);
}

export function forget() {
  key = null;
  sessionStorage.removeItem(KEPT);
}

const ADVICE = {
  key_required: "Sign in with a key.",
  key_invalid: "Look whether it was copied as a whole. An operator can make a new one.",
  key_expired: "Ask an operator for a new one.",
  insufficient_scope: "Use a key whose scope allows it.",
  tenant_suspended: "Whoever runs the server can resume the tenant.",
  rate_limited: "Wait a moment.",
  too_many_failed_keys: "Wait a minute, then try again.",
  too_many_tails: "Close other pages that follow this tenant.",
  quota_exceeded: "An operator can raise the tenant's limit.",
  internal_error: "The server's log says more.",
};

const BROKEN = { detail: "The server’s answer broke off, or is not one of ebus." };

/** What the server refused, in words. */
export class ApiError extends Error {
  constructor(status, problem, retryAfter) {
    const said = problem.detail || problem.title || `The server answered ${status}`;
    const advice = ADVICE[problem.code];
    super(advice ? `${said.replace(/[.]?$/, ".")} ${advice}` : said);
    this.status = status;
    this.code = problem.code ?? "";
    // A proxy may say a date, which is no number: then the page waits as long as it does by itself.
    this.retryAfterMs = Math.min(Number(retryAfter ?? 0) * 1_000 || 0, LONGEST_RETRY_AFTER_MS);
  }

  /** Whether it may go better by itself. */
  get passes() {
    return this.status === 0 || this.status === 429 || this.status >= 500 || this.code === "tenant_suspended";
  }
}

/** A request. What is not a success is an `ApiError`. */
export async function request(path, { method = "GET", body, headers = {}, signal } = {}) {
  let answer;
  try {
    answer = await fetch(path, {
      method,
      body: body === undefined ? undefined : JSON.stringify(body),
      headers: {
        "X-API-Key": key ?? "",
        ...(body === undefined ? {} : { "Content-Type": "application/json" }),
        ...headers,
      },
      signal,
      cache: "no-store",
      credentials: "omit",
      redirect: "error",
      referrerPolicy: "no-referrer",
    });
  } catch (error) {
    if (signal?.aborted && signal.reason?.name !== "TimeoutError") throw error;
    throw new ApiError(0, { detail: "The server does not answer. Is it running?" });
  }
  if (!answer.ok) throw await refusal(answer);
  if (answer.headers.get("Content-Type")?.startsWith("text/html")) throw new ApiError(0, BROKEN); // a proxy's own
  return answer;
}

async function refusal(answer) {
  let problem = {};
  try {
    problem = await answer.json();
  } catch {
    // Something between here and the server answered: the status is all there is.
  }
  const refused = new ApiError(answer.status, problem, answer.headers.get("Retry-After"));
  if (answer.status === 401) window.dispatchEvent(new CustomEvent("refused", { detail: refused }));
  return refused;
}

function within({ signal, method = "GET" }) {
  const timeout = AbortSignal.timeout(method === "GET" ? TIMEOUT_MS : CHANGE_TIMEOUT_MS);
  return signal ? AbortSignal.any([signal, timeout]) : timeout;
}

/** `read` makes something of the text. */
export async function json(path, { read = JSON.parse, ...options } = {}) {
  const answer = await request(path, { ...options, signal: within(options) });
  return answer.status === 204 ? null : whole(async () => read(await answer.text()), options.signal);
}

export async function text(path, options = {}) {
  const answer = await request(path, { ...options, signal: within(options) });
  return { text: await whole(() => answer.text(), options.signal), next: nextOf(answer) };
}

/** What an answer holds. One that breaks off, or that a proxy made up, is a failure that passes. */
async function whole(read, signal) {
  try {
    return await read();
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError(0, BROKEN);
  }
}

/** Where to go on, as the Link header says. */
function nextOf(answer) {
  return /<([^>]+)>;\s*rel="next"/.exec(answer.headers.get("Link") ?? "")?.[1] ?? null;
}

/** A path with a query of those parameters that say anything; a list is said several times. */
export function at(path, parameters) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) {
    for (const one of [value].flat()) {
      if (one !== "" && one != null) query.append(name, one);
    }
  }
  const said = query.toString();
  return said ? `${path}?${said}` : path;
}

/** Call `ask` again and again until the signal says stop; not while nobody looks. */
export async function poll(ask, everyMs, signal, failed) {
  let failures = 0;
  while (!signal.aborted) {
    let waitMs = everyMs;
    if (!document.hidden) {
      try {
        await ask();
        if (failures) failed(null);
        failures = 0;
      } catch (error) {
        if (signal.aborted) return;
        if (!(error instanceof ApiError)) throw error;
        failed(error);
        const patientMs = error.passes ? Math.min(everyMs * 2 ** failures, LONGEST_WAIT_MS) : LONGEST_WAIT_MS;
        failures++;
        waitMs = Math.max(error.retryAfterMs, patientMs);
      }
    }
    await pause(waitMs, signal);
  }
}

/** Ask until there is an answer, however long the server is busy. `told` hears why it takes so long. */
export async function patiently(ask, signal, told) {
  for (let waitMs = 1_000; ; waitMs = Math.min(waitMs * 2, LONGEST_WAIT_MS)) {
    try {
      return await ask();
    } catch (error) {
      if (signal.aborted || !(error instanceof ApiError && error.passes)) throw error;
      told(error);
      await pause(Math.max(error.retryAfterMs, waitMs), signal);
      signal.throwIfAborted();
    }
  }
}

/** Wait, unless the signal says stop. What waits goes on when somebody looks at the page again. */
export function pause(ms, signal) {
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", done);
      document.removeEventListener("visibilitychange", looked);
      resolve();
    };
    const looked = () => document.hidden || done();
    const timer = setTimeout(done, ms);
    signal.addEventListener("abort", done);
    document.addEventListener("visibilitychange", looked);
  });
}
