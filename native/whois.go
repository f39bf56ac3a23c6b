package main

// #include "abi.h"
import "C"

import (
	"encoding/json"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"time"

	"tailscale.com/client/local"
	"tailscale.com/client/tailscale/apitype"
	"tailscale.com/tailcfg"
)

// identity is the answer of cmesh_whois.
type identity struct {
	NodeID       string                       `json:"node_id"`
	Name         string                       `json:"name"`
	User         string                       `json:"user"`
	Tags         []string                     `json:"tags"`
	Addresses    []string                     `json:"addresses"`
	Expired      bool                         `json:"expired"`
	KeyExpiry    *time.Time                   `json:"key_expiry"`
	Shared       bool                         `json:"shared"`
	Router       bool                         `json:"router"`
	Ephemeral    bool                         `json:"ephemeral"`
	Self         bool                         `json:"self"`
	Capabilities map[string][]json.RawMessage `json:"capabilities"`
}

// capEphemeral is how a test tailnet tells that a node is ephemeral; Tailscale's
// netmap does not say.
const capEphemeral = "cmesh.dev/cap/ephemeral"

//export cmesh_whois
func cmesh_whois(sd C.int, address *C.cchar, out *C.char, outlen C.size_t, needed *C.size_t) (code C.int) {
	a := answer{out, outlen, needed}
	defer a.recovered(&code)
	n, lc, err := startedNode(sd)
	if err != nil {
		return a.fail(err)
	}
	target := goText(address)
	if !isAddress(target) {
		return a.fail(codedError{C.EINVAL, "`" + target + "` is no address"})
	}
	who, err := lc.WhoIs(n.ctx, target)
	switch {
	case errors.Is(err, local.ErrPeerNotFound):
		return a.fail(codedError{C.ENOENT, "no known node has the address `" + target + "`"})
	case err != nil:
		return a.fail(n.orClosed(err))
	case who.Node == nil || who.UserProfile == nil:
		return a.fail(codedError{C.ENOENT, "whois of `" + target + "` has no node"})
	}
	return a.json(n.newIdentity(who))
}

func isAddress(s string) bool {
	if _, err := netip.ParseAddrPort(s); err == nil {
		return true
	}
	_, err := netip.ParseAddr(s)
	return err == nil
}

func (n *node) newIdentity(who *apitype.WhoIsResponse) identity {
	node := who.Node
	addresses := make([]string, 0, len(node.Addresses))
	for _, prefix := range node.Addresses {
		addresses = append(addresses, prefix.Addr().String())
	}
	capabilities := map[string][]json.RawMessage{}
	for name, values := range who.CapMap {
		list := []json.RawMessage{}
		for _, value := range values {
			list = append(list, json.RawMessage(value))
		}
		capabilities[string(name)] = list
	}
	v4, v6 := n.ts.TailscaleIPs()
	return identity{
		NodeID:       string(node.StableID),
		Name:         strings.TrimSuffix(node.Name, "."),
		User:         owner(node.Tags, *who.UserProfile),
		Tags:         listed(node.Tags),
		Addresses:    addresses,
		Expired:      node.Expired,
		KeyExpiry:    present(node.KeyExpiry),
		Shared:       node.Sharer != 0 || (node.Hostinfo.Valid() && node.Hostinfo.ShareeNode()),
		Router:       advertises(node),
		Ephemeral:    node.CapMap.Contains(capEphemeral),
		Self:         slices.ContainsFunc(node.Addresses, func(p netip.Prefix) bool { return p.Addr() == v4 || p.Addr() == v6 }),
		Capabilities: capabilities,
	}
}

// advertises says whether a node routes, or offers to route, more than itself.
func advertises(node *tailcfg.Node) bool {
	if len(node.PrimaryRoutes) > 0 || (node.Hostinfo.Valid() && node.Hostinfo.RoutableIPs().Len() > 0) {
		return true
	}
	return slices.ContainsFunc(node.AllowedIPs, func(p netip.Prefix) bool { return !slices.Contains(node.Addresses, p) })
}
