// The live tail: events as they are appended, over a connection that is made again when it breaks.
//
// `EventSource` cannot send a key in a header; so this reads an event a line.

import { ApiError, at, LONGEST_WAIT_MS, pause, request } from "./api.js";

const SILENT_MS = 40_000; // the server sends an empty line every 15 s

/**
 * Follow the log until the signal says stop. `parameters` are filters and `last`. `on.event(line)`
 * gets each event as it came; `on.state(text, isLive)` is told how it goes.
 */
export async function follow(parameters, positionOf, on, signal) {
  let seen = null;
  let waitMs = 1_000;
  while (!signal.aborted) {
    try {
      const { last, ...filters } = parameters;
      const path = at("/events/stream", { follow: "true", ...filters, last: seen ? "" : last });
      for await (const line of lines(path, seen, signal, () => on.state("Live", true))) {
        seen = positionOf(line);
        waitMs = 1_000;
        on.event(line);
      }
      on.state("The server ended the tail. Connecting again…", false);
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof ApiError) {
        if (!error.passes) throw error;
        waitMs = Math.max(waitMs, error.retryAfterMs);
        on.state(`${error.message} Connecting again…`, false);
      } else {
        on.state("The connection broke. Connecting again…", false);
      }
    }
    await pause(waitMs, signal);
    waitMs = Math.min(waitMs * 2, LONGEST_WAIT_MS);
  }
}

async function* lines(path, seen, signal, begun) {
  const silence = new AbortController();
  const both = AbortSignal.any([signal, silence.signal]);
  const headers = { Accept: "application/x-ndjson" };
  if (seen !== null) headers["Last-Event-ID"] = seen;
  let timer = setTimeout(() => silence.abort(), SILENT_MS);
  const answer = await request(path, { headers, signal: both }).finally(() => clearTimeout(timer));
  begun();
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let parts = [];
  try {
    for (;;) {
      timer = setTimeout(() => silence.abort(), SILENT_MS);
      const { value, done } = await reader.read();
      clearTimeout(timer);
      if (done) return; // what is left without its end was cut short
      const pieces = value.split("\n");
      for (const [number, piece] of pieces.entries()) {
        parts.push(piece);
        if (number === pieces.length - 1) break;
        const line = parts.join("");
        parts = [];
        if (line.trim()) yield line;
      }
    }
  } finally {
    clearTimeout(timer);
    reader.cancel().catch(() => {});
  }
}
