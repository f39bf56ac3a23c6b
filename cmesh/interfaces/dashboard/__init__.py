"""The dashboard: pages for this machine's owner on loopback, over the daemon's operations.

`cmesh dashboard` is a process of its own; the daemon does not know it. A page is a module
`pages_NAME.py` with one `PAGE`:

- its handlers ask the daemon by `area_of(request).daemon`, and answer with `render`; what a
  handler raises as a `CmeshError` becomes a page that says so, with its hint;
- its template in `templates/` extends `layout.html`, links by `url(...)` and `static(...)`, and has
  no script, style or event attribute in the text: the browser is told to run none;
- a form is sent by POST to a path of the page; the handler reads it by `posted`, acts by
  `daemon.act`, and answers with `redirect`. That the browser is the signed-in one and
  the form is ours, `guard` has seen to before;
- `PAGES` in `app.py` has it, in the order of the menu.
"""
