// What every page does: times in the reader's zone, parts that are kept current, what waits in the
// title, keys, questions before what cannot be taken back. Pages work without it.
"use strict";

const dashboard = {
  /** Show times in the browser's own zone, within an element. */
  times(root) {
    const clock = { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" };
    const today = new Date().toDateString();
    for (const time of root.querySelectorAll("time[datetime]:not([data-clock])")) {
      const at = new Date(time.dateTime);
      if (Number.isNaN(at.getTime())) continue;
      const day = { day: "numeric", month: "short", year: "numeric" };
      time.title = time.dateTime;
      time.textContent = at.toLocaleString(undefined, at.toDateString() === today ? clock : { ...day, ...clock });
    }
  },

  /** Say whether the daemon is away. */
  away(is) {
    document.getElementById("away").hidden = !is;
  },

  /** Take the parts with these ids from a new page; false = it could not be had. */
  async refresh(ids, address = location.href) {
    const answer = await fetch(address, { headers: { "X-Refresh": "1" } }).catch(() => null);
    if (answer && answer.status === 401 && address === location.href) location.reload();
    if (!answer || !answer.ok) return false;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    for (const id of ids) {
      const old = document.getElementById(id);
      const fresh = page.getElementById(id);
      if (!old || !fresh || old.dataset.was === fresh.innerHTML) continue;
      const typed = [...old.querySelectorAll("input[id], select[id], textarea[id]")]
        .filter((one) => one.value !== (one.defaultValue ?? one.value)).map((one) => [one.id, one.value]);
      const held = old.contains(document.activeElement) && document.activeElement.id;
      const open = [...old.querySelectorAll("details[open][id]")].map((one) => one.id);
      const focus = old.contains(document.activeElement) && document.activeElement.getAttribute("href");
      const part = document.importNode(fresh, true);
      part.dataset.was = fresh.innerHTML;
      old.replaceWith(part);
      for (const name of open) document.getElementById(name)?.setAttribute("open", "");
      for (const [name, value] of typed) {
        const field = document.getElementById(name);
        if (field) field.value = value;
      }
      if (focus) part.querySelector(`[href="${CSS.escape(focus)}"]`)?.focus();
      else if (held) document.getElementById(held)?.focus();
      dashboard.times(part);
    }
    return true;
  },
};
window.cmeshDashboard = dashboard;

// What is there already is not put in its place again: a text that is being selected would be lost.
for (const part of document.querySelectorAll("[data-refresh][id], [data-mark][id]")) {
  part.dataset.was = part.innerHTML;
}
dashboard.times(document);

// `data-mark="MARK"` on an element with an id: it is kept current by the stream of changes, which
// `data-live` of the body names. `data-from="ADDRESS"`: its content is asked there, likewise. A hidden
// tab holds no connection; shown again, it goes on from the last mark it has.
(() => {
  const RETRY_MS = 1000;
  const title = document.title;
  let mark = document.querySelector("[data-mark][id]")?.dataset.mark ?? "";
  let source = null;
  let busy = false;
  let again = false;

  const kept = () => [...document.querySelectorAll("[data-mark][id]")].map((one) => one.id);

  /** Ask for what other addresses have, such as what waits, and name that in the title. */
  async function others() {
    const parts = [...document.querySelectorAll("[data-from][id]")];
    await Promise.all(parts.map((one) => dashboard.refresh([one.id], one.dataset.from)));
    const number = document.querySelector("#nav-waits [data-number]")?.textContent;
    document.title = number ? `(${number}) ${title}` : title;
  }

  /** Take all parts anew; once more when something has changed meanwhile. */
  async function take() {
    again = true;
    if (busy) return;
    busy = true;
    while (again && !document.hidden) {
      again = false;
      const ids = kept();
      const [had] = await Promise.all([ids.length ? dashboard.refresh(ids) : true, others()]);
      if (had) continue;
      again = true;
      await new Promise((wait) => setTimeout(wait, RETRY_MS));
    }
    busy = false;
  }

  function stop() {
    source?.close();
    source = null;
  }

  function listen() {
    if (again) take();
    // Where a page has a stream of its own, changes come with it.
    if (source || document.hidden || !document.body.dataset.live || dashboard.own) return;
    source = new EventSource(`${document.body.dataset.live}?since=${encodeURIComponent(mark)}`);
    source.onopen = () => dashboard.away(false);
    source.onerror = () => {
      dashboard.away(true);
      // The browser tries again by itself, unless it was told no: then a new look says why.
      if (source?.readyState !== EventSource.CLOSED) return;
      stop();
      setTimeout(async () => {
        if (kept().length) take();
        else await dashboard.refresh([]); // which signs in again where the session has ended
        listen();
      }, RETRY_MS);
    };
    source.addEventListener("away", (event) => dashboard.away(JSON.parse(event.data).away));
    source.addEventListener("changed", dashboard.changed);
  }

  dashboard.changed = (event) => { mark = JSON.parse(event.data).mark; take(); };
  dashboard.listen = listen;
  document.addEventListener("visibilitychange", () => (document.hidden ? stop() : listen()));
  window.addEventListener("pagehide", stop);
  window.addEventListener("pageshow", listen);
  if (mark) others(); // without one, a change is told at once
})();

// `data-refresh="SECONDS"` on an element with an id: it is kept current while it can be seen.
for (const part of document.querySelectorAll("[data-refresh][id]")) {
  setInterval(async () => {
    if (document.hidden) return;
    dashboard.away(!(await dashboard.refresh([part.id])));
  }, 1000 * Number(part.dataset.refresh));
}

// A page that says that the daemon is away looks again.
if (document.querySelector("[data-away]")) setTimeout(() => location.reload(), 2000);

// `data-part="ID"` on a link: what it leads to takes the place of that part, here.
document.addEventListener("click", async (event) => {
  const link = event.target.closest("a[data-part]");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
  event.preventDefault();
  link.setAttribute("aria-busy", "true");
  const part = link.dataset.part;
  if (!(await dashboard.refresh([part], link.href))) location.assign(link.href);
});

// `data-confirm="QUESTION"` on a form.
document.addEventListener("submit", (event) => {
  const question = event.target.dataset.confirm;
  if (question && !window.confirm(question)) event.preventDefault();
});

// j and k go through links of rows, / goes to the search, as in many lists.
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.target.closest("input, textarea, select")) return;
  if (event.key === "/") {
    const search = document.querySelector("input[type=search]");
    if (search) { event.preventDefault(); search.focus(); }
    return;
  }
  if (event.key !== "j" && event.key !== "k") return;
  const rows = [...document.querySelectorAll("a.row")];
  const at = rows.indexOf(document.activeElement);
  const next = event.key === "j" ? at + 1 : Math.max(0, at - 1);
  rows[Math.min(next, rows.length - 1)]?.focus();
});
