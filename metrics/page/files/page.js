// The page: asks for a state every second, and draws it.
"use strict";

const every = 1000; // ms between two questions
const kept = 300; // samples in the plots: five minutes

const byId = (id) => document.getElementById(id);
const wanted = new URLSearchParams(location.search);

let disk = wanted.get("disk"); // the export that is shown
let before = null; // the last state
let samples = new Map(); // by export, rows of the plots' data, oldest first
let charts = [];

// A theme of the address wins over the system's.
const dark = matchMedia("(prefers-color-scheme: dark)");
function setTheme() {
  const theme = wanted.get("theme") || (dark.matches ? "dark" : "light");
  document.documentElement.dataset.theme = theme;
}

const columns = {
  throughput: [["clients write", "--blue", 1], ["clients read", "--green", 2], ["host gets", "--orange", 3]],
  latency: [["write", "--blue", 4], ["read", "--green", 5], ["flush", "--purple", 6]],
  fill: [["log", "--blue", 7], ["spare", "--purple", 8]],
};

const digits = { throughput: 1, latency: 2, fill: 0 };
const round = (digits) => (u, v) => (v === null || v === undefined ? "–" : v.toFixed(v >= 100 ? 0 : digits));

function makeCharts() {
  const css = getComputedStyle(document.documentElement);
  const colour = (name) => css.getPropertyValue(name).trim();
  charts.forEach((c) => c.plot.destroy());
  charts = Object.entries(columns).map(([id, series]) => {
    const box = byId(id);
    const clock = (t, seconds) => new Date(t * 1000).toLocaleTimeString("en-GB", seconds ? {} : { hour: "2-digit", minute: "2-digit" });
    const axis = { stroke: colour("--quiet"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, font: "12px system-ui, sans-serif" };
    const logarithmic = id === "latency";
    const plot = new uPlot({
      width: Math.max(200, box.clientWidth), height: 190,
      cursor: { points: { size: 6 }, drag: { x: false, y: false } },
      legend: { markers: { width: 0, fill: (u, i) => u.series[i].stroke() } },
      scales: {
        x: { time: true },
        y: id === "fill" ? { range: [0, 100] } :
          logarithmic ? { distr: 3, range: (u, min, max) => [Math.min(0.01, min || 0.01), Math.max(10, max || 10)] } :
          { range: (u, min, max) => [0, Math.max(1, max || 0) * 1.08] },
      },
      axes: [
        { ...axis, size: 30, space: 62, values: (u, ticks, i, space, step) => ticks.map((t) => clock(t, step < 60)) },
        { ...axis, size: 46, values: (u, ticks) => ticks.map((t) => (t === null ? "" : t >= 1 || t === 0 ? t.toFixed(0) : String(+t.toPrecision(1)))),
          ...(logarithmic ? { splits: (u, i, min, max) => [0.01, 0.1, 1, 10, 100, 1000, 10000, 100000].filter((t) => t >= min && t <= max) } : {}) },
      ],
      series: [
        { label: "time", value: (u, t) => (t ? clock(t, true) : "–") },
        ...series.map(([label, name]) => ({ label, stroke: colour(name), width: 1.8, points: { show: false }, value: round(digits[id]), spanGaps: true })),
      ],
    }, [[]], box);
    return { plot, box, series };
  });
}

// drawCharts gives the plots their data.
function drawCharts() {
  const rows = samples.get(disk) || [];
  const time = rows.map((r) => r[0]);
  for (const c of charts) {
    c.plot.setData([time, ...c.series.map(([, , i]) => rows.map((r) => r[i]))]);
    c.plot.setLegend({ idx: time.length - 1 });
  }
}

const tiles = [
  ["clients write", (d, r) => [...figures.size(r.written), "/s"], (d) => figures.sizeText(d.bytes.client_written_bytes) + " in all"],
  ["clients read", (d, r) => [...figures.size(r.read), "/s"], (d) => figures.sizeText(d.bytes.client_read_bytes) + " in all"],
  ["requests", (d, r) => [figures.number(r.requests), "/s"], (d) => figures.number(d.failed) + " failed"],
  ["clients", (d) => [String(d.connections)], (d) => figures.number(d.requests) + " requests in all"],
  ["write amplification", (d, r) => [r.amplification === null ? "–" : "× " + r.amplification.toFixed(2)],
    (d) => (d.bytes.client_written_bytes > 0 ? `× ${d.bytes.write_amplification.toFixed(2)} since the start` : "nothing written yet")],
  ["checkpoint lag", (d) => figures.duration(d.log.lag_seconds).split(" "), (d) => figures.sizeText(d.log.not_home_bytes) + " not home"],
  ["displaced", (d) => figures.size(d.spare.displaced_bytes), (d) => (d.spare.size_bytes > 0 ?
    `${percent(d.spare.used_bytes, d.spare.size_bytes).toFixed(0)} % of ${figures.sizeText(d.spare.size_bytes)} spare` : "mode data: none")],
  ["last barrier", (d, r, st) => (d.log.barrier_time ? [figures.age((Date.parse(st.time) - Date.parse(d.log.barrier_time)) / 1000), "ago"] : ["none"]),
    (d) => (d.log.barrier_seq ? "seq " + figures.number(d.log.barrier_seq) : "")],
];

const percent = (part, whole) => (whole > 0 ? (100 * part) / whole : 0);

function element(tag, text, name) {
  const e = document.createElement(tag);
  if (text !== undefined) e.textContent = text;
  if (name) e.className = name;
  return e;
}

function drawTiles(d, r, st) {
  byId("tiles").replaceChildren(...tiles.map(([name, value, note]) => {
    const tile = element("div", undefined, "tile"), [first, ...rest] = value(d, r, st);
    const figure = element("b", first);
    if (rest.length > 0) figure.append(" ", element("small", rest.join("")));
    tile.append(element("span", name), figure, element("em", note(d, r, st)));
    return tile;
  }));
}

function drawCommands(r) {
  const rows = [...r.commands, r.flush].filter((c) => c.rate > 0).map((c) => {
    const row = element("tr");
    row.append(...[c.name.replace("_", " "), figures.number(c.rate), figures.duration(c.p50), figures.duration(c.p99), figures.duration(c.max)]
      .map((text) => element("td", text)));
    return row;
  });
  if (rows.length === 0) {
    const row = element("tr"), cell = element("td", "none", "quiet");
    cell.colSpan = 5;
    row.append(cell);
    rows.push(row);
  }
  byId("commands").replaceChildren(...rows);
}

function drawDisks(st) {
  byId("disks").replaceChildren(...st.disks.map((d) => {
    const button = element("button", d.export);
    button.type = "button";
    button.setAttribute("aria-pressed", d.export === disk);
    button.addEventListener("click", () => { disk = d.export; draw(st, st); });
    return button;
  }));
}

function tell(health, name, problem) {
  byId("health").textContent = health;
  byId("health").className = "pill " + name;
  byId("problem").textContent = problem || "";
  byId("problem").hidden = !problem;
}

// addSamples adds a row for every disk, so that one can change from disk to disk.
function addSamples(st, old, seconds) {
  for (const d of st.disks) {
    const was = old.disks.find((o) => o.export === d.export);
    if (!was) continue;
    const r = figures.between(d, was, seconds), MiB = 1 << 20;
    const p99 = (name) => { const c = r.commands.find((c) => c.name === name); return c && c.p99 !== null ? c.p99 * 1e3 : null; };
    const rows = samples.get(d.export) || [];
    rows.push([Date.parse(st.time) / 1000, r.written / MiB, r.read / MiB, r.host / MiB, p99("write"), p99("read"), p99("flush"),
      percent(d.log.used_bytes, d.log.size_bytes), percent(d.spare.used_bytes, d.spare.size_bytes)]);
    samples.set(d.export, rows.slice(-kept));
  }
}

let rates = new Map(); // by export, the last that were computed

function draw(st, old) {
  if (!st.disks.some((d) => d.export === disk)) disk = st.disks.length > 0 ? st.disks[0].export : null;
  drawDisks(st);
  const d = st.disks.find((d) => d.export === disk);
  if (!d) { tell("no disk", "bad", "The server has no disk."); return; }
  const was = old.disks.find((o) => o.export === disk), seconds = (Date.parse(st.time) - Date.parse(old.time)) / 1000;
  if (was && seconds > 0) rates.set(disk, figures.between(d, was, seconds));
  const r = rates.get(disk) || figures.between(d, d, 1);
  document.title = `${d.export} – jnbd`;
  byId("about").textContent = [figures.sizeText(d.size_bytes), "mode " + d.mode, d.read_only ? "read-only" : "",
    "up " + figures.age((Date.parse(st.time) - Date.parse(st.started)) / 1000), st.version].filter(Boolean).join("  ·  ");
  if (d.poisoned) tell("poisoned", "bad", `This disk takes no changes any more: ${d.poisoned}. Restart jnbd to recover.`);
  else if (d.host_full) tell("host full", "bad", `Writes wait once the log is full, until there is room: ${d.host_full}.`);
  else tell("healthy", "ok");
  ring.draw(byId("ring"), d.log);
  drawTiles(d, r, st);
  drawCommands(r);
  drawCharts();
}

async function ask() {
  try {
    const response = await fetch("live.json", { cache: "no-store", signal: AbortSignal.timeout(5000) });
    if (!response.ok) throw new Error(`the server answered ${response.status}`);
    const st = await response.json();
    // After a restart of the server its counters begin anew, and so do rates.
    const old = before && before.pid === st.pid && before.started === st.started ? before : st;
    const seconds = (Date.parse(st.time) - Date.parse(old.time)) / 1000;
    if (seconds > 0) addSamples(st, old, seconds);
    before = st;
    draw(st, old);
    document.body.dataset.samples = (samples.get(disk) || []).length;
  } catch (error) {
    tell("no answer", "bad", `The server does not answer (${error.message}). What is shown is from before.`);
  }
  setTimeout(ask, every);
}

setTheme();
makeCharts();
dark.addEventListener("change", () => { setTheme(); makeCharts(); drawCharts(); });
new ResizeObserver(() => charts.forEach((c) => {
  const width = Math.max(200, c.box.clientWidth);
  if (c.plot.width !== width) c.plot.setSize({ width, height: 190 });
})).observe(document.querySelector("main"));
ask();
