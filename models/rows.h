/* What a row may read or change, for up to two turns; see rows.pml. */
struct Row {
    unsigned char c_st[2], c_seq[2], c_wish[2], c_evid[2], c_out[2], up;
    unsigned char w_st[2], w_ev[2], w_lo[2], w_cancel[2], w_late[2], w_ack[2];
    unsigned char cur[2], subd[2], told[2], asked[2], go[2], child[2], offer[2];
    unsigned char dir[2], claim[2], rec[2], res[2], stored[2], owner[2], dead[2], procs[2], kreq[2];
};
void row_take(struct Row *r);
void row_say(const char *id, const char *event);
int row_look(void);
#define ROW_LOOK row_look()     /* spin wants no call in a c_expr */
