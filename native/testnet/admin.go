package main

import (
	"crypto/subtle"
	"errors"
	"net/http"
	"net/netip"
	"path"
	"strings"
	"time"
)

// addAdmin adds the JSON API of the demo and the tests. Its URL holds a secret,
// so that a page in a browser cannot use it.
func (c *control) addAdmin(mux *http.ServeMux) {
	routes := map[string]func(http.ResponseWriter, *http.Request) (any, error){
		"GET /nodes":           c.listNodes,
		"PATCH /nodes/{node}":  c.changeNode,
		"DELETE /nodes/{node}": c.deleteNode,
		"POST /auth-keys":      c.addAuthKey,
		"POST /logins":         c.completeLogin,
		"PUT /grants":          c.setGrants,
		"PUT /auto-user":       c.setAutoUser,
	}
	for pattern, serve := range routes {
		method, rest, _ := strings.Cut(pattern, " ")
		mux.HandleFunc(method+" /admin/{secret}"+rest, func(w http.ResponseWriter, r *http.Request) {
			if subtle.ConstantTimeCompare([]byte(r.PathValue("secret")), []byte(c.secret)) != 1 {
				http.NotFound(w, r)
				return
			}
			answer, err := serve(w, r)
			switch {
			case errors.Is(err, errAnswered):
			case err != nil:
				http.Error(w, err.Error(), http.StatusUnprocessableEntity)
			default:
				reply(w, answer)
			}
		})
	}
}

// errAnswered says that the handler has written its own answer.
var errAnswered = errors.New("answered")

type nodeView struct {
	*member
	Name      string   `json:"name"`
	Addresses []string `json:"addresses"`
	Online    bool     `json:"online"`
}

func view(m *member) nodeView {
	v := nodeView{member: m, Name: m.name(), Online: m.streams > 0}
	for _, prefix := range m.addresses() {
		v.Addresses = append(v.Addresses, prefix.Addr().String())
	}
	return v
}

func (c *control) listNodes(w http.ResponseWriter, r *http.Request) (any, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	nodes := []nodeView{}
	for _, m := range c.Members {
		if !m.Removed {
			nodes = append(nodes, view(m))
		}
	}
	return nodes, nil
}

// nodeChange sets what it names; an empty expiry means never.
type nodeChange struct {
	User     *string         `json:"user"`
	Tags     *[]string       `json:"tags"`
	Expiry   *string         `json:"expiry"`
	SharedBy *string         `json:"shared_by"`
	Routes   *[]netip.Prefix `json:"routes"`
}

func (c *control) changeNode(w http.ResponseWriter, r *http.Request) (any, error) {
	var change nodeChange
	if !decode(w, r, &change) {
		return nil, errAnswered
	}
	var expiry time.Time
	if change.Expiry != nil && *change.Expiry != "" {
		var err error
		if expiry, err = time.Parse(time.RFC3339Nano, *change.Expiry); err != nil {
			return nil, err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	m, err := c.findLocked(r.PathValue("node"))
	if err != nil {
		return nil, err
	}
	set(&m.User, change.User)
	set(&m.Tags, change.Tags)
	set(&m.SharedBy, change.SharedBy)
	set(&m.Routes, change.Routes)
	if change.Expiry != nil {
		m.Expiry = expiry.UTC()
	}
	c.userIDLocked(m.User)
	if m.SharedBy != "" {
		c.userIDLocked(m.SharedBy)
	}
	c.announceLocked()
	return view(m), nil
}

func set[T any](field *T, value *T) {
	if value != nil {
		*field = *value
	}
}

func (c *control) deleteNode(w http.ResponseWriter, r *http.Request) (any, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	m, err := c.findLocked(r.PathValue("node"))
	if err != nil {
		return nil, err
	}
	c.removeLocked(m)
	return view(m), nil
}

func (c *control) addAuthKey(w http.ResponseWriter, r *http.Request) (any, error) {
	var k authKey
	if !decode(w, r, &k) {
		return nil, errAnswered
	}
	if k.User == "" {
		return nil, errors.New("an auth key needs a user")
	}
	if k.Key == "" {
		k.Key = "tskey-auth-" + randomHex(16)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.AuthKeys[k.Key] = &k
	c.saveLocked()
	return k, nil
}

func (c *control) completeLogin(w http.ResponseWriter, r *http.Request) (any, error) {
	var choice struct {
		URL  string   `json:"url"`
		User string   `json:"user"`
		Tags []string `json:"tags"`
		Deny string   `json:"deny"`
	}
	if !decode(w, r, &choice) {
		return nil, errAnswered
	}
	if choice.User == "" && choice.Deny == "" {
		return nil, errors.New("a login needs a user")
	}
	if !c.decide(path.Base(choice.URL), choice.User, choice.Deny, choice.Tags) {
		return nil, errors.New("no such login is pending")
	}
	return struct{}{}, nil
}

func (c *control) setGrants(w http.ResponseWriter, r *http.Request) (any, error) {
	var grants []grant
	if !decode(w, r, &grants) {
		return nil, errAnswered
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.Grants = grants
	c.announceLocked()
	return grants, nil
}

func (c *control) setAutoUser(w http.ResponseWriter, r *http.Request) (any, error) {
	var choice struct {
		User string `json:"user"`
	}
	if !decode(w, r, &choice) {
		return nil, errAnswered
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.autoUser = choice.User
	return struct{}{}, nil
}
