/* Curves with uPlot. The server decides what is drawn (views/charts.py); this file only knows colours, sizes and units. */
"use strict";

(() => {
  const place = document.getElementById("charts");
  if (!place || typeof uPlot === "undefined") return;
  const REFRESH_MS = 4000;
  const QUIET_MS = 20_000;
  const plots = new Map();
  let minutes = 15;
  let latest = null;
  let isNew = true;
  let drawnAt = 0;

  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const number = (version) => Number.parseInt(version.replace(/\D/g, ""), 10) || 0;
  // by the last digit of the number, as app.css colours the squares beside version names
  const VERSION_COLOURS = ["--v5", "--v0", "--v1", "--v2", "--v3", "--v4", "--v5", "--v0", "--v1", "--v2"];
  const versionColour = (version) => css(VERSION_COLOURS[number(version) % 10]);
  const fade = (hex, alpha) => hex + Math.round(alpha * 255).toString(16).padStart(2, "0");
  const paint = (series, index) => (series.version ? versionColour(series.version) : css(["--v0", "--v2", "--idle"][index % 3]));
  const SUFFIX = { "%": " %", ms: " ms", "answers / s": " /s" };
  const brief = (value) => (Math.abs(value) >= 1000 ? `${+(value / 1000).toFixed(1)}k` : `${+value.toFixed(2)}`);
  const two = (value) => String(value).padStart(2, "0");

  function clock(seconds, step) {
    const then = new Date(seconds * 1000);
    if (step >= 86_400) return then.toLocaleDateString(undefined, { day: "numeric", month: "short" });
    return `${two(then.getHours())}:${two(then.getMinutes())}${step < 60 ? `:${two(then.getSeconds())}` : ""}`;
  }

  function columns(chart) {
    const data = [chart.times];
    for (const series of chart.series) {
      data.push(series.values);
      if (series.low) data.push(series.low, series.high);
    }
    return data;
  }

  // Bands of a candidate's stages, marks of decisions, and lines that mean something.
  function underlay(chart) {
    return (u) => {
      const { left, top, width, height } = u.bbox;
      const context = u.ctx;
      const dot = devicePixelRatio;
      const isTall = height > 180 * dot;
      context.save();
      context.beginPath();
      context.rect(left, top, width, height);
      context.clip();
      context.font = `${11 * dot}px ${css("--font")}`;
      context.textAlign = "left"; // the axes leave theirs behind
      context.textBaseline = "alphabetic";
      for (const band of chart.bands ?? []) {
        const from = u.valToPos(band.from, "x", true);
        const wide = Math.max(u.valToPos(band.to, "x", true) - from, 1);
        const colour = versionColour(band.version || "v0");
        context.fillStyle = fade(colour, { shadow: 0.05, canary: 0.12, probation: 0.05 }[band.kind]);
        context.fillRect(from, top, wide, height);
        if (!isTall) continue;
        context.fillStyle = colour;
        context.fillRect(from, top + height - 3 * dot, wide - 2 * dot, 3 * dot);
        const [long, short] = [`${band.version} ${band.kind}`, band.kind];
        const word = [long, short].find((text) => context.measureText(text).width < wide - 10 * dot);
        if (word) context.fillText(word, from + 5 * dot, top + height - 9 * dot);
      }
      let free = 0;
      for (const mark of chart.marks ?? []) {
        const x = Math.round(u.valToPos(mark.time, "x", true));
        context.strokeStyle = fade(css(`--${mark.tone}`), isTall ? 1 : 0.55);
        context.lineWidth = dot;
        context.setLineDash(mark.tone === "busy" ? [2 * dot, 3 * dot] : []);
        context.beginPath();
        context.moveTo(x, top);
        context.lineTo(x, top + height);
        context.stroke();
        const room = context.measureText(mark.label).width + 10 * dot;
        if (!isTall || x < free || x + room > left + width) continue;
        context.fillStyle = css(`--${mark.tone}`);
        context.fillText(mark.label, x + 5 * dot, top + height - 26 * dot);
        free = x + room;
      }
      for (const line of chart.lines ?? []) {
        const y = Math.round(u.valToPos(line.value, "y", true));
        context.strokeStyle = css("--bad");
        context.lineWidth = dot;
        context.setLineDash([5 * dot, 4 * dot]);
        context.beginPath();
        context.moveTo(left, y);
        context.lineTo(left + width, y);
        context.stroke();
        context.fillStyle = css("--bad");
        context.fillText(line.label, left + 5 * dot, y - top < 16 * dot ? y + 13 * dot : y - 5 * dot);
      }
      context.restore();
    };
  }

  // The interval of a paired gain begins wider than anything that matters: the axis follows how it stands now.
  function gainRange(chart, meant) {
    const { low, high } = chart.series[0];
    const at = low.findLastIndex((value) => value !== null);
    const reach = Math.max(4, ...meant.map((value) => Math.abs(value) * 1.6), Math.abs(low[at] ?? 0) * 1.7, Math.abs(high[at] ?? 0) * 1.7);
    return [-reach, reach];
  }

  function range(chart, key) {
    const meant = (chart.lines ?? []).map((line) => line.value);
    return (u, low, high) => {
      if (low === null) return [0, 1];
      if (key === "evidence") return gainRange(chart, meant);
      if (key === "accuracy" || key === "training") return [Math.max(0, Math.min(low, ...meant, 90) - 2), 101];
      const most = Math.max(high, ...meant, key === "lag" ? 4 : 0);
      return [0, most * 1.15 || 1];
    };
  }

  function axesOf(chart) {
    const shared = { stroke: css("--soft"), ticks: { show: false }, font: `11px ${css("--font")}` };
    const grid = { stroke: css("--line"), width: 1 };
    const x = { ...shared, grid: { show: false }, space: 64, size: 24, gap: 6 };
    if (!chart.x) x.values = (u, splits, axis, space, step) => splits.map((value) => clock(value, step));
    const suffix = SUFFIX[chart.unit] ?? "";
    const y = { ...shared, grid, size: suffix.length > 1 ? 50 : 40, gap: 6, space: 32, values: (u, splits) => splits.map((value) => (value === null ? "" : brief(value) + suffix)) };
    if (chart.log) y.splits = (u) => [1, 10, 100, 1000, 10_000, 100_000].filter((value) => value <= u.scales.y.max);
    const axes = [x, y];
    if (chart.series.some((one) => one.scale === "loss")) axes.push({ ...shared, scale: "loss", side: 1, size: 34, gap: 6, space: 32, grid: { show: false } });
    return axes;
  }

  function scalesOf(chart, key) {
    const top = (high) => Math.max(high ?? 1, ...(chart.lines ?? []).map((line) => line.value)) * 3;
    const y = chart.log ? { distr: 3, log: 10, range: (u, low, high) => [1, top(high)] } : { range: range(chart, key) };
    const loss = { range: (u, low, high) => [0, (high ?? 1) * 1.1] };
    return { x: { time: !chart.x }, y, loss };
  }

  function options(figure, chart, key) {
    const series = [{}];
    const bands = [];
    chart.series.forEach((one, index) => {
      const stroke = paint(one, index);
      series.push({ stroke, width: 1.6, points: { show: one.values.length < 3, size: 5 }, spanGaps: false, scale: one.scale ?? "y" });
      if (one.low) {
        const at = series.length;
        const hidden = { stroke: "transparent", width: 0, points: { show: false }, spanGaps: false };
        series.push({ ...hidden }, { ...hidden });
        bands.push({ series: [at + 1, at], fill: fade(stroke, 0.13) });
      }
    });
    const box = figure.querySelector(".plot");
    const told = () => tell(figure, plots.get(key)?.chart ?? chart, plots.get(key)?.plot.cursor.idx);
    return {
      width: box.clientWidth, height: box.clientHeight, series, bands, axes: axesOf(chart), scales: scalesOf(chart, key), padding: [8, 6, 0, 0],
      cursor: { y: false, points: { size: 7 }, drag: { x: true, y: false } }, legend: { show: false },
      hooks: { drawClear: [underlay(chart)], setCursor: [told] },
    };
  }

  // The legend: a square, a name, and the value under the cursor or, without one, the newest.
  function tell(figure, chart, at) {
    const legend = figure.querySelector(".legend");
    const when = at === null || at === undefined ? "" : chart.x ? `${chart.x} ${chart.times[at]}` : clock(chart.times[at], 1);
    const said = chart.series.map((one, index) => {
      const found = when ? one.values[at] : one.values.findLast((value) => value !== null);
      const span = document.createElement("span");
      const value = document.createElement("b");
      value.textContent = found === null || found === undefined ? "–" : `${+found.toPrecision(3)}${one.scale ? "" : SUFFIX[chart.unit] ?? ""}`;
      if (chart.series.length > 1 || one.version) {
        const square = document.createElement("i");
        square.style.color = paint(one, index);
        span.append(square, one.label);
      }
      span.append(value);
      return span;
    });
    legend.replaceChildren(...(when ? [Object.assign(document.createElement("span"), { textContent: when })] : []), ...said);
  }

  function shape(chart) {
    return JSON.stringify([chart.series.map((one) => one.label), chart.x ?? "", chart.lines ?? []]);
  }

  const NOTHING = { accuracy: "no labels yet", evidence: "no candidate was judged", drift: "not armed: 300 labels are needed first", training: "no training curve here" };

  function blank(figure, key) {
    const box = figure.querySelector(".plot");
    plots.get(key)?.plot.destroy();
    plots.delete(key);
    figure.querySelector(".legend").replaceChildren();
    if (box.querySelector(".none")) return;
    box.replaceChildren(Object.assign(document.createElement("p"), { className: "none", textContent: NOTHING[key] ?? "nothing yet" }));
  }

  function draw(figure, chart) {
    const key = figure.dataset.chart;
    const box = figure.querySelector(".plot");
    const held = plots.get(key);
    if (!chart.series.length) {
      blank(figure, key);
      return;
    }
    const wanted = shape(chart);
    if (held && held.shape === wanted) {
      Object.assign(held.chart, chart);
      held.plot.setData(columns(chart));
    } else {
      held?.plot.destroy();
      box.replaceChildren();
      const kept = { ...chart };
      plots.set(key, { shape: wanted, chart: kept, plot: new uPlot(options(figure, kept, key), columns(kept), box) });
    }
    tell(figure, chart, plots.get(key).plot.cursor.idx);
  }

  function drawAll() {
    if (!latest) return;
    for (const figure of place.querySelectorAll("[data-chart]")) draw(figure, latest[figure.dataset.chart]);
    const note = place.querySelector("[data-version-note]");
    if (note) note.textContent = latest.training.version ? `${latest.training.version}, by epoch` : "by epoch";
  }

  async function refresh() {
    if (document.hidden && latest) return;
    isNew = false;
    drawnAt = Date.now();
    try {
      const answer = await fetch(`${place.dataset.charts}?minutes=${minutes}`, { headers: { accept: "application/json" } });
      if (!answer.ok) return;
      latest = await answer.json();
      drawAll();
    } catch {
      isNew = true; // the gateway is away for a moment; the next look tells
    }
  }

  function redraw() {
    for (const { plot } of plots.values()) plot.destroy();
    plots.clear();
    drawAll();
  }

  place.querySelector("[data-minutes]").addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    minutes = Number(button.dataset.value);
    for (const other of place.querySelectorAll("[data-minutes] button")) other.setAttribute("aria-pressed", String(other === button));
    refresh();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  let width = place.clientWidth;
  new ResizeObserver(() => {
    if (place.clientWidth === width) return;
    width = place.clientWidth;
    redraw();
  }).observe(place);
  document.addEventListener("continual:news", () => { isNew = true; });
  document.fonts?.ready.then(redraw);
  refresh();
  setInterval(() => { if (isNew || Date.now() - drawnAt > QUIET_MS) refresh(); }, REFRESH_MS);
})();
