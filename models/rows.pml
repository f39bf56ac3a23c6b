/* rows.pml: with -DROWS pan prints each row that it passes (PRE ... ROW), and each situation a look meets (Probe).
 * Only `run.sh rows` builds this; the C is in rows.h. The copy of the state before a row is in the state vector,
 * so that pan's way back restores it; it is empty wherever a state is stored, so no state is added.
 */
c_decl { \#include "rows.h" }
c_state "struct Row row_pre" "Global"
byte row_t, row_v, row_n;

#define NOROW
#define PRE c_code { row_take(&now.row_pre); };
#define ROW(id, event, value, number) ; row_t = t; row_v = value; row_n = number; c_code { row_say(#id, #event); }; row_t = 0; row_v = 0; row_n = 0

c_code { \#include "rows.c" }

proctype Probe() { end: c_expr { ROW_LOOK } }   /* never true: looks at every state and does nothing */
