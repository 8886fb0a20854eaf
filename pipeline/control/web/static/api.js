// The daemon's API. Each request needs the cookie, which this script cannot read, and the key.

const KEY = "gvtap-key";

/** There is no session, or it has ended. */
export class NoSession extends Error {}

/** The daemon refused a request. The text says why. */
export class Refused extends Error {}

/** The token in the page's address, once. It leaves the address, so that nobody copies it. */
function takeToken() {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (token !== null) {
    history.replaceState(null, "", location.pathname);
  }
  return token;
}

/** Get a session for the token in the address, if there is one. Throws NoSession for a wrong token. */
export async function enter() {
  const token = takeToken();
  if (token === null) {
    return;
  }
  const answer = await fetch("/session", { method: "POST", headers: { Authorization: `Bearer ${token}` } });
  if (!answer.ok) {
    throw new NoSession(await answer.text());
  }
  localStorage.setItem(KEY, (await answer.json()).key);
}

async function ask(path, options = {}) {
  const headers = { Authorization: `Bearer ${localStorage.getItem(KEY) ?? ""}` };
  const answer = await fetch(path, { ...options, headers, signal: AbortSignal.timeout(10_000) });
  if (answer.status === 401) {
    throw new NoSession(await answer.text());
  }
  if (!answer.ok) {
    throw new Refused((await answer.text()).trim());
  }
  return answer;
}

/** What a path answers. */
export async function read(path) {
  return (await ask(path)).json();
}

/** Send an object. The answer may be empty. */
export async function send(path, object) {
  await ask(path, { method: "POST", body: JSON.stringify(object) });
}

export async function remove(path) {
  await ask(path, { method: "DELETE" });
}

/** End the session. */
export async function leave() {
  await remove("/session");
  localStorage.removeItem(KEY);
}
