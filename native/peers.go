package main

// #include "abi.h"
import "C"

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"strings"
	"time"

	"tailscale.com/ipn/ipnstate"
	"tailscale.com/tailcfg"
)

// peer is one line of cmesh_peers.
type peer struct {
	NodeID    string     `json:"node_id"`
	Name      string     `json:"name"`
	User      string     `json:"user"`
	Tags      []string   `json:"tags"`
	Addresses []string   `json:"addresses"`
	Expired   bool       `json:"expired"`
	KeyExpiry *time.Time `json:"key_expiry"`
	Shared    bool       `json:"shared"`
	Router    bool       `json:"router"`
	Online    bool       `json:"online"`
	Direct    string     `json:"direct"`
	Relay     string     `json:"relay"`
	OS        string     `json:"os"`
	LastSeen  *time.Time `json:"last_seen"`
}

//export cmesh_peers
func cmesh_peers(sd C.int, out *C.char, outlen C.size_t, needed *C.size_t) (code C.int) {
	a := answer{out, outlen, needed}
	defer a.recovered(&code)
	n, lc, err := startedNode(sd)
	if err != nil {
		return a.fail(err)
	}
	st, err := lc.Status(n.ctx)
	if err != nil {
		return a.fail(n.orClosed(err))
	}
	peers := make([]peer, 0, len(st.Peer))
	for _, p := range st.Peer {
		peers = append(peers, newPeer(st, p))
	}
	slices.SortFunc(peers, func(x, y peer) int {
		return cmp.Or(strings.Compare(x.Name, y.Name), strings.Compare(x.NodeID, y.NodeID))
	})
	return a.json(peers)
}

func newPeer(st *ipnstate.Status, p *ipnstate.PeerStatus) peer {
	var tags []string
	if p.Tags != nil {
		tags = p.Tags.AsSlice()
	}
	return peer{
		NodeID:    string(p.ID),
		Name:      strings.TrimSuffix(p.DNSName, "."),
		User:      owner(tags, st.User[p.UserID]),
		Tags:      listed(tags),
		Addresses: texts(p.TailscaleIPs),
		Expired:   p.Expired,
		KeyExpiry: p.KeyExpiry,
		Shared:    p.AltSharerUserID != 0 || p.ShareeNode,
		Router:    routes(p),
		Online:    p.Online,
		Direct:    p.CurAddr,
		Relay:     p.Relay,
		OS:        p.OS,
		LastSeen:  present(p.LastSeen),
	}
}

// owner is the login a rule for users may match: a tagged node has none.
func owner(tags []string, profile tailcfg.UserProfile) string {
	if len(tags) > 0 {
		return ""
	}
	return profile.LoginName
}

// routes says whether a peer may carry packets that are not its own.
func routes(p *ipnstate.PeerStatus) bool {
	if p.PrimaryRoutes != nil && p.PrimaryRoutes.Len() > 0 {
		return true
	}
	if p.AllowedIPs == nil {
		return false
	}
	for _, prefix := range p.AllowedIPs.All() {
		if !prefix.IsSingleIP() || !slices.Contains(p.TailscaleIPs, prefix.Addr()) {
			return true
		}
	}
	return false
}

// resolvePeer finds the address of a known peer by address, MagicDNS name,
// host label or stable node id.
func resolvePeer(ctx context.Context, n *node, target string) (netip.Addr, error) {
	lc, err := n.client()
	if err != nil {
		return netip.Addr{}, err
	}
	st, err := lc.Status(ctx)
	if err != nil {
		return netip.Addr{}, n.orClosed(err)
	}
	p := findPeer(st, target)
	switch {
	case p == nil:
		return netip.Addr{}, codedError{C.ENOENT, "no peer is called `" + target + "`"}
	case p.Expired:
		return netip.Addr{}, codedError{C.EKEYREJECTED, "the node key of `" + target + "` has expired"}
	case len(p.TailscaleIPs) == 0:
		return netip.Addr{}, codedError{C.ENOENT, "peer `" + target + "` has no address"}
	}
	if ip, err := netip.ParseAddr(target); err == nil {
		return ip.Unmap(), nil
	}
	return p.TailscaleIPs[0], nil
}

func findPeer(st *ipnstate.Status, target string) *ipnstate.PeerStatus {
	ip, ipErr := netip.ParseAddr(target)
	name := strings.ToLower(strings.TrimSuffix(target, "."))
	suffix := ""
	if st.CurrentTailnet != nil {
		suffix = "." + strings.ToLower(st.CurrentTailnet.MagicDNSSuffix)
	}
	for _, p := range st.Peer {
		full := strings.ToLower(strings.TrimSuffix(p.DNSName, "."))
		switch {
		case ipErr == nil:
			if slices.Contains(p.TailscaleIPs, ip.Unmap()) {
				return p
			}
		case string(p.ID) == target, full != "" && (full == name || full == name+suffix):
			return p
		}
	}
	return nil
}

// listed keeps JSON arrays arrays: an empty one is [], not null.
func listed[T any](items []T) []T {
	if items == nil {
		return []T{}
	}
	return items
}

func texts(ips []netip.Addr) []string {
	out := make([]string, 0, len(ips))
	for _, ip := range ips {
		out = append(out, ip.String())
	}
	return out
}

func present(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
