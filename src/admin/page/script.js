
"use strict";
(() => {
  const EVERY = 1000, PATIENCE = 4000;
  const get = (id) => document.getElementById(id);
  const at = (value, path) => path.split(".").reduce((v, name) => (v == null ? undefined : v[name]), value);
  const known = (value) => value !== null && value !== undefined;

  // Numbers for people. What nobody knows is a dash.
  const grouped = (value, digits) => value.toLocaleString("en-US", { maximumFractionDigits: digits, minimumFractionDigits: digits });
  const three = (value) => grouped(value, value >= 100 ? 0 : value >= 10 ? 1 : 2);
  const time = (s) => {
    if (s === 0) return "0\u00a0s";
    if (s < 0.001) return three(s * 1e6) + "\u00a0µs";
    if (s < 1) return three(s * 1e3) + "\u00a0ms";
    return s < 120 ? three(s) + "\u00a0s" : age(s);
  };
  const age = (s) => {
    const units = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
    const first = units.findIndex(([, size]) => s >= size);
    if (first < 0) return "0 s";
    const parts = [];
    for (const [name, size] of units.slice(first, first + 2)) {
      const count = Math.floor(s / size);
      s -= count * size;
      if (count > 0 || parts.length === 0) parts.push(count + "\u00a0" + name);
    }
    return parts.join(" ");
  };
  const bytes = (n) => {
    let unit = 0;
    while (n >= 1024 && unit < 4) { n /= 1024; unit += 1; }
    return (unit === 0 ? grouped(n, 0) : three(n)) + "\u00a0" + ["B", "KiB", "MiB", "GiB", "TiB"][unit];
  };
  const two = (n) => String(n).padStart(2, "0");
  const clock = (s) => { const d = new Date(s * 1000); return two(d.getHours()) + ":" + two(d.getMinutes()) + ":" + two(d.getSeconds()); };
  const day = (s) => { const d = new Date(s * 1000); return d.getFullYear() + "-" + two(d.getMonth() + 1) + "-" + two(d.getDate()); };
  const AS = {
    text: String,
    count: (n) => grouped(n, 0),
    rate: (n) => (n > 0 && n < 10 ? grouped(n, 1) : grouped(n, 0)),
    short: (n) => grouped(n, 1),
    percent: (n) => grouped(100 * n, n < 0.1 ? 1 : 0) + "\u00a0%",
    moment: (s) => day(s) + " " + clock(s),
    time, age, bytes, clock,
  };
  const shown = (value, as) => (known(value) ? AS[as || "text"](value) : "–");

  const put = (element, text) => { if (element.textContent !== text) element.textContent = text; };
  const make = (tag, parent, text, name) => {
    const element = document.createElement(tag);
    if (text !== undefined) element.textContent = text;
    if (name) element.className = name;
    parent.appendChild(element);
    return element;
  };
  const emptied = (id) => { const element = get(id); element.replaceChildren(); return element; };
  const list = (id, none, items, row) => {
    const element = emptied(id);
    for (const item of items) row(element, item);
    if (none) get(none).hidden = items.length > 0;
    return element;
  };

  // A bar of parts: [share of the whole, class, what it is].
  const bar = (element, parts, label) => {
    while (element.children.length < parts.length + 1) make("i", element);
    let rest = 1;
    parts.forEach(([share, name], index) => {
      const part = element.children[index];
      const grow = Math.max(0, Math.min(rest, share || 0));
      rest -= grow;
      part.className = name + (grow > 0 ? " on" : "");
      part.style.flexGrow = grow;
    });
    element.children[parts.length].style.flexGrow = Math.max(0, rest);
    element.setAttribute("aria-label", label);
  };
  const MEANS = {
    lane: "shared by many clients", pool: "pinned to one client at a time", hub: "carries the subscriptions of many clients",
    login: "proves logins", control: "health checks",
  };
  const legend = (id, parts) => list(id, null, parts, (ul, [name, count, colour]) => {
    const li = make("li", ul);
    if (MEANS[name]) li.title = MEANS[name];
    make("i", li, "", colour);
    make("span", li, name);
    make("b", li, AS.count(count));
  });
  const cells = (tbody, texts) => {
    const tr = make("tr", tbody);
    texts.forEach((text) => make("td", tr, text));
    return tr;
  };

  const svg = (name, parent, attributes) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    parent.appendChild(element);
  };
  const nice = (value) => {
    const step = 10 ** Math.floor(Math.log10(Math.max(value, 1)));
    return [1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10].map((n) => n * step).find((n) => n >= value) || value;
  };
  const path = (values, most, width, height, slots) => {
    const x = (index) => width - (values.length - 1 - index) * width / (slots - 1);
    return values.map((value, index) => (index ? "L" : "M") + x(index).toFixed(1) + " " + (height - height * value / most).toFixed(1)).join("");
  };
  const SLOTS = 180;
  const graph = (history) => {
    const values = history.commands, root = emptied("graph");
    const top = nice(Math.max(10, ...values));
    for (const y of [0.5, 75, 149.5]) svg("line", root, { x1: 0, x2: 600, y1: y, y2: y });
    if (values.length > 1) {
      const line = path(values, top, 600, 149, SLOTS);
      const from = 600 - (values.length - 1) * 600 / (SLOTS - 1);
      svg("path", root, { class: "area", d: line + "L600 149L" + from.toFixed(1) + " 149Z" });
      svg("path", root, { class: "line", d: line });
    }
    put(get("graph-top"), AS.count(top));
    put(get("graph-from"), age(SLOTS * history.step) + " ago");
    const spark = emptied("spark"), p99 = history.p99.slice(-60);
    if (p99.length > 1) svg("path", spark, { d: path(p99, Math.max(...p99) || 1, 120, 23, 60) });
  };

  const words = (counts) => Object.entries(counts).filter(([, n]) => n > 0);
  const classOf = { error: "error", warn: "warn", info: "info" };

  const state = (s) => {
    const pill = get("state");
    const stuck = s.workers.filter((w) => w.silent > 10).length;
    const [text, name] = s.state === "draining" ? ["Draining", "warn"]
      : stuck ? [stuck + " worker" + (stuck > 1 ? "s" : "") + " stuck", "bad"]
      : s.state === "starting" ? ["Starting", "warn"]
      : s.state === "paused" ? ["Paused", "warn"]
      : !s.upstream.up ? ["Upstream away", "bad"]
      : s.memory.pressure ? ["Short of memory", "warn"] : ["Serving", ""];
    put(pill, text);
    pill.className = "pill " + name;
    document.title = AS.count(s.clients.now) + " → " + AS.count(s.upstream.connections) + " · respmux";
  };

  const upstream = (s) => {
    const up = s.upstream, circuit = up.circuit;
    get("up").className = "dot " + (up.up ? "" : "bad");
    const moment = (t) => (s.time - t < 86400 ? clock(t) : day(t) + " " + clock(t));
    put(get("up-text"), up.up ? "answers" : "no answer since " + moment(up.away_since) + " (" + age(Math.max(0, s.time - up.away_since)) + ")");
    get("up-text").className = up.up ? "ok" : "bad-text";
    get("last-error-row").hidden = !known(up.last_error);
    put(get("last-error"), known(up.last_error) ? up.last_error.text + " (" + moment(up.last_error.time) + ")" : "");
    const open = circuit.open + circuit.half_open, all = open + circuit.closed;
    put(get("circuit"), open === 0 ? "closed" : circuit.half_open === open ? "one attempt at a time" : "open at " + open + " of " + all + " workers");
    get("circuit").className = open === 0 ? "ok" : "bad-text";
    put(get("ratio"), up.connections > 0 ? grouped(s.clients.now / up.connections, 1) + " clients for each" : "");
    const parts = up.kinds.map((kind, index) => [kind.kind, kind.connections, "c" + index]);
    bar(get("budget"), parts.map(([, n, colour]) => [n / up.max, colour]), up.connections + " of " + up.max + " connections");
    legend("kinds", parts.filter(([, n]) => n > 0));
  };

  const clients = (s) => {
    const c = s.clients;
    const parts = [["active", c.doing.active, "c1"], ["blocked", c.doing.blocked, "c2"], ["subscribed", c.doing.subscribed, "c3"], ["idle", c.idle, "c4"]];
    bar(get("doing"), parts.map(([, n, colour]) => [c.now ? n / c.now : 0, colour]), parts.map(([name, n]) => n + " " + name).join(", "));
    legend("doing-legend", parts);
    const pinned = words(c.pinned), sum = pinned.reduce((all, [, n]) => all + n, 0);
    put(get("pinned"), sum === 0 ? "0" : AS.count(sum) + ": " + pinned.map(([name, n]) => (pinned.length > 1 ? n + " " : "") + name).join(", "));
  };

  const tables = (s) => {
    list("lanes", "no-lanes", s.lanes, (tbody, l) => {
      const row = cells(tbody, [l.worker, l.db, "RESP" + l.resp, l.phase, AS.count(l.in_flight)].map(String));
      if (l.phase !== "ready") row.children[3].className = "warn-text";
    });
    list("workers", null, s.workers, (tbody, w) => {
      const pool = s.pools.find((p) => p.worker === w.worker);
      const pinned = pool ? [pool.open - pool.idle, pool.idle, pool.max, pool.waiting].map(AS.count) : ["–", "–", "–", "–"];
      const row = cells(tbody, [String(w.worker), AS.count(w.clients), "", "", ...pinned, pool && pool.waiting ? time(pool.longest_wait) : "–"]);
      if (pool && pool.waiting) row.children[7].className = row.children[8].className = "warn-text";
      if (w.silent > 10) {
        put(row.children[3], "silent for " + age(w.silent));
        row.children[3].className = "bad-text";
      } else {
        const load = w.load || 0;
        bar(make("div", row.children[2], undefined, "bar"), [[load, load > 0.9 ? "cw" : "c1"]], AS.percent(load));
        put(row.children[3], shown(w.load, "percent"));
      }
    });
  };

  const memory = (s) => {
    const m = s.memory;
    const part = (n, most) => (known(n) && most > 0 ? n / most : 0);
    const colour = (share) => (share >= 0.9 ? "cb" : share >= 0.75 ? "cw" : "c0");
    for (const [id, share] of [["memory", part(m.buffers, m.limit)], ["files", part(m.open_files, m.max_files)]]) {
      bar(get(id), [[share, colour(share)]], AS.percent(share));
    }
    put(get("pressure"), ["well below their limit", "near their limit: large clients wait", "near their limit: new clients are refused", "at their limit: clients are closed"][m.pressure]);
    get("pressure").className = m.pressure ? "warn-text" : "ok";
  };

  const rest = (s) => {
    list("trouble", "no-trouble", s.trouble, (ul, t) => {
      const li = make("li", ul);
      make("span", li, "", "dot " + classOf[t.level]);
      make("span", li, t.text);
      make("span", li, AS.count(t.count), "times");
    });
    list("events", "no-events", s.events, (ul, e) => {
      const li = make("li", ul);
      make("span", li, "", "dot " + classOf[e.level]);
      const when = make("time", li, s.time - e.last < 86400 ? clock(e.last) : day(e.last));
      when.dateTime = new Date(e.last * 1000).toISOString();
      make("span", li, e.text);
      make("span", li, e.count > 1 ? "× " + AS.count(e.count) : "", "times");
    });
    put(get("hash"), s.config.sha256.slice(0, 12));
    const config = s.config, waits = config.pending_restart || [];
    get("reload-row").hidden = !known(config.last_load_good) || (config.last_load_good && waits.length === 0);
    put(get("reload"), config.last_load_good ? "restart needed for: " + waits.join(", ") : "failed: the old one is in effect");
    get("reload").className = config.last_load_good ? "warn-text" : "bad-text";
    put(get("listen"), s.listen.join(", "));
    get("certificates").hidden = s.certificates.length === 0;
    put(get("certificate-dates"), s.certificates.map((c) => c.side + " " + day(c.expires)).join(", "));
  };

  const fields = [...document.querySelectorAll("[data-field]")];
  const show = (s) => {
    for (const field of fields) put(field, shown(at(s, field.dataset.field), field.dataset.as));
    for (const part of [state, upstream, clients, tables, memory, rest]) part(s);
    graph(s.history);
    get("page").hidden = false;
  };

  let last = 0;
  const ask = async () => {
    try {
      const response = await fetch("/status.json", { cache: "no-store", signal: AbortSignal.timeout(PATIENCE) });
      if (!response.ok) throw new Error(response.statusText);
      const status = await response.json();
      show(status);
      last = Date.now();
      window.shownStatus = status;
    } catch (error) {
      put(get("lost"), "respmux does not answer." + (last ? " What is shown is " + age((Date.now() - last) / 1000) + " old." : ""));
    }
    const stale = Date.now() - last > 2 * EVERY + 500;
    get("lost").hidden = !stale;
    get("page").classList.toggle("stale", stale);
    if (document.hidden) await new Promise((seen) => document.addEventListener("visibilitychange", seen, { once: true }));
    setTimeout(ask, EVERY);
  };
  ask();
})();
