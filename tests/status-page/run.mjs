// The status page in a real browser, while clients are at work: `run.mjs [--seconds N] [--picture FILE]`.
//
// A headless Chromium loads the page of a respmux with clients of every kind behind it. What the page shows must be
// what /status.json says, and change with it; the page must ask nobody else for anything and have nothing to complain
// about. Pictures for the eye land in target/status-page/. Prints one line of JSON.
//
// Settings: RESPMUX (the program), CHROMIUM, REDIS (redis-server), STATUS_CLIENTS.

import { spawn } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import http from "node:http";
import net from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";

const ROOT = new URL("../..", import.meta.url).pathname;
const TARGET = process.env.CARGO_TARGET_DIR ?? join(ROOT, "target");
const RESPMUX = process.env.RESPMUX ?? join(TARGET, "debug/respmux");
const CHROMIUM = process.env.CHROMIUM ?? "chromium";
const REDIS = process.env.REDIS ?? "redis-server";
const CLIENTS = Number(process.env.STATUS_CLIENTS ?? 498);
const argument = (name, usual) => {
  const index = process.argv.indexOf(name);
  return index < 0 ? usual : process.argv[index + 1];
};
const SECONDS = Number(argument("--seconds", 6));
const PICTURE = argument("--picture", null);
const PATIENCE = 30_000;

const directory = mkdtempSync(join(tmpdir(), "respmux-status-"));
const children = [];
const sockets = [];
const failures = [];
const check = (fine, what) => {
  if (!fine) failures.push(what);
};
const pause = (ms) => new Promise((done) => setTimeout(done, ms));

async function until(what, question) {
  const end = Date.now() + PATIENCE;
  for (;;) {
    const answer = await question();
    if (answer) return answer;
    if (Date.now() > end) throw new Error(`waited in vain until ${what}`);
    await pause(50);
  }
}

const freePort = () =>
  new Promise((done) => {
    const server = net.createServer();
    server.listen(0, "127.0.0.1", () => {
      const { port } = server.address();
      server.close(() => done(port));
    });
  });

function start(program, args, stdio) {
  const child = spawn(program, args, { stdio, cwd: directory });
  child.on("error", (error) => {
    console.error(`${program}: ${error.message}`);
    process.exit(2);
  });
  children.push(child);
  return child;
}

const get = (port, path, headers = {}) =>
  new Promise((done, failed) => {
    const request = http.get({ host: "127.0.0.1", port, path, headers }, (response) => {
      let body = "";
      response.setEncoding("utf8");
      response.on("data", (chunk) => (body += chunk));
      response.on("end", () => done({ status: response.statusCode, headers: response.headers, body }));
    });
    request.on("error", failed);
  });
const status = async (port) => JSON.parse((await get(port, "/status.json")).body);

// ---- clients -------------------------------------------------------------------------------------------------------

const encoded = (words) => `*${words.length}\r\n${words.map((word) => `$${Buffer.byteLength(word)}\r\n${word}\r\n`).join("")}`;

// `work(number)` gives the commands that the client sends again and again with pauses; none: it waits for ever.
function client(port, number, first, work, rest) {
  const socket = net.connect(port, "127.0.0.1");
  sockets.push(socket);
  socket.on("error", () => {});
  const send = () => {
    if (!work || socket.destroyed) return;
    socket.write(work(number));
    setTimeout(send, rest * (0.5 + Math.random()) * (1.4 + Math.sin(Date.now() / 9000)));
  };
  socket.on("connect", () => {
    if (first) socket.write(first);
    setTimeout(send, rest * Math.random());
  });
  socket.resume();
}

function crowd(port) {
  const few = Math.min(12, Math.floor(CLIENTS / 20));
  for (let number = 0; number < CLIENTS; number += 1) {
    const key = `k${number % 50}`;
    if (number < few) client(port, number, encoded(["BLPOP", `queue${number % 3}`, "0"]));
    else if (number < 2 * few) client(port, number, encoded(["SUBSCRIBE", "news"]));
    else if (number < 2 * few + 3) {
      const watched = [["WATCH", key], ["MULTI"], ["INCR", key], ["EXEC"]].map(encoded).join("");
      client(port, number, null, () => watched, 40);
    } else if (number < CLIENTS / 3) client(port, number, encoded(["PING"]));
    else {
      const commands = [["SET", key, "x".repeat(40)], ["GET", key], ["INCR", `${key}:n`], ["GET", key]].map(encoded).join("");
      client(port, number, null, () => commands, 60);
    }
  }
}

// ---- the browser ---------------------------------------------------------------------------------------------------

class Browser {
  constructor() {
    const flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"];
    const quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions"];
    const own = [`--user-data-dir=${join(directory, "chromium")}`, "--remote-debugging-pipe", "about:blank"];
    this.child = start(CHROMIUM, [...flags, ...quiet, ...own], ["ignore", "ignore", "ignore", "pipe", "pipe"]);
    this.last = 0;
    this.waiting = new Map();
    this.requests = [];
    this.complaints = [];
    let rest = "";
    this.child.stdio[4].setEncoding("utf8");
    this.child.stdio[4].on("data", (chunk) => {
      const messages = (rest + chunk).split("\0");
      rest = messages.pop();
      for (const message of messages) this.on(JSON.parse(message));
    });
  }

  on({ id, result, error, method, params }) {
    if (id) {
      const { done, failed } = this.waiting.get(id);
      this.waiting.delete(id);
      if (error) failed(new Error(error.message));
      else done(result);
    } else if (method === "Network.requestWillBeSent") this.requests.push(params.request.url);
    else if (method === "Runtime.exceptionThrown") this.complaints.push(params.exceptionDetails.text);
    else if (method === "Log.entryAdded") this.complaints.push(params.entry.text);
    else if (method === "Runtime.consoleAPICalled") this.complaints.push(JSON.stringify(params.args.map((a) => a.value)));
  }

  call(method, params = {}, session = this.session) {
    this.last += 1;
    const id = this.last;
    this.child.stdio[3].write(`${JSON.stringify({ id, method, params, sessionId: session })}\0`);
    return new Promise((done, failed) => this.waiting.set(id, { done, failed }));
  }

  async open(url) {
    const { targetId } = await this.call("Target.createTarget", { url: "about:blank" });
    const { sessionId } = await this.call("Target.attachToTarget", { targetId, flatten: true });
    this.session = sessionId;
    for (const domain of ["Page", "Runtime", "Network", "Log"]) await this.call(`${domain}.enable`);
    await this.call("Page.navigate", { url });
  }

  async evaluate(expression) {
    const { result, exceptionDetails } = await this.call("Runtime.evaluate", { expression, returnByValue: true });
    if (exceptionDetails) throw new Error(exceptionDetails.exception?.description ?? exceptionDetails.text);
    return result.value;
  }

  async look(width, scheme) {
    await this.call("Emulation.setEmulatedMedia", { features: [{ name: "prefers-color-scheme", value: scheme }] });
    await this.call("Emulation.setDeviceMetricsOverride", { width, height: 800, deviceScaleFactor: 1, mobile: width < 600 });
    await pause(400);
    const height = await this.evaluate("document.documentElement.scrollHeight");
    await this.call("Emulation.setDeviceMetricsOverride", { width, height, deviceScaleFactor: 1, mobile: width < 600 });
    await pause(300);
    check(await this.evaluate(`document.documentElement.scrollWidth <= ${width}`), `the page is wider than ${width}`);
    const { data } = await this.call("Page.captureScreenshot", { format: "png" });
    return Buffer.from(data, "base64");
  }
}

// What the page shows, and the status that it shows, read at one moment.
const SHOWN = `JSON.stringify({
  status: window.shownStatus,
  fields: Object.fromEntries([...document.querySelectorAll("[data-field]")].map((e) => [e.dataset.field, e.textContent])),
  workers: [...document.querySelectorAll("#workers tr")].map((tr) => [...tr.children].map((td) => td.textContent)),
  trouble: [...document.querySelectorAll("#trouble li")].map((li) => [li.children[1].textContent, li.children[2].textContent]),
  lanes: document.querySelectorAll("#lanes tr").length,
  events: [...document.querySelectorAll("#events li")].map((li) => li.children[2].textContent),
  pill: document.getElementById("state").textContent,
  title: document.title,
})`;

const number = (text) => Number(text.replaceAll(",", ""));
const digits = (value) => Math.round(value).toLocaleString("en-US");

function compare({ status: s, fields, workers, trouble, lanes, events, pill, title }) {
  const equal = (field, wanted) => check(fields[field] === wanted, `${field} shows ${fields[field]}, not ${wanted}`);
  equal("clients.now", digits(s.clients.now));
  equal("clients.max", digits(s.clients.max));
  equal("upstream.connections", digits(s.upstream.connections));
  equal("upstream.max", digits(s.upstream.max));
  equal("upstream.in_flight", digits(s.upstream.in_flight));
  equal("upstream.endpoint", s.upstream.endpoint);
  equal("version", s.version);
  check(Math.abs(number(fields["rates.commands"]) - s.rates.commands) <= 0.5, `rate shows ${fields["rates.commands"]} for ${s.rates.commands}`);
  const units = { µs: 1e-6, ms: 1e-3, s: 1 };
  for (const name of ["p50", "p99", "mean", "upstream_mean", "own_mean"]) {
    const [value, unit] = fields[`latency.${name}`].split("\u00a0");
    const seconds = number(value) * units[unit];
    const fine = Math.abs(seconds - s.latency[name]) <= 0.006 * s.latency[name] + 1e-9;
    check(fine, `latency.${name} shows ${fields[`latency.${name}`]} for ${s.latency[name]}`);
  }
  const pool = (w) => s.pools.find((p) => p.worker === w.worker);
  const wanted = s.workers.map((w) => [w.clients, pool(w).open - pool(w).idle, pool(w).idle, pool(w).max, pool(w).waiting]);
  const seen = workers.map((row) => [1, 4, 5, 6, 7].map((column) => number(row[column])));
  check(JSON.stringify(seen) === JSON.stringify(wanted), `workers show ${JSON.stringify(seen)}, not ${JSON.stringify(wanted)}`);
  const troubles = s.trouble.map((t) => [t.text, digits(t.count)]);
  check(JSON.stringify(trouble) === JSON.stringify(troubles), `limits show ${JSON.stringify(trouble)}`);
  check(lanes === s.lanes.length, `${lanes} lanes are shown of ${s.lanes.length}`);
  check(JSON.stringify(events) === JSON.stringify(s.events.map((e) => e.text)), `events show ${events}`);
  check(pill === "Serving", `the page says ${pill}`);
  check(title.startsWith(`${digits(s.clients.now)} → `), `the title is ${title}`);
}

// ---- one run -------------------------------------------------------------------------------------------------------

async function run() {
  const [redisPort, port, admin] = [await freePort(), await freePort(), await freePort()];
  start(REDIS, ["--port", `${redisPort}`, "--save", "", "--bind", "127.0.0.1"], "ignore");
  const cap = "64";
  const limits = ["--set", `client.max_connections=${CLIENTS}`, "--set", "client.accept_burst=10000"];
  const listen = ["--listen", `127.0.0.1:${port}`, "--admin", `127.0.0.1:${admin}`, "--log-level", "warn"];
  const sizes = ["--workers", "2", "--max-upstream-connections", cap, "--upstream", `redis://127.0.0.1:${redisPort}`];
  const respmux = start(RESPMUX, ["run", ...listen, ...sizes, ...limits], ["ignore", "ignore", "inherit"]);
  await until("respmux is ready", async () => (await get(admin, "/readyz").catch(() => null))?.status === 200);
  await until("its upstream is up", async () => (await status(admin)).upstream.up);
  crowd(port);
  await until("all clients are there", async () => (await status(admin)).clients.now === CLIENTS);
  // Three too many, whom the page must show as refused.
  for (let more = 0; more < 3; more += 1) client(port, 0);
  await until("they are refused", async () => (await status(admin)).clients.refused === 3);

  const browser = new Browser();
  await browser.open(`http://127.0.0.1:${admin}/`);
  await until("the page shows something", () => browser.evaluate('Boolean(window.shownStatus) && !document.getElementById("page").hidden'));
  const rates = new Set();
  const times = new Set();
  let last;
  for (let look = 0; look < 2 * SECONDS; look += 1) {
    last = JSON.parse(await browser.evaluate(SHOWN));
    if (last.status.latency.p99 !== null) compare(last);
    rates.add(last.fields["rates.commands"]);
    times.add(last.status.time);
    await pause(500);
  }
  check(times.size >= SECONDS / 2, `the page was refreshed ${times.size} times in ${SECONDS} s`);
  check(rates.size >= 3, `the rate was always among ${[...rates]}`);
  const own = await status(admin);
  check(number(last.fields["clients.now"]) === own.clients.now, `the page has ${last.fields["clients.now"]} clients, respmux ${own.clients.now}`);
  check(own.clients.now === CLIENTS, `${own.clients.now} of ${CLIENTS} clients are left`);
  check(last.fields["upstream.max"] === cap, `the cap shows as ${last.fields["upstream.max"]}`);
  check(own.upstream.connections <= Number(cap), `${own.upstream.connections} connections with a cap of ${cap}`);
  check(last.status.rates.commands > 100, `only ${last.status.rates.commands} commands a second`);
  check(last.status.history.commands.length >= 3, "the graph has no points");
  check(last.trouble.some(([text, count]) => text === "clients refused: client.max_connections" && count === "3"), `limits show ${last.trouble}`);

  const pictures = join(TARGET, "status-page");
  mkdirSync(pictures, { recursive: true });
  for (const [name, width, scheme] of [["light", 1280, "light"], ["dark", 1280, "dark"], ["narrow", 400, "light"], ["wide", 1600, "dark"]]) {
    const picture = await browser.look(width, scheme);
    writeFileSync(join(pictures, `${name}.png`), picture);
    if (PICTURE && name === "light") writeFileSync(PICTURE, picture);
  }

  const ours = `http://127.0.0.1:${admin}/`;
  const foreign = browser.requests.filter((url) => !url.startsWith(ours) && !url.startsWith("data:"));
  check(foreign.length === 0, `the page asked for ${foreign}`);
  check(browser.requests.includes(`${ours}status.json`), "the page never asked for /status.json");
  check(browser.complaints.length === 0, `the browser complains: ${browser.complaints}`);

  // And when respmux is gone the page says so.
  respmux.kill("SIGKILL");
  const alert = 'document.getElementById("lost").hidden ? "" : document.getElementById("lost").textContent';
  const said = await until("the page says that respmux is gone", () => browser.evaluate(alert));
  check(said.startsWith("respmux does not answer."), `the page says ${said}`);
  return {
    clients: CLIENTS,
    connections: own.upstream.connections,
    looks: 2 * SECONDS,
    refreshed: times.size,
    requests: browser.requests.length,
    commands_per_second: Math.round(last.status.rates.commands),
  };
}

let code = 1;
try {
  const result = await run();
  console.log(JSON.stringify({ status_page: failures.length ? "failed" : "ok", ...result }));
  code = failures.length ? 1 : 0;
} catch (error) {
  failures.push(error.stack);
}
for (const failure of new Set(failures)) console.error(`status page: ${failure}`);
for (const socket of sockets) socket.destroy();
for (const child of children) child.kill("SIGKILL");
await Promise.all(children.map((child) => (child.exitCode === null && child.signalCode === null ? new Promise((ended) => child.once("exit", ended)) : null)));
await pause(100);
rmSync(directory, { recursive: true, force: true, maxRetries: 10 });
process.exit(code);
