package main

// #include "abi.h"
import "C"

import (
	"errors"
	"fmt"
	"net"
	"strconv"

	"tailscale.com/ipn"
	"tailscale.com/tailcfg"
)

// credentialSize is the size of tailscale_loopback's credential buffers.
const credentialSize = 33

// funnelPort is the public port of the one Funnel service the C API offers.
const funnelPort = 443

//export tailscale_loopback
func tailscale_loopback(sd C.int, addrOut *C.char, addrlen C.size_t, proxyOut, localOut *C.char) (code C.int) {
	n := nodeByHandle(sd)
	if n == nil {
		return C.EBADF
	}
	defer recovered(n, &code)
	if addrOut == nil || proxyOut == nil || localOut == nil {
		return n.fail(errors.New("an output buffer is NULL"))
	}
	if err := n.start(); err != nil {
		return n.fail(err)
	}
	n.startMu.Lock() // tsnet's Loopback is not safe for two callers
	addr, proxy, localAPI, err := n.ts.Loopback()
	n.startMu.Unlock()
	if err != nil {
		return n.fail(err)
	}
	if code := copyText(addr, addrOut, addrlen); code != 0 {
		return code
	}
	if code := copyText(proxy, proxyOut, credentialSize); code != 0 {
		return code
	}
	return copyText(localAPI, localOut, credentialSize)
}

//export tailscale_enable_funnel_to_localhost_plaintext_http1
func tailscale_enable_funnel_to_localhost_plaintext_http1(sd C.int, localhostPort C.int) (code C.int) {
	n := nodeByHandle(sd)
	if n == nil {
		return C.EBADF
	}
	defer recovered(n, &code)
	if localhostPort < 1 || localhostPort > 65535 {
		return n.fail(fmt.Errorf("`%d` is no port", localhostPort))
	}
	lc, err := n.client()
	if err != nil {
		return n.fail(err)
	}
	st, err := lc.StatusWithoutPeers(n.ctx)
	if err != nil {
		return n.fail(err)
	}
	if len(st.CertDomains) == 0 {
		return n.fail(errors.New("the tailnet gives this node no HTTPS name"))
	}
	if st.Self == nil || !st.Self.CapMap.Contains(tailcfg.NodeAttrFunnel) {
		return n.fail(errors.New("the tailnet's policy does not allow Funnel for this node"))
	}
	if err := lc.SetServeConfig(n.ctx, funnelConfig(st.CertDomains[0], int(localhostPort))); err != nil {
		return n.fail(err)
	}
	return 0
}

func funnelConfig(domain string, localhostPort int) *ipn.ServeConfig {
	public := ipn.HostPort(net.JoinHostPort(domain, strconv.Itoa(funnelPort)))
	proxy := fmt.Sprintf("http://127.0.0.1:%d", localhostPort)
	return &ipn.ServeConfig{
		TCP: map[uint16]*ipn.TCPPortHandler{funnelPort: {HTTPS: true}},
		Web: map[ipn.HostPort]*ipn.WebServerConfig{
			public: {Handlers: map[string]*ipn.HTTPHandler{"/": {Proxy: proxy}}},
		},
		AllowFunnel: map[ipn.HostPort]bool{public: true},
	}
}
