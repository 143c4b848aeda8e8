"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const live = byId("live"), said = byId("said"), list = byId("list");
  const version = byId("facilitator").dataset.version;

  // As supervisor.core.humanize.lasting has it.
  const lasting = (seconds) => {
    const whole = Math.max(0, Math.trunc(seconds));
    const minutes = Math.trunc(whole / 60), hours = Math.trunc(whole / 3600), days = Math.trunc(whole / 86400);
    if (whole < 60) return `${whole} s`;
    if (minutes < 60) return `${minutes} min ${whole % 60} s`;
    return hours < 24 ? `${hours} h ${minutes % 60} min` : `${days} d ${hours % 24} h`;
  };
  const clock = () => `${new Date().toISOString().slice(11, 19)} UTC`;

  let skew = 0;       // ms by which the clock of the daemon is ahead of ours
  const age = () => {
    for (const time of document.querySelectorAll("time[data-age]")) {
      const seconds = (Date.now() + skew - Date.parse(time.dateTime)) / 1000;
      const text = seconds >= 0 ? lasting(seconds) : lasting(-seconds);
      if (time.textContent !== text) time.textContent = text;
    }
  };

  const parse = (html) => {
    const template = document.createElement("template");
    template.innerHTML = html;      // the daemon has escaped everything that others said
    return template.content.firstElementChild;
  };

  const insert = (item) => {
    const next = [...list.children].find((other) => other.dataset.order > item.dataset.order);
    list.insertBefore(item, next || null);
  };

  const keep = (before, after) => {
    const open = before.querySelector("details[open]"), details = after.querySelector("details");
    if (open && details) details.open = true;
    return before.contains(document.activeElement) && after.querySelector("summary");
  };

  const place = (id, html, news) => {
    const before = byId(id), after = parse(html);
    if (!before) {
      if (after.dataset.order) insert(after);
      return;
    }
    const summary = keep(before, after);
    if (before.dataset.said !== after.dataset.said && after.dataset.said) news.push(after.dataset.said);
    before.replaceWith(after);
    if (after.dataset.order !== before.dataset.order) insert(after);
    if (summary) summary.focus({preventScroll: true});
  };

  const take = (event) => {
    const told = JSON.parse(event.data), news = [];
    for (const [id, html] of Object.entries(told.pieces)) place(id, html, news);
    const gone = event.type === "snapshot" ? [...list.children].map((item) => item.id).filter((id) => !(id in told.pieces)) : told.gone;
    for (const id of gone) byId(id)?.remove();
    const facilitator = byId("facilitator");
    if (facilitator.dataset.version !== version) location.reload();     // the daemon was upgraded, and with it this page
    document.title = facilitator.dataset.title;
    skew = told.now * 1000 - Date.now();
    if (news.length) said.textContent = news.length > 5 ? `${news.length} changes` : news.join("; ");
    live.textContent = `live, last change ${clock()}`;
    live.className = "on";
    document.body.classList.remove("stale");
    age();
  };

  const lost = () => {
    if (live.className === "lost") return;
    live.textContent = `no connection since ${clock()}: this may be outdated`;
    live.className = "lost";
    said.textContent = "The connection to the daemon is lost.";
    document.body.classList.add("stale");
  };

  let source = null;
  const connect = () => {
    source = new EventSource("/api/v1/events?as=html");
    source.addEventListener("snapshot", take);
    source.addEventListener("change", take);
    source.addEventListener("error", () => {
      lost();
      if (source.readyState === EventSource.CLOSED) setTimeout(connect, 5000);    // it was refused: the browser does not try again
    });
  };
  addEventListener("pagehide", () => source.close());
  addEventListener("pageshow", (event) => { if (event.persisted) connect(); });
  connect();
  setInterval(age, 5000);
})();
