// What the pages /player and /publish share: the notice, the list of events, how figures are written.

const LOG_LINES_MAX = 200;

export const $ = (id) => document.getElementById(id);

// What cannot go on, with what may help and, if there is one, the command that does.
export class Trouble extends Error {
  constructor(title, advice, code) {
    super(title);
    Object.assign(this, { advice, code });
  }
}

export const seconds = (value) => (value === null || !Number.isFinite(value) ? "–" : `${value.toFixed(2)} s`);

export function bits(rate) {
  return rate >= 1e6 ? `${(rate / 1e6).toFixed(2)} Mbit/s` : `${Math.round(rate / 1000)} kbit/s`;
}

export function note(text) {
  const line = document.createElement("li");
  const time = document.createElement("time");
  time.textContent = new Date().toLocaleTimeString("en-GB");
  line.append(time, text);
  $("log").prepend(line);
  while ($("log").childElementCount > LOG_LINES_MAX) $("log").lastElementChild.remove();
  $("log-count").textContent = `(${$("log").childElementCount})`;
}

// The trouble that the notice shows.
export let trouble = null;

export function complain(error) {
  trouble = error;
  $("notice").hidden = !error;
  if (!error) return;
  note(error.message);
  $("notice-title").textContent = error.message;
  $("notice-text").textContent = error.advice ?? "";
  $("notice-code").textContent = error.code ?? "";
  $("notice-code").hidden = !error.code;
}
