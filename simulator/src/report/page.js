"use strict";
// Draws the pictures of the report from the numbers in #data. Times are tenths of a second since the start of the run.
(() => {
  const D = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const make = (tag, props = {}, ...children) => {
    const element = Object.assign(document.createElement(tag), props);
    element.append(...children);
    return element;
  };
  const STATES = D.states; // locked, stale, off, down, asleep, offline, online
  const SAYS = {
    locked: "locked: nothing is allowed", stale: "stale: risky requests are denied", off: "powered off",
    down: "powered, and no agent runs", asleep: "suspended", offline: "offline, within its bounds", online: "online",
  };
  // Bottom to top in the stacked picture.
  const STACK = ["online", "offline", "asleep", "stale", "locked", "down", "off"];
  const narrow = () => window.innerWidth < 640;
  const view = { from: 0, to: D.duration, cursor: null, side: 0, row: 0, pinned: null };

  // ---- Words -------------------------------------------------------------------------------------------------------
  const two = (n) => String(n).padStart(2, "0");
  function clock(t, fine) {
    const s = Math.floor(t / 10), d = Math.floor(s / 86400), h = Math.floor(s / 3600) % 24, m = Math.floor(s / 60) % 60;
    return (D.duration > 864000 || d ? d + "d " : "") + two(h) + ":" + two(m) + (fine ? ":" + two(s % 60) : "");
  }
  function span(t) {
    const s = Math.round(t / 10);
    if (s < 120) return (t < 100 ? (t / 10).toFixed(1) : s) + " s";
    if (s < 7200) return Math.round(s / 60) + " min";
    if (s < 172800) return (s / 3600).toFixed(s < 36000 ? 1 : 0) + " h";
    return (s / 86400).toFixed(1) + " d";
  }
  const group = (n) => Math.round(n).toLocaleString("en");

  // ---- Numbers: rows of steps back to times ------------------------------------------------------------------------
  const pairs = (row) => { const out = []; let t = 0; for (let i = 0; i < row.length; i += 2) { t += row[i]; out.push([t, row[i + 1]]); } return out; };
  const marks = (row) => { const out = []; let t = 0; for (let i = 0; i < row.length; i += 3) { t += row[i]; out.push([t, row[i + 1], row[i + 2]]); } return out; };
  for (const side of D.sides) for (const lane of side.lanes) {
    lane.state = pairs(lane.state); lane.link = pairs(lane.link); lane.marks = marks(lane.marks);
    if (lane.singles) lane.singles = pairs(lane.singles);
    lane.peak = Math.max(1, ...lane.allowed, ...lane.denied);
  }
  for (const row of D.fleet) row.marks = marks(row.marks);
  const fleet = D.fleet.filter((row) => row.marks.length);
  // The last entry at or before t.
  function at(list, t) {
    let low = 0, high = list.length;
    while (low < high) { const mid = (low + high) >> 1; if (list[mid][0] <= t) low = mid + 1; else high = mid; }
    return low - 1;
  }

  // ---- Colours and canvases ----------------------------------------------------------------------------------------
  let C = {};
  function colours() {
    const style = getComputedStyle(document.documentElement);
    C = {};
    for (const name of ["paper", "panel", "ink", "soft", "line", "wash", "online", "offline", "stale", "locked", "off", "down", "asleep", "allow", "deny", "alarm", "shade", "cursor"]) C[name] = style.getPropertyValue("--" + name).trim();
    C.font = "12px " + style.getPropertyValue("--sans");
  }
  function sized(canvas, height) {
    const ratio = window.devicePixelRatio || 1, width = canvas.clientWidth || canvas.parentElement.clientWidth;
    const w = Math.round(width * ratio), h = Math.round(height * ratio);
    if (canvas.width !== w || canvas.height !== h) { canvas.width = w; canvas.height = h; canvas.style.height = height + "px"; }
    const g = canvas.getContext("2d");
    g.setTransform(ratio, 0, 0, ratio, 0, 0);
    g.clearRect(0, 0, width, height);
    g.font = C.font; g.textBaseline = "middle";
    return [g, width];
  }
  const scale = (left, width) => (t) => left + (t - view.from) / (view.to - view.from) * (width - left);
  // A band of a state. What is bad has a pattern as well as a colour.
  function band(g, x, y, w, h, state) {
    g.fillStyle = C[state];
    if (state === "off") { g.globalAlpha = 0.55; g.fillRect(x, y + h / 2 - 1, w, 2); g.globalAlpha = 1; return; }
    if (state === "down") { g.fillRect(x, y + h / 4, w, h / 2); return; }
    g.fillRect(x, y, w, h);
    if (state === "locked" || state === "stale") hatch(g, x, y, w, h, state === "locked" ? 4 : 7, C.panel);
    if (state === "asleep") { g.fillStyle = C.panel; for (let at = x + 3; at < x + w - 1; at += 6) g.fillRect(at, y + h / 2 - 1, 2, 2); }
  }
  function hatch(g, x, y, w, h, step, colour) {
    if (w < 3) return;
    g.save(); g.beginPath(); g.rect(x, y, w, h); g.clip();
    g.strokeStyle = colour; g.globalAlpha = 0.6; g.lineWidth = 1.2; g.beginPath();
    for (let at = x - h - ((x - h) % step); at < x + w; at += step) { g.moveTo(at, y + h); g.lineTo(at + h, y); }
    g.stroke(); g.restore();
  }
  const STEPS = [10, 50, 100, 300, 600, 1800, 3000, 6000, 9000, 18000, 36000, 72000, 108000, 216000, 432000, 864000, 1728000, 4320000, 8640000, 25920000];
  function ticks(width) {
    const room = Math.max(2, width / (D.duration > 864000 ? 96 : 76));
    const step = STEPS.find((step) => (view.to - view.from) / step <= room) || STEPS[STEPS.length - 1];
    const out = [];
    for (let t = Math.ceil(view.from / step) * step; t <= view.to; t += step) out.push(t);
    return [out, step];
  }
  const label = (t, step) => step < 600 ? clock(t, true) : D.duration > 864000 && step >= 864000 ? Math.round(t / 864000) + "d" : clock(t);

  // ---- The fleet's curves ------------------------------------------------------------------------------------------
  const LEFT = () => narrow() ? 50 : 64;
  const curves = [];
  function build() {
    const root = $("curves");
    const kinds = [
      { name: "Faults at work", note: "by family; the darker, the more gateways", height: () => 10 + D.shades.length * 16, draw: drawShades, if: () => D.shades.length, empty: "No fault of this plan lasts for a while." },
      { name: "What gateways are doing", note: "share of the fleet", height: () => 150, draw: drawStates },
      { name: "Decisions a minute", note: "allowed above, denied below the line; square-root scale", height: () => 120, draw: drawDecisions },
      { name: "Hold the newest revocation", note: "share of gateways", height: () => 84, draw: drawCurrent, if: () => D.sides.some((side) => side.revocations.length), empty: "The operator revokes nothing in this run." },
      { name: "Audit that waits on gateways", note: "records that the collector does not have", height: () => 84, draw: drawBacklog },
    ];
    for (const kind of kinds) D.sides.forEach((side, number) => {
      const name = D.sides.length > 1 ? kind.name + " — " + "AB"[number] + " " + side.label : kind.name;
      const figure = make("figure", { className: "curve" }, make("figcaption", {}, name, make("span", { textContent: kind.note })));
      if (kind.if && !kind.if(side)) {
        // Of both runs or of none: it is the same plan.
        if (!number) { figure.classList.add("wide"); figure.firstChild.textContent = kind.name; figure.append(make("p", { className: "note", textContent: kind.empty })); root.append(figure); }
        return;
      }
      const canvas = make("canvas", { role: "img" });
      canvas.setAttribute("aria-label", name + ", " + kind.note);
      figure.append(canvas);
      root.append(figure);
      curves.push({ canvas, kind, side });
      listen(canvas, () => LEFT(), null);
    });
  }
  function frame(g, width, height, bottom) {
    const left = LEFT(), x = scale(left, width);
    g.save(); g.beginPath(); g.rect(left, 0, width - left, height); g.clip();
    g.fillStyle = C.shade;
    for (const shade of D.shades) for (const [from, len] of shade.spans) {
      const a = x(from), b = x(from + len);
      if (b > left && a < width) g.fillRect(a, 0, Math.max(1, b - a), bottom);
    }
    g.restore();
    return [left, x];
  }
  function axis(g, width, height, x) {
    const [list, step] = ticks(width - LEFT());
    g.fillStyle = C.soft; g.textAlign = "left";
    for (const t of list) { const a = x(t); g.fillRect(a, height - 16, 1, 4); const text = label(t, step); if (a + g.measureText(text).width + 4 < width) g.fillText(text, a + 4, height - 9); }
  }
  function cursor(g, x, height) {
    if (view.pinned !== null) { g.fillStyle = C.alarm; g.fillRect(x(view.pinned) - 0.75, 0, 1.5, height); }
    if (view.cursor !== null) { g.fillStyle = C.cursor; g.globalAlpha = 0.5; g.fillRect(x(view.cursor), 0, 1, height); g.globalAlpha = 1; }
  }
  const bins = () => D.sides[0].curves.current.length;
  // Per pixel column the bins under it.
  function columns(left, width, each) {
    const per = D.duration / bins();
    const first = Math.max(0, Math.floor(view.from / per)), last = Math.min(bins() - 1, Math.floor(view.to / per));
    const x = scale(left, width);
    for (let bin = first; bin <= last; bin++) each(bin, Math.max(left, Math.floor(x(bin * per))), Math.min(width, Math.floor(x((bin + 1) * per))));
  }
  function ylabel(g, left, y, text) { g.fillStyle = C.soft; g.textAlign = "right"; g.fillText(text, left - 7, y); }
  function drawShades(g, width, height, side) {
    const left = LEFT(), x = scale(left, width);
    g.save();
    D.shades.forEach((shade, row) => {
      const y = 2 + row * 16;
      ylabel(g, left, y + 7, shade.name);
      g.fillStyle = C.wash; g.fillRect(left, y, width - left, 13);
      g.save(); g.beginPath(); g.rect(left, 0, width - left, height); g.clip();
      for (const [from, len, most] of shade.spans) {
        const a = x(from), b = Math.max(a + 1.5, x(from + len));
        if (b < left || a > width) continue;
        const share = shade.name === "broker" || shade.name === "service" ? 1 : Math.min(1, most / side.devices);
        g.globalAlpha = 0.35 + 0.6 * share; g.fillStyle = C.stale; g.fillRect(a, y, b - a, 13);
        g.globalAlpha = 1; hatch(g, a, y, b - a, 13, 5, C.panel);
      }
      g.restore();
    });
    g.restore();
    cursor(g, x, height);
  }
  function drawStates(g, width, height, side) {
    const bottom = height - 18, top = 4, [left, x] = frame(g, width, height, bottom);
    const h = bottom - top, all = side.devices * 1000;
    columns(left, width, (bin, a, b) => {
      let y = bottom;
      for (const state of STACK) {
        const part = side.curves.states[STATES.indexOf(state)][bin] / all * h;
        if (part <= 0) continue;
        g.fillStyle = C[state]; g.fillRect(a, y - part, Math.max(1, b - a), part + 0.3); y -= part;
      }
    });
    for (const share of [0, 0.5, 1]) { const y = bottom - share * h; ylabel(g, left, Math.max(7, y), share * 100 + " %"); g.fillStyle = C.line; g.globalAlpha = 0.6; g.fillRect(left, y, width - left, 1); g.globalAlpha = 1; }
    axis(g, width, height, x); cursor(g, x, bottom);
  }
  function drawDecisions(g, width, height, side) {
    const bottom = height - 18, [left, x] = frame(g, width, height, bottom), per = D.duration / bins() / 600;
    // Floods and quiet hours in one picture.
    const up = Math.max(...side.curves.allowed) / per, down = Math.max(...side.curves.denied) / per, most = Math.max(Math.sqrt(up) + Math.sqrt(down), 1e-9);
    const middle = 4 + (bottom - 8) * Math.sqrt(up) / most, unit = (bottom - 8) / most;
    columns(left, width, (bin, a, b) => {
      const w = Math.max(1, b - a - (b - a > 4 ? 1 : 0)), allow = Math.sqrt(side.curves.allowed[bin] / per) * unit, deny = Math.sqrt(side.curves.denied[bin] / per) * unit;
      g.fillStyle = C.allow; g.fillRect(a, middle - allow, w, allow);
      g.fillStyle = C.deny; g.fillRect(a, middle, w, deny);
    });
    g.fillStyle = C.ink; g.globalAlpha = 0.4; g.fillRect(left, middle, width - left, 1); g.globalAlpha = 1;
    const round = (n) => n >= 10 ? group(n) : n.toFixed(n >= 1 ? 1 : 2);
    ylabel(g, left, 9, round(up)); if (Math.sqrt(down) * unit > 12) ylabel(g, left, bottom - 5, round(down));
    axis(g, width, height, x); cursor(g, x, bottom);
  }
  function area(g, width, height, values, most, colour, text) {
    const bottom = height - 18, top = 5, [left, x] = frame(g, width, height, bottom), h = bottom - top;
    const path = [];
    columns(left, width, (bin, a, b) => { const y = bottom - values[bin] / most * h; path.push([a, y], [b, y]); });
    if (path.length) {
      g.beginPath(); g.moveTo(path[0][0], bottom); for (const [a, y] of path) g.lineTo(a, y); g.lineTo(path[path.length - 1][0], bottom);
      g.fillStyle = colour; g.globalAlpha = 0.25; g.fill(); g.globalAlpha = 1;
      g.beginPath(); path.forEach(([a, y], i) => i ? g.lineTo(a, y) : g.moveTo(a, y)); g.strokeStyle = colour; g.lineWidth = 1.8; g.stroke();
    }
    ylabel(g, left, top + 5, text); ylabel(g, left, bottom - 4, "0");
    g.fillStyle = C.line; g.fillRect(left, bottom, width - left, 1);
    axis(g, width, height, x);
    return [x, bottom, left];
  }
  function drawCurrent(g, width, height, side) {
    const [x, bottom, left] = area(g, width, height, side.curves.current, side.devices * 1000, C.online, "100 %");
    g.fillStyle = C.ink;
    for (const t of side.revocations) { const a = x(t); if (a >= left && a <= width) { g.beginPath(); g.moveTo(a - 3, 0); g.lineTo(a + 3, 0); g.lineTo(a, 6); g.fill(); } }
    cursor(g, x, bottom);
  }
  function drawBacklog(g, width, height, side) {
    const most = Math.max(1000, ...D.sides.flatMap((side) => side.curves.backlog));
    const [x, bottom] = area(g, width, height, side.curves.backlog, most, C.locked, group(most / 1000));
    cursor(g, x, bottom);
  }

  // ---- Lanes -------------------------------------------------------------------------------------------------------
  const box = $("lanes"), canvas = box.querySelector("canvas"), spacer = box.querySelector(".spacer");
  const ROW = 46, HEAD = 24, FLEET = 22;
  const lanesLeft = () => narrow() ? 58 : 78;
  const side = () => D.sides[view.side];
  const rowsTop = () => HEAD + fleet.length * FLEET + 4;
  function layout() {
    const full = rowsTop() + side().lanes.length * ROW + 6;
    const shown = Math.min(full, Math.max(240, Math.min(window.innerHeight * 0.78, 760)));
    spacer.style.height = Math.max(0, full - shown) + "px";
    return shown;
  }
  function mark(g, x, y, kind, len, size) {
    g.fillStyle = C.ink;
    if (len > 0 && size > 3) g.fillRect(x, y - 1, size, 2);
    g.beginPath(); g.moveTo(x - 3.5, y - 4); g.lineTo(x + 3.5, y - 4); g.lineTo(x, y + 3); g.fill();
  }
  function drawLanes() {
    const height = layout(), [g, width] = sized(canvas, height), left = lanesLeft(), x = scale(left, width), scroll = box.scrollTop;
    const top = rowsTop();
    // The rows under the head.
    g.save(); g.beginPath(); g.rect(0, top, width, height - top); g.clip();
    side().lanes.forEach((lane, number) => {
      const y = top + number * ROW - scroll;
      if (y > height || y + ROW < top) return;
      if (number === view.row && document.activeElement === box) { g.fillStyle = C.wash; g.fillRect(0, y, width, ROW); }
      g.fillStyle = C.line; g.fillRect(0, y + ROW - 1, width, 1);
      g.fillStyle = C.ink; g.textAlign = "left"; g.fillText("gw-" + lane.n, 12, y + 16);
      drawLane(g, lane, x, left, width, y);
    });
    g.restore();
    // The head stays.
    g.fillStyle = C.panel; g.fillRect(0, 0, width, top - 2);
    const [list, step] = ticks(width - left);
    g.fillStyle = C.soft; g.textAlign = "left";
    for (const t of list) { const a = x(t); if (a < left) continue; g.fillRect(a, HEAD - 6, 1, 5); const text = label(t, step); if (a + g.measureText(text).width + 4 < width) g.fillText(text, a + 4, HEAD / 2); }
    g.save(); g.beginPath(); g.rect(left, 0, width - left, top); g.clip();
    fleet.forEach((row, number) => {
      const y = HEAD + number * FLEET;
      for (const [t, len, kind] of row.marks) {
        const a = x(t), b = x(t + len);
        if (b < left || a > width) continue;
        if (len > 0) { g.fillStyle = C.stale; g.fillRect(a, y + 6, Math.max(2, b - a), 10); hatch(g, a, y + 6, b - a, 10, 5, C.panel); } else mark(g, a, y + 11, kind, 0, 0);
      }
    });
    g.restore();
    fleet.forEach((row, number) => { g.fillStyle = C.soft; g.textAlign = "left"; g.fillText(row.name, 12, HEAD + number * FLEET + 11); });
    g.fillStyle = C.line; g.fillRect(0, top - 2, width, 1);
    g.save(); g.beginPath(); g.rect(left, 0, width - left, height); g.clip();
    if (D.heal < D.duration) { g.fillStyle = C.pass || C.allow; g.globalAlpha = 0.7; g.setLineDash([3, 3]); g.strokeStyle = C.allow; g.beginPath(); g.moveTo(x(D.heal), 0); g.lineTo(x(D.heal), height); g.stroke(); g.setLineDash([]); g.globalAlpha = 1; }
    cursor(g, x, height); g.restore();
  }
  function drawLane(g, lane, x, left, width, y) {
    g.save(); g.beginPath(); g.rect(left, y, width - left, ROW - 1); g.clip();
    const each = (list, draw) => {
      for (let i = Math.max(0, at(list, view.from)); i < list.length && list[i][0] <= view.to; i++) {
        const end = i + 1 < list.length ? list[i + 1][0] : D.duration;
        if (end > view.from) { const a = Math.max(left, x(list[i][0])); draw(a, Math.max(1, Math.min(width, x(end)) - a), list[i][1]); }
      }
    };
    each(lane.state, (a, w, state) => band(g, a, y + 13, w, 10, STATES[state]));
    // A link that lets nothing through is a gap with a bar over it; one way, half of it.
    each(lane.link, (a, w, link) => {
      if (D.links[link] === "open") return;
      g.fillStyle = C.alarm; g.globalAlpha = D.links[link] === "down" ? 1 : 0.55; g.fillRect(a, y + 8, w, 2.5); g.globalAlpha = 1;
    });
    const middle = y + 35;
    g.fillStyle = C.line; g.fillRect(left, middle, width - left, 1);
    const singles = lane.singles && (view.to - view.from) / D.duration * lane.singles.length < (width - left) * 1.5;
    if (singles) {
      for (let i = Math.max(0, at(lane.singles, view.from)); i < lane.singles.length && lane.singles[i][0] <= view.to; i++) {
        const allow = side().reasons[lane.singles[i][1]][1];
        g.fillStyle = allow ? C.allow : C.deny; g.fillRect(x(lane.singles[i][0]) - 0.75, allow ? middle - 8 : middle + 1, 1.5, 8);
      }
    } else {
      const per = D.duration / lane.allowed.length;
      const first = Math.max(0, Math.floor(view.from / per)), last = Math.min(lane.allowed.length - 1, Math.floor(view.to / per));
      for (let bin = first; bin <= last; bin++) {
        const a = x(bin * per), w = Math.max(1, x((bin + 1) * per) - a - 0.4), size = (n) => n ? 2 + 7 * Math.sqrt(n / lane.peak) : 0;
        const allow = size(lane.allowed[bin]), deny = size(lane.denied[bin]);
        g.fillStyle = C.allow; g.fillRect(a, middle - allow, w, allow);
        g.fillStyle = C.deny; g.fillRect(a, middle + 1, w, deny);
      }
    }
    // Allowed although revoked: word had not come.
    for (const t of lane.unaware) {
      const a = x(t);
      if (a < left - 5 || a > width + 5) continue;
      g.beginPath(); g.moveTo(a, middle - 13); g.lineTo(a + 4.5, middle - 8); g.lineTo(a, middle - 3); g.lineTo(a - 4.5, middle - 8); g.closePath();
      g.fillStyle = C.alarm; g.fill(); g.strokeStyle = C.panel; g.lineWidth = 1; g.stroke();
    }
    let before = -9;
    for (const [t, len, kind] of lane.marks) {
      const a = x(t), b = x(t + len);
      if (b < left || a > width || a - before < 2) continue;
      before = a; mark(g, a, y + 5, kind, len, b - a);
    }
    g.restore();
  }
  function describe(row, t) {
    const y = row;
    if (y < 0) return null;
    const lane = side().lanes[y];
    if (!lane) return null;
    const state = STATES[lane.state[Math.max(0, at(lane.state, t))][1]], link = D.links[lane.link[Math.max(0, at(lane.link, t))][1]];
    const lines = [SAYS[state]];
    if (link !== "open") lines.push("link: " + link);
    const reach = (view.to - view.from) / 160;
    if (lane.singles) {
      const near = lane.singles.filter(([of]) => Math.abs(of - t) <= reach).slice(0, 4);
      for (const [of, reason] of near) { const [name, allow] = side().reasons[reason]; lines.push(clock(of, true) + (allow ? " allowed" : " denied: " + name.replaceAll("_", " "))); }
    } else {
      const per = D.duration / lane.allowed.length, bin = Math.min(lane.allowed.length - 1, Math.floor(t / per));
      lines.push(lane.allowed[bin] + " allowed, " + lane.denied[bin] + " denied within " + span(per));
    }
    const hot = lane.unaware.filter((of) => Math.abs(of - t) <= reach).length;
    if (hot) lines.push((hot > 1 ? hot + "× " : "") + "allowed although revoked: word had not come");
    const kinds = new Set(lane.marks.filter(([of, len]) => of - reach <= t && t <= of + len + reach).map(([, , kind]) => D.kinds[kind]));
    if (kinds.size) lines.push("fault: " + [...kinds].join(", "));
    return ["gw-" + lane.n + " at " + clock(t, true), lines];
  }
  function describeFleet(number, t) {
    const reach = (view.to - view.from) / 160;
    const kinds = fleet[number].marks.filter(([of, len]) => of - reach <= t && t <= of + len + reach).map(([, , kind]) => D.kinds[kind]);
    return [fleet[number].name + " at " + clock(t, true), kinds.length ? [[...new Set(kinds)].join(", ")] : ["nothing unusual"]];
  }
  function describeCurves(side, t) {
    const bin = Math.min(bins() - 1, Math.floor(t / D.duration * bins())), of = side.curves, per = D.duration / bins();
    const lines = STACK.map((state) => [state, of.states[STATES.indexOf(state)][bin] / 10 / side.devices]).filter(([, share]) => share > 0.05).map(([state, share]) => state + " " + share.toFixed(share < 99.95 ? 1 : 0) + " %");
    lines.push(of.allowed[bin] + " allowed, " + of.denied[bin] + " denied within " + span(per));
    if (side.revocations.length) lines.push((of.current[bin] / 10 / side.devices).toFixed(0) + " % hold the newest revocation");
    lines.push(group(of.backlog[bin] / 1000) + " records wait on gateways");
    const faults = D.shades.filter((shade) => shade.spans.some(([from, len]) => from <= t && t <= from + len)).map((shade) => shade.name);
    if (faults.length) lines.push("faults: " + faults.join(", "));
    return [clock(t, true), lines];
  }

  // ---- Moving about ------------------------------------------------------------------------------------------------
  let asked = false;
  function draw() {
    if (asked) return;
    asked = true;
    requestAnimationFrame(paint);
  }
  function paint() {
    asked = false;
    for (const { canvas, kind, side } of curves) { const height = kind.height(), [g, width] = sized(canvas, height); kind.draw(g, width, height, side); }
    drawLanes();
  }
  function show(from, to) {
    const least = Math.min(D.duration, 100), length = Math.min(D.duration, Math.max(least, to - from));
    const begin = Math.max(0, Math.min(D.duration - length, from + (to - from - length) / 2));
    view.from = begin; view.to = begin + length;
    $("range").textContent = begin <= 0 && view.to >= D.duration ? "Whole run, " + span(D.duration) : clock(begin, true) + " to " + clock(view.to, true) + " (" + span(length) + ")";
    draw();
  }
  const pan = (share) => { const step = (view.to - view.from) * share; const from = Math.max(0, Math.min(D.duration - (view.to - view.from), view.from + step)); show(from, from + (view.to - view.from)); };
  const zoom = (factor, around = (view.from + view.to) / 2) => show(around - (around - view.from) * factor, around + (view.to - around) * factor);
  const tip = make("div", { id: "tip", hidden: true });
  document.body.append(tip);
  function tell(x, y, said) {
    tip.hidden = !said;
    if (!said) return;
    tip.replaceChildren(make("b", { textContent: said[0] }), ...said[1].map((line) => make("div", { textContent: line })));
    const { offsetWidth: w, offsetHeight: h } = tip;
    tip.style.left = Math.max(6, Math.min(window.innerWidth - w - 6, x + 16)) + "px";
    tip.style.top = (y + 18 + h > window.innerHeight ? Math.max(6, y - h - 12) : y + 18) + "px";
  }
  function listen(canvas, left, lanes) {
    const pointers = new Map();
    const time = (event) => { const rect = canvas.getBoundingClientRect(), l = left(); return view.from + Math.max(0, Math.min(1, (event.clientX - rect.left - l) / (rect.width - l))) * (view.to - view.from); };
    canvas.addEventListener("pointerdown", (event) => { pointers.set(event.pointerId, event.clientX); canvas.setPointerCapture(event.pointerId); if (lanes) lanes.down(event); });
    const up = (event) => { pointers.delete(event.pointerId); box.classList.remove("dragging"); };
    canvas.addEventListener("pointerup", up);
    canvas.addEventListener("pointercancel", up);
    canvas.addEventListener("pointerleave", () => { view.cursor = null; tell(0, 0, null); draw(); });
    canvas.addEventListener("pointermove", (event) => {
      const rect = canvas.getBoundingClientRect(), unit = (view.to - view.from) / (rect.width - left());
      if (pointers.has(event.pointerId)) {
        const before = pointers.get(event.pointerId);
        if (pointers.size === 2) {
          const other = [...pointers].find(([id]) => id !== event.pointerId)[1];
          const was = Math.max(10, Math.abs(before - other)), is = Math.max(10, Math.abs(event.clientX - other));
          zoom(was / is, view.from + ((event.clientX + other) / 2 - rect.left - left()) * unit);
        } else if (Math.abs(event.clientX - before) > 0) { box.classList.toggle("dragging", !!lanes); pan((before - event.clientX) * unit / (view.to - view.from)); }
        pointers.set(event.pointerId, event.clientX);
        tell(0, 0, null);
        return;
      }
      view.cursor = time(event);
      const said = lanes ? lanes.at(event, view.cursor) : describeCurves(curves.find((of) => of.canvas === canvas).side, view.cursor);
      tell(event.clientX, event.clientY, said);
      draw();
    });
    canvas.addEventListener("wheel", (event) => {
      if (event.ctrlKey || event.metaKey) { event.preventDefault(); zoom(Math.exp(event.deltaY * 0.004), time(event)); }
      else if (Math.abs(event.deltaX) > Math.abs(event.deltaY)) { event.preventDefault(); pan(event.deltaX / 800); }
    }, { passive: false });
    canvas.addEventListener("dblclick", (event) => zoom(0.4, time(event)));
  }
  const rowAt = (event) => {
    const y = event.clientY - canvas.getBoundingClientRect().top;
    if (y < HEAD) return null;
    if (y < rowsTop()) { const number = Math.floor((y - HEAD) / FLEET); return number < fleet.length ? { fleet: number } : null; }
    const row = Math.floor((y - rowsTop() + box.scrollTop) / ROW);
    return row < side().lanes.length ? { row } : null;
  };
  listen(canvas, lanesLeft, {
    down: (event) => { const found = rowAt(event); if (found && "row" in found) { view.row = found.row; box.focus({ preventScroll: true }); draw(); } },
    at: (event, t) => { const found = rowAt(event); return !found ? null : "row" in found ? describe(found.row, t) : describeFleet(found.fleet, t); },
  });
  const said = $("said"), help = said.innerHTML;
  function announce(t) {
    const found = describe(view.row, t);
    if (found) said.textContent = found[0] + ": " + found[1].join("; ") + ".";
  }
  function reveal() {
    const y = view.row * ROW, room = canvas.clientHeight - rowsTop();
    if (y < box.scrollTop) box.scrollTop = y; else if (y + ROW > box.scrollTop + room) box.scrollTop = y + ROW - room;
  }
  function step(way) {
    const lane = side().lanes[view.row], now = view.cursor ?? (way > 0 ? view.from : view.to);
    const times = [...lane.state.map(([t]) => t), ...lane.link.map(([t]) => t), ...lane.marks.map(([t]) => t), ...lane.unaware].sort((a, b) => a - b);
    const next = way > 0 ? times.find((t) => t > now) : times.reverse().find((t) => t < now);
    if (next === undefined) { said.textContent = "Nothing more happens to gw-" + lane.n + " that way."; return; }
    view.cursor = next;
    if (next < view.from || next > view.to) { const half = (view.to - view.from) / 2; show(next - half, next + half); }
    announce(next); draw();
  }
  box.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const rows = side().lanes.length;
    const keys = {
      ArrowLeft: () => pan(-0.15), ArrowRight: () => pan(0.15), "+": () => zoom(0.6), "=": () => zoom(0.6), "-": () => zoom(1 / 0.6),
      "0": () => show(0, D.duration), Home: () => show(0, view.to - view.from), End: () => show(D.duration - (view.to - view.from), D.duration),
      ArrowUp: () => { view.row = Math.max(0, view.row - 1); reveal(); announce(view.cursor ?? view.from); draw(); },
      ArrowDown: () => { view.row = Math.min(rows - 1, view.row + 1); reveal(); announce(view.cursor ?? view.from); draw(); },
      n: () => step(1), N: () => step(1), p: () => step(-1), P: () => step(-1),
      Escape: () => { view.cursor = view.pinned = null; said.innerHTML = help; draw(); },
    };
    if (keys[event.key]) { event.preventDefault(); keys[event.key](); }
  });
  box.addEventListener("scroll", draw);
  box.addEventListener("focus", draw);
  box.addEventListener("blur", draw);
  for (const button of document.querySelectorAll(".tools button")) button.addEventListener("click", () => ({ in: () => zoom(0.5), out: () => zoom(2), left: () => pan(-0.3), right: () => pan(0.3), all: () => show(0, D.duration) })[button.dataset.do]());
  function choose(number) {
    view.side = number;
    view.row = Math.min(view.row, side().lanes.length - 1);
    for (const [at, button] of [...($("which")?.children ?? [])].entries()) button.setAttribute("aria-pressed", at === number);
    draw();
  }
  if ($("which")) D.sides.forEach((side, number) => {
    const button = make("button", { type: "button", textContent: "AB"[number] + " " + side.label });
    button.addEventListener("click", () => choose(number));
    $("which").append(button);
  });
  for (const button of document.querySelectorAll(".jump")) button.addEventListener("click", () => {
    const t = Number(button.dataset.at), half = Math.min(D.duration, 72000) / 4;
    choose(Number(button.dataset.side));
    view.pinned = t; view.cursor = t;
    if (button.dataset.gateway) { const row = side().lanes.findIndex((lane) => lane.n === Number(button.dataset.gateway)); if (row >= 0) view.row = row; }
    show(t - half, t + half);
    box.scrollIntoView({ block: "center", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
    box.focus({ preventScroll: true });
    box.scrollTop = Math.round((view.row - (canvas.clientHeight - rowsTop()) / ROW / 2) + 0.5) * ROW;
    announce(t);
  });

  // ---- Legend, theme, copying --------------------------------------------------------------------------------------
  const samples = [];
  function legend() {
    const add = (text, paint) => { const sample = make("canvas"); $("legend").append(make("span", {}, sample, text)); samples.push([sample, paint]); };
    const seen = new Set(D.sides.flatMap((side) => side.lanes.flatMap((lane) => lane.state.map(([, state]) => STATES[state]))));
    for (const state of STACK) if (seen.has(state)) add(SAYS[state], (g) => band(g, 0, 1, 22, 10, state));
    if (D.sides.some((side) => side.lanes.some((lane) => lane.link.length > 1))) add("link lets nothing through", (g) => { g.fillStyle = C.alarm; g.fillRect(0, 5, 22, 2.5); });
    add("allowed", (g) => { g.fillStyle = C.allow; for (const x of [3, 9, 15]) g.fillRect(x, 2, 2, 8); });
    add("denied", (g) => { g.fillStyle = C.deny; for (const x of [3, 9, 15]) g.fillRect(x, 2, 2, 8); });
    if (D.sides.some((side) => side.lanes.some((lane) => lane.unaware.length))) add("allowed although revoked: word had not come", (g) => { g.fillStyle = C.alarm; g.beginPath(); g.moveTo(11, 0); g.lineTo(16, 6); g.lineTo(11, 12); g.lineTo(6, 6); g.fill(); });
    add("fault, or the operator acts", (g) => mark(g, 11, 6, 0, 0, 0));
    if (D.heal < D.duration) add("faults end for good", (g) => { g.strokeStyle = C.allow; g.setLineDash([3, 3]); g.beginPath(); g.moveTo(11, 0); g.lineTo(11, 12); g.stroke(); });
    if (side().grain) $("legend").append(make("span", { textContent: "· changes are drawn to the nearest " + span(side().grain) }));
  }
  function repaint() {
    colours();
    for (const [sample, paint] of samples) { const [g] = sized(sample, 12); paint(g); }
    draw();
  }
  const root = document.documentElement, themes = ["system", "light", "dark"];
  let theme = 0;
  $("theme").addEventListener("click", () => {
    theme = (theme + 1) % 3;
    if (theme) root.dataset.theme = themes[theme]; else delete root.dataset.theme;
    $("theme").textContent = "Theme: " + themes[theme];
    repaint();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);
  for (const button of document.querySelectorAll(".copy")) button.addEventListener("click", async () => {
    const command = button.previousElementSibling;
    try { await navigator.clipboard.writeText(command.textContent); button.textContent = "Copied"; } catch {
      const range = document.createRange(); range.selectNodeContents(command);
      getSelection().removeAllRanges(); getSelection().addRange(range); button.textContent = "Selected: Ctrl + C";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 2500);
  });

  colours();
  build();
  legend();
  choose(0);
  show(0, D.duration);
  repaint();
  paint();
  new ResizeObserver(repaint).observe(document.body);
  window.addEventListener("beforeprint", repaint);
})();
