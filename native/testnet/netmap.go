package main

import (
	"net/netip"
	"slices"
	"time"

	"tailscale.com/tailcfg"
)

// netmap is what one member may see at one moment.
type netmap struct {
	self   *tailcfg.Node
	peers  []*tailcfg.Node // by id
	users  []tailcfg.UserProfile
	filter []tailcfg.FilterRule
}

func (t *tailnet) netmapLocked(viewer *member, now time.Time) netmap {
	m := netmap{self: t.nodeLocked(viewer, nil, now), filter: t.filterLocked(viewer)}
	for _, other := range t.Members {
		if other != viewer && !other.Removed && !viewer.Removed {
			m.peers = append(m.peers, t.nodeLocked(other, viewer, now))
		}
	}
	for name, id := range t.Users {
		m.users = append(m.users, tailcfg.UserProfile{ID: id, LoginName: name, DisplayName: name})
	}
	slices.SortFunc(m.users, func(a, b tailcfg.UserProfile) int { return int(a.ID - b.ID) })
	return m
}

// nodeLocked describes m to viewer; a nil viewer is m itself.
func (t *tailnet) nodeLocked(m, viewer *member, now time.Time) *tailcfg.Node {
	online := m.streams > 0
	host := tailcfg.Hostinfo{}
	if m.host != nil {
		host = *m.host
	}
	caps := tailcfg.NodeCapMap{capTestnet: nil}
	if m.Ephemeral {
		caps[capEphemeral] = nil
	}
	node := &tailcfg.Node{
		ID:                m.ID,
		StableID:          m.StableID,
		Name:              m.name() + ".",
		User:              t.userIDLocked(m.User),
		Key:               m.Key,
		KeyExpiry:         m.Expiry,
		Expired:           m.expired(now),
		Machine:           m.Machine,
		DiscoKey:          m.disco,
		Addresses:         m.addresses(),
		AllowedIPs:        append(m.addresses(), m.Routes...),
		PrimaryRoutes:     m.Routes,
		Endpoints:         m.endpoints,
		HomeDERP:          m.derp,
		Created:           m.Created,
		Cap:               m.cap,
		Tags:              m.Tags,
		Online:            &online,
		MachineAuthorized: true,
		CapMap:            caps,
	}
	if len(m.Tags) > 0 {
		node.User = t.userIDLocked("tagged-devices")
	}
	if m.Removed { // a deleted node learns of it as the end of its key
		node.KeyExpiry = now.Add(-time.Minute)
	}
	if viewer == nil {
		node.CapMap[tailcfg.NodeAttrDisableUPnP] = nil
	} else {
		t.share(node, &host, m, viewer)
	}
	node.Hostinfo = host.View()
	return node
}

// share marks nodes of another tailnet: those shared with us carry the user who
// shared them, and they see ours as the ones they were shared to.
func (t *tailnet) share(node *tailcfg.Node, host *tailcfg.Hostinfo, m, viewer *member) {
	if m.SharedBy != "" {
		node.Sharer = t.userIDLocked(m.SharedBy)
	}
	if viewer.SharedBy != "" {
		host.ShareeNode = true
	}
}

// filterLocked lets everyone in and adds the capabilities granted on viewer.
func (t *tailnet) filterLocked(viewer *member) []tailcfg.FilterRule {
	rules := slices.Clone(tailcfg.FilterAllowAll)
	for _, g := range t.Grants {
		if !matchesAny(viewer, g.Dst) {
			continue
		}
		var sources []string
		for _, m := range t.Members {
			if !m.Removed && m != viewer && matchesAny(m, g.Src) {
				for _, prefix := range m.addresses() {
					sources = append(sources, prefix.Addr().String())
				}
			}
		}
		if len(sources) > 0 {
			rules = append(rules, tailcfg.FilterRule{
				SrcIPs:   sources,
				CapGrant: []tailcfg.CapGrant{{Dsts: viewer.addresses(), CapMap: capabilities(g)}},
			})
		}
	}
	return rules
}

func capabilities(g grant) tailcfg.PeerCapMap {
	caps := tailcfg.PeerCapMap{}
	for name, values := range g.App {
		list := []tailcfg.RawMessage{}
		for _, v := range values {
			list = append(list, tailcfg.RawMessage(v))
		}
		caps[tailcfg.PeerCapability(name)] = list
	}
	return caps
}

// nextExpiryLocked is when the next key ends, or the zero time.
func (t *tailnet) nextExpiryLocked(now time.Time) time.Time {
	var next time.Time
	for _, m := range t.Members {
		if !m.Removed && m.Expiry.After(now) && (next.IsZero() || m.Expiry.Before(next)) {
			next = m.Expiry
		}
	}
	return next
}

// usable keeps endpoints that can be on this machine only, or be reached from it.
func usable(endpoints []netip.AddrPort) []netip.AddrPort {
	return slices.DeleteFunc(slices.Clone(endpoints), func(e netip.AddrPort) bool {
		return e.Addr().Zone() != "" || e.Addr().IsLinkLocalUnicast() || documentation.Contains(e.Addr())
	})
}

// documentation is where the stand-in interface of loopback-only nodes lives.
var documentation = netip.MustParsePrefix("192.0.2.0/24")
