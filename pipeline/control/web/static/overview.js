// The daemon at a glance: what passes, and through which workers.

import { read } from "./api.js";
import { Drawing, roleOf } from "./drawing.js";
import { element, setText } from "./elements.js";
import { Rates } from "./rates.js";
import { Sparkline } from "./sparkline.js";
import { Table } from "./table.js";
import { byteRate, bytes, count, duration, eventRate } from "./units.js";

const PERCENT = new Intl.NumberFormat("en", { style: "percent", maximumFractionDigits: 0 });

class Tile {
  #value = element("dd");
  #detail = element("dd", { class: "detail" });
  #sparkline;

  constructor(title, drawsLine = false) {
    this.node = element("div", { class: "tile" }, element("dt", {}, title), this.#value, this.#detail);
    if (drawsLine) {
      this.#sparkline = new Sparkline();
      this.node.append(element("dd", {}, this.#sparkline.node));
    }
  }

  show(value, detail, history = []) {
    setText(this.#value, value);
    setText(this.#detail, detail);
    this.#sparkline?.show(history);
  }
}

export class Overview {
  #totals = new Rates();
  #rings = new Rates();
  #drawing = new Drawing();
  #tiles = {
    from: new Tile("From guests", true),
    to: new Tile("To guests", true),
    guests: new Tile("Guests"),
    flows: new Tile("Open flows"),
    drops: new Tile("Dropped"),
    up: new Tile("Running for"),
  };
  #workers = new Table(
    "Workers",
    [
      { title: "Worker", text: (row) => row.worker },
      { title: "Busy", number: true, text: (row) => PERCENT.format(row.busy) },
      { title: "Process", text: (row) => `${row.process}, pid ${row.pid}` },
      { title: "Answers", text: (row) => (row.answers ? "yes" : "no") },
    ],
    { key: (row) => row.worker, empty: "No worker runs." },
  );
  #table = new Table(
    "Rings between workers",
    [
      { title: "Ring", text: (row) => `${row.source} → ${row.target}` },
      { title: "Records a second", number: true, text: (row) => eventRate(this.#rings.of(row.key)) },
      { title: "Waiting", number: true, text: (row) => `${row.waiting} of ${row.capacity}` },
      { title: "Records since the start", number: true, text: (row) => count(row.records) },
    ],
    { key: (row) => row.key, empty: "There are no rings." },
  );
  #endpoints = element("ul", { class: "plain" });

  constructor() {
    const tiles = element("dl", { class: "tiles" }, ...Object.values(this.#tiles).map((tile) => tile.node));
    const figure = element(
      "figure",
      {},
      element("figcaption", {}, element("h2", {}, "Pipeline"), element("p", {}, "Records a second on each ring")),
      ...this.#drawing.nodes,
    );
    const rings = element("details", {}, element("summary", {}, "The same as a table"), this.#table.node);
    const endpoints = element("section", {}, element("h2", {}, "Sockets"), this.#endpoints);
    this.node = element("div", {}, tiles, figure, rings, this.#workers.node, endpoints);
  }

  async poll() {
    const [status, traffic] = await Promise.all([read("/status"), read("/traffic")]);
    const now = performance.now() / 1000;
    this.#totals.add(now, [
      ["from", status.bytes_from_guests],
      ["to", status.bytes_to_guests],
      ["drops", Object.values(status.drops).reduce((sum, value) => sum + value, 0)],
    ]);
    const rings = traffic.rings.map((ring) => ({ ...ring, key: `${ring.source}>${ring.target}` }));
    this.#rings.add(now, rings.map((ring) => [ring.key, ring.records]));
    this.#showTiles(status);
    this.#showDrawing(status, rings);
    this.#table.show(rings);
    this.#workers.show(status.workers);
    const sockets = status.endpoints.map(({ use, url }) => `${use}: ${url}`);
    if (this.#endpoints.childElementCount !== sockets.length) {
      this.#endpoints.replaceChildren(...sockets.map((text) => element("li", {}, text)));
    }
  }

  #showTiles(status) {
    const totals = this.#totals;
    const flows = status.flows;
    const drops = Object.values(status.drops).reduce((sum, value) => sum + value, 0);
    this.#tiles.from.show(byteRate(totals.of("from")), `${bytes(status.bytes_from_guests)} in all`, totals.history("from"));
    this.#tiles.to.show(byteRate(totals.of("to")), `${bytes(status.bytes_to_guests)} in all`, totals.history("to"));
    this.#tiles.guests.show(status.guests === null ? "?" : `${status.guests}`, `${status.leases} leases`);
    const parts = `${flows.tcp} TCP, ${flows.udp} UDP, ${flows.icmp} ICMP`;
    this.#tiles.flows.show(count(flows.tcp + flows.udp + flows.icmp), parts);
    this.#tiles.drops.show(count(drops), `${eventRate(totals.of("drops"))} now`);
    this.#tiles.up.show(duration(status.uptime_seconds), `${status.version}, ${status.data_path}`);
  }

  #showDrawing(status, rings) {
    const rates = new Map();
    for (const ring of rings) {
      const rate = this.#rings.of(ring.key);
      if (rate !== undefined) {
        const key = `${roleOf(ring.source)}>${roleOf(ring.target)}`;
        rates.set(key, (rates.get(key) ?? 0) + rate);
      }
    }
    const busy = {};
    for (const worker of status.workers) {
      (busy[roleOf(worker.worker)] ??= []).push(worker.busy);
    }
    const details = { guests: status.guests === null ? "" : `${status.guests} attached` };
    for (const [role, shares] of Object.entries(busy)) {
      const percent = `${PERCENT.format(Math.max(...shares))} busy`;
      details[role] = shares.length > 1 ? `${shares.length} ×, ${percent}` : percent;
    }
    const ends = { "guests>ingress": this.#totals.of("from"), "ingress>guests": this.#totals.of("to") };
    this.#drawing.show(rates, ends, details);
  }
}
