// A task as it goes on: events are added as they come, other parts are asked for when the state
// changes. A hidden tab holds no connection; shown again, it goes on after the last event it has.
"use strict";

(() => {
  const task = document.getElementById("task");
  const list = document.getElementById("events");
  const wrap = document.getElementById("events-wrap");
  const mark = document.getElementById("live-mark");
  const PARTS = ["task-head", "task-result", "task-patch", "task-evidence", "task-timeline",
    "task-decision", "task-receipts", "task-facts"];
  const SHOWN = 2000;
  const clock = new Intl.DateTimeFormat(undefined, {
    hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23",
  });
  let after = Number(task.dataset.after);
  let state = task.dataset.state;
  let over = "ended" in task.dataset;
  let source = null;
  cmeshDashboard.own = !over;

  function atClock(time) {
    time.title = time.dateTime;
    time.textContent = clock.format(new Date(time.dateTime));
  }

  function add(event) {
    if (event.seq <= after) return;
    after = event.seq;
    const row = document.createElement("li");
    row.dataset.seq = event.seq;
    const time = document.createElement("time");
    time.dateTime = event.at;
    atClock(time);
    const kind = document.createElement("span");
    kind.className = `kind kind-${event.kind}`;
    kind.textContent = event.kind.replaceAll("_", " ");
    const line = document.createElement("span");
    line.className = "event-line";
    line.textContent = event.line;
    row.append(time, kind, line);
    const atEnd = wrap.scrollHeight - wrap.scrollTop - wrap.clientHeight < 40;
    list.append(row);
    while (list.childElementCount > SHOWN) list.firstElementChild.remove();
    document.getElementById("no-events").hidden = true;
    if (atEnd) wrap.scrollTop = wrap.scrollHeight;
  }

  function stop() {
    source?.close();
    source = null;
    mark.hidden = true;
  }

  function listen() {
    if (source || over || document.hidden) return;
    source = new EventSource(`${task.dataset.live}?after=${after}&state=${state}`);
    source.onopen = () => { mark.hidden = false; cmeshDashboard.away(false); };
    source.onerror = async () => {
      mark.hidden = true;
      cmeshDashboard.away(true);
      // The browser tries again by itself, unless it was told no: then a new page says why.
      if (source?.readyState === EventSource.CLOSED) {
        stop();
        setTimeout(async () => {
          if (await cmeshDashboard.refresh(PARTS)) cmeshDashboard.away(false);
          listen();
        }, 1000);
      }
    };
    source.addEventListener("line", (event) => add(JSON.parse(event.data)));
    source.addEventListener("away", (event) => cmeshDashboard.away(JSON.parse(event.data).away));
    source.addEventListener("state", (event) => {
      state = JSON.parse(event.data).state;
      cmeshDashboard.refresh(PARTS);
    });
    source.addEventListener("changed", cmeshDashboard.changed);
    source.addEventListener("end", () => {
      over = true;
      stop();
      cmeshDashboard.refresh(PARTS);
      cmeshDashboard.own = false;
      cmeshDashboard.listen();
    });
  }

  for (const time of list.querySelectorAll("time")) atClock(time);
  wrap.scrollTop = wrap.scrollHeight;
  document.addEventListener("visibilitychange", () => (document.hidden ? stop() : listen()));
  window.addEventListener("pagehide", stop);
  window.addEventListener("pageshow", listen);
  listen();
})();
