/* cmesh.h: what cmesh adds to libtailscale's C API.
 *
 * Text goes out through (out, outlen, needed): a C string. On success it is
 * the answer (JSON unless said otherwise), on failure the error's text; it is
 * cut when it is an error that does not fit. `needed` (may be NULL) gets the
 * bytes needed, terminator included. Common return codes:
 *
 *   0          done
 *   EBADF      not a handle of ours, or the node was closed
 *   ERANGE     the answer does not fit; call again with `needed` bytes
 *   EINVAL     an argument is malformed
 *   ENOENT     the address or name is no known peer
 *   ETIMEDOUT  the deadline passed
 *   ECANCELED  cancelled by cmesh_op_cancel
 *   -1         any other failure, a recovered panic included
 *
 * On Windows ETIMEDOUT and ECONNREFUSED are Winsock's (WSAETIMEDOUT, WSAECONNREFUSED),
 * and a descriptor is a SOCKET: its duplicates do not keep a connection on which
 * sending was shut down and whose own descriptor was closed.
 *
 * Descriptors given out are close-on-exec, blocking, and the caller's to close.
 */
#ifndef CMESH_H
#define CMESH_H

#include <stddef.h>

#include "tailscale.h"

#ifdef __cplusplus
extern "C" {
#endif

/* An operation that another thread may cancel. Make one, pass it, close it. */
extern int cmesh_op_new(void);
extern int cmesh_op_cancel(int op);
extern int cmesh_op_close(int op);

/* Sets the ACL tags the node asks for, comma separated ("tag:a,tag:b"). Before start. */
extern int cmesh_set_tags(tailscale sd, const char* tags);

/* Sets the UDP port of WireGuard; another one is taken when it is not free. 0 = any.
 * Before start. */
extern int cmesh_set_port(tailscale sd, int port);

/* Starts an interactive login: its URL arrives as a notification. */
extern int cmesh_login(tailscale sd, char* out, size_t outlen, size_t* needed);

/* Logs the node out: its node key ends, its state directory stays. */
extern int cmesh_logout(tailscale sd, char* out, size_t outlen, size_t* needed);

/* {state, login_url, node_id, name, user, tags, addresses, key_expiry, expired,
 *  health, tailnet, testnet, port}. No peers, so it is cheap. */
extern int cmesh_status(tailscale sd, char* out, size_t outlen, size_t* needed);

/* [{identity fields as cmesh_whois, online, direct, relay, os, last_seen}], by name. */
extern int cmesh_peers(tailscale sd, char* out, size_t outlen, size_t* needed);

/* Who has address ("ip" or "ip:port")? {node_id, name, user, tags, addresses, expired,
 *  key_expiry, shared, router, self, capabilities}. ENOENT: nobody we know. */
extern int cmesh_whois(tailscale sd, const char* address, char* out, size_t outlen,
                       size_t* needed);

/* Connects to a peer, named by address, MagicDNS name, host label or stable
 * node id, on a TCP port. Known peers only: never the node itself, never the
 * host's network. ECONNREFUSED: the peer has nobody on that port.
 * EKEYREJECTED: the peer's node key has expired. op 0 = cannot be cancelled. */
extern int cmesh_dial(tailscale sd, const char* peer, int port, int timeout_ms, int op,
                      tailscale_conn* conn_out, char* out, size_t outlen, size_t* needed);

/* tailscale_accept that also gives the remote "ip:port" (addrlen >= 64). */
extern int cmesh_accept(tailscale_listener listener, tailscale_conn* conn_out, char* addr_out,
                        size_t addrlen);

/* Round trip to a peer below TCP: {latency_s, direct, relay}. */
extern int cmesh_ping(tailscale sd, const char* peer, int timeout_ms, int op, char* out,
                      size_t outlen, size_t* needed);

/* Opens a stream of notifications, one JSON object a line, on a pollable
 * descriptor: {state, login_url, error, health, key_expiry, peers_changed,
 * peers_removed}, changed fields only. Slow readers get changes merged, never
 * dropped. Close it to end it; end of file = the node was closed. */
extern int cmesh_watch(tailscale sd, int* fd_out, char* out, size_t outlen, size_t* needed);

/* {goroutines, nodes, listeners, connections, watches, operations, heap_bytes}. */
extern int cmesh_counters(char* out, size_t outlen, size_t* needed);

/* Soft limit of the Go heap, process-wide; 128 MiB unless set. */
extern int cmesh_set_memory_limit(long long limit_bytes);

/* Lets nodes meet on loopback, also where it is the only interface and for users
 * other than root; process-wide, for demo and tests, and harmless when it was
 * called before. EBUSY: a node exists already. */
extern int cmesh_allow_loopback_only(void);

/* The version of the tailnet code inside. Static, never freed. */
extern const char* cmesh_version(void);

#ifdef __cplusplus
}
#endif

#endif
