/* A program written for libtailscale's tailscale.h and nothing else: two nodes,
 * connections between them, error paths. Usage: two_nodes CONTROL_URL DIR_A DIR_B
 * Prints "ok" and exits 0, or names the check that failed. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tailscale.h"

#define CONNECTIONS 50
#define CHECK(what)                                                          \
    do {                                                                     \
        if (!(what)) {                                                       \
            fprintf(stderr, "line %d: failed: %s\n", __LINE__, #what);       \
            exit(1);                                                         \
        }                                                                    \
    } while (0)

static char client_ips[256];
static tailscale_listener listener;

static tailscale up(const char* control, const char* dir, const char* name) {
    tailscale sd = tailscale_new();
    CHECK(sd > 0);
    CHECK(tailscale_set_control_url(sd, control) == 0);
    CHECK(tailscale_set_dir(sd, dir) == 0);
    CHECK(tailscale_set_hostname(sd, name) == 0);
    CHECK(tailscale_set_authkey(sd, "") == 0);
    CHECK(tailscale_set_ephemeral(sd, 1) == 0);
    CHECK(tailscale_set_logfd(sd, -1) == 0);
    CHECK(tailscale_start(sd) == 0);
    CHECK(tailscale_up(sd) == 0);
    CHECK(tailscale_set_hostname(sd, "late") == -1);
    return sd;
}

static void* serve(void* unused) {
    (void)unused;
    for (int i = 0; i < CONNECTIONS; i++) {
        tailscale_conn conn;
        char remote[64], tiny[2], buffer[64];
        CHECK(tailscale_accept(listener, &conn) == 0);
        CHECK(fcntl(conn, F_GETFD) & FD_CLOEXEC);
        CHECK(tailscale_getremoteaddr(listener, conn, remote, sizeof remote) == 0);
        CHECK(strncmp(client_ips, remote, strlen(remote)) == 0 && strlen(remote) >= 7);
        CHECK(tailscale_getremoteaddr(listener, conn, tiny, sizeof tiny) == ERANGE);
        int copy = dup(conn);
        CHECK(tailscale_getremoteaddr(listener, copy, remote, sizeof remote) == 0);
        CHECK(close(copy) == 0);
        ssize_t n;
        while ((n = read(conn, buffer, sizeof buffer)) > 0) {
            CHECK(write(conn, buffer, (size_t)n) == n);
        }
        CHECK(n == 0);
        CHECK(close(conn) == 0);
        CHECK(tailscale_getremoteaddr(listener, conn, remote, sizeof remote) == EBADF);
    }
    return NULL;
}

static void echo(tailscale client, const char* addr) {
    tailscale_conn conn;
    char buffer[64];
    size_t got = 0;
    CHECK(tailscale_dial(client, "tcp", addr, &conn) == 0);
    CHECK(fcntl(conn, F_GETFD) & FD_CLOEXEC);
    CHECK(write(conn, "hello", 5) == 5);
    CHECK(shutdown(conn, SHUT_WR) == 0);
    for (ssize_t n; (n = read(conn, buffer + got, sizeof buffer - got)) > 0;) {
        got += (size_t)n;
    }
    CHECK(got == 5 && memcmp(buffer, "hello", 5) == 0);
    CHECK(close(conn) == 0);
}

static void check_errors(tailscale sd) {
    char buffer[256], tiny[2], proxy[33], local[33];
    tailscale_conn conn;
    int pipes[2];
    CHECK(pipe(pipes) == 0);
    CHECK(tailscale_start(4711) == EBADF);
    CHECK(tailscale_up(4711) == EBADF);
    CHECK(tailscale_close(4711) == EBADF);
    CHECK(tailscale_set_dir(4711, "x") == EBADF);
    CHECK(tailscale_getips(4711, buffer, sizeof buffer) == EBADF);
    CHECK(tailscale_errmsg(4711, buffer, sizeof buffer) == EBADF);
    CHECK(tailscale_dial(4711, "tcp", "a:1", &conn) == EBADF);
    CHECK(tailscale_listen(4711, "tcp", ":1", &conn) == EBADF);
    CHECK(tailscale_accept(pipes[0], &conn) == EBADF);
    CHECK(tailscale_accept(-1, &conn) == EBADF);
    CHECK(tailscale_getremoteaddr(listener, pipes[0], buffer, sizeof buffer) == EBADF);
    CHECK(tailscale_getremoteaddr(listener, -1, buffer, sizeof buffer) == EBADF);
    CHECK(tailscale_getips(sd, tiny, sizeof tiny) == ERANGE);
    CHECK(tailscale_getips(sd, NULL, 0) == ERANGE);
    CHECK(tailscale_dial(sd, "tcp", "no-such-peer:7", &conn) == -1);
    CHECK(tailscale_errmsg(sd, buffer, sizeof buffer) == 0 && strlen(buffer) > 0);
    CHECK(tailscale_errmsg(sd, tiny, sizeof tiny) == ERANGE);
    CHECK(tailscale_dial(sd, "tcp", "127.0.0.1:7", &conn) == -1);
    CHECK(tailscale_dial(sd, "smoke", "server:7", &conn) == -1);
    CHECK(tailscale_listen(sd, "tcp", "nonsense", &conn) == -1);
    CHECK(tailscale_enable_funnel_to_localhost_plaintext_http1(sd, 8080) == -1);
    CHECK(tailscale_loopback(sd, tiny, sizeof tiny, proxy, local) == ERANGE);
    CHECK(tailscale_loopback(sd, buffer, sizeof buffer, proxy, local) == 0);
    CHECK(strncmp(buffer, "127.0.0.1:", 10) == 0);
    CHECK(strlen(proxy) == 32 && strlen(local) == 32);
    close(pipes[0]);
    close(pipes[1]);
}

int main(int argc, char** argv) {
    CHECK(argc == 4);
    char server_ips[256], addr[300];
    pthread_t thread;
    tailscale_conn conn;
    tailscale server = up(argv[1], argv[2], "server");
    tailscale client = up(argv[1], argv[3], "client");
    CHECK(tailscale_getips(server, server_ips, sizeof server_ips) == 0);
    CHECK(tailscale_getips(client, client_ips, sizeof client_ips) == 0);
    CHECK(strchr(server_ips, ',') != NULL);
    CHECK(tailscale_listen(server, "tcp", ":7", &listener) == 0);
    CHECK(pthread_create(&thread, NULL, serve, NULL) == 0);
    snprintf(addr, sizeof addr, "%.*s:7", (int)strcspn(server_ips, ","), server_ips);
    for (int i = 0; i < CONNECTIONS; i++) {
        echo(client, i % 2 ? addr : "server:7");
    }
    CHECK(pthread_join(thread, NULL) == 0);
    check_errors(client);
    CHECK(tailscale_close(server) == 0);
    CHECK(tailscale_accept(listener, &conn) == EBADF);
    CHECK(close(listener) == 0);
    CHECK(tailscale_close(server) == EBADF);
    CHECK(tailscale_close(client) == 0);
    puts("ok");
    return 0;
}
