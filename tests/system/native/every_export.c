/* Every function of cmesh.h, misused: handles that are none of ours, buffers that are
 * too short, NULL where something must be. Usage: every_export CONTROL_URL DIR
 * Prints "ok" and exits 0, or names the check that failed. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "cmesh.h"

#define NONE 4711
#define CHECK(what)                                                          \
    do {                                                                     \
        if (!(what)) {                                                       \
            fprintf(stderr, "line %d: failed: %s\n", __LINE__, #what);       \
            exit(1);                                                         \
        }                                                                    \
    } while (0)

static char out[64 * 1024];
static size_t needed;
#define OUT out, sizeof out, &needed

static void unknown_handles(void) {
    int fd = -1;
    char address[64];
    CHECK(cmesh_set_tags(NONE, "tag:a") == EBADF);
    CHECK(cmesh_set_port(NONE, 0) == EBADF);
    CHECK(cmesh_set_port(NONE, 65536) == EINVAL && cmesh_set_port(NONE, -1) == EINVAL);
    CHECK(cmesh_login(NONE, OUT) == EBADF);
    CHECK(needed == strlen(out) + 1 && needed > 1);
    CHECK(cmesh_logout(NONE, OUT) == EBADF);
    CHECK(cmesh_status(NONE, OUT) == EBADF);
    CHECK(cmesh_peers(NONE, OUT) == EBADF);
    CHECK(cmesh_whois(NONE, "100.64.0.1", OUT) == EBADF);
    CHECK(cmesh_dial(NONE, "peer", 7, 1000, 0, &fd, OUT) == EBADF);
    CHECK(cmesh_ping(NONE, "peer", 1000, 0, OUT) == EBADF);
    CHECK(cmesh_watch(NONE, &fd, OUT) == EBADF);
    CHECK(cmesh_accept(NONE, &fd, address, sizeof address) == EBADF);
    CHECK(cmesh_accept(-1, &fd, address, sizeof address) == EBADF);
    CHECK(cmesh_op_cancel(NONE) == EBADF);
    CHECK(cmesh_op_close(NONE) == EBADF);
    CHECK(cmesh_op_close(0) == EBADF);
    CHECK(tailscale_loopback(NONE, out, sizeof out, address, address) == EBADF);
    CHECK(tailscale_enable_funnel_to_localhost_plaintext_http1(NONE, 80) == EBADF);
    CHECK(tailscale_set_hostname(NONE, "x") == EBADF);
    CHECK(tailscale_set_authkey(NONE, "x") == EBADF);
    CHECK(tailscale_set_control_url(NONE, "x") == EBADF);
    CHECK(tailscale_set_ephemeral(NONE, 1) == EBADF);
    CHECK(tailscale_set_logfd(NONE, 2) == EBADF);
    CHECK(fd == -1);
}

/* A socket that is ours, or anybody's, but no listener: its data must stay. */
static void sockets_that_do_not_listen(tailscale sd) {
    int pair[2], fd = -1, watch = -1;
    char address[64], byte = 0;
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    CHECK(write(pair[0], "x", 1) == 1);
    CHECK(cmesh_accept(pair[1], &fd, address, sizeof address) == EBADF);
    CHECK(tailscale_accept(pair[1], &fd) == EBADF);
    CHECK(read(pair[1], &byte, 1) == 1 && byte == 'x');
    CHECK(cmesh_watch(sd, &watch, OUT) == 0);
    CHECK(fcntl(watch, F_GETFD) & FD_CLOEXEC);
    CHECK(tailscale_accept(watch, &fd) == EBADF);
    CHECK(tailscale_getremoteaddr(watch, watch, address, sizeof address) == EBADF);
    close(watch);
    close(pair[0]);
    close(pair[1]);
}

static void short_buffers(tailscale sd, const char* own) {
    char tiny[2] = {'?', '?'}, address[8];
    int fd = -1, listener = -1;
    CHECK(cmesh_status(sd, tiny, sizeof tiny, &needed) == ERANGE);
    CHECK(needed > sizeof tiny && tiny[0] == '?');
    CHECK(cmesh_status(sd, out, needed, &needed) == 0);
    CHECK(needed == strlen(out) + 1 && out[0] == '{');
    CHECK(cmesh_status(sd, tiny, sizeof tiny, NULL) == ERANGE);
    CHECK(cmesh_status(sd, NULL, 0, &needed) == ERANGE && needed > 1);
    CHECK(cmesh_peers(sd, tiny, sizeof tiny, &needed) == ERANGE && needed == 3);
    CHECK(cmesh_whois(sd, own, tiny, sizeof tiny, &needed) == ERANGE);
    CHECK(cmesh_whois(sd, own, out, needed, &needed) == 0);
    CHECK(cmesh_counters(tiny, sizeof tiny, &needed) == ERANGE);
    CHECK(cmesh_counters(out, needed + 16, NULL) == 0);
    /* An error's text is cut to the buffer, and keeps its code. */
    CHECK(cmesh_whois(sd, "nonsense", tiny, sizeof tiny, &needed) == EINVAL);
    CHECK(strlen(tiny) == 1);
    CHECK(cmesh_whois(sd, "nonsense", NULL, 0, NULL) == EINVAL);
    CHECK(tailscale_listen(sd, "tcp", ":7", &listener) == 0);
    CHECK(cmesh_accept(listener, &fd, address, sizeof address) == ERANGE);
    CHECK(cmesh_accept(listener, NULL, address, sizeof address) == EINVAL);
    CHECK(cmesh_accept(listener, &fd, NULL, 64) == EINVAL);
    CHECK(tailscale_accept(listener, NULL) == EINVAL);
    CHECK(close(listener) == 0);
}

static void bad_arguments(tailscale sd, const char* own) {
    int fd = -1, op = cmesh_op_new();
    CHECK(op > 0);
    CHECK(cmesh_whois(sd, NULL, OUT) == EINVAL);
    CHECK(cmesh_whois(sd, "127.0.0.1:80", OUT) == ENOENT);
    CHECK(cmesh_dial(sd, "no-such-peer", 7, 1000, 0, &fd, OUT) == ENOENT);
    CHECK(cmesh_dial(sd, own, 7, 1000, 0, &fd, OUT) == ENOENT);
    CHECK(cmesh_dial(sd, NULL, 7, 1000, 0, &fd, OUT) == ENOENT);
    CHECK(cmesh_dial(sd, "peer", 0, 1000, 0, &fd, OUT) == EINVAL);
    CHECK(cmesh_dial(sd, "peer", 65536, 1000, 0, &fd, OUT) == EINVAL);
    CHECK(cmesh_dial(sd, "peer", 7, 0, 0, &fd, OUT) == EINVAL);
    CHECK(cmesh_dial(sd, "peer", 7, 1000, 0, NULL, OUT) == EINVAL);
    CHECK(cmesh_dial(sd, "peer", 7, 1000, NONE, &fd, OUT) == EBADF);
    CHECK(cmesh_ping(sd, "no-such-peer", 1000, 0, OUT) == ENOENT);
    CHECK(cmesh_ping(sd, "peer", -1, 0, OUT) == EINVAL);
    CHECK(cmesh_ping(sd, "peer", 1000, NONE, OUT) == EBADF);
    CHECK(cmesh_watch(sd, NULL, OUT) == EINVAL);
    CHECK(tailscale_dial(sd, "tcp", "peer:7", NULL) == -1);
    CHECK(tailscale_dial(sd, NULL, NULL, &fd) == -1);
    CHECK(tailscale_listen(sd, "tcp", ":7", NULL) == -1);
    CHECK(tailscale_loopback(sd, NULL, 0, NULL, NULL) == -1);
    CHECK(tailscale_set_logfd(sd, NONE) == -1);
    CHECK(cmesh_set_tags(sd, "tag:late") == -1);
    CHECK(cmesh_set_port(sd, 41641) == -1);
    CHECK(cmesh_set_memory_limit(0) == EINVAL);
    CHECK(cmesh_set_memory_limit(128LL << 20) == 0);
    CHECK(cmesh_allow_loopback_only() == EBUSY);
    CHECK(cmesh_op_cancel(op) == 0 && cmesh_op_cancel(op) == 0);
    CHECK(cmesh_ping(sd, "no-such-peer", 1000, op, OUT) == ECANCELED);
    CHECK(cmesh_op_close(op) == 0 && cmesh_op_close(op) == EBADF);
    CHECK(fd == -1);
}

static void nodes_that_do_not_run(tailscale closed) {
    tailscale fresh = tailscale_new();
    int fd = -1;
    CHECK(fresh > closed);
    CHECK(cmesh_status(fresh, OUT) == -1 && strstr(out, "not started") != NULL);
    CHECK(tailscale_getips(fresh, out, sizeof out) == -1);
    CHECK(tailscale_errmsg(fresh, out, sizeof out) == 0 && strstr(out, "not started") != NULL);
    CHECK(tailscale_set_logfd(fresh, NONE) == EBADF);
    CHECK(tailscale_close(fresh) == 0);
    CHECK(cmesh_status(closed, OUT) == EBADF);
    CHECK(cmesh_dial(closed, "peer", 7, 1000, 0, &fd, OUT) == EBADF);
    CHECK(tailscale_start(closed) == EBADF);
    CHECK(tailscale_close(closed) == EBADF);
}

int main(int argc, char** argv) {
    char ips[256];
    CHECK(argc == 3);
    unknown_handles();
    tailscale sd = tailscale_new();
    CHECK(tailscale_set_control_url(sd, argv[1]) == 0);
    CHECK(tailscale_set_dir(sd, argv[2]) == 0);
    CHECK(tailscale_set_hostname(sd, "misused") == 0);
    CHECK(tailscale_up(sd) == 0);
    CHECK(tailscale_getips(sd, ips, sizeof ips) == 0);
    *strchr(ips, ',') = '\0';
    sockets_that_do_not_listen(sd);
    short_buffers(sd, ips);
    bad_arguments(sd, ips);
    CHECK(tailscale_close(sd) == 0);
    nodes_that_do_not_run(sd);
    CHECK(strlen(cmesh_version()) > 0);
    puts("ok");
    return 0;
}
