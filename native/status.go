package main

// #include "abi.h"
import "C"

import (
	"strings"
	"time"

	"tailscale.com/ipn/ipnstate"
	"tailscale.com/tailcfg"
)

// capTestnet marks every node of a cmesh test tailnet, which has no security
// to speak of; a daemon outside the demo refuses it.
const capTestnet = tailcfg.NodeCapability("cmesh.dev/cap/testnet")

// testnetDomain ends every name of a cmesh test tailnet.
const testnetDomain = "testnet.cmesh.internal"

// status is the answer of cmesh_status.
type status struct {
	State     string     `json:"state"`
	LoginURL  string     `json:"login_url"`
	NodeID    string     `json:"node_id"`
	Name      string     `json:"name"`
	User      string     `json:"user"`
	Tags      []string   `json:"tags"`
	Addresses []string   `json:"addresses"`
	KeyExpiry *time.Time `json:"key_expiry"`
	Expired   bool       `json:"expired"`
	Health    []string   `json:"health"`
	Tailnet   string     `json:"tailnet"`
	Testnet   bool       `json:"testnet"`
	Port      uint16     `json:"port"`
}

//export cmesh_status
func cmesh_status(sd C.int, out *C.char, outlen C.size_t, needed *C.size_t) (code C.int) {
	a := answer{out, outlen, needed}
	defer a.recovered(&code)
	n, lc, err := startedNode(sd)
	if err != nil {
		return a.fail(err)
	}
	st, err := lc.StatusWithoutPeers(n.ctx)
	if err != nil {
		return a.fail(n.orClosed(err))
	}
	s := newStatus(st)
	s.Port = n.ts.Sys().MagicSock.Get().LocalPort()
	return a.json(s)
}

func newStatus(st *ipnstate.Status) status {
	s := status{
		State:     st.BackendState,
		LoginURL:  st.AuthURL,
		Tags:      []string{},
		Addresses: texts(st.TailscaleIPs),
		Health:    listed(st.Health),
	}
	if self := st.Self; self != nil {
		p := newPeer(st, self)
		s.NodeID, s.Name, s.User, s.Tags = p.NodeID, p.Name, p.User, p.Tags
		s.KeyExpiry, s.Expired = p.KeyExpiry, p.Expired
		s.Testnet = self.CapMap.Contains(capTestnet)
	}
	if tailnet := st.CurrentTailnet; tailnet != nil {
		s.Tailnet = tailnet.Name
		s.Testnet = s.Testnet || strings.HasSuffix(tailnet.MagicDNSSuffix, testnetDomain)
	}
	return s
}
