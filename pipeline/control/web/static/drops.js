// What was dropped, by its cause: the counters of docs/metrics.md that have "dropped" in their names.

import { read } from "./api.js";
import { element } from "./elements.js";
import { Rates } from "./rates.js";
import { Sparkline } from "./sparkline.js";
import { Table } from "./table.js";
import { count, eventRate } from "./units.js";

export class Drops {
  #rates = new Rates();
  #lines = new WeakMap();
  #table = new Table(
    "Drops by cause",
    [
      { title: "What", text: (row) => row.what },
      { title: "Cause", text: (row) => row.cause },
      { title: "Number", number: true, value: (row) => row.number, text: (row) => count(row.number) },
      { title: "Now", number: true, value: (row) => this.#rate(row) ?? -1, text: (row) => eventRate(this.#rate(row)) },
      { title: "Last minute", make: () => this.#line(), show: (node, row) => this.#draw(node, row) },
    ],
    { key: (row) => row.name, empty: "Nothing was dropped.", sorted: 2 },
  );

  constructor() {
    this.node = element("div", {}, this.#table.node);
  }

  #rate(row) {
    return this.#rates.of(row.name);
  }

  #line() {
    const line = new Sparkline();
    this.#lines.set(line.node, line);
    return line.node;
  }

  #draw(node, row) {
    this.#lines.get(node).show(this.#rates.history(row.name));
  }

  async poll() {
    const { drops } = await read("/status");
    this.#rates.add(performance.now() / 1000, Object.entries(drops));
    this.#table.show(Object.entries(drops).map(([name, number]) => row(name, number)));
  }
}

function row(name, number) {
  const [what, cause] = name.split("_dropped_");
  return { name, number, what: words(what), cause: words(cause) };
}

function words(name) {
  return name.replaceAll("_", " ");
}
