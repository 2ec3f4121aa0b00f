// The one script of the pages: saves what is written, keys, marked parts. Every text goes in by textContent.

const PAUSE = 400; // milliseconds without a keystroke before a save; at the latest after MOST
const MOST = 900;
const AWAY = 60000; // without a sign of the reviewer for so long, time does not count
const byId = (id) => document.getElementById(id);
const csrf = document.querySelector("meta[name=csrf]").content;

export const post = (path, body, more = {}) =>
  fetch(path, {method: "POST", body: JSON.stringify(body), ...more,
               headers: {"content-type": "application/json", "x-csrf-token": csrf}});

export function notice(text) {
  byId("notice").textContent = text;
  byId("notice").hidden = !text;
}

export async function ask(path, body) { // the answer, or null after saying why there is none
  try {
    const answer = await post(path, body);
    const said = answer.headers.get("content-type").startsWith("application/json") ? await answer.json()
      : {error: await answer.text()};
    notice(answer.ok ? "" : said.error);
    return answer.ok ? said : null;
  } catch {
    notice("The server does not answer. Nothing is lost: it is tried again.");
    return null;
  }
}

// Offsets in the store count characters (code points); those of a selection count UTF-16 units.
export const toPoints = (text, units) => [...text.slice(0, units)].length;
const toUnits = (text, points) => [...text].slice(0, points).join("").length;

byId("who").addEventListener("submit", async (event) => {
  event.preventDefault();
  if (await ask("/reviewer", {name: byId("name").value})) location.assign("/queue");
});
for (const time of document.querySelectorAll("time[data-at]")) time.textContent = new Date(time.dataset.at * 1000).toLocaleString();
for (const button of document.querySelectorAll("[data-decide]")) {
  button.addEventListener("click", async () => {
    if (await ask(`/items/${button.dataset.item}/decide`, {review: Number(button.dataset.decide)})) location.reload();
  });
}

async function watchRun() {
  for (;;) {
    const state = await ask("/run/state", {});
    if (!state) return;
    byId("run-said").textContent = state.said;
    byId("run-log").textContent = state.log;
    byId("run-log").hidden = !state.log;
    if (!state.running) return;
    await new Promise((done) => setTimeout(done, 1000));
  }
}
byId("continue")?.addEventListener("click", async () => {
  byId("continue").disabled = true;
  if (await ask("/run", {})) watchRun();
});
if (byId("run-said")?.textContent) watchRun();

const holder = byId("state");
export const state = holder ? JSON.parse(holder.textContent) : null;
export const form = byId("entry");
let spans = state?.entry.spans ?? [], takenOver = state?.entry.taken_over ?? "";

export function entry() {
  if (form.querySelector("fieldset").disabled) return state.entry;
  const values = new FormData(form);
  const rating = values.get("rating");
  const criteria = {};
  const refinement = values.get("refinement") ?? "";
  for (const [name, value] of values) if (name.startsWith("criterion:")) criteria[name.slice(10)] = value;
  return {feedback: values.get("feedback") ?? "", important: values.get("important") ?? "",
          category: values.get("category") ?? "", refinement, taken_over: refinement.trim() ? takenOver : "",
          rating: rating ? Number(rating) : null, better: values.get("better") ?? "", criteria, spans};
}

function fill(from) {
  for (const name of ["feedback", "important", "refinement"]) if (form.elements[name]) form.elements[name].value = from[name] ?? "";
  for (const name of ["category", "rating", "better"]) {
    if (form.elements[name]) form.elements[name].value = String(from[name] ?? "");
  }
  for (const [name, value] of Object.entries(from.criteria ?? {})) {
    if (form.elements[`criterion:${name}`]) form.elements[`criterion:${name}`].value = value;
  }
  if (from.refinement && byId("own")) byId("own").open = true;
  spans = from.spans ?? [];
  takenOver = from.taken_over ?? "";
  showSpans();
}

export function paint(pieces) { // [text, {tag, className, title, style}]; the draft as pieces, whose texts make it up
  byId("draft").replaceChildren(...pieces.map(([text, how]) => {
    if (!how) return document.createTextNode(text);
    const piece = document.createElement(how.tag ?? "span");
    piece.textContent = text;
    if (how.className) piece.className = how.className;
    if (how.title) piece.title = how.title;
    if (how.color) piece.style.backgroundColor = how.color;
    return piece;
  }));
}

function showSpans() {
  if (!byId("draft")) return;
  const pieces = [];
  let at = 0;
  for (const span of [...spans].sort((a, b) => a.start - b.start)) {
    const [start, end] = [toUnits(state.draft, span.start), toUnits(state.draft, span.end)];
    if (start < at) continue; // overlaps the one before; its comment is in the list nevertheless
    pieces.push([state.draft.slice(at, start)], [state.draft.slice(start, end), {tag: "mark", title: span.comment}]);
    at = end;
  }
  pieces.push([state.draft.slice(at)]);
  paint(pieces);
  byId("spans").replaceChildren(...spans.map((span, i) => {
    const row = document.createElement("li"), quote = document.createElement("bdi");
    const line = document.createElement("div"), field = document.createElement("input"), remove = document.createElement("button");
    quote.textContent = [...state.draft].slice(span.start, span.end).join("");
    field.name = "comment";
    field.value = span.comment;
    field.setAttribute("aria-label", `Comment on “${quote.textContent.slice(0, 60)}”`);
    field.addEventListener("input", () => { span.comment = field.value; });
    remove.type = "button";
    remove.textContent = "Remove";
    remove.addEventListener("click", () => { spans.splice(i, 1); showSpans(); changed(); });
    line.append(field, remove);
    row.append(quote, line);
    return row;
  }));
}

function mark() {
  const selection = getSelection();
  if (!selection.rangeCount || selection.isCollapsed || form.querySelector("fieldset").disabled) return;
  const range = selection.getRangeAt(0), draft = byId("draft");
  if (!draft.contains(range.startContainer) || !draft.contains(range.endContainer)) return;
  const before = document.createRange();
  before.selectNodeContents(draft);
  before.setEnd(range.startContainer, range.startOffset);
  const chosen = range.toString(), text = chosen.trim();
  if (!text) return;
  const start = toPoints(before.toString() + chosen.slice(0, chosen.indexOf(text)), Infinity), end = start + toPoints(text, Infinity);
  spans.push({start, end, comment: ""});
  showSpans();
  changed();
  byId("spans").lastElementChild.querySelector("input").focus();
}

// Saving. One request at a time, each made from the revision of the one before. What is not acknowledged yet is kept in
// the browser's session, so that neither a reload nor a server that is away loses it.
const keep = state ? `ilf ${state.reviewer} ${state.item}` : "";
let revision = state?.revision, token = null, dirty = false, saving = null, timer = null, since = 0;
let seconds = 0, lastSign = performance.now(), lastTick = performance.now();

function tick() {
  const now = performance.now();
  if (!document.hidden && now - lastSign < AWAY) seconds += (now - lastTick) / 1000;
  lastTick = now;
}

const stash = () => sessionStorage.setItem(keep, JSON.stringify({entry: entry(), revision, token}));

function changed() {
  dirty = true;
  stash();
  byId("saved").textContent = "…";
  const now = performance.now();
  if (timer === null) since = now;
  clearTimeout(timer);
  timer = setTimeout(save, Math.max(0, Math.min(PAUSE, since + MOST - now)));
}

function body(more = {}) {
  tick();
  token ??= [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return {entry: entry(), base: revision, token, seconds, ...more};
}

async function send(path, more) { // true: acknowledged; null: no answer; else what the server said
  const sent = body(more), text = JSON.stringify(sent.entry);
  stash();
  let answer;
  try {
    answer = await post(path, sent);
  } catch {
    return null;
  }
  if (!answer.ok) return answer.headers.get("content-type")?.startsWith("application/json") ? (await answer.json()).error
    : await answer.text();
  const said = await answer.json();
  revision = said.revision;
  token = null;
  seconds -= sent.seconds;
  byId("status").textContent = said.status;
  byId("status").className = `status ${said.status}`;
  if (JSON.stringify(entry()) === text) {
    dirty = false;
    sessionStorage.removeItem(keep);
  }
  return true;
}

async function save() {
  clearTimeout(timer);
  timer = null;
  if (saving) await saving;
  if (!dirty) return true;
  saving = send(`/items/${state.item}/save`);
  const done = await saving;
  saving = null;
  if (done === true) {
    notice("");
    byId("saved").textContent = dirty ? "…" : "saved";
    if (dirty) changed();
    return true;
  }
  byId("saved").textContent = "not saved";
  notice(done ?? "The server does not answer. What you write is kept in this window and sent as soon as it does.");
  timer = setTimeout(save, 2000);
  return false;
}

async function act(action) {
  if (saving) await saving;
  if (action !== "reopen" && dirty && !await save()) return;
  const done = await send(`/items/${state.item}/act`, {action});
  if (done === true) {
    sessionStorage.removeItem(keep);
    location.assign(action === "reopen" ? location.href : `/next?after=${state.item}`);
  } else {
    token = null;
    notice(done ?? "The server does not answer; try again.");
  }
}

async function undo() {
  if (dirty && !await save()) return;
  const done = await ask("/undo", {});
  if (done) location.assign(`/items/${done.item}`);
}

async function go(where) {
  if (dirty && !await save()) return;
  if (state[where]) location.assign(`/items/${state[where]}`);
}

const click = (selector) => document.querySelector(selector)?.click();
const choose = (name, value) => {
  const field = [...form.querySelectorAll(`input[name="${name}"]`)].find((x) => x.value === value);
  if (field && !field.matches(":disabled")) { field.checked = true; field.focus(); changed(); }
};
const KEYS = {
  n: () => go("next"), p: () => go("previous"), u: undo, m: mark,
  s: () => click("[data-act=skip]"), f: () => click("[data-act=flag]"), r: () => click("[data-act=reopen]"),
  e: () => byId("feedback")?.focus(), g: () => { const pane = byId("guidelines"); if (pane) pane.open = !pane.open; },
};
if (state?.is_pair) Object.assign(KEYS, {a: () => choose("better", "A"), b: () => choose("better", "B"), t: () => choose("better", "tie")});

function onKey(event) {
  lastSign = performance.now();
  const field = event.target.matches("textarea, input:not([type=radio]):not([type=checkbox])");
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    click("#submit");
  } else if (event.key === "Enter" && !event.altKey && !event.target.closest("textarea, input, button, a, summary")) {
    event.preventDefault();
    click("#submit");
  } else if (event.key === "Escape" && field) {
    event.target.blur();
    byId("main").focus();
  } else if (!event.ctrlKey && !event.metaKey && (event.altKey || (!field && byId("single-keys").checked))) {
    const key = /^(Key|Digit)/.test(event.code) ? event.code.at(-1).toLowerCase() : event.key;
    const classes = form.querySelectorAll("input[name=category]");
    if (key in KEYS) {
      event.preventDefault();
      KEYS[key]();
    } else if (/^[1-9]$/.test(key) && classes[key - 1]) {
      event.preventDefault();
      choose("category", classes[key - 1].value);
    }
  }
}

function onDraftKey(event) { // the keyboard selects in the draft, as in a text field
  const [granularity, direction] = {ArrowRight: ["word", "forward"], ArrowLeft: ["word", "backward"],
                                    ArrowDown: ["line", "forward"], ArrowUp: ["line", "backward"]}[event.key] ?? [];
  if (!direction || event.altKey || event.ctrlKey) return;
  const selection = getSelection();
  if (!selection.rangeCount || !event.currentTarget.contains(selection.anchorNode)) selection.collapse(event.currentTarget, 0);
  selection.modify(event.shiftKey ? "extend" : "move", direction, granularity);
  event.preventDefault();
}

if (state) {
  fill(state.entry);
  const kept = JSON.parse(sessionStorage.getItem(keep) ?? "null");
  const open = state.status === "pending" || state.status === "draft";
  // The last save that was sent may have arrived, may be under way, or may never arrive: its token tells.
  const underWay = kept?.revision === state.revision;
  const arrived = kept?.token && kept.token === state.token && kept.revision === state.revision - 1;
  if (open && (underWay || arrived) && JSON.stringify(kept.entry) !== JSON.stringify(entry())) {
    fill(kept.entry);
    token = underWay ? kept.token : null;
    changed();
  } else {
    sessionStorage.removeItem(keep);
  }
  form.addEventListener("input", () => { lastSign = performance.now(); changed(); });
  form.addEventListener("submit", (event) => { event.preventDefault(); act("submit"); });
  for (const button of document.querySelectorAll("[data-act]")) button.addEventListener("click", () => act(button.dataset.act));
  for (const button of document.querySelectorAll("[data-go]")) {
    button.disabled = !state[button.dataset.go];
    button.addEventListener("click", () => go(button.dataset.go));
  }
  byId("undo").addEventListener("click", undo);
  byId("mark")?.addEventListener("click", mark);
  byId("draft")?.addEventListener("keydown", onDraftKey);
  byId("from-draft")?.addEventListener("click", () => {
    if (!form.elements.refinement.value) [form.elements.refinement.value, takenOver] = [state.draft, ""];
    changed();
  });
  document.addEventListener("keydown", onKey);
  document.addEventListener("pointermove", () => { lastSign = performance.now(); }, {passive: true});
  document.addEventListener("visibilitychange", tick);
  setInterval(tick, 1000);
  addEventListener("pagehide", () => {
    if (!dirty) return;
    const last = body();
    stash();
    post(`/items/${state.item}/save`, last, {keepalive: true}).catch(() => {}); // kept anyway, should it be too long
  });
  byId("single-keys").checked = localStorage.getItem("ilf single keys") !== "off";
  byId("single-keys").addEventListener("change", (event) => localStorage.setItem("ilf single keys", event.target.checked ? "on" : "off"));
  document.documentElement.dataset.ready = "yes"; // from here on keys are heard
}

export function takeOver(text) { // a refinement of the learner becomes the reviewer's own
  [form.elements.refinement.value, takenOver] = [text, text];
  byId("own").open = true;
  changed();
}
