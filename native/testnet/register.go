package main

import (
	"context"
	"net/http"
	"strings"
	"time"

	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
)

func (c *control) serveRegister(w http.ResponseWriter, r *http.Request) {
	var req tailcfg.RegisterRequest
	if !decode(w, r, &req) {
		return
	}
	res := c.register(r.Context(), machineOf(r), &req)
	if r.Context().Err() == nil {
		reply(w, res)
	}
}

// register decides what a node may be: itself again, a new member by auth key
// or by a person's login, or nobody yet.
func (c *control) register(ctx context.Context, mk key.MachinePublic, req *tailcfg.RegisterRequest) tailcfg.RegisterResponse {
	if token, ok := strings.CutPrefix(req.Followup, c.base+"/login/"); ok {
		return c.awaitLogin(ctx, mk, req, token)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if m := c.byKeyLocked(req.NodeKey); m != nil && m.Machine == mk {
		if !req.Expiry.IsZero() && req.Expiry.Before(now) {
			return c.logoutLocked(m, now)
		}
		if m.expired(now) {
			return tailcfg.RegisterResponse{NodeKeyExpired: true}
		}
		return c.welcomeLocked(m)
	}
	if req.Auth != nil && req.Auth.AuthKey != "" {
		return c.byAuthKeyLocked(mk, req, now)
	}
	if c.autoUser != "" {
		return c.welcomeLocked(c.admitLocked(mk, req, authKey{User: c.autoUser}))
	}
	token := randomHex(16)
	c.logins[token] = &login{done: make(chan struct{})}
	return tailcfg.RegisterResponse{AuthURL: c.base + "/login/" + token}
}

func (c *control) byAuthKeyLocked(mk key.MachinePublic, req *tailcfg.RegisterRequest, now time.Time) tailcfg.RegisterResponse {
	k := c.AuthKeys[req.Auth.AuthKey]
	switch {
	case k == nil:
		return tailcfg.RegisterResponse{Error: "invalid auth key"}
	case !k.Expiry.IsZero() && !now.Before(k.Expiry):
		return tailcfg.RegisterResponse{Error: "auth key has expired"}
	case k.Used && !k.Reusable:
		return tailcfg.RegisterResponse{Error: "auth key was used already"}
	}
	k.Used = true
	return c.welcomeLocked(c.admitLocked(mk, req, *k))
}

func (c *control) awaitLogin(ctx context.Context, mk key.MachinePublic, req *tailcfg.RegisterRequest, token string) tailcfg.RegisterResponse {
	c.mu.Lock()
	l := c.logins[token]
	c.mu.Unlock()
	if l == nil {
		return tailcfg.RegisterResponse{Error: "this login is unknown"}
	}
	select {
	case <-ctx.Done():
		return tailcfg.RegisterResponse{}
	case <-l.done:
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if l.deny != "" {
		return tailcfg.RegisterResponse{Error: l.deny}
	}
	return c.welcomeLocked(c.admitLocked(mk, req, authKey{User: l.user, Tags: l.tags}))
}

func (c *control) welcomeLocked(m *member) tailcfg.RegisterResponse {
	id := c.userIDLocked(m.User)
	return tailcfg.RegisterResponse{
		User:              tailcfg.User{ID: id, DisplayName: m.User},
		Login:             tailcfg.Login{ID: tailcfg.LoginID(id), LoginName: m.User, DisplayName: m.User},
		MachineAuthorized: true,
	}
}

func (c *control) logoutLocked(m *member, now time.Time) tailcfg.RegisterResponse {
	m.Expiry = now
	if m.Ephemeral {
		m.Removed = true
	}
	c.announceLocked()
	return c.welcomeLocked(m)
}

// decide ends a pending login; it reports whether there was one.
func (t *tailnet) decide(token, user, deny string, tags []string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	l := t.logins[token]
	if l == nil {
		return false
	}
	select {
	case <-l.done:
		return false
	default:
	}
	l.user, l.tags, l.deny = user, tags, deny
	close(l.done)
	return true
}
