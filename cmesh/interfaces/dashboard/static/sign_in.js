// A link carries its code after `#`, which no server and no log is sent. It is used and forgotten.
"use strict";
const code = location.hash.slice(1);
if (code) {
  history.replaceState(null, "", location.pathname);
  document.getElementById("code").value = code;
  document.getElementById("sign-in").submit();
}
