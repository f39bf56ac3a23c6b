package main

import (
	"html/template"
	"net/http"
	"slices"
)

var loginPage = template.Must(template.New("login").Parse(`<!doctype html>
<meta charset="utf-8"><title>cmesh test tailnet</title>
<h1>cmesh test tailnet</h1>
{{if .Done}}<p>Done. You can close this page.</p>{{else}}
<p>A machine wants to join. This network runs on your own machine, for trying things out.</p>
<form method="post">
<label>Log in as <input name="user" list="users" required value="{{.First}}"></label>
<datalist id="users">{{range .Users}}<option value="{{.}}">{{end}}</datalist>
<button>Log in</button></form>{{end}}
`))

func (c *control) serveLoginPage(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	l := c.logins[r.PathValue("token")]
	var users []string
	for name := range c.Users {
		users = append(users, name)
	}
	c.mu.Unlock()
	if l == nil {
		http.NotFound(w, r)
		return
	}
	slices.Sort(users)
	first := "you@example.com"
	if len(users) > 0 {
		first = users[0]
	}
	done := false
	select {
	case <-l.done:
		done = true
	default:
	}
	_ = loginPage.Execute(w, map[string]any{"Users": users, "First": first, "Done": done})
}

func (c *control) serveLoginChoice(w http.ResponseWriter, r *http.Request) {
	user := r.PostFormValue("user")
	if user == "" {
		http.Error(w, "a user is needed", http.StatusBadRequest)
		return
	}
	if !c.decide(r.PathValue("token"), user, "", nil) {
		http.NotFound(w, r)
		return
	}
	http.Redirect(w, r, r.URL.Path, http.StatusSeeOther)
}
