
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);
let decisions = [];   // one an item, in order: {id, label}, label null for skipped
let saved = 0;        // decisions that have been downloaded

// Kept over a reload where the browser allows it; the page works without.
function remember() {
  try { localStorage.setItem(data.key, JSON.stringify(decisions)); } catch { /* private window, or no storage */ }
}
function recall() {
  try {
    const kept = JSON.parse(localStorage.getItem(data.key) || "[]");
    const fits = Array.isArray(kept) && kept.length <= data.items.length && kept.every((entry, place) =>
      entry.id === data.items[place].id && (entry.label === null || data.labels.includes(entry.label)));
    if (fits) decisions = kept.map(({id, label}) => ({id, label}));
  } catch { /* as above */ }
}

function element(tag, text) {
  const made = document.createElement(tag);
  made.textContent = text;
  return made;
}
function percent(share) { return `${Math.round(100 * share)} %`; }

// Wilson's score interval at 95 %.
function wilson(right, total) {
  const z = 1.959964, share = right / total, scale = 1 + z * z / total;
  const middle = (share + z * z / (2 * total)) / scale;
  const half = z * Math.sqrt(share * (1 - share) / total + z * z / (4 * total * total)) / scale;
  return [Math.max(0, middle - half), Math.min(1, middle + half)];
}

function estimate() {
  const seen = decisions.map((entry, place) => [entry, data.items[place]])
    .filter(([entry, item]) => item.random && entry.label !== null);
  const right = seen.filter(([entry, item]) => entry.label === item.found).length;
  if (!seen.length) return "not known yet: no label drawn at random is decided";
  const [low, high] = wilson(right, seen.length);
  return `${percent(right / seen.length)} (95 % interval ${percent(low)} to ${percent(high)}), from ${right} of `
    + `${seen.length} drawn at random`;
}

function choice(label, number, item) {
  const button = element("button", label + " ");
  button.type = "button";
  if (number < 9) {
    button.append(element("kbd", String(number + 1)));
    button.setAttribute("aria-keyshortcuts", String(number + 1));
  }
  if (label === item.found) {
    button.className = "found";
    button.append(" ", element("kbd", "Enter"));
    button.title = "the label found";
  }
  button.addEventListener("click", () => decide(label));
  return button;
}

function show(said) {
  const done = decisions.length === data.items.length, item = data.items[decisions.length];
  const labelled = decisions.filter((entry) => entry.label !== null);
  const confirmed = decisions.filter((entry, place) => entry.label === data.items[place].found).length;
  at("progress").max = data.items.length;
  at("progress").value = decisions.length;
  at("confirmed").textContent = String(confirmed);
  at("changed").textContent = String(labelled.length - confirmed);
  at("skipped").textContent = String(decisions.length - labelled.length);
  at("estimate").textContent = estimate();
  at("skip").disabled = done;
  at("undo").disabled = !decisions.length;
  at("download").disabled = !labelled.length && !data.trusted.length;
  at("choices").replaceChildren(...(done ? [] : data.labels.map((label, number) => choice(label, number, item))));
  at("place").textContent = done ? "All looked at" : `${decisions.length + 1} of ${data.items.length}`;
  at("text").textContent = done ? "Download the labels, and give the file to icm run --trusted." : item.text;
  at("found").textContent = done ? "" : item.probability === null ? `Found: ${item.found}`
    : `Found: ${item.found}, with probability ${item.probability.toFixed(2)} given other labels`;
  at("neighbours").hidden = done || !item.disagree.length;
  at("disagree").replaceChildren(...(done ? [] : item.disagree.map(([label, text]) => element("li", `${label}: ${text}`))));
  at("text").scrollTop = 0;
  at("status").textContent = said;
}

function decide(label) {
  const item = data.items[decisions.length];
  if (!item) return;
  decisions.push({id: item.id, label});
  remember();
  show(label === null ? "Skipped." : label === item.found ? `Confirmed: ${label}.` : `Changed to ${label}.`);
  at("place").focus();
}
function undo() {
  if (!decisions.length) return;
  decisions.pop();
  saved = Math.min(saved, decisions.length);
  remember();
  show("Taken back.");
  at("place").focus();
}

function download() {
  const found = new Map(data.items.map((item) => [item.id, item]));
  const rows = decisions.filter((entry) => entry.label !== null).map(({id, label}) =>
    ({id, text: found.get(id).text, found: found.get(id).found, label}));
  const lines = [...data.trusted, ...rows].map((row) => JSON.stringify(row) + "\n");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob(lines, {type: "application/x-ndjson"}));
  link.download = data.file;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  saved = decisions.length;
  at("status").textContent = `${lines.length} labels in ${data.file}.`;
}

function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || !at("keys").checked) return;
  const item = data.items[decisions.length], key = event.key;
  if (key === "Enter" && item && event.target.tagName !== "BUTTON") decide(item.found);
  else if (/^[1-9]$/.test(key) && item && data.labels[key - 1] !== undefined) decide(data.labels[key - 1]);
  else if (key === "f" && item && data.labels.length === 2) decide(data.labels.find((label) => label !== item.found));
  else if (key === "s" && item) decide(null);
  else if (key === "u") undo();
  else if (key === "d" && !at("download").disabled) download();
  else return;
  event.preventDefault();
}

at("skip").addEventListener("click", () => decide(null));
at("undo").addEventListener("click", undo);
at("download").addEventListener("click", download);
document.addEventListener("keydown", pressed);
window.addEventListener("beforeunload", (event) => { if (decisions.length > saved) event.preventDefault(); });
recall();
show(decisions.length ? `${decisions.length} decisions of before are kept.` : "");
