// Numbers as people read them. Bytes have decimal prefixes, as network speeds do.

const PREFIXES = ["", "k", "M", "G", "T", "P"];

function scaled(value) {
  let at = 0;
  while (value >= 999.5 && at < PREFIXES.length - 1) {
    value /= 1000;
    at += 1;
  }
  const digits = at === 0 || value >= 99.95 ? 0 : 1;
  return [value.toFixed(digits), PREFIXES[at]];
}

/** 1234567 -> "1.2 M". */
export function count(value) {
  const [number, prefix] = scaled(value);
  return prefix ? `${number} ${prefix}` : number;
}

/** The same without the space, where there is little room. */
export function shortCount(value) {
  return scaled(value).join("");
}

export function bytes(value) {
  const [number, prefix] = scaled(value);
  return `${number} ${prefix}B`;
}

/** Bytes a second; "–" while it is not known. */
export function byteRate(value) {
  return value === undefined ? "–" : `${bytes(value)}/s`;
}

/** Events a second. */
export function eventRate(value) {
  if (value === undefined) {
    return "–";
  }
  return value > 0 && value < 9.95 ? `${value.toFixed(1)}/s` : `${count(value)}/s`;
}

export function duration(seconds) {
  if (seconds < 1) {
    return `${Math.round(seconds * 1000)} ms`;
  }
  if (seconds < 60) {
    return `${Math.floor(seconds)} s`;
  }
  if (seconds < 3600) {
    return `${Math.floor(seconds / 60)} min ${Math.floor(seconds % 60)} s`;
  }
  if (seconds < 86400) {
    return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
  }
  return `${Math.floor(seconds / 86400)} d ${Math.floor((seconds % 86400) / 3600)} h`;
}
