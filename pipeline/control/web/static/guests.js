// The guests: who they are, what they send and get, and what they hold.

import { read } from "./api.js";
import { element } from "./elements.js";
import { Rates } from "./rates.js";
import { Sparkline } from "./sparkline.js";
import { Table } from "./table.js";
import { byteRate, count } from "./units.js";

const NOT_HELD = new Set(["guest", "peer", "mac_addresses", "ip_addresses", "own_addresses", "links"]);

export class Guests {
  #rates = new Rates();
  #lines = new WeakMap();
  #table = new Table(
    "Guests",
    [
      { title: "Guest", value: (row) => -row.guest, text: (row) => `${row.guest}` },
      { title: "Peer", text: (row) => row.peer },
      { title: "Addresses", text: (row) => row.ip_addresses.join(", ") || "none" },
      { title: "MAC", long: true, text: (row) => row.mac_addresses.join(", ") || "none" },
      this.#direction("From guest", "from"),
      this.#line("from"),
      this.#direction("To guest", "to"),
      this.#line("to"),
      { title: "Bad frames", number: true, text: (row) => count(row.dropped) },
      { title: "Holds", long: true, text: held },
    ],
    { key: (row) => `${row.guest}`, empty: "No guest is attached.", sorted: 0 },
  );

  constructor() {
    this.node = element("div", {}, this.#table.node);
  }

  #direction(title, way) {
    const rate = (row) => this.#rates.of(`${way} ${row.guest}`);
    return { title, number: true, value: (row) => rate(row) ?? -1, text: (row) => byteRate(rate(row)) };
  }

  #line(way) {
    const make = () => {
      const line = new Sparkline();
      this.#lines.set(line.node, line);
      return line.node;
    };
    const show = (node, row) => this.#lines.get(node).show(this.#rates.history(`${way} ${row.guest}`));
    return { title: "Last minute", make, show };
  }

  async poll() {
    const [guests, traffic] = await Promise.all([read("/guests"), read("/traffic")]);
    const links = new Map(traffic.guests.map((each) => [each.mac, each]));
    const values = [];
    const rows = guests.map((guest) => {
      // A link is named by its first MAC address. A guest may have several links.
      const own = guest.mac_addresses.filter((mac) => links.has(mac)).map((mac) => links.get(mac));
      const sum = (key) => own.reduce((total, link) => total + link[key], 0);
      values.push([`from ${guest.guest}`, sum("bytes_from_guest")], [`to ${guest.guest}`, sum("bytes_to_guest")]);
      return { ...guest, dropped: sum("frames_dropped") };
    });
    this.#rates.add(performance.now() / 1000, values);
    this.#table.show(rows);
  }
}

function held(guest) {
  const kinds = Object.entries(guest).filter(([kind, number]) => !NOT_HELD.has(kind) && kind !== "dropped" && number > 0);
  return kinds.map(([kind, number]) => `${kind.replaceAll("_", " ")}: ${number}`).join(", ") || "nothing";
}
