// The drawing of ARCHITECTURE.md: workers as boxes, rings as arrows with their records a second. Workers of
// one role share a box. Rings between the same two roles share an arrow.

import { drawn, setAttribute, setText } from "./elements.js";
import { byteRate, shortCount } from "./units.js";

// An arrow is a list of points. Its label stands at a point, "middle", "start" or "end" of the text there.
const WIDE = {
  name: "wide",
  size: [1120, 318],
  boxes: {
    guests: [4, 130, 96, 70],
    ingress: [200, 130, 100, 70],
    demux: [390, 130, 100, 70],
    tcp: [640, 130, 100, 70],
    egress: [840, 130, 100, 70],
    resolver: [537, 172, 74, 34],
    listen: [1024, 170, 92, 34],
    hosts: [1024, 126, 92, 34],
  },
  arrows: {
    "guests>ingress": { points: [[100, 152], [200, 152]], label: [150, 144] },
    "ingress>guests": { points: [[200, 180], [100, 180]], label: [150, 198] },
    "ingress>demux": { points: [[300, 152], [390, 152]], label: [345, 144] },
    "demux>ingress": { points: [[390, 180], [300, 180]], label: [345, 198] },
    "demux>tcp": { points: [[490, 144], [640, 144]], label: [565, 137] },
    "demux>resolver": { points: [[490, 180], [537, 180]], label: [512, 174] },
    "resolver>demux": { points: [[537, 195], [490, 195]], label: [512, 212] },
    "tcp>egress": { points: [[740, 152], [840, 152]], label: [790, 144] },
    "egress>tcp": { points: [[840, 180], [740, 180]], label: [790, 198] },
    "demux>egress": { points: [[465, 130], [465, 98], [865, 98], [865, 130]], label: [765, 92] },
    "ingress>tcp": { points: [[275, 130], [275, 64], [690, 64], [690, 130]], label: [380, 58] },
    "ingress>egress": { points: [[240, 130], [240, 30], [905, 30], [905, 130]], label: [565, 24] },
    "egress>demux": { points: [[865, 200], [865, 232], [465, 232], [465, 200]], label: [765, 248] },
    "tcp>ingress": { points: [[690, 200], [690, 264], [275, 264], [275, 200]], label: [380, 280] },
    "egress>ingress": { points: [[905, 200], [905, 292], [240, 292], [240, 200]], label: [565, 309] },
    "egress>hosts": { points: [[940, 138], [1024, 138]] },
    "hosts>egress": { points: [[1024, 150], [940, 150]] },
    "listen>egress": { points: [[1024, 187], [940, 187]] },
  },
};

const TALL = {
  name: "tall",
  size: [352, 600],
  boxes: {
    guests: [116, 4, 120, 36],
    ingress: [116, 92, 120, 50],
    demux: [116, 206, 120, 50],
    tcp: [116, 352, 120, 50],
    egress: [116, 466, 120, 50],
    resolver: [162, 292, 74, 30],
    listen: [182, 560, 76, 34],
    hosts: [94, 560, 76, 34],
  },
  arrows: {
    "guests>ingress": { points: [[152, 40], [152, 92]], label: [145, 70], anchor: "end" },
    "ingress>guests": { points: [[200, 92], [200, 40]], label: [207, 70], anchor: "start" },
    "ingress>demux": { points: [[152, 142], [152, 206]], label: [146, 178], anchor: "end" },
    "demux>ingress": { points: [[200, 206], [200, 142]], label: [206, 178], anchor: "start" },
    "demux>tcp": { points: [[140, 256], [140, 352]], label: [135, 318], anchor: "end" },
    "demux>resolver": { points: [[177, 256], [177, 292]], label: [172, 278], anchor: "end" },
    "resolver>demux": { points: [[217, 292], [217, 256]], label: [212, 278], anchor: "end" },
    "tcp>egress": { points: [[152, 402], [152, 466]], label: [146, 438], anchor: "end" },
    "egress>tcp": { points: [[200, 466], [200, 402]], label: [206, 438], anchor: "start" },
    "demux>egress": { points: [[116, 240], [88, 240], [88, 476], [116, 476]], label: [88, 418] },
    "ingress>tcp": { points: [[116, 126], [58, 126], [58, 377], [116, 377]], label: [58, 190] },
    "ingress>egress": { points: [[116, 106], [24, 106], [24, 500], [116, 500]], label: [26, 300] },
    "egress>demux": { points: [[236, 476], [264, 476], [264, 240], [236, 240]], label: [264, 418] },
    "tcp>ingress": { points: [[236, 377], [294, 377], [294, 126], [236, 126]], label: [294, 190] },
    "egress>ingress": { points: [[236, 500], [328, 500], [328, 106], [236, 106]], label: [326, 300] },
    "egress>hosts": { points: [[130, 516], [130, 560]] },
    "hosts>egress": { points: [[150, 560], [150, 516]] },
    "listen>egress": { points: [[212, 560], [212, 516]] },
  },
};

const NAMES = { guests: "guests", hosts: "hosts" };
const NO_RINGS = new Set(["guests>ingress", "ingress>guests", "egress>hosts", "hosts>egress", "listen>egress"]);

/** tcp0 -> tcp. */
export function roleOf(worker) {
  return worker.replace(/\d+$/, "");
}

class Picture {
  #labels = new Map();
  #paths = new Map();
  #details = new Map();

  constructor(layout) {
    const [width, height] = layout.size;
    this.node = drawn("svg", { viewBox: `0 0 ${width} ${height}`, class: `drawing ${layout.name}`, role: "img" });
    this.node.setAttribute("aria-labelledby", `title-${layout.name}`);
    this.node.append(drawn("title", { id: `title-${layout.name}` }, "Records a second between the workers"));
    for (const [name, arrow] of Object.entries(layout.arrows)) {
      this.#arrow(name, arrow);
    }
    for (const [name, box] of Object.entries(layout.boxes)) {
      this.#box(name, box);
    }
    // Labels lie above all lines.
    this.node.append(...this.#labels.values());
  }

  #box(name, [x, y, width, height]) {
    const outside = name in NAMES;
    const box = drawn("rect", { x, y, width, height, rx: 7, class: outside ? "outside" : "worker" });
    const small = height < 40;
    const middle = x + width / 2;
    const title = drawn("text", { x: middle, y: y + height / 2 + (small ? 4 : -3), class: "name" }, NAMES[name] ?? name);
    this.node.append(box, title);
    if (!small) {
      const detail = drawn("text", { x: middle, y: y + height / 2 + 15, class: "detail" });
      this.#details.set(name, detail);
      this.node.append(detail);
    }
  }

  #arrow(name, { points, label, anchor = "middle" }) {
    const path = drawn("path", { d: rounded(points), class: "arrow" });
    if (name === "listen>egress") {
      path.classList.add("sockets");
    }
    const tip = drawn("path", { d: arrowhead(points), class: "tip" });
    const title = drawn("title", {}, name.replace(">", " to "));
    const group = drawn("g", { class: "ring level-0", "data-ring": name }, title, path, tip);
    this.#paths.set(name, group);
    this.node.append(group);
    if (label) {
      const attributes = { x: label[0], y: label[1], class: `rate ${anchor}`, "data-rate": name };
      this.#labels.set(name, drawn("text", attributes));
    }
  }

  show(rates, ends, details) {
    for (const [name, group] of this.#paths) {
      if (NO_RINGS.has(name)) {
        continue;
      }
      this.#level(group, rates.get(name) ?? 0);
      setText(this.#labels.get(name), rates.has(name) ? shortCount(rates.get(name)) : "–");
    }
    for (const [name, rate] of Object.entries(ends)) {
      this.#level(this.#paths.get(name), (rate ?? 0) / 1500);
      setText(this.#labels.get(name), byteRate(rate));
    }
    for (const [name, text] of Object.entries(details)) {
      if (this.#details.has(name)) {
        setText(this.#details.get(name), text);
      }
    }
  }

  /** The more records, the thicker the line: one step for each power of ten. */
  #level(group, rate) {
    const level = rate < 0.5 ? 0 : Math.min(6, 1 + Math.floor(Math.log10(Math.max(1, rate))));
    setAttribute(group, "class", `ring level-${level}`);
  }
}

function rounded(points) {
  const radius = 8;
  let path = `M${points[0].join(" ")}`;
  for (let at = 1; at < points.length - 1; at += 1) {
    const [before, corner, after] = points.slice(at - 1, at + 2);
    path += `L${towards(corner, before, radius)}Q${corner.join(" ")} ${towards(corner, after, radius)}`;
  }
  return `${path}L${towards(points.at(-1), points.at(-2), 6)}`;
}

function towards([x, y], [toX, toY], distance) {
  return `${x + Math.sign(toX - x) * distance} ${y + Math.sign(toY - y) * distance}`;
}

function arrowhead(points) {
  const [x, y] = points.at(-1);
  const [fromX, fromY] = points.at(-2);
  const dx = Math.sign(fromX - x);
  const dy = Math.sign(fromY - y);
  const side = ([a, b]) => `${x + dx * 8 + a * 4.5} ${y + dy * 8 + b * 4.5}`;
  return `M${x} ${y}L${side([dy, dx])}L${side([-dy, -dx])}Z`;
}

/** Both layouts. The style shows the one that fits the screen. */
export class Drawing {
  #pictures = [new Picture(WIDE), new Picture(TALL)];

  constructor() {
    this.nodes = this.#pictures.map((picture) => picture.node);
  }

  /** rates: "source>target" by role -> records a second. ends: the same in bytes, for the links. */
  show(rates, ends, details) {
    for (const picture of this.#pictures) {
      picture.show(rates, ends, details);
    }
  }
}
