"use strict";
(() => {
// The page asks /ui/state each second while it is seen. Text of requests gets into it by textContent alone.
const PERIOD = 1000, PATIENCE = 4000, KEPT = 90, ENDED_SHOWN = 24;
const $ = id => document.getElementById(id);
const make = (tag, className, text) => {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
};
const svg = (tag, attributes) => {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const name in attributes) element.setAttribute(name, attributes[name]);
  return element;
};
const setText = (element, text) => { if (element.textContent !== text) element.textContent = text; };

// ---- how figures read
const time = ms => ms === null || ms === undefined ? "–"
  : ms === 0 ? "0 ms" : Math.abs(ms) < 9.95 ? ms.toFixed(1) + " ms" : Math.abs(ms) < 999.5 ? Math.round(ms) + " ms"
  : Math.abs(ms) < 99950 ? (ms / 1000).toFixed(1) + " s" : Math.round(ms / 60000) + " min";
const bytes = n => {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (n >= 1024 && unit < 4) { n /= 1024; ++unit; }
  return (unit > 0 && n < 10 ? n.toFixed(1) : Math.round(n)) + " " + units[unit];
};
const count = n => Math.round(n).toLocaleString("en");
const many = (n, one, more) => count(n) + " " + (n === 1 ? one : more || one + "s");
const percent = share => (100 * share).toFixed(share > 0.9995 || share === 0 ? 0 : 1) + " %";

// ---- what is remembered from look to look
let current = null;         // the latest state
let before = null;          // and the one before it
const past = [];            // {step, running, waiting}, one for each look
let paused = false, failures = 0, timer = 0, asked = 0, chosen = 0, opened = "";

// ---- tiles
function spark(tile, values, label, format) {
  const chart = tile.querySelector("svg"), top = Math.max(...values, 0) || 1;
  chart.setAttribute("viewBox", "0 0 100 34");
  chart.setAttribute("preserveAspectRatio", "none");
  chart.setAttribute("aria-label", label + ", highest " + format(Math.max(...values, 0)));
  const points = values.map((value, i) =>
    (values.length < 2 ? 100 : 100 * i / (values.length - 1)).toFixed(2) + "," + (33 - 31 * value / top).toFixed(2));
  chart.replaceChildren(svg("line", {class: "base", x1: 0, x2: 100, y1: 33, y2: 33}),
    svg("polygon", {class: "area", points: ["0,33", ...points, "100,33"].join(" ")}),
    svg("polyline", {class: "line", points: points.join(" ")}));
}
function tile(id, value, extra, values, label, format) {
  const element = $(id);
  setText(element.querySelector("b"), value);
  setText(element.querySelector("span"), extra);
  spark(element, values, label, format);
}
const mean = values => values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : 0;
function showTiles(state) {
  const rate = n => count(n) + "/s", queue = state.queue;
  const tokens = state.seconds.map(second => second.generated_tokens);
  const positions = state.seconds.map(second => second.computed_tokens);
  tile("tile-tokens", count(mean(tokens.slice(-3))) + " tok/s", count(state.counters.generated_tokens) + " in all", tokens,
       "tokens generated in each of the last seconds", rate);
  tile("tile-positions", count(mean(positions.slice(-3))) + " tok/s", "with prompts", positions,
       "positions computed in each of the last seconds", rate);
  tile("tile-step", state.step.count ? time(state.step.p50_ms) : "–",
       state.step.count ? "median; p95 " + time(state.step.p95_ms) : "no step yet", past.map(look => look.step),
       "median step time", time);
  tile("tile-running", count(queue.running + queue.streaming),
       queue.streaming ? count(queue.streaming) + " with layers on the host" : "all layers on the device",
       past.map(look => look.running), "running requests", count);
  const parts = [];
  if (queue.parked) parts.push(count(queue.parked) + " parked");
  if (queue.fetching) parts.push(count(queue.fetching) + " fetching");
  tile("tile-waiting", count(queue.waiting + queue.parked + queue.fetching), parts.join(", ") || "none parked",
       past.map(look => look.waiting), "requests that wait, fetch or are parked", count);
}

// ---- map of layers and tiers
const TIERS = [["device", "Device", "device"], ["host", "Host", "host"], ["stream", "Streamed", "streamed_by"]];
function buildMap(state) {
  const layers = state.by_layer.length, map = $("map");
  const tierRow = (kind, name) => {
    const row = make("div", "tier " + kind);
    row.append(make("span", "", name), make("div", layers > 100 ? "cells many" : "cells"), make("span"));
    return row;
  };
  const rows = TIERS.map(([kind, name]) => tierRow("t-" + kind, name)), numbers = tierRow("numbers", "Layer");
  rows.push(numbers);
  const every = layers > 100 ? 20 : layers > 40 ? 10 : 5;
  state.by_layer.forEach((layer, l) => {
    const border = l > 0 && state.by_layer[l - 1].stage !== layer.stage;
    for (const row of rows) {
      const cell = make("div", border ? "cell border" : "cell");
      cell.dataset.layer = l;
      if (row === numbers && l % every === 0) cell.append(make("span", "", String(l)));
      row.children[1].append(cell);
    }
  });
  map.replaceChildren(...rows);
  map.dataset.shape = shapeOf(state);
}
const shapeOf = state => state.by_layer.map(layer => layer.stage).join(",");
function describe(state, l) {
  const layer = state.by_layer[l], last = before && before.by_layer[l];
  const seconds = last ? (state.uptime_ms - before.uptime_ms) / 1000 : 0;
  const rate = seconds > 0 ? ", " + bytes(Math.max(0, layer.bytes_in - last.bytes_in) / seconds) + "/s now" : "";
  return "Layer " + l + ", stage " + layer.stage + ": " + many(layer.device, "block") + " on the device, " +
    count(layer.host) + " on the host, " + count(layer.unsealed) + " being filled; streamed by " +
    many(layer.streamed_by, "request") + "; " + bytes(layer.bytes_in) + " in" + rate + ", " + bytes(layer.bytes_out) +
    " out, " + time(layer.stall_ms) + " stalled.";
}
function showMap(state) {
  const map = $("map");
  if (map.dataset.shape !== shapeOf(state)) buildMap(state);
  if (!state.by_layer.length) {
    setText($("layer"), "No replica is formed: " + state.ranks_ready + " of " + state.ranks + " ranks are ready.");
    return;
  }
  chosen = Math.min(chosen, state.by_layer.length - 1);
  const most = Math.max(1, ...state.by_layer.map(layer => Math.max(layer.device, layer.host)));
  TIERS.forEach(([kind, name, field], t) => {
    const row = map.children[t], values = state.by_layer.map(layer => layer[field]);
    const top = kind === "stream" ? Math.max(1, state.queue.running + state.queue.streaming) : most;
    values.forEach((value, l) => {
      const cell = row.children[1].children[l], share = value > 0 ? 0.12 + 0.88 * Math.min(1, value / top) : 0;
      cell.style.setProperty("--share", share.toFixed(3));
      cell.title = describe(state, l);
      cell.classList.toggle("chosen", l === chosen && document.activeElement === map);
    });
    const sum = values.reduce((total, value) => total + value, 0), largest = Math.max(...values, 0);
    setText(row.children[2], kind === "stream" ? (largest ? "by " + largest : "by none") : bytes(sum * state.slot_bytes));
  });
  setText($("layer"), describe(state, chosen));
}
function choose(l) {
  if (!current) return;
  chosen = Math.max(0, Math.min(current.by_layer.length - 1, l));
  showMap(current);
}

// ---- memory of stages, targets
function bar(parts, total, label) {
  const track = make("div", "track");
  track.setAttribute("role", "img");
  track.setAttribute("aria-label", label);
  for (const [className, value] of parts) {
    const part = make("i", className);
    part.style.width = (total > 0 ? 100 * Math.max(0, value) / total : 0).toFixed(2) + "%";
    track.append(part);
  }
  return track;
}
function fill(name, track, text) {
  const row = make("div", "fill");
  row.append(make("span", "", name), track, make("span", "", text));
  return row;
}
function showStages(state) {
  const rows = [];
  state.stages.forEach((stage, s) => {
    const size = slots => bytes(slots * state.slot_bytes);
    const of = room => percent(room.total ? (room.held + room.cached) / room.total : 0) + " of " + size(room.total);
    const where = state.stages.length > 1 ? s + " " : "";
    const device = stage.device, host = stage.host;
    rows.push(fill(where + "Device", bar([["f-device", device.held], ["f-cached", device.cached], ["f-ring", device.ring]],
                                         device.total, "stage " + s + " device: " + of(device)), of(device)));
    rows.push(fill(where + "Host", bar([["f-host", host.held], ["f-cached", host.cached]], host.total,
                                       "stage " + s + " host: " + of(host)), of(host)));
    const title = (name, room) => "Stage " + s + ", layers " + stage.layer_begin + " to " + (stage.layer_end - 1) + ", " +
      name + ": " + size(room.held) + " held, " + size(room.cached) + " cached" +
      (room.ring ? ", " + size(room.ring) + " ring" : "") + ", of " + size(room.total);
    rows[rows.length - 2].title = title("device", device);
    rows[rows.length - 1].title = title("host", host);
  });
  $("stages").replaceChildren(...rows);
}
function showTargets(state) {
  const slo = state.slo, rows = [];
  for (const [field, name] of [["ttft", "First token"], ["tpot", "Per token"], ["largest_gap", "Largest gap"], ["deadline", "Deadline"]]) {
    const {met, missed} = slo[field], total = met + missed;
    const text = total ? percent(met / total) + " of " + count(total) : "not asked for";
    rows.push(fill(name, bar([["f-ok", met], ["f-bad", missed]], total, name + ": " + text), text));
  }
  $("attainment").replaceChildren(...rows);
  const ended = slo.finished + slo.failed;
  setText($("goodput"), ended ? many(ended, "request") + " ended: " + percent(slo.goodput / ended) +
    " well and on target" + (slo.failed ? ", " + count(slo.failed) + " with an error." : ".") : "No request has ended yet.");
}

// ---- requests
const LETTERS = {d: "var(--device)", h: "var(--host)"};
// One gradient for a run of colours: [[share of the width, colour], ...].
function gradient(parts) {
  let at = 0;
  const stops = [];
  for (const [share, colour] of parts) {
    stops.push(colour + " " + (100 * at).toFixed(2) + "% " + (100 * (at + share)).toFixed(2) + "%");
    at += share;
  }
  return stops.length ? "linear-gradient(90deg," + stops.join(",") + ")" : "none";
}
function stripOf(layers) {
  const parts = [];
  for (let l = 0; l < layers.length;) {
    let end = l;
    while (end < layers.length && layers[end] === layers[l]) ++end;
    parts.push([(end - l) / layers.length, LETTERS[layers[l]] || "transparent"]);
    l = end;
  }
  return gradient(parts);
}
// What the request did, as [phase, begin, end] in ms from its arrival.
function spansOf(request) {
  const spans = [], first = request.first_token_ms;
  request.phases.forEach((phase, i) => {
    const begin = phase.begin_ms, end = i + 1 < request.phases.length ? request.phases[i + 1].begin_ms : request.age_ms;
    if (phase.phase !== "running") spans.push([phase.phase, begin, end]);
    else if (first === null || first >= end) spans.push(["prefill", begin, end]);
    else if (first <= begin) spans.push(["decode", begin, end]);
    else spans.push(["prefill", begin, first], ["decode", first, end]);
  });
  return spans;
}
// `window` ms until now; what ended began further back by so much.
function timelineOf(request, window) {
  const back = request.ended_ms || 0, parts = [];
  let at = 0;
  for (const [phase, begin, end] of spansOf(request)) {
    const share = ms => Math.max(0, Math.min(1, 1 - (request.age_ms - ms + back) / window));
    const from = Math.max(at, share(begin)), to = share(end);
    if (to <= at) continue;
    if (from > at) parts.push([from - at, "transparent"]);
    parts.push([to - from, "var(--" + phase + ")"]);
    at = to;
  }
  if (at < 1) parts.push([1 - at, "transparent"]);
  return gradient(parts);
}
const rowsByName = new Map();
function rowOf(name) {
  let row = rowsByName.get(name);
  if (row) return row;
  row = make("tr");
  for (let c = 0; c < 8; ++c) row.append(make("td", c > 4 ? "number" : ""));
  row.children[0].append(make("span", "state"));
  const open = make("button", "open", name);
  open.type = "button";
  const id = make("div", "id");
  id.append(open, make("span", "who"));
  row.children[1].append(id);
  row.children[3].append(make("span", "strip"));
  row.children[4].append(make("span", "time"));
  row.addEventListener("click", () => showDetail(name));
  rowsByName.set(name, row);
  return row;
}
function verdict(cell, text, met) {
  setText(cell, text);
  cell.className = "number" + (met === true ? " met" : met === false ? " missed" : "");
}
function fillRow(row, request, state, window) {
  const cells = row.children, ended = request.ended_ms !== undefined;
  const badge = cells[0].firstChild;
  setText(badge, request.state);
  badge.className = "state s-" + request.state;
  cells[0].title = request.status || "";
  const who = [];
  if (request.tenant) who.push(request.tenant);
  if (request.priority) who.push("priority " + request.priority);
  setText(cells[1].firstChild.lastChild, who.join(", "));
  cells[1].title = [request.request_id, ...who].join(", ");
  const computing = !ended && request.computed_tokens > 0 && request.computed_tokens < request.prompt_tokens;
  setText(cells[2], (computing ? count(request.computed_tokens) + "/" : "") + count(request.prompt_tokens) + " + " +
          count(request.generated_tokens) + (ended ? "" : "/" + count(request.max_tokens)));
  cells[2].title = many(request.prompt_tokens, "prompt token") + ", " + count(request.cached_tokens) + " of them cached; " +
    count(request.generated_tokens) + " of at most " + count(request.max_tokens) + " generated";
  const strip = cells[3].firstChild, bar = cells[4].firstChild;
  strip.style.backgroundImage = stripOf(request.layers);
  cells[3].title = request.layers ? request.kept_layers + " of " + state.layers + " layers kept on the device" : "it holds no KV";
  bar.style.backgroundImage = timelineOf(request, window);
  cells[4].title = spansOf(request).map(([phase, begin, end]) => phase + " " + time(end - begin)).join(", ");
  const met = request.met || {}, targets = request.targets;
  const inTime = (value, target) => value === null || target === null ? null : value <= target;
  verdict(cells[5], request.first_token_ms === null ? (ended ? "–" : time(request.age_ms) + " …") : time(request.first_token_ms),
          ended ? met.ttft : inTime(request.first_token_ms === null ? request.age_ms : request.first_token_ms, targets.ttft_ms));
  const gap = ended || request.since_token_ms === null ? request.largest_gap_ms : Math.max(request.largest_gap_ms, request.since_token_ms);
  verdict(cells[6], gap > 0 ? time(gap) : "–", ended ? met.largest_gap : gap > 0 ? inTime(gap, targets.largest_gap_ms) : null);
  verdict(cells[7], ended ? "" : time(request.slack_ms), !ended && request.slack_ms < 0 ? false : null);
}
function showRequests(state) {
  const ended = state.ended.slice(0, ENDED_SHOWN), all = state.requests.concat(ended);
  const oldest = Math.max(5000, ...state.requests.map(r => r.age_ms), ...ended.slice(0, 8).map(r => r.age_ms + r.ended_ms));
  const window = [10, 20, 30, 60, 120, 300, 600].map(s => 1000 * s).find(ms => ms >= oldest) || 600000;
  setText($("axis"), "Timeline, last " + (window < 120000 ? window / 1000 + " s" : window / 60000 + " min"));
  const seen = new Set();
  const place = (body, requests) => {
    const rows = [];
    for (const request of requests) {
      if (seen.has(request.request_id)) continue;
      seen.add(request.request_id);
      const row = rowOf(request.request_id);
      fillRow(row, request, state, window);
      rows.push(row);
    }
    // Rows that stay where they are keep the focus.
    rows.forEach((row, i) => { if (body.children[i] !== row) body.insertBefore(row, body.children[i] || null); });
    while (body.children.length > rows.length) body.lastChild.remove();
  };
  place($("live-rows"), state.requests);
  place($("ended-rows"), ended);
  for (const name of rowsByName.keys()) if (!seen.has(name)) rowsByName.delete(name);
  const shown = state.requests.length, total = state.queue.total;
  setText($("count"), total ? (shown < total ? "the first " + shown + " of " : "") + count(total) + " here" : "none here");
  $("none").hidden = all.length > 0;
}

// ---- one request
async function ask(path) {
  const stop = new AbortController(), limit = setTimeout(() => stop.abort(), PATIENCE);
  try {
    const answer = await fetch(path, {signal: stop.signal, cache: "no-store"});
    const body = await answer.json();
    if (!answer.ok) throw new Error((body.error && body.error.message) || "status " + answer.status);
    return body;
  } finally { clearTimeout(limit); }
}
function fact(list, name, value) {
  const pair = make("div");
  pair.append(make("dt", "", name), make("dd", "", value));
  list.push(pair);
}
function targetText(target) {
  if (target.asked_ms === null) return target.reached_ms === null ? "–" : time(target.reached_ms);
  const verdict = target.met === null ? "" : target.met ? ", met" : ", missed";
  return (target.reached_ms === null ? "not yet" : time(target.reached_ms)) + " of " + time(target.asked_ms) + verdict;
}
// What its time went by: name in the explanation, colour, how it reads.
const SPENDINGS = [["queued", "waiting", "waits"], ["fetching", "fetching", "fetches"], ["prefill", "prefill", "prompt"],
  ["decode", "decode", "tokens"], ["parked", "parked", "parked"], ["sat_out", "stream", "left out of steps"]];
function showSpent(spent) {
  const parts = SPENDINGS.map(([name, colour, text]) => [spent[name + "_seconds"], colour, text]).filter(([seconds]) => seconds > 0);
  const whole = parts.reduce((sum, [seconds]) => sum + seconds, 0), bar = make("span", "time"), legend = make("p", "legend");
  bar.style.backgroundImage = gradient(parts.map(([seconds, colour]) => [seconds / whole, "var(--" + colour + ")"]));
  for (const [seconds, colour, text] of parts) legend.append(make("span", "k-" + colour, text + " " + time(1000 * seconds)));
  $("detail-time").replaceChildren(bar, legend);
}
// Where the blocks of a layer came from.
function sourceOf(layer) {
  const parts = [[layer.found_device, "on device"], [layer.found_host, "on host"], [layer.found_below, "in tiers"],
    [layer.computed, "computed"]];
  return parts.filter(([blocks]) => blocks > 0).map(([blocks, where]) => count(blocks) + " " + where).join(", ") || "–";
}
function fillDetail(e) {
  setText($("detail-state"), e.state + (e.status && e.status !== "OK" ? ": " + e.status : ""));
  const facts = [];
  fact(facts, "Tokens", count(e.prompt_tokens) + " + " + count(e.completion_tokens));
  fact(facts, "Layers kept", e.keep_layers + " of " + e.layers);
  fact(facts, "First token", targetText(e.targets.ttft));
  fact(facts, "Per token", targetText(e.targets.tpot));
  fact(facts, "Largest gap", targetText(e.targets.largest_gap));
  fact(facts, "Deadline", targetText(e.targets.deadline));
  fact(facts, "Steps", count(e.steps));
  fact(facts, "Preemptions", count(e.preemptions));
  fact(facts, "Computed again", many(e.recomputed_tokens, "token"));
  if (e.targets.fairness_id) fact(facts, "Tenant", e.targets.fairness_id);
  if (e.targets.priority) fact(facts, "Priority", String(e.targets.priority));
  if (e.targets.objective) fact(facts, "Objective", e.targets.objective);
  $("detail-facts").replaceChildren(...facts);
  showSpent(e.spent);
  const decisions = e.decisions.map(decision => {
    const line = make("li"), again = decision.times > 1;
    line.append(make("span", "", time(1000 * decision.at_seconds)),
                make("span", "", decision.text + (again ? " (" + count(decision.times) + " times, the last at " +
                                                  time(1000 * decision.until_seconds) + ")" : "")));
    return line;
  });
  if (e.decisions_left_out) decisions.push(make("li", "", many(e.decisions_left_out, "decision") + " between them left out."));
  if (!decisions.length) decisions.push(make("li", "", "None: it ran as it came."));
  $("detail-decisions").replaceChildren(...decisions);
  $("detail-layers").replaceChildren(...e.by_layer.map(layer => {
    const row = make("tr");
    const cells = [layer.layer, layer.stage, layer.mode, sourceOf(layer), layer.blocks_device, layer.blocks_host, bytes(layer.bytes_in),
                   bytes(layer.bytes_out), time(layer.stall_us / 1000)];
    cells.forEach((text, c) => row.append(make("td", c > 3 ? "number" : "", String(text))));
    return row;
  }));
}
async function refreshDetail(name) {
  try {
    const explanation = await ask("ui/explain?id=" + encodeURIComponent(name));
    if (opened === name) fillDetail(explanation);
  } catch (error) {
    if (opened === name) setText($("detail-state"), "No explanation: " + error.message);
  }
}
function showDetail(name) {
  opened = name;
  setText($("detail-name"), name);
  setText($("detail-state"), "asking …");
  for (const id of ["detail-facts", "detail-time", "detail-decisions", "detail-layers"]) $(id).replaceChildren();
  if (!$("detail").open) $("detail").showModal();
  refreshDetail(name);
}

// ---- the loop
function show(state) {
  before = current;
  current = state;
  if (before && state.uptime_ms < before.uptime_ms) {  // another coordinator: what was remembered is not its own
    past.length = 0;
    before = null;
  }
  past.push({step: state.step.p50_ms, running: state.queue.running + state.queue.streaming,
             waiting: state.queue.waiting + state.queue.parked + state.queue.fetching});
  if (past.length > KEPT) past.shift();
  setText($("model"), state.model);
  document.title = "Interlace: " + state.model;
  setText($("facts"), ["policy " + state.policy, state.ranks_ready + " of " + state.ranks + " ranks", state.layers + " layers",
    "up " + time(state.uptime_ms), "version " + state.version].concat(state.replicas.map(replicaText)).join(" · ") + (state.draining ? " · draining" : ""));
  showTiles(state);
  showMap(state);
  showStages(state);
  showTargets(state);
  showRequests(state);
}
function replicaText(replica, number) {
  return "replica " + number + ": " + (replica.ranks_ready < replica.ranks ? "not there" : replica.running + " running, " + replica.waiting + " waiting") + (replica.role === "both" ? "" : ", " + replica.role) + (replica.draining ? ", drained" : "");
}
function mark(text, className) {
  setText($("live"), text);
  $("live").className = "chip " + className;
}
async function look() {
  const turn = ++asked;
  try {
    const state = await ask("ui/state");
    if (turn !== asked) return;
    failures = 0;
    $("gone").hidden = true;
    show(state);
    mark(paused ? "paused" : "live", paused ? "" : "on");
    document.documentElement.dataset.looks = Number(document.documentElement.dataset.looks || 0) + 1;
    if (opened) await refreshDetail(opened);
  } catch (error) {
    if (turn !== asked) return;
    ++failures;
    mark("no answer", "off");
    $("gone").hidden = false;
    setText($("gone"), "The coordinator does not answer (" + error.message + "). What you see is from before; the page goes on trying.");
  }
  plan();
}
function plan() {
  clearTimeout(timer);
  if (paused || document.hidden) return;
  timer = setTimeout(look, PERIOD * Math.min(5, 1 + failures));
}
function wake() {
  if (document.hidden) {
    clearTimeout(timer);
  } else if (!paused) {
    look();
  }
}

$("pause").addEventListener("click", () => {
  paused = !paused;
  $("pause").setAttribute("aria-pressed", String(paused));
  setText($("pause"), paused ? "Go on" : "Pause");
  if (paused) mark("paused", "");
  wake();
});
const root = document.documentElement, dark = matchMedia("(prefers-color-scheme: dark)");
try { root.dataset.theme = localStorage.getItem("theme") || ""; } catch { /* storage is off: the theme is the system's */ }
$("theme").addEventListener("click", () => {
  const isDark = root.dataset.theme ? root.dataset.theme === "dark" : dark.matches;
  root.dataset.theme = isDark === dark.matches ? (isDark ? "light" : "dark") : "";  // empty: the system's
  try { localStorage.setItem("theme", root.dataset.theme); } catch { /* it lasts as long as the page */ }
});
$("map").addEventListener("keydown", event => {
  const step = {ArrowLeft: -1, ArrowRight: 1, Home: -1000, End: 1000}[event.key];
  if (!step) return;
  event.preventDefault();
  choose(chosen + step);
});
$("map").addEventListener("pointerover", event => {
  const cell = event.target.closest(".cell");
  if (cell) choose(Number(cell.dataset.layer));
});
for (const kind of ["focus", "blur"]) $("map").addEventListener(kind, () => choose(chosen));
$("close").addEventListener("click", () => $("detail").close());
$("detail").addEventListener("click", event => { if (event.target === $("detail")) $("detail").close(); });
$("detail").addEventListener("close", () => { if (!$("detail").open) opened = ""; });
document.addEventListener("visibilitychange", wake);
look();
})();
