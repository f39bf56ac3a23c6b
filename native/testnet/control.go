package main

import (
	"context"
	"encoding/json"
	"io"
	"log"
	"net/http"

	"golang.org/x/net/http2"
	"tailscale.com/control/controlhttp/controlhttpserver"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
)

// messageLimit bounds one request of a node.
const messageLimit = 1 << 20

// control speaks Tailscale's control protocol (ts2021: Noise, then HTTP/2).
type control struct {
	*tailnet
	base   string
	secret string // part of the admin URL
	relays *tailcfg.DERPMap
}

type machineContextKey struct{}

func (c *control) mux() http.Handler {
	outer := http.NewServeMux()
	outer.HandleFunc("GET /key", c.serveKey)
	outer.HandleFunc("POST /ts2021", c.serveNoise)
	outer.HandleFunc("GET /login/{token}", c.serveLoginPage)
	outer.HandleFunc("POST /login/{token}", c.serveLoginChoice)
	c.addAdmin(outer)
	return outer
}

// inner is what a node reaches inside its Noise connection.
func (c *control) inner() http.Handler {
	inner := http.NewServeMux()
	inner.HandleFunc("POST /machine/register", c.serveRegister)
	inner.HandleFunc("POST /machine/map", c.serveMap)
	inner.HandleFunc("POST /machine/update-health", func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusNoContent)
	})
	return inner
}

func (c *control) serveKey(w http.ResponseWriter, r *http.Request) {
	reply(w, tailcfg.OverTLSPublicKeyResponse{PublicKey: c.Noise.Public()})
}

func (c *control) serveNoise(w http.ResponseWriter, r *http.Request) {
	conn, err := controlhttpserver.AcceptHTTP(r.Context(), w, r, c.Noise, nil)
	if err != nil {
		log.Printf("noise: %v", err)
		return
	}
	defer conn.Close()
	var server http2.Server
	server.ServeConn(conn, &http2.ServeConnOpts{
		Context:    context.WithValue(r.Context(), machineContextKey{}, conn.Peer()),
		BaseConfig: &http.Server{Handler: c.inner()},
	})
}

func machineOf(r *http.Request) key.MachinePublic {
	mk, _ := r.Context().Value(machineContextKey{}).(key.MachinePublic)
	return mk
}

// decode reads a JSON body, or answers 400 and says no.
func decode(w http.ResponseWriter, r *http.Request, v any) bool {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, messageLimit))
	if err == nil {
		err = json.Unmarshal(body, v)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
	}
	return err == nil
}

func reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(v); err != nil {
		log.Printf("reply: %v", err)
	}
}
