// Command cmesh-testnet is a whole tailnet on loopback: control server, DERP
// relay and STUN. It serves the demo and the tests and has no security to
// speak of, so it marks itself in every netmap and cmesh refuses it elsewhere.
//
// When ready it prints one JSON line {"control_url", "admin_url"} and then
// serves until SIGTERM, or until its standard input ends when asked to.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// headerLimit bounds how long a client may take to send a request's headers.
const headerLimit = 10 * time.Second

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "loopback address of the control server")
	stateDir := flag.String("state-dir", "", "keep keys and nodes here (default: in memory)")
	autoUser := flag.String("auto-user", "", "log every node in as this user (default: login by URL)")
	withStdin := flag.Bool("exit-with-stdin", false, "exit when standard input ends")
	verbose := flag.Bool("verbose", false, "log to standard error")
	flag.Parse()
	if !*verbose {
		log.SetOutput(io.Discard)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if *withStdin {
		go func() {
			_, _ = io.Copy(io.Discard, os.Stdin)
			stop()
		}()
	}
	if err := run(ctx, *listen, *stateDir, *autoUser); err != nil {
		fmt.Fprintln(os.Stderr, "cmesh-testnet:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, listen, stateDir, autoUser string) error {
	ln, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	if !ln.Addr().(*net.TCPAddr).IP.IsLoopback() {
		return fmt.Errorf("`%s` is not a loopback address", listen)
	}
	relays, err := startRelay(ctx)
	if err != nil {
		return err
	}
	tn, err := openTailnet(stateDir)
	if err != nil {
		return err
	}
	tn.autoUser = autoUser
	base := "http://" + ln.Addr().String()
	c := &control{tailnet: tn, base: base, relays: relays, secret: randomHex(16)}
	server := &http.Server{Handler: c.mux(), ReadHeaderTimeout: headerLimit,
		BaseContext: func(net.Listener) context.Context { return ctx }}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(ln) }()
	ready, _ := json.Marshal(map[string]string{
		"control_url": base, "admin_url": base + "/admin/" + c.secret})
	fmt.Println(string(ready))
	select {
	case <-ctx.Done():
		return nil
	case err := <-failed:
		return err
	}
}
