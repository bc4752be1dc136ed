// Figures over time: the text of Prometheus, rates of what is counted, and small charts of them.

import { svg } from "./dom.js";

const SAMPLES = 60;
const NAME = /^([a-z_]+)(?:\{(.*)\})? (\S+)/;
const LABEL = /([a-z_]+)="((?:[^"\\]|\\.)*)"/g;

/** The series of a text, by family: `{labels, value}` each. */
export function seriesOf(text) {
  const families = new Map();
  for (const line of text.split("\n")) {
    const match = line.startsWith("#") ? null : NAME.exec(line);
    if (!match) continue;
    const labels = {};
    for (const [, name, value] of (match[2] ?? "").matchAll(LABEL)) {
      labels[name] = value.replace(/\\(.)/g, (_, escaped) => (escaped === "n" ? "\n" : escaped));
    }
    const series = families.get(match[1]) ?? [];
    if (!series.length) families.set(match[1], series);
    series.push({ labels, value: Number(match[3]) });
  }
  return families;
}

/** The sum of a family, or null where it is not there. */
export function sum(families, name, isMeant = () => true) {
  const series = families.get(name);
  if (!series) return null;
  return series.filter((one) => isMeant(one.labels)).reduce((all, one) => all + one.value, 0);
}

/** The last minutes of some counters, as rates a second. */
export class Rates {
  #last = new Map();
  #rates = new Map();

  /** Take down what a counter says now. */
  add(name, value, atMs = performance.now()) {
    if (value == null) return;
    const last = this.#last.get(name);
    this.#last.set(name, { value, atMs });
    if (!last || atMs <= last.atMs) return;
    // A server that started anew counts from 0.
    const grown = value >= last.value ? value - last.value : value;
    const rates = this.#rates.get(name) ?? [];
    rates.push((grown * 1_000) / (atMs - last.atMs));
    this.#rates.set(name, rates.slice(-SAMPLES));
  }

  /** The latest, or null before there are two samples. */
  now(name) {
    return this.#rates.get(name)?.at(-1) ?? null;
  }

  all(name) {
    return this.#rates.get(name) ?? [];
  }

  /** Forget what is not named. */
  keep(names) {
    for (const name of [...this.#last.keys()]) {
      if (!names.has(name)) {
        this.#last.delete(name);
        this.#rates.delete(name);
      }
    }
  }
}

/** A line of the last values; the newest is on the right. */
export function sparkline(values, label, width = 120, height = 28) {
  if (values.length === 1) values = [values[0], values[0]]; // or else there is no line yet
  const most = Math.max(...values, 0);
  const step = width / (SAMPLES - 1);
  const begin = width - step * (values.length - 1);
  const points = values.map((value, number) => {
    const y = height - 1.5 - (most ? (value / most) * (height - 3) : 0);
    return `${(begin + step * number).toFixed(1)},${y.toFixed(1)}`;
  });
  const line = points.length > 1 ? points.join(" ") : null;
  return svg(
    "svg",
    { class: "spark", viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": label, preserveAspectRatio: "none" },
    svg("line", { x1: 0, x2: width, y1: height - 1, y2: height - 1, class: "base" }),
    line && svg("polygon", { points: `${begin.toFixed(1)},${height} ${line} ${width},${height}` }),
    line && svg("polyline", { points: line }),
  );
}
