// Ports of the host that lead to guests. They can be added and removed.

import { read, Refused, send } from "./api.js";
import { element, labelled, setText } from "./elements.js";
import { Table } from "./table.js";

const PROTOCOLS = ["tcp", "udp"];

export class Forwards {
  #protocol = element("select", {}, ...PROTOCOLS.map((name) => element("option", { value: name }, name)));
  #local = field("127.0.0.1:8080");
  #remote = field("192.168.127.2:80");
  #message = element("p", { class: "message", role: "status" });
  #table = new Table(
    "Forwards",
    [
      { title: "Protocol", text: (row) => row.protocol },
      { title: "On the host", value: (row) => row.local, text: (row) => row.local },
      { title: "To the guest", text: (row) => row.remote },
      { title: "PROXY header", text: (row) => row.proxy_protocol ?? "none" },
      { title: "Remove", make: (row) => this.#button(row) },
    ],
    { key, empty: "No port is forwarded." },
  );

  constructor() {
    const form = element(
      "form",
      { class: "fields", id: "add" },
      element("h2", {}, "Add a forward"),
      labelled("Protocol", this.#protocol),
      labelled("On the host", this.#local),
      labelled("To the guest", this.#remote),
      element("button", { type: "submit", class: "main" }, "Add"),
    );
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#add();
    });
    this.node = element("div", {}, this.#table.node, form, this.#message);
  }

  async #add() {
    const [local, remote] = [this.#local.value.trim(), this.#remote.value.trim()];
    await this.#change(
      () => send("/services/forwarder/expose", { local, remote, protocol: this.#protocol.value }),
      `${local} leads to ${remote}.`,
    );
  }

  #button(row) {
    const label = `Remove the forward from ${row.protocol} ${row.local}`;
    const button = element("button", { type: "button", "aria-label": label }, "Remove");
    button.addEventListener("click", () => {
      const { local, protocol } = row;
      this.#change(() => send("/services/forwarder/unexpose", { local, protocol }), `${local} is closed.`);
    });
    return button;
  }

  async #change(make, done) {
    try {
      await make();
      setText(this.#message, done);
      await this.poll();
    } catch (error) {
      setText(this.#message, error instanceof Refused ? error.message : "The daemon does not answer.");
    }
  }

  async poll() {
    // Unlike the list of the forwarder, the status has no passwords.
    this.#table.show((await read("/status")).forwards);
  }
}

function key(row) {
  return `${row.protocol} ${row.local}`;
}

function field(placeholder) {
  return element("input", { type: "text", required: "", placeholder, autocomplete: "off", spellcheck: "false" });
}
