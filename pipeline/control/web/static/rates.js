// Rates of counters that only grow, and their last minute.

/** Samples that are kept of each counter: one a second. */
export const LENGTH = 60;

export class Rates {
  #entries = new Map();

  /**
   * Add the values of one poll. seconds: its time, on any clock. values: key -> value. Keys that are missing
   * are forgotten.
   */
  add(seconds, values) {
    const entries = new Map();
    for (const [key, value] of values) {
      const old = this.#entries.get(key);
      const history = old?.history ?? [];
      // A counter that became smaller has begun again, and has no rate until the next poll.
      const known = old !== undefined && value >= old.value && seconds > old.seconds;
      const rate = known ? (value - old.value) / (seconds - old.seconds) : undefined;
      if (rate !== undefined) {
        history.push(rate);
        if (history.length > LENGTH) {
          history.shift();
        }
      }
      entries.set(key, { seconds, value, history, rate });
    }
    this.#entries = entries;
  }

  /** The last rate of a counter, undefined until it has two values. */
  of(key) {
    return this.#entries.get(key)?.rate;
  }

  /** Its rates of the last minute, the oldest first. */
  history(key) {
    return this.#entries.get(key)?.history ?? [];
  }
}
