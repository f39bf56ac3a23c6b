/* Prints rows and situations, each once: `id event state=... -> ...`, or `seen event state=...`. See rows.pml. */
#include <stdio.h>
#include <string.h>
#include <stdlib.h>

enum { NO_ROW, ACC = 3, INTENT = 5, SUCC = 10, DENY = 14, SHIM = 1, BURNT = 2, T = sizeof now.c_st };  /* as in the model */
enum { SUBMIT_ = 1, CANCEL_ = 2, SUBSCRIBE_ = 4, YES_ = 8, ACK_ = 16 };
enum { ROW_SLOTS = 1 << 20, ROW_LENGTH = 256 };

static const char *row_state(int s) {
    static const char *names[] = {"none", "queued", "sent", "accepted", "waiting", "intent", "running", "?", "?", "?",
                                  "succeeded", "failed", "cancelled", "interrupted", "denied", "expired"};
    return names[s];
}

void row_take(struct Row *r) {
    memset(r, 0, sizeof *r);
    r->up = now.up;
    for (int t = 0; t < T; t++) {
        r->c_st[t] = now.c_st[t]; r->c_seq[t] = now.c_seq[t]; r->c_evid[t] = now.c_evid[t];
        r->c_wish[t] = now.c_cancel[t] ? 1 : now.c_expired[t] ? 2 : 0;
        r->c_out[t] = now.d_submit[t] * SUBMIT_ + now.d_cancel[t] * CANCEL_ + now.d_sub[t] * SUBSCRIBE_
                    + now.d_yes[t] * YES_ + now.d_ack[t] * ACK_;
        r->w_st[t] = now.w_st[t]; r->w_ev[t] = now.w_ev[t]; r->w_lo[t] = now.w_lo[t];
        r->w_cancel[t] = now.w_cancel[t]; r->w_late[t] = now.w_late[t]; r->w_ack[t] = now.w_ack[t];
        r->cur[t] = now.cur[t]; r->subd[t] = now.subd[t]; r->told[t] = now.told[t]; r->asked[t] = now.asked[t];
        r->go[t] = now.go[t]; r->child[t] = now.child[t] > 0; r->offer[t] = now.offer[t];
        r->dir[t] = now.dir[t]; r->claim[t] = now.claim[t]; r->rec[t] = now.rec[t]; r->res[t] = now.res[t];
        r->stored[t] = now.w_ev[t] == now.spool[t]; r->dead[t] = now.w_dead[t]; r->kreq[t] = now.kreq[t];
        for (int i = 0; i < 3; i++) {
            r->owner[t] |= now.slot[i] >= 2 && now.s_t[i] == t;     /* CLAIMED or later */
            r->procs[t] |= now.ag[i] && now.s_t[i] == t;
        }
    }
}

static void row_print(const char *line) {
    static char *seen[ROW_SLOTS];
    unsigned long h = 5381;
    for (const char *c = line; *c; c++) h = h * 33 + (unsigned char)*c;
    for (h %= ROW_SLOTS; seen[h]; h = (h + 1) % ROW_SLOTS)
        if (!strcmp(seen[h], line)) return;
    seen[h] = strdup(line);
    printf("row: %s\n", line);
}

static int row_is(const char *event, const char *list) {
    const char *at = strstr(list, event);
    return at && (at == list || at[-1] == ' ') && strchr(" ", at[strlen(event)]);
}

/* Only what can matter to the event, so that one situation is one line. */
static int row_before(char *to, int size, const char *event, const struct Row *r, int t, int caller) {
    static const char *wishes[] = {"none", "user", "expired"}, *claims[] = {"none", "shim", "burnt"};
    int n;
    if (caller) {
        n = snprintf(to, size, "state=%s wish=%s", row_state(r->c_st[t]), wishes[r->c_wish[t]]);
        if (row_is(event, "event gap result")) n += snprintf(to + n, size - n, " last=%d", r->c_seq[t]);
        if (row_is(event, "event gap result welcome")) n += snprintf(to + n, size - n, " evidence=%d", r->c_evid[t]);
        if (row_is(event, "user_cancels expired")) n += snprintf(to + n, size - n, " link=%d", r->up);
        return n;
    }
    n = snprintf(to, size, "state=%s", row_state(r->w_st[t]));
    if (!strcmp(event, "submit") && t) {
        int p = r->w_st[t - 1];
        n += snprintf(to + n, size - n, " follows=%s", row_state(p));
    }
    if (row_is(event, "look") && r->w_st[t] >= SUCC)
        n += snprintf(to + n, size - n, " ack=%d directory=%d", r->w_ack[t], r->dir[t]);
    else if (row_is(event, "look"))
        n += snprintf(to + n, size - n, " wish=%d claim=%s record=%d owner=%d child=%d result=%s stored=%d "
                      "processes=%d directory=%d told=%d", r->w_cancel[t], claims[r->claim[t]], r->rec[t],
                      r->owner[t], r->child[t], row_state(r->res[t]), r->stored[t], r->procs[t], r->dir[t], r->kreq[t]);
    if (row_is(event, "cancel")) n += snprintf(to + n, size - n, " wish=%d", r->w_cancel[t]);
    if (row_is(event, "connected slot yes restarted")) n += snprintf(to + n, size - n, " late=%d", r->w_late[t]);
    if (row_is(event, "connected")) n += snprintf(to + n, size - n, " ack=%d asked=%d", r->w_ack[t], r->asked[t]);
    if (row_is(event, "slot yes")) n += snprintf(to + n, size - n, " yes=%d", r->go[t]);
    if (row_is(event, "result_ack")) n += snprintf(to + n, size - n, " ack=%d", r->w_ack[t]);
    if (row_is(event, "subscribe")) n += snprintf(to + n, size - n, " last=%d", r->w_ev[t]);
    if (row_is(event, "flow"))
        n += snprintf(to + n, size - n, " last=%d kept=%d cursor=%d told=%d", r->w_ev[t], r->w_lo[t], r->cur[t], r->told[t]);
    return n;
}

static int row_changed(char *to, int size, const char *what, int before, int after) {
    return before == after ? 0 : snprintf(to, size, " %s", what);
}

void row_say(const char *id, const char *event) {
    char line[ROW_LENGTH];
    struct Row was = now.row_pre, is;
    int t = now.row_t, caller = id[0] == 'C', n, size = sizeof line;
    row_take(&is);
    memset(&now.row_pre, 0, sizeof now.row_pre);
    if (!strcmp(event, "restarted") && is.w_st[t] == NO_ROW) return;
    if (!strcmp(id, "W26") && is.w_st[t] < SUCC) return;
    n = snprintf(line, size, "%s %s", id, event);
    if (!strcmp(event, "result")) n += snprintf(line + n, size - n, "(%s,%d)", row_state(now.row_v), now.row_n);
    else if (!strcmp(event, "cancel")) n += snprintf(line + n, size - n, "(%s)", now.row_v ? "user" : "expired");
    else if (row_is(event, "event gap subscribe")) n += snprintf(line + n, size - n, "(%d)", now.row_n);
    line[n++] = ' ';
    n += row_before(line + n, size - n, event, &was, t, caller);
    n += snprintf(line + n, size - n, " -> %s", row_state(caller ? is.c_st[t] : is.w_st[t]));
    if (caller) {
        static const char *names[] = {"submit", "cancel", "subscribe", "wanted", "result_ack"};
        n += row_changed(line + n, size - n, "+last", was.c_seq[t], is.c_seq[t]);
        n += row_changed(line + n, size - n, "+wish", was.c_wish[t], is.c_wish[t]);
        n += row_changed(line + n, size - n, "+evidence", was.c_evid[t], is.c_evid[t]);
        if (was.c_out[t]) return;           /* frames were waiting: what this row added could not be told */
        for (int i = 0; i < 5; i++)
            if (is.c_out[t] & 1 << i) n += snprintf(line + n, size - n, " !%s", names[i]);
    } else {
        n += row_changed(line + n, size - n, "+last", was.w_ev[t], is.w_ev[t]);
        n += row_changed(line + n, size - n, "+wish", was.w_cancel[t], is.w_cancel[t]);
        n += row_changed(line + n, size - n, "+late", was.w_late[t], is.w_late[t]);
        n += row_changed(line + n, size - n, "+ack", was.w_ack[t], is.w_ack[t]);
        if (!strcmp(event, "submit")) n += snprintf(line + n, size - n, " !%s", is.w_st[t] == DENY ? "denied" : "accepted");
        if (!strcmp(event, "connected") && is.asked[t] > was.asked[t]) n += snprintf(line + n, size - n, " !still_wanted");
        if (!strcmp(event, "connected") && is.offer[t]) n += snprintf(line + n, size - n, " !welcome");
        if (!strcmp(event, "flow") && is.told[t] > was.told[t]) n += snprintf(line + n, size - n, " !result");
        if (!strcmp(event, "flow") && is.cur[t] != was.cur[t])
            n += snprintf(line + n, size - n, " !%s(%d)", is.cur[t] == was.cur[t] + 1 && was.cur[t] >= was.w_lo[t] ? "event" : "gap", is.cur[t]);
        if (!strcmp(event, "subscribe") && is.subd[t]) n += snprintf(line + n, size - n, " *follow(%d)", is.cur[t]);
        if (!strcmp(event, "yes") && is.go[t]) n += snprintf(line + n, size - n, " *wanted");
        n += row_changed(line + n, size - n, "*spawn", was.child[t], is.child[t]);
        if (is.claim[t] == BURNT) n += row_changed(line + n, size - n, "*burn", was.claim[t], is.claim[t]);
        n += row_changed(line + n, size - n, "*end", was.kreq[t], is.kreq[t]);
        if (!is.dir[t]) n += row_changed(line + n, size - n, "*discard", was.dir[t], is.dir[t]);
    }
    row_print(line);
}

static void row_seen(const char *event, const struct Row *r, int t) {
    char line[ROW_LENGTH];
    int n = snprintf(line, sizeof line, "seen %s ", event);
    row_before(line + n, sizeof line - n, event, r, t, 0);
    row_print(line);
}

int row_look(void) {
    struct Row r;
    row_take(&r);
    for (int t = 0; t < T; t++) {
        if (r.w_st[t] == NO_ROW) continue;
        /* A dead owner is seen in an instant of its own, before the result file is looked for. */
        if (r.w_st[t] >= INTENT && !(r.claim[t] == SHIM && !r.owner[t] && !r.dead[t] && r.w_st[t] < SUCC)) row_seen("look", &r, t);
        if (r.w_st[t] == ACC) row_seen("slot", &r, t);
        if (r.subd[t] && r.up) row_seen("flow", &r, t);
    }
    return 0;
}
