package main

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"tailscale.com/net/tsaddr"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
	"tailscale.com/util/dnsname"
)

// domain ends every name and is one of the two marks of a test tailnet.
const domain = "testnet.cmesh.internal"

// capTestnet is the other mark: a capability of every node.
const capTestnet = tailcfg.NodeCapability("cmesh.dev/cap/testnet")

// capEphemeral tells other nodes that a node goes away with its process;
// Tailscale's netmap has no field for it.
const capEphemeral = tailcfg.NodeCapability("cmesh.dev/cap/ephemeral")

// ephemeralGrace is how long an ephemeral node may be away before it is removed.
const ephemeralGrace = 3 * time.Second

// member is one node of the tailnet. The unexported part lives in memory only.
type member struct {
	ID        tailcfg.NodeID       `json:"id"`
	StableID  tailcfg.StableNodeID `json:"node_id"`
	Label     string               `json:"label"`
	Machine   key.MachinePublic    `json:"machine"`
	Key       key.NodePublic       `json:"key"`
	User      string               `json:"user"`
	Tags      []string             `json:"tags"`
	Expiry    time.Time            `json:"expiry,omitzero"`
	SharedBy  string               `json:"shared_by"`
	Routes    []netip.Prefix       `json:"routes"`
	Ephemeral bool                 `json:"ephemeral"`
	Removed   bool                 `json:"removed"`
	Created   time.Time            `json:"created"`

	host      *tailcfg.Hostinfo
	disco     key.DiscoPublic
	endpoints []netip.AddrPort
	derp      int
	cap       tailcfg.CapabilityVersion
	streams   int
}

func (m *member) expired(now time.Time) bool {
	return m.Removed || (!m.Expiry.IsZero() && !now.Before(m.Expiry))
}

func (m *member) name() string { return m.Label + "." + domain }

func (m *member) addresses() []netip.Prefix {
	v4 := netip.AddrFrom4([4]byte{100, 64 + byte(m.ID>>16), byte(m.ID >> 8), byte(m.ID)})
	v6 := tsaddr.Tailscale4To6(v4)
	return []netip.Prefix{netip.PrefixFrom(v4, 32), netip.PrefixFrom(v6, 128)}
}

// authKey admits nodes without a person.
type authKey struct {
	Key       string    `json:"key"`
	User      string    `json:"user"`
	Tags      []string  `json:"tags"`
	Reusable  bool      `json:"reusable"`
	Ephemeral bool      `json:"ephemeral"`
	Expiry    time.Time `json:"expiry,omitzero"`
	Used      bool      `json:"used"`
}

// grant gives nodes that match Src application capabilities on nodes that
// match Dst. A selector is "*", a login name, a tag, a node id or a host label.
type grant struct {
	Src []string                     `json:"src"`
	Dst []string                     `json:"dst"`
	App map[string][]json.RawMessage `json:"app"`
}

// tailnet is the state of everything; mu guards all of it.
type tailnet struct {
	mu       sync.Mutex
	dir      string
	autoUser string
	changed  chan struct{} // closed and replaced at each change

	Noise    key.MachinePrivate        `json:"noise"`
	NextID   tailcfg.NodeID            `json:"next_id"`
	Users    map[string]tailcfg.UserID `json:"users"`
	Members  []*member                 `json:"members"`
	AuthKeys map[string]*authKey       `json:"auth_keys"`
	Grants   []grant                   `json:"grants"`

	logins map[string]*login // by token
}

// login is a person's pending decision about one node.
type login struct {
	done chan struct{} // closed when decided
	user string
	tags []string
	deny string
}

func randomHex(n int) string {
	b := make([]byte, n)
	rand.Read(b)
	return hex.EncodeToString(b)
}

// announce wakes every map stream and saves what must outlive the process.
func (t *tailnet) announceLocked() {
	close(t.changed)
	t.changed = make(chan struct{})
	t.saveLocked()
}

func (t *tailnet) userIDLocked(name string) tailcfg.UserID {
	id, ok := t.Users[name]
	if !ok {
		id = tailcfg.UserID(len(t.Users) + 1)
		t.Users[name] = id
	}
	return id
}

func (t *tailnet) byKeyLocked(k key.NodePublic) *member {
	for _, m := range t.Members {
		if m.Key == k {
			return m
		}
	}
	return nil
}

// findLocked finds a present member by node id, label or full name.
func (t *tailnet) findLocked(ref string) (*member, error) {
	for _, m := range t.Members {
		if !m.Removed && (string(m.StableID) == ref || m.Label == ref || m.name() == ref) {
			return m, nil
		}
	}
	return nil, fmt.Errorf("no node is called `%s`", ref)
}

// admitLocked makes a node a member, or renews the membership it has.
func (t *tailnet) admitLocked(mk key.MachinePublic, req *tailcfg.RegisterRequest, as authKey) *member {
	tags := as.Tags
	if len(tags) == 0 && req.Hostinfo != nil {
		tags = req.Hostinfo.RequestTags
	}
	for _, m := range t.Members {
		if m.Machine != mk || m.Removed {
			continue
		}
		if m.User == as.User && slices.Equal(m.Tags, tags) {
			m.Key, m.Expiry = req.NodeKey, time.Time{}
			t.announceLocked()
			return m
		}
		m.Removed = true // another owner makes another node
	}
	t.NextID++
	m := &member{
		ID:        t.NextID,
		StableID:  tailcfg.StableNodeID("nTEST" + randomHex(4)),
		Label:     t.freeLabelLocked(req.Hostinfo),
		Machine:   mk,
		Key:       req.NodeKey,
		User:      as.User,
		Tags:      tags,
		Ephemeral: as.Ephemeral || req.Ephemeral,
		Created:   time.Now().UTC(),
		host:      req.Hostinfo,
	}
	t.userIDLocked(m.User)
	t.Members = append(t.Members, m)
	t.announceLocked()
	return m
}

// freeLabelLocked gives `name`, or `name-1`, `name-2` when it is taken.
func (t *tailnet) freeLabelLocked(host *tailcfg.Hostinfo) string {
	wanted := "node"
	if host != nil {
		if label := dnsname.SanitizeHostname(host.Hostname); label != "" {
			wanted = label
		}
	}
	label := wanted
	for n := 1; ; n++ {
		if _, err := t.findLocked(label); err != nil {
			return label
		}
		label = fmt.Sprintf("%s-%d", wanted, n)
	}
}

// removeLocked takes a node out of everyone's netmap, its own included.
func (t *tailnet) removeLocked(m *member) {
	m.Removed = true
	t.announceLocked()
}

// matchesLocked says whether a grant's selector names a member.
func matches(m *member, selector string) bool {
	switch {
	case selector == "*", selector == string(m.StableID), selector == m.Label, selector == m.name():
		return true
	case len(m.Tags) > 0:
		return slices.Contains(m.Tags, selector)
	}
	return m.User == selector
}

func matchesAny(m *member, selectors []string) bool {
	return slices.ContainsFunc(selectors, func(s string) bool { return matches(m, s) })
}
