// Ctrl+Enter (or Cmd+Enter) in the box runs the question.
"use strict";

const box = document.getElementById("sql");
box?.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    box.form.requestSubmit();
  }
});
