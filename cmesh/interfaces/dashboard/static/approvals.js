// A form is sent once: a second press of a slow page is no second word.
"use strict";

document.addEventListener("submit", (event) => {
  const form = event.target;
  if (!form.classList.contains("once")) return;
  if (form.dataset.sent) {
    event.preventDefault();
    return;
  }
  form.dataset.sent = "yes";
  // Not before the browser has taken the pressed button's value into the form.
  setTimeout(() => form.querySelectorAll("button").forEach((button) => (button.disabled = true)));
});
