package main

import (
	"context"
	"crypto/tls"
	"log"
	"net"
	"net/http"
	"net/http/httptest"

	"tailscale.com/derp/derpserver"
	"tailscale.com/net/stunserver"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
)

const (
	loopback    = "127.0.0.1"
	relayRegion = 1
)

// startRelay starts DERP and STUN on loopback and returns the map that sends
// nodes there and nowhere else.
func startRelay(ctx context.Context) (*tailcfg.DERPMap, error) {
	derp := derpserver.New(key.NewNode(), log.Printf)
	ln, err := net.Listen("tcp", loopback+":0")
	if err != nil {
		return nil, err
	}
	web := httptest.NewUnstartedServer(derpserver.Handler(derp))
	web.Listener.Close()
	web.Listener = ln
	// DERP upgrades an HTTP/1.1 connection, so HTTP/2 must not be negotiated.
	web.Config.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){}
	web.StartTLS()

	stun := stunserver.New(ctx)
	if err := stun.Listen(loopback + ":0"); err != nil {
		return nil, err
	}
	go func() { _ = stun.Serve() }()
	return &tailcfg.DERPMap{
		OmitDefaultRegions: true,
		Regions: map[int]*tailcfg.DERPRegion{relayRegion: {
			RegionID:   relayRegion,
			RegionCode: "loopback",
			RegionName: "loopback",
			Nodes: []*tailcfg.DERPNode{{
				Name:             "loopback",
				RegionID:         relayRegion,
				HostName:         loopback,
				IPv4:             loopback,
				IPv6:             "none",
				DERPPort:         ln.Addr().(*net.TCPAddr).Port,
				STUNPort:         stun.LocalAddr().(*net.UDPAddr).Port,
				STUNTestIP:       loopback,
				InsecureForTests: true,
			}},
		}},
	}, nil
}
