// The open flows, the fastest first. The daemon filters them, and one can be ended.

import { read, Refused, remove } from "./api.js";
import { element, labelled, setText } from "./elements.js";
import { Rates } from "./rates.js";
import { Sparkline } from "./sparkline.js";
import { Table } from "./table.js";
import { byteRate, bytes, count, duration } from "./units.js";

/** Flows of one answer. The daemon gives those with most bytes. */
const LIMIT = 300;
/** Rows of the table: the fastest of them. */
const SHOWN = 100;

export class Flows {
  #rates = new Rates();
  #lines = new WeakMap();
  #fields = {
    protocol: element("select", {}, ...["", "tcp", "udp", "icmp"].map((name) => option(name, name || "all"))),
    guest: element("input", { type: "text", placeholder: "number, MAC or address", autocomplete: "off" }),
    host: element("input", { type: "text", placeholder: "address or name", autocomplete: "off" }),
    port: element("input", { type: "text", inputmode: "numeric", placeholder: "1 to 65535", autocomplete: "off" }),
  };
  #message = element("p", { class: "message", role: "status" });
  #table = new Table(
    "Open flows",
    [
      { title: "Protocol", text: (row) => `${row.protocol} ${row.direction}` },
      { title: "Guest", text: (row) => end(row.guest_address, row.guest_port) },
      { title: "Other end", text: (row) => end(row.address || "client", row.port) },
      { title: "Name", long: true, text: (row) => row.name ?? "" },
      { title: "State", text: (row) => row.state },
      { title: "Rate", number: true, value: (row) => this.#rate(row) ?? -1, text: (row) => byteRate(this.#rate(row)) },
      { title: "Last minute", make: () => this.#line(), show: (node, row) => this.#draw(node, row) },
      { title: "From guest", number: true, value: (row) => row.bytes_from_guest, text: (row) => bytes(row.bytes_from_guest) },
      { title: "To guest", number: true, value: (row) => row.bytes_to_guest, text: (row) => bytes(row.bytes_to_guest) },
      { title: "RTT", number: true, text: (row) => rtt(row.min_rtt_seconds) },
      { title: "Resent", number: true, text: (row) => (row.retransmissions === null ? "" : count(row.retransmissions)) },
      { title: "Age", number: true, value: (row) => row.age_seconds, text: (row) => duration(row.age_seconds) },
      { title: "End", make: (row) => this.#button(row) },
    ],
    { key: (row) => row.id, empty: "No flow fits.", sorted: 5 },
  );

  constructor() {
    const { protocol, guest, host, port } = this.#fields;
    const form = element(
      "form",
      { class: "fields", role: "search" },
      labelled("Protocol", protocol),
      labelled("Guest", guest),
      labelled("Other end", host),
      labelled("Port", port),
    );
    form.addEventListener("submit", (event) => event.preventDefault());
    this.node = element("div", {}, form, this.#message, this.#table.node);
  }

  #rate(row) {
    return this.#rates.of(row.id);
  }

  #line() {
    const line = new Sparkline();
    this.#lines.set(line.node, line);
    return line.node;
  }

  #draw(node, row) {
    this.#lines.get(node).show(this.#rates.history(row.id));
  }

  #button(row) {
    const where = end(row.address || "client", row.port);
    const button = element("button", { type: "button", "aria-label": `End the flow with ${where}` }, "End");
    button.addEventListener("click", async () => {
      button.disabled = true;
      try {
        await remove(`/flows/${encodeURIComponent(row.id)}`);
      } catch (error) {
        setText(this.#message, error.message);
      }
    });
    return button;
  }

  async poll() {
    const query = new URLSearchParams({ limit: LIMIT });
    for (const [key, field] of Object.entries(this.#fields)) {
      if (field.value.trim()) {
        query.set(key, field.value.trim());
      }
    }
    let found;
    try {
      found = await read(`/flows?${query}`);
    } catch (error) {
      if (!(error instanceof Refused)) {
        throw error;
      }
      setText(this.#message, error.message);
      return;
    }
    const { flows, total } = found;
    const values = flows.map((flow) => [flow.id, flow.bytes_from_guest + flow.bytes_to_guest]);
    this.#rates.add(performance.now() / 1000, values);
    flows.sort((a, b) => (this.#rate(b) ?? 0) - (this.#rate(a) ?? 0));
    this.#table.show(flows.slice(0, SHOWN));
    setText(this.#message, total > SHOWN ? `The fastest ${SHOWN} of ${count(total)} flows` : "");
  }
}

function option(value, text) {
  return element("option", { value }, text);
}

function end(address, port) {
  return address.includes(":") ? `[${address}]:${port}` : `${address}:${port}`;
}

function rtt(seconds) {
  return seconds === null ? "" : `${(seconds * 1000).toFixed(seconds < 0.01 ? 2 : 0)} ms`;
}
