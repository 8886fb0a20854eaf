// The page: its views, of which one is shown and asks the daemon once a second. A hidden tab asks nothing.

import { enter, leave, NoSession } from "./api.js";
import { Drops } from "./drops.js";
import { element, setText } from "./elements.js";
import { Flows } from "./flows.js";
import { Forwards } from "./forwards.js";
import { Guests } from "./guests.js";
import { Overview } from "./overview.js";

const PERIOD = 1000;
const VIEWS = {
  overview: ["Overview", Overview],
  guests: ["Guests", Guests],
  flows: ["Flows", Flows],
  drops: ["Drops", Drops],
  forwards: ["Forwards", Forwards],
};

const main = document.getElementById("main");
const notice = document.getElementById("notice");
const leaveButton = document.getElementById("leave");
const links = new Map();
const made = new Map();

/** Whether requests have a chance to be answered. */
let entered = true;
let wake = () => {};

function say(text) {
  setText(notice, text);
  notice.hidden = text === "";
}

function current() {
  const name = location.hash.slice(1);
  return Object.hasOwn(VIEWS, name) ? name : "overview";
}

function view() {
  const name = current();
  if (!made.has(name)) {
    made.set(name, new VIEWS[name][1]());
  }
  return made.get(name);
}

function show() {
  const name = current();
  for (const [each, link] of links) {
    if (each === name) {
      link.setAttribute("aria-current", "page");
    } else {
      link.removeAttribute("aria-current");
    }
  }
  document.title = `${VIEWS[name][0]} - gvtap-pipeline`;
  main.replaceChildren(view().node);
  wake();
}

/** Wait for the next poll: a second, or until the view changes. */
function pause(milliseconds) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, milliseconds);
    wake = () => {
      clearTimeout(timer);
      resolve();
    };
  });
}

function untilVisible() {
  return new Promise((resolve) => {
    document.addEventListener("visibilitychange", resolve, { once: true });
  });
}

function lock(text) {
  entered = false;
  leaveButton.hidden = true;
  main.replaceChildren();
  say(text);
}

async function poll() {
  try {
    await view().poll();
    leaveButton.hidden = false;
    say("");
  } catch (error) {
    if (!entered) {
      return;
    }
    if (error instanceof NoSession) {
      lock("Open the address that the daemon's log shows in the line “web page”. Each address works once.");
      return;
    }
    say(`The daemon does not answer: ${error.message}`);
  }
}

async function run() {
  while (entered) {
    while (document.hidden) {
      await untilVisible();
    }
    const began = performance.now();
    await poll();
    await pause(Math.max(PERIOD / 4, PERIOD - (performance.now() - began)));
  }
}

async function start() {
  for (const [name, [title]] of Object.entries(VIEWS)) {
    const link = element("a", { href: `#${name}` }, title);
    links.set(name, link);
    document.getElementById("views").append(link);
  }
  leaveButton.addEventListener("click", async () => {
    await leave();
    lock("You have signed out.");
  });
  try {
    await enter();
  } catch {
    // This browser may still have a session. The first poll shows it.
  }
  addEventListener("hashchange", () => {
    if (location.hash.startsWith("#token=")) {
      // Somebody opened a new address in this tab.
      location.reload();
    } else if (entered) {
      show();
    }
  });
  show();
  await run();
}

await start();
