package main

import (
	"encoding/binary"
	"encoding/json"
	"net/http"
	"time"

	"tailscale.com/tailcfg"
	"tailscale.com/util/zstdframe"
)

// keepAliveEvery is how often an idle stream proves that it lives.
const keepAliveEvery = 50 * time.Second

func (c *control) serveMap(w http.ResponseWriter, r *http.Request) {
	var req tailcfg.MapRequest
	if !decode(w, r, &req) {
		return
	}
	c.mu.Lock()
	m := c.byKeyLocked(req.NodeKey)
	c.mu.Unlock()
	if m == nil || m.Machine != machineOf(r) {
		http.Error(w, "node not found", http.StatusNotFound)
		return
	}
	if !req.Stream {
		c.update(m, &req)
		_ = send(w, &req, &tailcfg.MapResponse{})
		return
	}
	s := &stream{control: c, viewer: m, w: w, req: &req, sent: map[tailcfg.NodeID]string{}}
	c.attach(m, 1)
	defer c.attach(m, -1)
	s.run(r)
}

// update stores what a node says about itself. INVARIANT: streaming requests
// never update, their endpoints and disco key may be stale (MapRequest.Stream).
func (c *control) update(m *member, req *tailcfg.MapRequest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	m.disco, m.cap = req.DiscoKey, req.Version
	m.endpoints = usable(req.Endpoints)
	if host := req.Hostinfo; host != nil {
		m.host = host
		if host.NetInfo != nil && host.NetInfo.PreferredDERP != 0 {
			m.derp = host.NetInfo.PreferredDERP
		}
	}
	c.announceLocked()
}

// attach counts a member's streams; an ephemeral one without any goes away.
func (c *control) attach(m *member, delta int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	m.streams += delta
	c.announceLocked()
	if m.Ephemeral && m.streams == 0 {
		time.AfterFunc(ephemeralGrace, func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			if m.streams == 0 && !m.Removed {
				c.removeLocked(m)
			}
		})
	}
}

// stream is one node's long poll. After the first message it sends differences
// only, so one change in a large tailnet stays small.
type stream struct {
	*control
	viewer *member
	w      http.ResponseWriter
	req    *tailcfg.MapRequest
	sent   map[tailcfg.NodeID]string // encoded peers, as the node knows them
	self   string
	users  int
	filter string
}

func (s *stream) run(r *http.Request) {
	first := true
	for {
		now := time.Now()
		s.mu.Lock()
		changed := s.changed
		res := s.differenceLocked(now)
		wake := s.nextExpiryLocked(now)
		s.mu.Unlock()
		if first {
			first = false
			s.introduce(res)
		}
		if res != nil && send(s.w, s.req, res) != nil {
			return
		}
		wait := keepAliveEvery
		if !wake.IsZero() && time.Until(wake) < wait {
			wait = max(time.Until(wake), 0)
		}
		select {
		case <-r.Context().Done():
			return
		case <-changed:
		case <-time.After(wait):
			if send(s.w, s.req, &tailcfg.MapResponse{KeepAlive: true}) != nil {
				return
			}
		}
	}
}

// introduce completes a stream's first message, which is never empty.
func (s *stream) introduce(res *tailcfg.MapResponse) {
	res.Domain = domain
	res.DERPMap = s.relays
	res.DNSConfig = &tailcfg.DNSConfig{Proxied: true, Domains: []string{domain}}
	res.Peers, res.PeersChanged = res.PeersChanged, nil
}

// differenceLocked is what the node does not know yet, or nil.
func (s *stream) differenceLocked(now time.Time) *tailcfg.MapResponse {
	m := s.netmapLocked(s.viewer, now)
	res := &tailcfg.MapResponse{ControlTime: new(now.UTC())}
	any := false
	if text := encoded(m.self); text != s.self {
		s.self, res.Node, any = text, m.self, true
	}
	if len(m.users) != s.users {
		s.users, res.UserProfiles, any = len(m.users), m.users, true
	}
	if text := encoded(m.filter); text != s.filter {
		s.filter, res.PacketFilter, any = text, m.filter, true
	}
	gone := map[tailcfg.NodeID]bool{}
	for id := range s.sent {
		gone[id] = true
	}
	for _, p := range m.peers {
		delete(gone, p.ID)
		if text := encoded(p); text != s.sent[p.ID] {
			s.sent[p.ID], any = text, true
			res.PeersChanged = append(res.PeersChanged, p)
		}
	}
	for id := range gone {
		delete(s.sent, id)
		res.PeersRemoved, any = append(res.PeersRemoved, id), true
	}
	if !any {
		return nil
	}
	return res
}

func encoded(v any) string {
	text, _ := json.Marshal(v)
	return string(text)
}

// send writes one message: a little-endian length, then JSON, compressed when
// the node asked for it.
func send(w http.ResponseWriter, req *tailcfg.MapRequest, res *tailcfg.MapResponse) error {
	body, err := json.Marshal(res)
	if err != nil {
		return err
	}
	if req.Compress == "zstd" {
		body = zstdframe.AppendEncode(nil, body, zstdframe.FastestCompression)
	}
	if _, err := w.Write(binary.LittleEndian.AppendUint32(nil, uint32(len(body)))); err != nil {
		return err
	}
	if _, err := w.Write(body); err != nil {
		return err
	}
	w.(http.Flusher).Flush()
	return nil
}
