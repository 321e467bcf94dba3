/* What the pages do beyond links, forms and htmx: relative times, a question before a verb that cuts, files by drop, paste and pen,
   and one key per class in the label queue. Without this file every page still works. */
"use strict";

(() => {
  const SPANS = [[60, 1, "s"], [3600, 60, "min"], [172800, 3600, "h"], [Infinity, 86400, "d"]];

  function ago(seconds) {
    const ahead = seconds < -1;
    const length = Math.abs(seconds);
    if (length < 2) return "now";
    const [, unit, name] = SPANS.find(([limit]) => length < limit);
    const text = `${Math.floor(length / unit)} ${name}`;
    return ahead ? `in ${text}` : `${text} ago`;
  }

  function tellTimes() {
    for (const element of document.querySelectorAll("time[datetime]")) {
      const then = new Date(element.dateTime);
      if (Number.isNaN(then.valueOf())) continue;
      const text = ago((Date.now() - then) / 1000);
      if (element.textContent !== text) element.textContent = text;
      if (!element.title) element.title = then.toLocaleString();
    }
  }

  // A form with data-confirm is sent after a person has said yes.
  document.addEventListener("submit", (event) => {
    const form = event.target;
    const question = form.dataset.confirm;
    if (!question || form.dataset.sure) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    const dialog = document.getElementById("confirm");
    document.getElementById("confirm-text").textContent = question;
    dialog.returnValue = "no";
    dialog.showModal();
    dialog.onclose = () => {
      if (dialog.returnValue !== "yes") return;
      // a fresh fragment may have replaced the form meanwhile
      const live = form.isConnected ? form : document.getElementById(form.querySelector("button").id)?.form;
      if (!live) return;
      live.dataset.sure = "1";
      live.requestSubmit();
    };
  }, true);

  // Images by drop and paste land in the form's own file input.
  function put(input, files) {
    const transfer = new DataTransfer();
    for (const file of files) transfer.items.add(file);
    if (!transfer.files.length) return;
    input.files = transfer.files;
    input.dispatchEvent(new Event("change", { bubbles: true }));
  }

  for (const zone of document.querySelectorAll(".drop")) {
    const input = zone.querySelector("input[type=file]");
    zone.addEventListener("dragover", (event) => { event.preventDefault(); zone.classList.add("over"); });
    zone.addEventListener("dragleave", () => zone.classList.remove("over"));
    zone.addEventListener("drop", (event) => {
      event.preventDefault();
      zone.classList.remove("over");
      put(input, event.dataTransfer.files);
    });
    if (zone.dataset.paste !== undefined) {
      document.addEventListener("paste", (event) => {
        const images = [...(event.clipboardData?.files ?? [])].filter((file) => file.type.startsWith("image/"));
        if (images.length) put(input, images.slice(0, 1));
      });
    }
    if (zone.dataset.submit !== undefined) input.addEventListener("change", () => input.form.requestSubmit());
  }

  // A pen for models that read one stroke colour: white on black, as the data sets have it.
  for (const canvas of document.querySelectorAll("canvas.sketch")) {
    const pen = canvas.getContext("2d");
    const clear = () => { pen.fillStyle = "#000"; pen.fillRect(0, 0, canvas.width, canvas.height); };
    let last = null;
    clear();
    pen.lineWidth = canvas.width / 12;
    pen.lineCap = pen.lineJoin = "round";
    pen.strokeStyle = "#fff";
    const at = (event) => {
      const box = canvas.getBoundingClientRect();
      return [(event.clientX - box.left) * canvas.width / box.width, (event.clientY - box.top) * canvas.height / box.height];
    };
    const stroke = (event) => {
      if (!last) return;
      const here = at(event);
      pen.beginPath();
      pen.moveTo(...last);
      pen.lineTo(...here);
      pen.stroke();
      last = here;
    };
    canvas.addEventListener("pointerdown", (event) => { canvas.parentElement.querySelector(".hint").hidden = true; canvas.setPointerCapture(event.pointerId); last = at(event); stroke(event); });
    canvas.addEventListener("pointermove", stroke);
    canvas.addEventListener("pointerup", () => { last = null; });
    document.getElementById("sketch-clear").addEventListener("click", clear);
    document.getElementById("sketch-send").addEventListener("click", () => {
      // in the size of the model: what is refused for a file of another size is not refused for a drawing
      const small = Object.assign(document.createElement("canvas"), { width: Number(canvas.dataset.width), height: Number(canvas.dataset.height) });
      const copy = small.getContext("2d");
      copy.imageSmoothingQuality = "high";
      copy.drawImage(canvas, 0, 0, small.width, small.height);
      small.toBlob((blob) => put(document.getElementById("image"), [new File([blob], "drawing.png", { type: "image/png" })]), "image/png");
    });
  }
  // An upload takes a while: say so, and send the empty file fields of the form not at all.
  document.getElementById("upload")?.addEventListener("submit", (event) => {
    const form = event.target;
    for (const input of form.querySelectorAll("input[type=file]")) input.disabled = input.files.length === 0;
    form.querySelector("[data-busy]").hidden = false;
    form.querySelector("button").disabled = true;
  });
  for (const element of document.querySelectorAll("[data-needs-script]")) element.hidden = false;
  for (const element of document.querySelectorAll("[data-plain]")) element.hidden = true;

  // One key per class; a queue fragment names its keys in data-key.
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea, dialog[open]")) return;
    if (event.repeat || (event.key === " " && event.target.closest("button, a"))) return;
    const button = document.querySelector(`[data-key="${CSS.escape(event.key.toLowerCase())}"]`);
    if (!button || button.disabled) return;
    event.preventDefault();
    button.click();
  });

  // An open page asks for what differs when the gateway says that something happened: one line of server-sent events, open while the
  // page is seen. While there is no line it asks every two seconds, so a proxy that swallows events costs freshness, never truth.
  const ASK_MS = 2000;
  const QUIET_MS = 15_000;
  let line = null;
  let askedAt = 0;
  let triedAt = 0;
  const poll = () => document.getElementById("poll");
  const isOpen = () => line?.readyState === EventSource.OPEN;

  function askAgain() {
    askedAt = Date.now();
    htmx.trigger(poll(), "news");
    document.dispatchEvent(new Event("continual:news"));
  }

  function hang() {
    line?.close();
    line = null;
  }

  function listen() {
    triedAt = Date.now();
    hang();
    line = new EventSource(poll().dataset.events);
    line.addEventListener("state", askAgain);
  }

  function look() {
    if (!poll() || document.hidden) return;
    if ((!line || line.readyState === EventSource.CLOSED) && Date.now() - triedAt > QUIET_MS) listen();
    if (Date.now() - askedAt >= (isOpen() ? QUIET_MS : ASK_MS)) askAgain();
  }

  if (poll()) {
    setInterval(look, ASK_MS);
    listen();
    document.addEventListener("visibilitychange", () => { if (document.hidden) hang(); else { triedAt = 0; look(); } });
    window.addEventListener("pagehide", hang);
  }

  // The gateway is away, or the session has ended: never let old numbers look like new ones.
  const away = document.getElementById("away");
  const isAway = (gone) => { away.hidden = !gone; };
  document.addEventListener("htmx:sendError", () => isAway(true));
  document.addEventListener("htmx:timeout", () => isAway(true));
  document.addEventListener("htmx:responseError", (event) => (event.detail.xhr.status === 401 ? location.reload() : isAway(event.detail.xhr.status >= 500)));
  document.addEventListener("htmx:afterRequest", (event) => { if (event.detail.successful) isAway(false); });

  // what a verb was answered is said once, not again after a reload
  if (new URLSearchParams(location.search).has("told")) history.replaceState(null, "", location.pathname + location.hash);

  tellTimes();
  setInterval(tellTimes, 1000);
  document.addEventListener("htmx:afterSettle", tellTimes);
  document.addEventListener("htmx:oobAfterSwap", tellTimes);
})();
