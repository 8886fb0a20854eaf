// A table whose rows live on from poll to poll, so that the focus and the selection stay.

import { element, setText } from "./elements.js";

/**
 * columns: each has a title, and either text(row), or make(row) and show(node, row) for a cell that is not a
 * text. number: it is aligned to the right. long: it may be broken anywhere. value(row): the column can be sorted by it.
 */
export class Table {
  #columns;
  #body = element("tbody", { role: "rowgroup" });
  #headers = [];
  #rows = new Map();
  #empty;
  #sorted;
  #key;

  /** caption: its name. key(row): a text that is the row's own. sorted: number of the first sorted column. */
  constructor(caption, columns, { key, empty, sorted = -1 }) {
    this.#columns = columns;
    this.#key = key;
    this.#sorted = sorted;
    const head = element("tr", { role: "row" }, ...columns.map((column, at) => this.#header(column, at)));
    // The roles stay when the style makes cards of the rows.
    const parts = [element("caption", {}, caption), element("thead", { role: "rowgroup" }, head), this.#body];
    this.#empty = element("p", { class: "empty", hidden: "" }, empty);
    this.node = element("div", { class: "table" }, element("table", { role: "table" }, ...parts), this.#empty);
    this.#mark();
  }

  #header(column, at) {
    const header = element("th", { scope: "col", role: "columnheader", class: kind(column) });
    if (column.value) {
      const button = element("button", { type: "button" }, column.title);
      button.addEventListener("click", () => {
        this.#sorted = at;
        this.#mark();
        this.#order(true);
      });
      header.append(button);
    } else {
      header.append(column.title);
    }
    this.#headers.push(header);
    return header;
  }

  #mark() {
    this.#headers.forEach((header, at) => {
      if (at === this.#sorted) {
        header.setAttribute("aria-sort", "descending");
      } else {
        header.removeAttribute("aria-sort");
      }
    });
  }

  /** Show these rows. */
  show(rows) {
    const shown = new Map(rows.map((row) => [this.#key(row), row]));
    for (const [key, made] of this.#rows) {
      if (!shown.has(key)) {
        made.node.remove();
        this.#rows.delete(key);
      }
    }
    for (const [key, row] of shown) {
      const made = this.#rows.get(key) ?? this.#add(key, row);
      made.row = row;
      this.#columns.forEach((column, at) => {
        if (column.text) {
          setText(made.cells[at], column.text(row));
        } else {
          column.show?.(made.cells[at].firstChild, row);
        }
      });
    }
    this.#order(false);
    this.#empty.hidden = rows.length > 0;
    this.node.firstChild.hidden = rows.length === 0;
  }

  #add(key, row) {
    const cells = this.#columns.map((column, at) => {
      const attributes = { role: "cell", "data-title": column.title, class: kind(column) };
      const cell = element("td", attributes);
      if (column.make) {
        cell.append(column.make(row));
      }
      return cell;
    });
    const made = { node: element("tr", { role: "row" }, ...cells), cells, row };
    this.#body.append(made.node);
    this.#rows.set(key, made);
    return made;
  }

  /** Sort the rows. They stay while somebody points at one, or has the focus in one. */
  #order(now) {
    const column = this.#columns[this.#sorted];
    if (!column || (!now && (this.#body.matches(":hover") || this.#body.contains(document.activeElement)))) {
      return;
    }
    const rows = [...this.#rows.values()];
    rows.sort((a, b) => compare(column.value(b.row), column.value(a.row)));
    rows.forEach(({ node }, at) => {
      if (this.#body.children[at] !== node) {
        this.#body.insertBefore(node, this.#body.children[at]);
      }
    });
  }
}

function kind(column) {
  return column.number ? "number" : column.long ? "long" : "";
}

function compare(a, b) {
  return a < b ? -1 : a > b ? 1 : 0;
}
