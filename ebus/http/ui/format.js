// Numbers, sizes and times for people.

const whole = new Intl.NumberFormat("en");
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

export const NOTHING = "–";

export function count(number) {
  return number == null ? NOTHING : whole.format(number);
}

export function compact(number) {
  if (number == null) return NOTHING;
  return number < 10_000 ? whole.format(Math.round(number)) : short.format(number);
}

export function rate(perSecond) {
  if (perSecond == null) return NOTHING;
  if (perSecond === 0) return "0";
  return perSecond < 10 ? perSecond.toFixed(1) : compact(perSecond);
}

export function bytes(number) {
  if (number == null) return NOTHING;
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (number >= 1_024 && unit < units.length - 1) {
    number /= 1_024;
    unit++;
  }
  return `${unit && number < 100 ? number.toFixed(1) : Math.round(number)} ${units[unit]}`;
}

export function milliseconds(seconds) {
  if (seconds == null) return NOTHING;
  const ms = seconds * 1_000;
  return `${ms < 10 ? ms.toFixed(2) : Math.round(ms)} ms`;
}

/** A moment of the server, in UTC: `2026-11-27 12:00:00`. */
export function moment(text) {
  return text ? text.replace("T", " ").replace(/([.]\d+)?Z$/, "") : NOTHING;
}

/** Text whose characters that turn the direction of others are seen, as JSON would escape them. */
export function upright(text) {
  return text.replace(/[\u202a-\u202e\u2066-\u2069]/g, (one) => `\\u${one.charCodeAt(0).toString(16)}`);
}

export function plural(number, one, several = `${one}s`) {
  return `${count(number)} ${number === 1 ? one : several}`;
}
