// The ways to peers are measured after the page is there: a round trip to one that is gone takes seconds.
"use strict";

const list = document.getElementById("peers");
const told = document.getElementById("measuring");

async function measure() {
  told.textContent = "measuring…";
  const answer = await fetch(list.dataset.paths).catch(() => null);
  if (!answer || !answer.ok) {
    told.textContent = "the ways could not be measured";
    return;
  }
  const { paths, other } = await answer.json();
  let left = 0;
  for (const cell of list.querySelectorAll("[data-path]")) {
    const way = paths[cell.dataset.path];
    cell.textContent = way || "not measured";
    left += way ? 0 : 1;
  }
  told.textContent = left ? `measured; ${other}` : "measured";
}

document.getElementById("measure").addEventListener("click", (event) => {
  event.preventDefault();
  measure();
});
if (list.querySelector("[data-path]")) measure();
