// A line of the last minute, as high as its largest value. Readers of screens have the number beside it.

import { drawn, setAttribute } from "./elements.js";
import { LENGTH } from "./rates.js";

const WIDTH = 96;
const HEIGHT = 24;

export class Sparkline {
  #line = drawn("polyline");
  #area = drawn("polygon");

  constructor() {
    const box = `0 0 ${WIDTH} ${HEIGHT}`;
    const attributes = { class: "sparkline", viewBox: box, "aria-hidden": "true", preserveAspectRatio: "none" };
    this.node = drawn("svg", attributes, this.#area, this.#line);
  }

  /** Show these values, the newest at the right end. */
  show(values) {
    const top = Math.max(...values, 1);
    const step = WIDTH / (LENGTH - 1);
    const first = WIDTH - (values.length - 1) * step;
    const points = values.map((value, at) => {
      const y = HEIGHT - 1.5 - (value / top) * (HEIGHT - 3);
      return `${(first + at * step).toFixed(1)},${y.toFixed(1)}`;
    });
    setAttribute(this.#line, "points", points.join(" "));
    const ends = [`${first.toFixed(1)},${HEIGHT}`, ...points, `${WIDTH},${HEIGHT}`];
    setAttribute(this.#area, "points", values.length > 1 ? ends.join(" ") : "");
  }
}
