/* Curves with uPlot. The server decides what is drawn (views/charts.py); this file only knows colours and sizes. */
"use strict";

(() => {
  const place = document.getElementById("charts");
  if (!place || typeof uPlot === "undefined") return;
  const REFRESH_MS = 4000;
  const plots = new Map();
  let minutes = 15;
  let latest = null;

  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const number = (version) => Number.parseInt(version.replace(/\D/g, ""), 10) || 0;
  // by the last digit of the number, as app.css colours the squares beside version names
  const VERSION_COLOURS = ["--v5", "--v0", "--v1", "--v2", "--v3", "--v4", "--v5", "--v0", "--v1", "--v2"];
  const versionColour = (version) => css(VERSION_COLOURS[number(version) % 10]);
  const fade = (hex, alpha) => hex + Math.round(alpha * 255).toString(16).padStart(2, "0");
  const paint = (series, index) => (series.version ? versionColour(series.version) : css(["--v0", "--v2", "--idle"][index % 3]));

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
      context.save();
      context.beginPath();
      context.rect(left, top, width, height);
      context.clip();
      for (const band of chart.bands ?? []) {
        const from = u.valToPos(band.from, "x", true);
        const to = u.valToPos(band.to, "x", true);
        context.fillStyle = fade(versionColour(band.version || "v0"), { shadow: 0.06, canary: 0.13, probation: 0.04 }[band.kind]);
        context.fillRect(from, top, Math.max(to - from, 1), height);
        if (height > 150 * devicePixelRatio && to - from > 40 * devicePixelRatio) {
          context.fillStyle = css("--soft");
          context.font = `${11 * devicePixelRatio}px ${css("--font")}`;
          context.fillText(`${band.version} ${band.kind}`, from + 5, top + height - 7 * devicePixelRatio, to - from - 8);
        }
      }
      for (const mark of chart.marks ?? []) {
        const x = Math.round(u.valToPos(mark.time, "x", true));
        context.strokeStyle = css(`--${mark.tone}`);
        context.lineWidth = devicePixelRatio * (mark.tone === "busy" ? 0.7 : 1.4);
        context.setLineDash(mark.tone === "busy" ? [2, 4] : []);
        context.beginPath();
        context.moveTo(x, top);
        context.lineTo(x, top + height);
        context.stroke();
      }
      for (const line of chart.lines ?? []) {
        const y = Math.round(u.valToPos(line.value, "y", true));
        context.strokeStyle = css("--bad");
        context.lineWidth = devicePixelRatio;
        context.setLineDash([6, 4]);
        context.beginPath();
        context.moveTo(left, y);
        context.lineTo(left + width, y);
        context.stroke();
        context.fillStyle = css("--bad");
        context.font = `${11 * devicePixelRatio}px ${css("--font")}`;
        context.fillText(line.label, left + 5, y - top < 16 * devicePixelRatio ? y + 12 * devicePixelRatio : y - 4 * devicePixelRatio);
      }
      context.restore();
    };
  }

  function range(chart, key) {
    const meant = (chart.lines ?? []).map((line) => line.value);
    return (u, low, high) => {
      if (low === null) return [0, 1];
      const all = [low, high, ...meant];
      let [least, most] = [Math.min(...all), Math.max(...all)];
      if (key === "accuracy" || key === "training") return [Math.max(0, Math.min(least, 90) - 2), 100.5];
      if (key !== "evidence") least = 0;
      const room = (most - least || 1) * 0.12;
      return [key === "evidence" ? least - room : 0, most + room];
    };
  }

  function options(figure, chart, key) {
    const series = [{ label: chart.x ?? "time", value: chart.x ? undefined : (u, v) => (v === null ? "" : new Date(v * 1000).toLocaleTimeString()) }];
    const bands = [];
    chart.series.forEach((one, index) => {
      const stroke = paint(one, index);
      const show = (u, v) => (v === null || v === undefined ? "–" : `${v}`);
      series.push({ label: one.label, stroke, width: 1.8, points: { show: one.values.length < 3 }, spanGaps: false, scale: one.scale ?? "y", value: show });
      if (one.low) {
        const hidden = { stroke: "transparent", width: 0, points: { show: false }, spanGaps: false };
        const at = series.length;
        series.push({ ...hidden, label: "", class: "unseen" }, { ...hidden, label: "", class: "unseen" });
        bands.push({ series: [at + 1, at], fill: fade(stroke, 0.14) });
      }
    });
    const axis = { stroke: css("--soft"), grid: { stroke: css("--line"), width: 1 }, ticks: { stroke: css("--line"), width: 1, size: 4 }, font: `11px ${css("--font")}` };
    const axes = [{ ...axis, space: 70, size: 26 }, chart.log ? { ...axis, size: 44, grid: { show: false } } : { ...axis, size: 44, space: 26 }];
    const scales = { x: { time: !chart.x }, y: chart.log ? { distr: 3, log: 10, range: (u, low, high) => [1, Math.max(high ?? 1, ...(chart.lines ?? []).map((line) => line.value)) * 2] } : { range: range(chart, key) } };
    if (chart.series.some((one) => one.scale === "loss")) {
      scales.loss = { range: (u, low, high) => [0, (high ?? 1) * 1.1] };
      axes.push({ ...axis, scale: "loss", side: 1, size: 40, grid: { show: false } });
    }
    if (chart.log) axes[1].filter = (u, splits) => splits.map((value) => (Number.isInteger(Math.log10(value)) ? value : null));
    if (!chart.x) axes[0].values = [[3600 * 24, "{D}.{M}.", null, null, null, null, null, null, 1], [60, "{HH}:{mm}", null, null, null, null, null, null, 1], [1, "{HH}:{mm}:{ss}", null, null, null, null, null, null, 1]];
    const box = figure.querySelector(".plot");
    const legend = chart.series.length > 1 || key === "accuracy" ? 26 : 0;
    return { width: box.clientWidth, height: box.clientHeight - legend, series, bands, axes, scales, padding: [6, 8, 0, 0], cursor: { y: false, points: { size: 6 }, drag: { x: true, y: false } }, legend: { show: legend > 0, live: true }, hooks: { drawClear: [underlay(chart)] } };
  }

  function shape(chart) {
    return JSON.stringify([chart.series.map((one) => one.label), chart.x ?? "", chart.lines ?? []]);
  }

  const NOTHING = { accuracy: "no labels yet", evidence: "no candidate was judged", drift: "not armed: 300 labels are needed first", training: "no training curve here" };

  function draw(figure, chart) {
    const key = figure.dataset.chart;
    const box = figure.querySelector(".plot");
    const held = plots.get(key);
    if (!chart.series.length) {
      held?.plot.destroy();
      plots.delete(key);
      if (!box.querySelector(".none")) {
        const none = document.createElement("p");
        none.className = "none";
        none.textContent = NOTHING[key] ?? "nothing yet";
        box.replaceChildren(none);
      }
      return;
    }
    const wanted = shape(chart);
    if (held && held.shape === wanted) {
      Object.assign(held.chart, chart);
      held.plot.setData(columns(chart));
      return;
    }
    held?.plot.destroy();
    box.replaceChildren();
    const kept = { ...chart };
    plots.set(key, { shape: wanted, chart: kept, plot: new uPlot(options(figure, kept, key), columns(kept), box) });
  }

  function drawAll() {
    if (!latest) return;
    for (const figure of place.querySelectorAll("[data-chart]")) draw(figure, latest[figure.dataset.chart]);
    const note = place.querySelector("[data-version-note]");
    if (note) note.textContent = latest.training.version ? `${latest.training.version}, by epoch` : "";
  }

  async function refresh() {
    if (document.hidden && latest) return;
    try {
      const answer = await fetch(`${place.dataset.charts}?minutes=${minutes}`, { headers: { accept: "application/json" } });
      if (!answer.ok) return;
      latest = await answer.json();
      drawAll();
    } catch {
      // the gateway is away for a moment; the next look tells
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
  refresh();
  setInterval(refresh, REFRESH_MS);
})();
