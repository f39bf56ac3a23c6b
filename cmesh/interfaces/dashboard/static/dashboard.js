// What every page does: times in the reader's zone, parts that refresh themselves, keys, questions
// before what cannot be taken back. Pages work without it.
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
      const open = [...old.querySelectorAll("details[open][id]")].map((one) => one.id);
      const focus = old.contains(document.activeElement) && document.activeElement.getAttribute("href");
      const part = document.importNode(fresh, true);
      part.dataset.was = fresh.innerHTML;
      old.replaceWith(part);
      for (const name of open) document.getElementById(name)?.setAttribute("open", "");
      if (focus) part.querySelector(`[href="${CSS.escape(focus)}"]`)?.focus();
      dashboard.times(part);
    }
    return true;
  },
};
window.cmeshDashboard = dashboard;

// What is there already is not put in its place again: a text that is being typed would be lost.
for (const part of document.querySelectorAll("[data-refresh][id]")) part.dataset.was = part.innerHTML;
dashboard.times(document);

// `data-refresh="SECONDS"` on an element with an id: it is kept current while it can be seen.
for (const part of document.querySelectorAll("[data-refresh][id]")) {
  setInterval(async () => {
    if (document.hidden) return;
    dashboard.away(!(await dashboard.refresh([part.id])));
  }, 1000 * Number(part.dataset.refresh));
}

// `data-from="ADDRESS"` on an element with an id: its content is asked there when a person looks, and
// not again and again, which would keep the session of a page that nobody reads.
for (const part of document.querySelectorAll("[data-from][id]")) {
  const look = () => document.hidden || dashboard.refresh([part.id], part.dataset.from);
  look();
  document.addEventListener("visibilitychange", look);
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
