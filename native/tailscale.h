/* tailscale.h: libtailscale's C API, as implemented by cmesh over tsnet.
 *
 * Names, arguments and meanings are those of libtailscale, so a C program
 * written for it compiles, links and runs against this library. This header
 * is written from the API's public documentation.
 *
 * Unless a function says otherwise it returns 0 on success, EBADF when the
 * handle or descriptor is not one of ours, and -1 on any other failure, whose
 * text tailscale_errmsg gives. Every function may be called from any thread.
 *
 * One deliberate narrowing: tailscale_dial reaches the tailnet only. It never
 * falls through to the host's network or to the host's DNS.
 */
#ifndef TAILSCALE_H
#define TAILSCALE_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A tailnet node inside this process. */
typedef int tailscale;

/* One end of a socket pair on which accepted connections arrive. Poll it for
 * reading, accept with tailscale_accept, end it with close(2). */
typedef int tailscale_listener;

/* A connection over the tailnet: a stream socket for read(2), write(2),
 * shutdown(2), close(2). Owned by the caller. Close-on-exec. */
typedef int tailscale_conn;

/* Creates a node. Set its options, then start it. Returns a handle >= 1. */
extern tailscale tailscale_new(void);

/* Starts the node without waiting for the tailnet. Calling it again is harmless. */
extern int tailscale_start(tailscale sd);

/* Starts the node and blocks until it is running on the tailnet, its login
 * failed, or tailscale_close was called by another thread. */
extern int tailscale_up(tailscale sd);

/* Shuts the node down and frees its handle. Ends a pending tailscale_up,
 * tailscale_dial and tailscale_accept, and every connection of the node. */
extern int tailscale_close(tailscale sd);

/* Options; they take effect when set before the node starts. */
extern int tailscale_set_dir(tailscale sd, const char* dir);
extern int tailscale_set_hostname(tailscale sd, const char* hostname);
extern int tailscale_set_authkey(tailscale sd, const char* authkey);
extern int tailscale_set_control_url(tailscale sd, const char* control_url);
extern int tailscale_set_ephemeral(tailscale sd, int ephemeral);

/* Writes the node's log lines to fd (-1 = discard, the default). The
 * descriptor is duplicated and stays the caller's. */
extern int tailscale_set_logfd(tailscale sd, int fd);

/* Writes the node's addresses, separated by a comma, as a C string.
 * ERANGE: buf is too small. */
extern int tailscale_getips(tailscale sd, char* buf, size_t buflen);

/* Connects to addr, "host:port", over the tailnet; network is "tcp", "tcp4",
 * "tcp6" or "udp". Starts the node when it is not started. Blocks. */
extern int tailscale_dial(tailscale sd, const char* network, const char* addr,
                          tailscale_conn* conn_out);

/* Listens on the tailnet; network is "tcp", addr is ":port" or "ip:port".
 * Starts the node when it is not started. */
extern int tailscale_listen(tailscale sd, const char* network, const char* addr,
                            tailscale_listener* listener_out);

/* Takes the next connection. Blocks unless the listener was made non-blocking,
 * then EAGAIN. EBADF also when the listener's node was closed. */
extern int tailscale_accept(tailscale_listener listener, tailscale_conn* conn_out);

/* Writes the IP address (no port) of an accepted connection's remote side.
 * Works for the descriptor that tailscale_accept gave and for its duplicates,
 * while the connection lives. ERANGE: buf is too small. */
extern int tailscale_getremoteaddr(tailscale_listener listener, tailscale_conn conn, char* buf,
                                   size_t buflen);

/* Starts a SOCKS5 proxy and the LocalAPI on a loopback TCP address.
 * addr_out gets "ip:port"; the credential buffers hold 33 bytes each.
 * ERANGE: addrlen is too small. */
extern int tailscale_loopback(tailscale sd, char* addr_out, size_t addrlen, char* proxy_cred_out,
                              char* local_api_cred_out);

/* Publishes http://127.0.0.1:port through Tailscale Funnel. Needs a running
 * node whose tailnet allows Funnel and HTTPS names. */
extern int tailscale_enable_funnel_to_localhost_plaintext_http1(tailscale sd, int localhost_port);

/* Writes the text of the node's last failure. ERANGE: buf is too small. */
extern int tailscale_errmsg(tailscale sd, char* buf, size_t buflen);

#ifdef __cplusplus
}
#endif

#endif
