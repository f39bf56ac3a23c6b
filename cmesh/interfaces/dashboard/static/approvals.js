// A form is sent once: a second press of a slow page is no second word.
"use strict";

(() => {
  const STILL_MS = 1000;

  function enable(buttons, is) {
    for (const button of buttons) button.disabled = !is;
  }

  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (!form.classList.contains("once")) return;
    if (form.dataset.sent) {
      event.preventDefault();
      return;
    }
    form.dataset.sent = "yes";
    // Not before the browser has taken the pressed button's value into the form.
    setTimeout(() => enable(form.querySelectorAll("button"), false));
  });

  // INVARIANT: a word is on what was under the hand when it began to press. A task that comes moves
  // the others, and may be sent for that; so what has just changed takes no word yet.
  new MutationObserver(() => {
    const buttons = document.querySelectorAll("form.once button");
    enable(buttons, false);
    setTimeout(() => enable([...buttons].filter((one) => !one.form?.dataset.sent), true), STILL_MS);
  }).observe(document.getElementById("main"), { childList: true });
})();
