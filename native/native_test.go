package main

import (
	"slices"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"tailscale.com/ipn"
	"tailscale.com/ipn/ipnstate"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
)

func newWatch() *watch {
	return &watch{names: map[tailcfg.NodeID]string{}, wake: make(chan struct{}, 1)}
}

func statusOf(ids ...string) *ipnstate.Status {
	st := &ipnstate.Status{Peer: map[key.NodePublic]*ipnstate.PeerStatus{}}
	for number, id := range ids {
		st.Peer[key.NewNode().Public()] = &ipnstate.PeerStatus{
			ID: tailcfg.StableNodeID(id), NodeID: tailcfg.NodeID(number + 1)}
	}
	return st
}

func TestAPanicInAnExportBecomesItsFailureCodeAndText(t *testing.T) {
	code := tailscale_new()
	n := nodeByHandle(code)
	defer tailscale_close(code)
	func() {
		defer recovered(n, &code)
		panic("boom")
	}()
	if code != -1 || n.lastError != "panic: boom" {
		t.Errorf("code %d, text %q", code, n.lastError)
	}
}

func TestAPanicInAGoroutineOfOursEndsOnlyIt(t *testing.T) {
	n := nodeByHandle(tailscale_new())
	guarded(n, func() { panic("boom") })
	n.work.Wait()
	if n.lastError != "panic: boom" {
		t.Errorf("text %q", n.lastError)
	}
}

func TestAnOptionThatPanicsLeavesTheNodeUsable(t *testing.T) {
	sd := tailscale_new()
	defer tailscale_close(sd)
	if code := configure(sd, func(*node) { panic("boom") }); code != -1 {
		t.Errorf("code %d", code)
	}
	if code := configure(sd, func(*node) {}); code != 0 {
		t.Errorf("code %d after a panic", code)
	}
}

func TestNewsNobodyReadIsMergedAndNothingIsDropped(t *testing.T) {
	w := newWatch()
	starting, running := "Starting", "Running"
	w.add(news{State: &starting, PeersChanged: []string{"a", "b"}})
	w.add(news{State: &running, PeersRemoved: []string{"a"}, PeersChanged: []string{"b", "c"}})
	p := w.pending
	if *p.State != "Running" || !slices.Equal(p.PeersChanged, []string{"b", "c"}) ||
		!slices.Equal(p.PeersRemoved, []string{"a"}) {
		t.Errorf("merged to %q, changed %v, removed %v", *p.State, p.PeersChanged, p.PeersRemoved)
	}
	w.add(news{PeersChanged: []string{"a"}})
	if len(w.pending.PeersRemoved) != 0 || !slices.Contains(w.pending.PeersChanged, "a") {
		t.Errorf("a peer that came back is still removed: %v", w.pending)
	}
}

func TestTheFirstStatusOfAWatchIsNoChange(t *testing.T) {
	if out := newWatch().translate(&ipn.Notify{InitialStatus: statusOf("a", "b")}); !out.empty() {
		t.Errorf("news %v", out)
	}
}

func TestAWatchThatBeginsAgainTellsEveryPeerAsChangedAndWhoIsGone(t *testing.T) {
	w := newWatch()
	w.translate(&ipn.Notify{InitialStatus: statusOf("a", "b")})
	out := w.translate(&ipn.Notify{InitialStatus: statusOf("a")})
	if !slices.Equal(out.PeersChanged, []string{"a"}) || !slices.Equal(out.PeersRemoved, []string{"b"}) {
		t.Errorf("changed %v, removed %v", out.PeersChanged, out.PeersRemoved)
	}
}

func TestWhereAPeerIsIsNoNews(t *testing.T) {
	w := newWatch()
	w.translate(&ipn.Notify{InitialStatus: statusOf("a")})
	online := true
	moved := &tailcfg.PeerChange{NodeID: 1, DERPRegion: 2}
	if out := w.translate(&ipn.Notify{PeerChangedPatch: []*tailcfg.PeerChange{moved}}); !out.empty() {
		t.Errorf("news %v", out)
	}
	moved.Online = &online
	if out := w.translate(&ipn.Notify{PeerChangedPatch: []*tailcfg.PeerChange{moved}}); out.empty() {
		t.Error("a peer that came online is no news")
	}
}

func TestThePrivateFieldsAreThere(t *testing.T) {
	sd := tailscale_new()
	defer tailscale_close(sd)
	n := nodeByHandle(sd)
	n.ts.Dir, n.ts.ControlURL = t.TempDir(), "http://127.0.0.1:1"
	if err := n.start(); err != nil {
		t.Fatal(err)
	}
	impl, err := n.netstack()
	if err != nil {
		t.Fatal(err)
	}
	if reach[*stack.Stack](impl, "ipstack") == nil {
		t.Error("no network stack")
	}
	if cap(reach[chan *stack.PacketBuffer](impl, "linkEP", "q", "c")) == 0 {
		t.Error("no outbound queue")
	}
	if reach[*stack.Stack](impl, "gone") != nil || reach[*stack.Stack](impl, "linkEP", "gone", "x") != nil {
		t.Error("a field that is not there was found")
	}
}
