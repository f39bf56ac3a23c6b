/* delegation.pml: how a cmesh caller C hands a task to a worker W, so that it is never lost, doubled or faked.
 *
 * Reading guide
 *   - One atomic{} is one instant. A kill can fall between any two of them, never inside one, so no atomic
 *     holds more than one durable commit or one outside effect (a send, a spawn, a file made).
 *   - C and W are reactive loops whose whole state is in globals: "durable" survives a kill, "volatile" is wiped.
 *   - The link is FIFO. A loss (or a kill of either daemon) empties both directions; since the receiver may have
 *     taken any prefix before that instant, "any suffix is lost" is covered.
 *   - Nothing is resent inside one connection, only after a reconnect. Kills and losses are bounded, so every
 *     run of the model is finite ("pan -l" confirms it) and liveness is a property of the final states (Goal).
 *     The environment may fall calm at any moment, so a run with no kill at all has its final state checked too.
 *   - t is the turn: 0 is the task's submit, 1 is a follow-up. Each turn has its own row, id and files.
 *   - ROW(id, event, value, number) ends what is a row of the code's table (cmesh/protocol/table.py), PRE begins it.
 *     Both are nothing, but with -DROWS they print what the row was, and did: run.sh rows. What follows NOROW is no
 *     row: a frame that waits for room in the link, or a step inside one row's look.
 * Switches: bounds CC WC SC LL (kills of C, W, shim; link losses), T turns, NS shim slots, EV events, K queue,
 *   features CANCELS DENIALS APPROVAL OUTBOX PRUNE STALE HANG (0/1), mistakes N_*. README.md says what each is.
 */
#ifndef CC
#define CC 1
#endif
#ifndef WC
#define WC 1
#endif
#ifndef SC
#define SC 1
#endif
#ifndef LL
#define LL 1
#endif
#ifndef T
#define T 1
#endif
#ifndef NS
#define NS 2
#endif
#ifndef EV
#define EV 1
#endif
#ifndef K
#define K 2
#endif
#ifndef CANCELS
#define CANCELS 1
#endif
#ifndef DENIALS
#define DENIALS 1
#endif
#ifndef APPROVAL
#define APPROVAL 0
#endif
#ifndef OUTBOX
#define OUTBOX 0
#endif
#ifndef PRUNE
#define PRUNE 0
#endif
#ifndef STALE
#define STALE 0
#endif
#ifndef HANG
#define HANG 0
#endif

mtype = { WELCOME, SUBMIT, ACCEPTED, DENIED, SUBSCRIBE, EVENT, GAP, RESULT, RESULT_ACK, CANCEL, ASK, YES };
chan c2w = [K] of { mtype, byte, byte, byte };   /* type, turn, value, number */
chan w2c = [K] of { mtype, byte, byte, byte };
chan old = [1] of { mtype, byte, byte, byte };   /* STALE: a frame of a dead connection that is read late */
bool up;                                         /* the link */

/* States. C uses NONE QUEUED SENT ACC and the terminals, W uses NONE ACC WAIT INTENT RUN and the terminals. */
#define NONE   0
#define QUEUED 1    /* C: in the outbox, certainly never sent */
#define SENT   2    /* C: may have been sent, no answer known */
#define ACC    3    /* W committed it (C: and C knows) */
#define WAIT   4    /* W: approval pending */
#define INTENT 5    /* W: from here on a shim may exist */
#define RUN    6    /* W: the shim recorded the agent's pid */
#define SUCC   10
#define FAIL   11
#define CANC   12
#define INTR   13
#define DENY   14
#define EXPD   15
#define term(s) ((s) >= SUCC)

/* ---- durable ---- */
byte c_st[T], c_seq[T];     bool c_cancel[T], c_expired[T], c_evid[T];  /* C's store; c_evid: W's signed result */
byte w_st[T], w_ev[T], w_lo[T]; bool w_cancel[T], w_late[T], w_ack[T];  /* W's store */
/* the turn's directory: claim is made by link(2), so it appears once, whole, and says who made it */
#define SHIM 1
#define BURNT 2             /* claimed by W itself: no shim can ever start this turn */
bool dir[T], rec[T];  byte claim[T], spool[T], res[T];

/* ---- volatile: C ---- */
bool d_submit[T], d_cancel[T], d_sub[T], d_yes[T], d_ack[T]; byte c_pend[T];   /* frames C has yet to send on this connection */
/* ---- volatile: W ---- */
bool offer[T], owe[T], subd[T], told[T], asked[T], go[T], w_dead[T], w_nores[T], w_pend[T];
byte cur[T], child[T];      /* next event to send; slot + 1 of the shim this W life spawned */

/* ---- processes of the host ---- */
#define FREE    0
#define NEW     1           /* spawned, has not tried the claim */
#define CLAIMED 2           /* owns the turn; agent not started */
#define STARTED 3           /* agent started, pid not yet recorded */
#define RUNS    4
#define DONE    5           /* tree counted to zero, verdict known, result not yet written */
#define WROTE   6
byte slot[3], s_t[3], verdict[3]; bool ag[3];   /* ag: at least one agent process lives */
bool kreq[T];                                       /* W told the owning shim to end the tree */

/* ---- ghosts: what the properties talk about ---- */
byte starts[T]; bool asked_cancel[T];
byte kc, kw, ks, kl;        /* kills and losses so far */
bool calm;                  /* from here on: no kill, no loss, no cancel, no expiry. What is stuck now is stuck */

#define alive(i,t)  (slot[i] >= CLAIMED && s_t[i] == t)
#define owner(t)    (alive(0,t) || alive(1,t) || alive(2,t))
#define procs(t)    ((ag[0] && s_t[0] == t) || (ag[1] && s_t[1] == t) || (ag[2] && s_t[2] == t))
#define anyproc     (ag[0] || ag[1] || ag[2])
#define anyshim     (slot[0] || slot[1] || slot[2])
#define idle(i)     (slot[i] == FREE && !ag[i])

/* Properties. -DONLY=n checks one of them, so that each mistake can be shown against each promise. */
#define ONCE    1    /* an agent starts at most once per turn */
#define ZERO    2    /* `cancelled` is set only at zero processes, in both stores */
#define SHOWN   3    /* C ends a task only with the state that W's store has */
#define KEPT    4    /* what C knows as accepted has a row at W */
#define FINAL   5    /* a terminal state never changes */
#define LATE    6    /* no start after C or W holds a terminal state (cancelled, expired, denied ...) */
#define TRUTH   7    /* `interrupted` only without a result and at zero processes */
#define WITNESS 8    /* `running` only after an agent started */
#define ORDER   9    /* events: no hole without a gap, none shown twice, all before the end */
#define RECEIPT 10   /* W counts a result as acknowledged only if C has committed it */
#define SETTLES 11   /* every run ends with both sides agreed, receipts on file, no process and no shim left */
#define TURNS   12   /* one turn's agent at a time */
#ifdef ONLY
#define P(k, e) assert((e) || k != ONLY)
#else
#define P(k, e) assert((e) || k == 0)   /* never 0: there so that pan's message names the property's number */
#endif
#ifdef ROWS
#include "rows.pml"
#else
#define PRE
#define NOROW
#define ROW(id, event, value, number)
#endif

inline c_set(s) { P(FINAL, !term(c_st[t])); P(ZERO, s != CANC || !procs(t)); c_st[t] = s }
inline w_set(s) { P(FINAL, !term(w_st[t])); P(ZERO, s != CANC || !procs(t)); P(WITNESS, s != RUN || starts[t] > 0);
                  P(TRUTH, s != INTR || (!res[t] && !procs(t))); w_st[t] = s }

/* =============================================== caller =============================================== */
proctype C(byte t) {
  byte v, n;
end: do
  :: atomic { c_st[t] == NONE && (t == 0 || c_st[t-1] == SUCC || c_st[t-1] == FAIL) ->
              PRE c_st[t] = QUEUED ROW(C1, delegate, 0, 0) }
#ifdef N_SEND_FIRST      /* mistake: send, then note that it may have been sent */
  :: atomic { c_st[t] == QUEUED && up && nfull(c2w) && !d_sub[t] -> c2w!SUBMIT(t,0,0); d_sub[t] = 1 }
  :: atomic { c_st[t] == QUEUED && d_sub[t] -> c_set(SENT) }
#else
  :: atomic { c_st[t] == QUEUED && up ->                           /* commit, then send */
              PRE c_set(SENT); d_submit[t] = 1; d_sub[t] = 1 ROW(C2, link_up, 0, 0) }
#endif
  :: atomic { d_submit[t] && up && nfull(c2w) -> NOROW d_submit[t] = 0; c2w!SUBMIT(t,0,0) }
  :: atomic { d_cancel[t] && up && nfull(c2w) -> NOROW d_cancel[t] = 0; c2w!CANCEL(t, c_cancel[t], 0) }   /* 0: only if not started */
  :: atomic { d_sub[t] && !d_submit[t] && !d_cancel[t] && c_st[t] != QUEUED && up && nfull(c2w) ->
              NOROW d_sub[t] = 0; c2w!SUBSCRIBE(t, 0, c_seq[t]) }
  :: atomic { d_yes[t] && up && nfull(c2w) -> NOROW d_yes[t] = 0; if :: !c_cancel[t] && !c_expired[t] -> c2w!YES(t,0,0) :: else fi }
  :: atomic { d_ack[t] && up && nfull(c2w) -> NOROW d_ack[t] = 0; c2w!RESULT_ACK(t,0,0) }     /* carries C's signature */

  :: atomic { CANCELS && !calm && !asked_cancel[t] && c_st[t] != NONE && !term(c_st[t]) ->       /* the user cancels */
              PRE asked_cancel[t] = 1;
              if
#ifdef N_LOCAL_CANCEL    /* mistake: not accepted yet, so surely nothing runs */
              :: c_st[t] == QUEUED || c_st[t] == SENT -> c_set(CANC); d_submit[t] = 0
#else
              :: c_st[t] == QUEUED && !d_sub[t] -> c_set(CANC) ROW(C3, user_cancels, 0, 0)   /* never sent: C alone decides */
#endif
              :: else -> c_cancel[t] = 1; d_submit[t] = 0; d_cancel[t] = up ROW(C8, user_cancels, 0, 0)
              fi }
  :: atomic { OUTBOX && !calm && c_st[t] == QUEUED -> PRE c_set(EXPD) ROW(C4, expired, 0, 0) }    /* C's clock */
  :: atomic { OUTBOX && !calm && !c_expired[t] && !c_cancel[t] && (c_st[t] == SENT || c_st[t] == ACC) ->
              PRE c_expired[t] = 1; d_submit[t] = 0; d_cancel[t] = up ROW(C9, expired, 0, 0) }

  :: atomic { w2c?WELCOME(eval(t),_,_) -> PRE                       /* "I hold a result you never acked" */
              if :: term(c_st[t]) && c_evid[t]  -> d_ack[t] = 1 ROW(C19, welcome, 0, 0)
                 :: term(c_st[t]) && !c_evid[t] -> d_sub[t] = 1 ROW(C19, welcome, 0, 0)    /* denied: nothing to sign yet */
                 :: else                        -> skip ROW(C20, welcome, 0, 0) fi }
  :: atomic { w2c?ACCEPTED(eval(t),_,_) -> PRE if :: c_st[t] == SENT -> c_set(ACC) :: else fi ROW(C10, accepted, 0, 0) }
  :: atomic { w2c?DENIED(eval(t),_,_)   -> PRE if :: !term(c_st[t]) -> c_set(DENY) :: else -> P(FINAL, c_st[t] == DENY) fi
                                           ROW(C11, denied, 0, 0) }
  :: atomic { w2c?ASK(eval(t),_,_) -> PRE                           /* still wanted? with a wish on file CANCEL answers */
              if :: !term(c_st[t]) && !c_cancel[t] && !c_expired[t] -> d_yes[t] = 1 ROW(C15, still_wanted, 0, 0)
                 :: else -> skip ROW(C16, still_wanted, 0, 0) fi }
  :: atomic { w2c?EVENT(eval(t),_,n) -> PRE
              if :: n <= c_seq[t] -> skip ROW(C13, event, 0, n)    /* seen: not shown twice */
                 :: else -> P(ORDER, n == c_seq[t] + 1); c_seq[t] = n ROW(C12, event, 0, n) fi; n = 0 }
  :: atomic { w2c?GAP(eval(t),_,n) -> PRE if :: n > c_seq[t] -> c_seq[t] = n :: else fi ROW(C14, gap, 0, n); n = 0 }
#ifdef N_ACK_FIRST       /* mistake: acknowledge, then commit */
  :: atomic { w2c?RESULT(eval(t),v,n) -> if :: !term(c_st[t]) -> c_pend[t] = v :: else -> c_evid[t] = 1 fi; d_ack[t] = 1; v = 0; n = 0 }
  :: atomic { c_pend[t] && !d_ack[t] -> c_set(c_pend[t]); c_evid[t] = 1; c_pend[t] = 0 }
#else
  :: atomic { w2c?RESULT(eval(t),v,n) -> PRE d_ack[t] = 1;
              if :: !term(c_st[t]) -> P(SHOWN, w_st[t] == v);
                                      P(ORDER, c_seq[t] == n);
                                      c_set(v); c_evid[t] = 1      /* one commit: state, evidence, both signatures */
                                      ROW(C17, result, v, n)
                 :: else -> P(FINAL, c_st[t] == v); P(ORDER, c_seq[t] == n); c_evid[t] = 1
                                      ROW(C18, result, v, n) fi;
              v = 0; n = 0 }
#endif
  od
}

/* =============================================== worker =============================================== */
#ifdef N_NO_COUNT        /* mistake: the shim is gone, so its processes are */
#define counted(t) 1
#else
#define counted(t) !procs(t)
#endif
#ifdef N_RESULT_EAGER    /* mistake: the result overtakes the events */
#define drained(t) 1
#else
#define drained(t) (cur[t] >= w_ev[t])
#endif
inline spawn(i) { dir[t] = 1; slot[i] = NEW; s_t[i] = t; child[t] = i + 1 }

proctype W(byte t) {
  byte v, n;
end: do
  /* -- welcome lists the ended turns whose result_ack is missing: a caller that is done no longer subscribes -- */
  :: atomic { offer[t] && up && nfull(w2c) -> NOROW offer[t] = 0; w2c!WELCOME(t,0,0) }
  /* -- submit: commit, then answer -- */
  :: atomic { c2w?SUBMIT(eval(t),_,_) -> PRE owe[t] = 1;
              if
              :: w_st[t] == NONE && (t == 0 || w_st[t-1] == SUCC || w_st[t-1] == FAIL) ->
                 if
#ifdef N_ACCEPT_FIRST    /* mistake: answer, then commit */
                 :: w_pend[t] = 1
#else
                 :: w_set(ACC) ROW(W1, submit, 0, 0)
                 :: OUTBOX   -> w_set(ACC); w_late[t] = 1 ROW(W1, submit, 0, 0)   /* it waited: ask before the start */
                 :: APPROVAL -> w_set(WAIT) ROW(W2, submit, 0, 0)
#endif
#ifndef N_DENY_UNSAVED
                 :: DENIALS  -> w_set(DENY) ROW(W3, submit, 0, 0)
#else                    /* mistake: a denial leaves no row */
                 :: DENIALS  -> w_pend[t] = 1
#endif
                 fi
              :: w_st[t] == NONE && t > 0 && w_st[t-1] != SUCC && w_st[t-1] != FAIL -> w_set(DENY) ROW(W3, submit, 0, 0)
              :: else -> skip ROW(W4, submit, 0, 0)                /* known id: same answer, nothing new */
              fi }
#ifdef N_DENY_UNSAVED
  :: atomic { owe[t] && up && nfull(w2c) -> NOROW owe[t] = 0;
              if :: w_pend[t] -> w_pend[t] = 0; w2c!DENIED(t,0,0) :: else -> w2c!ACCEPTED(t,0,0) fi }
#else
  :: atomic { owe[t] && up && nfull(w2c) -> NOROW owe[t] = 0;
              if :: w_st[t] == DENY -> w2c!DENIED(t,0,0) :: else -> w2c!ACCEPTED(t,0,0) fi }
#ifdef N_ACCEPT_FIRST
  :: atomic { w_pend[t] -> w_pend[t] = 0; if :: w_st[t] == NONE -> w_set(ACC) :: else fi }
#endif
#endif
  /* -- waiting: approval, expiry by W's clock, "still wanted?" -- */
  :: atomic { w_st[t] == WAIT -> PRE if :: w_set(ACC); w_late[t] = OUTBOX ROW(W9, approved, 0, 0)
                                        :: w_set(DENY) ROW(W9, refused, 0, 0) fi }
  :: atomic { OUTBOX && !calm && (w_st[t] == WAIT || w_st[t] == ACC) -> PRE w_set(EXPD) ROW(W10, expired, 0, 0) }
  :: atomic { w_st[t] == ACC && w_late[t] && up && !asked[t] && nfull(w2c) ->
              PRE asked[t] = 1; w2c!ASK(t,0,0) ROW(W11, connected, 0, 0) }
  :: atomic { c2w?YES(eval(t),_,_) -> PRE go[t] = (w_st[t] == ACC) ROW(W12, yes, 0, 0) }   /* volatile: a new W life asks again */

  /* -- cancel -- */
  :: atomic { c2w?CANCEL(eval(t),v,_) -> PRE
              if
              :: w_st[t] == NONE ->                                /* unknown id: a tombstone, so that a late */
                 if :: v -> w_set(CANC) :: else -> w_set(EXPD) fi  /* submit finds it taken */
                 ROW(W5, cancel, v, 0)
              :: w_st[t] == ACC || w_st[t] == WAIT ->
                 if :: v -> w_set(CANC) :: else -> w_set(EXPD) fi
                 ROW(W6, cancel, v, 0)
              :: (w_st[t] == INTENT || w_st[t] == RUN) && v -> w_cancel[t] = 1 ROW(W7, cancel, v, 0)
              :: else -> skip ROW(W8, cancel, v, 0)                /* terminal: RESULT is the answer */
              fi; v = 0 }
#ifdef N_NO_BURN         /* mistake: no claim is visible, so nothing was started */
  :: atomic { w_st[t] == INTENT && w_cancel[t] && !claim[t] -> w_set(CANC) }
#else
  :: atomic { w_st[t] == INTENT && w_cancel[t] && !claim[t] ->
              PRE dir[t] = 1; claim[t] = BURNT ROW(W16, look, 0, 0) }      /* link(2): W won */
  :: atomic { w_st[t] == INTENT && claim[t] == BURNT -> PRE w_set(CANC) ROW(W17, look, 0, 0) }
#endif
  :: atomic { (w_st[t] == INTENT || w_st[t] == RUN) && w_cancel[t] && claim[t] == SHIM && owner(t) && !kreq[t] ->
              PRE kreq[t] = 1 ROW(W18, look, 0, 0) }

  /* -- start -- */
#ifdef N_SPAWN_FIRST     /* mistake: spawn, then commit `running` (go: this W life has spawned) */
  :: atomic { w_st[t] == ACC && !go[t] && idle(0) -> go[t] = 1; spawn(0) }
  :: atomic { w_st[t] == ACC && !go[t] && !idle(0) && idle(1) -> go[t] = 1; spawn(1) }
  :: atomic { w_st[t] == ACC && go[t] && starts[t] -> w_set(RUN) }
#else
#ifdef N_RUN_FIRST       /* mistake: commit `running`, then spawn */
  :: atomic { w_st[t] == ACC && (!w_late[t] || go[t]) -> w_set(RUN); w_pend[t] = 1 }      /* w_pend: this life will spawn */
  :: atomic { w_st[t] == RUN && w_pend[t] && idle(0) -> w_pend[t] = 0; spawn(0) }
#else
  :: atomic { w_st[t] == ACC && (!w_late[t] || go[t]) -> PRE w_set(INTENT) ROW(W13, slot, 0, 0) }
#endif
  :: atomic { w_st[t] == INTENT && !w_cancel[t] && !claim[t] && !child[t] && idle(0) -> PRE spawn(0) ROW(W14, look, 0, 0) }
  :: atomic { w_st[t] == INTENT && !w_cancel[t] && !claim[t] && !child[t] && !idle(0) && idle(1) -> PRE spawn(1) ROW(W14, look, 0, 0) }
  :: atomic { w_st[t] == INTENT && !w_cancel[t] && !claim[t] && !child[t] && !idle(0) && !idle(1) && idle(2) && NS == 3 -> PRE spawn(2) ROW(W14, look, 0, 0) }
  :: atomic { w_st[t] == INTENT && rec[t] -> PRE w_set(RUN) ROW(W15, look, 0, 0) }
#endif
  /* -- finish: the same look in steady state and after a restart -- */
  :: atomic { (w_st[t] == INTENT || w_st[t] == RUN) && w_ev[t] < spool[t] -> PRE w_ev[t]++ ROW(W19, look, 0, 0) }       /* commit, then send */
  :: atomic { (w_st[t] == INTENT || w_st[t] == RUN) && res[t] && w_ev[t] == spool[t] -> PRE w_set(res[t]) ROW(W20, look, 0, 0) }
#ifdef N_RESULT_FIRST    /* mistake: look for the result, then for the process */
  :: atomic { (w_st[t] == INTENT || w_st[t] == RUN) && claim[t] == SHIM && !res[t] && !w_nores[t] -> w_nores[t] = 1 }
  :: atomic { (w_st[t] == INTENT || w_st[t] == RUN) && w_nores[t] && !owner(t) && !procs(t) && w_ev[t] == spool[t] ->
              if :: w_cancel[t] -> w_set(CANC) :: else -> w_set(INTR) fi }
#else
  :: atomic { (w_st[t] == INTENT || w_st[t] == RUN) && claim[t] == SHIM && !owner(t) && !w_dead[t] -> NOROW w_dead[t] = 1 }
  :: atomic { (w_st[t] == INTENT || w_st[t] == RUN) && w_dead[t] && !res[t] && w_ev[t] == spool[t] && counted(t) ->
              PRE if :: w_cancel[t] -> w_set(CANC) :: else -> w_set(INTR) fi ROW(W21, look, 0, 0) }
#endif
  /* -- events, result, retention -- */
  :: atomic { c2w?SUBSCRIBE(eval(t),_,n) -> PRE P(KEPT, c_st[t] != ACC || w_st[t] != NONE);
#ifdef N_CURSOR          /* mistake: W remembers how far it had sent */
              if :: cur[t] == 0 -> cur[t] = n :: else fi;
#else
              cur[t] = n;
#endif
              subd[t] = (w_st[t] != NONE || w_pend[t]); told[t] = 0
              ROW(W22, subscribe, 0, n); n = 0 }
  :: atomic { PRUNE && w_lo[t] < w_ev[t] -> NOROW w_lo[t] = w_ev[t] }
  :: atomic { subd[t] && up && nfull(w2c) && cur[t] < w_ev[t] -> PRE
              if :: cur[t] < w_lo[t] -> cur[t] = w_lo[t]; w2c!GAP(t,0,cur[t])
                 :: else -> cur[t]++; w2c!EVENT(t,0,cur[t]) fi ROW(W23, flow, 0, 0) }
  :: atomic { subd[t] && up && nfull(w2c) && term(w_st[t]) && !told[t] && drained(t) ->
              PRE told[t] = 1; w2c!RESULT(t, w_st[t], w_ev[t]) ROW(W24, flow, 0, 0) }    /* carries W's signature */
#ifdef N_RESULT_UNSAVED  /* mistake: pass the shim's result on, then commit it */
  :: atomic { subd[t] && up && nfull(w2c) && res[t] && !term(w_st[t]) && !told[t] && w_ev[t] == spool[t] && drained(t) ->
              told[t] = 1; w2c!RESULT(t, res[t], w_ev[t]) }
#endif
  :: atomic { c2w?RESULT_ACK(eval(t),_,_) -> PRE P(RECEIPT, w_st[t] == NONE || (c_st[t] == w_st[t] && c_evid[t]));
              w_ack[t] = (w_st[t] != NONE) ROW(W25, result_ack, 0, 0) }
  :: atomic { w_ack[t] && dir[t] -> PRE                              /* tidy: one rename of the whole directory */
#ifdef N_CLEAN_CLAIM     /* mistake: the files go, the directory stays */
              claim[t] = 0; rec[t] = 0; res[t] = 0; w_ack[t] = 0 }
#else
              dir[t] = 0; claim[t] = 0; rec[t] = 0; res[t] = 0;
#ifdef N_FORGET          /* mistake: the row goes as well, no tombstone */
              w_st[t] = NONE; w_ev[t] = 0; w_cancel[t] = 0; spool[t] = 0; w_ack[t] = 0;
#endif
              skip ROW(W27, look, 0, 0) }
#endif
  od
}

/* ================================================ shim ================================================ */
inline bury(i) { if :: slot[i] >= CLAIMED -> kreq[s_t[i]] = 0 :: else fi;      /* the kernel closes pidfd and flock */
                 if :: child[s_t[i]] == i + 1 -> child[s_t[i]] = 0 :: else fi; slot[i] = FREE; verdict[i] = 0 }
#define me s_t[i]

proctype Shim(byte i) {
end: do
#if defined(N_NO_CLAIM) || defined(N_SPAWN_FIRST)   /* mistake: the record is written, but nobody can lose */
  :: atomic { slot[i] == NEW -> claim[me] = SHIM; slot[i] = CLAIMED }
#else
  :: atomic { slot[i] == NEW && dir[me] && !claim[me] -> claim[me] = SHIM; slot[i] = CLAIMED }
  :: atomic { slot[i] == NEW && (!dir[me] || claim[me]) -> bury(i) }           /* lost: leave without a trace */
#endif
  :: atomic { slot[i] == CLAIMED && kreq[me] -> verdict[i] = CANC; slot[i] = DONE }
  :: atomic { slot[i] == CLAIMED && !kreq[me] ->
              starts[me]++; P(ONCE, starts[me] <= 1);
              P(LATE, !term(c_st[me]) && !term(w_st[me])); P(TURNS, !anyproc);
              ag[i] = 1; slot[i] = STARTED }
  :: atomic { slot[i] == STARTED -> rec[me] = 1; slot[i] = RUNS }
  :: atomic { slot[i] == RUNS && spool[me] < EV -> spool[me]++ }
  :: atomic { slot[i] == RUNS && !HANG -> ag[i] = 0; if :: verdict[i] = SUCC :: verdict[i] = FAIL fi; slot[i] = DONE }
  :: atomic { slot[i] == RUNS && kreq[me] -> ag[i] = 0; verdict[i] = CANC; slot[i] = DONE }   /* ended and counted */
  :: atomic { slot[i] == DONE -> res[me] = verdict[i]; slot[i] = WROTE }       /* write, fsync, rename */
  :: atomic { slot[i] == WROTE -> bury(i) }
  :: atomic { slot[i] == FREE && ag[i] -> ag[i] = 0 }       /* shim was killed: the namespace dies a while LATER */
  od
}

/* ============================================= environment ============================================ */
#define each(x) x(0); if :: T == 2 -> x(T-1) :: else fi
inline c_wipe(t) { d_submit[t] = 0; d_cancel[t] = 0; d_sub[t] = 0; d_yes[t] = 0; d_ack[t] = 0; c_pend[t] = 0 }
inline w_wipe(t) { offer[t] = 0; owe[t] = 0; subd[t] = 0; told[t] = 0; asked[t] = 0;
#ifndef N_CURSOR
                   cur[t] = 0;
#endif
#ifdef N_DENY_UNSAVED
                   w_pend[t] = 0;
#endif
                   skip }
inline w_wipe_all(t) { go[t] = 0; w_pend[t] = 0; w_dead[t] = 0; w_nores[t] = 0; child[t] = 0; cur[t] = 0;
                       PRE w_late[t] = (w_late[t] || (OUTBOX && w_st[t] == ACC)) ROW(W29, restarted, 0, 0) }
/* what C has to say on a new connection follows from its durable rows alone */
inline c_greet(t) {
  if
  :: c_st[t] == SENT && !c_cancel[t] && !c_expired[t] -> PRE d_submit[t] = 1; d_sub[t] = 1 ROW(C5, connected, 0, 0)
  :: c_st[t] == ACC && !c_cancel[t] && !c_expired[t]  -> PRE d_sub[t] = 1 ROW(C6, connected, 0, 0)
  :: (c_st[t] == SENT || c_st[t] == ACC) && (c_cancel[t] || c_expired[t]) ->
     PRE d_cancel[t] = 1; d_sub[t] = 1 ROW(C7, connected, 0, 0)
  :: else
  fi }
#ifdef N_CANCEL_VOLATILE /* mistake: the user's cancel is kept in memory */
inline c_wipe_all(t) { c_cancel[t] = 0 }
#else
inline c_wipe_all(t) { skip }                      /* everything C must remember is in its store */
#endif
inline w_greet(t) {
#ifndef N_NO_OFFER       /* mistake: W waits to be asked for a result */
                    PRE offer[t] = (term(w_st[t]) && !w_ack[t]) ROW(W26, connected, 0, 0);
#endif
                    skip }
inline drop() { if :: STALE && len(old) == 0 && len(c2w) > 0 -> c2w?m,x,y,z; old!m,x,y,z; m = 0; x = 0; y = 0; z = 0
                   :: true fi;
                do :: c2w?_,_,_,_ :: w2c?_,_,_,_ :: empty(c2w) && empty(w2c) -> break od;
                up = 0; each(c_wipe); each(w_wipe) }

proctype Env() {
  mtype m; byte x, y, z;
end: do
  :: atomic { !calm -> calm = 1; kc = 0; kw = 0; ks = 0; kl = 0 }   /* may come at any time, also before the first kill */
  :: atomic { !up -> up = 1; each(c_greet); each(w_greet) }
  :: atomic { !calm && kl < LL && up -> kl++; drop() }
  :: atomic { !calm && kc < CC -> kc++; drop(); each(c_wipe_all) }
  :: atomic { !calm && kw < WC -> kw++; drop(); each(w_wipe_all) }
  :: atomic { !calm && ks < SC && slot[0] -> ks++; bury(0) }
  :: atomic { !calm && ks < SC && slot[1] -> ks++; bury(1) }
  :: atomic { !calm && ks < SC && slot[2] -> ks++; bury(2) }
  :: atomic { STALE && !calm && up && len(old) > 0 && nfull(c2w) -> old?m,x,y,z; c2w!m,x,y,z; m = 0; x = 0; y = 0; z = 0 }
  od
}

/* Final states: nothing else can move. Both know the same terminal state, both receipts are on file, nothing lives. */
#define settled(t) (c_st[t] == NONE || (term(c_st[t]) && (w_st[t] == NONE || (c_st[t] == w_st[t] && w_ack[t]))))
#ifdef REACH             /* sanity: `assert never reached` must FAIL, or a state is unreachable */
#define goal (c_st[T-1] != REACH)
#else
#if HANG                 /* agents that never end by themselves: whatever was cancelled ends all the same */
#define goal (!asked_cancel[0] || (settled(0) && !anyproc && !anyshim))
#else
#define goal (term(c_st[0]) && settled(0) && settled(T-1) && !anyproc && !anyshim)
#endif
#endif
proctype Goal() { atomic { timeout -> P(SETTLES, goal) } }

init { atomic { run C(0); run W(0); if :: T == 2 -> run C(T-1); run W(T-1) :: else fi;
                run Shim(0); run Shim(1); if :: NS == 3 -> run Shim(2) :: else fi;
                run Env();
#ifdef ROWS
                run Probe();
#endif
#ifndef LTL
                run Goal()
#endif
       } }

#ifdef LTL
ltl live   { [] (w_st[0] == ACC -> <> (term(w_st[0]) && c_st[0] == w_st[0])) }
ltl answer { [] (asked_cancel[0] -> <> term(c_st[0])) }
#endif
