#!/bin/sh
# Runs the checks of README.md; fails when one does not end as it must. Needs spin and gcc.
#
#   run.sh short             a choice of all: under 90 s on two cores, under 4 GB
#   run.sh safe              the design: no error may be found
#   run.sh live              LTL under weak fairness
#   run.sh naive             each mistake must be found, and its control must be clean
#   run.sh reach             each end state is reached
#   run.sh rows [--check]    write rows.txt: what each row was and did; or compare it
#   run.sh trail "FLAGS"     print the shortest counter-example for one set of switches
#
# JOBS (2) runs at once; SECONDS_EACH (300) and MEGABYTES_EACH (8000; short: 1800) limit one.
set -u
here=$(cd "$(dirname "$0")" && pwd)
jobs=${JOBS:-2}

# One check a line: what must come out; kind of run; switches.
short_list() { cat <<'LIST'
clean;safety;
clean;safety;-DOUTBOX=1 -DAPPROVAL=1 -DCC=0 -DSC=0
clean;safety;-DSTALE=1 -DCC=0 -DSC=0
clean;safety;-DPRUNE=1 -DEV=2 -DCC=0 -DSC=0
clean;safety;-DT=2 -DCC=0 -DWC=0 -DSC=0 -DLL=1 -DCANCELS=0 -DEV=0
clean;cycles;-DCC=0 -DSC=0
clean;ltl live;-DCC=0 -DSC=0
cycle;ltl live;-DHANG=1
property 1;safety;-DN_SPAWN_FIRST -DONLY=1
property 1;safety;-DN_NO_CLAIM -DONLY=1
clean;safety;-DN_NO_CLAIM -DONLY=1 -DWC=0
property 6;safety;-DN_NO_BURN -DONLY=6
property 4;safety;-DN_ACCEPT_FIRST -DONLY=4
property 2;safety;-DN_LOCAL_CANCEL -DONLY=2
property 7;safety;-DN_RESULT_FIRST -DONLY=7
property 2;safety;-DN_NO_COUNT -DONLY=2
property 9;safety;-DN_RESULT_EAGER -DONLY=9
property 10;safety;-DN_ACK_FIRST -DONLY=10
property 11;safety;-DN_NO_OFFER -DONLY=11
property 1;safety;-DN_FORGET -DSTALE=1 -DONLY=1
property 11;safety;-DREACH=SUCC -DOUTBOX=1
property 11;safety;-DREACH=INTR -DOUTBOX=1
LIST
}
safe_list() { cat <<'LIST'
clean;safety;-DCC=2 -DWC=2 -DSC=2 -DLL=2
clean;safety;-DCC=2 -DWC=2 -DSC=2 -DLL=2 -DHANG=1
clean;safety;-DOUTBOX=1 -DAPPROVAL=1
clean;safety;-DCC=0 -DWC=2 -DSC=1 -DLL=2 -DOUTBOX=1
clean;safety;-DCC=2 -DWC=2 -DSC=2 -DLL=2 -DOUTBOX=1 -DEV=0
clean;safety;-DSTALE=1
clean;safety;-DSTALE=1 -DCC=0 -DSC=0 -DLL=2 -DWC=2
clean;safety;-DPRUNE=1 -DEV=2 -DK=3
clean;safety;-DNS=3 -DCC=0 -DWC=2 -DSC=2 -DLL=1
clean;safety;-DT=2 -DCC=1 -DWC=1 -DSC=0 -DLL=0 -DCANCELS=0
clean;safety;-DT=2 -DCC=0 -DWC=1 -DSC=1 -DLL=0 -DCANCELS=0
clean;safety;-DT=2 -DCC=0 -DWC=1 -DSC=0 -DLL=0 -DEV=0 -DDENIALS=0
clean;safety;-DT=2 -DCC=0 -DWC=1 -DSC=0 -DLL=1 -DCANCELS=0
clean;safety;
clean;unreduced;
LIST
}
live_list() { cat <<'LIST'
clean;cycles;
clean;ltl live;
clean;ltl answer;
clean;ltl answer;-DHANG=1
clean;ltl live;-DOUTBOX=1 -DAPPROVAL=1 -DCC=0 -DWC=1 -DSC=1 -DLL=1
cycle;ltl live;-DHANG=1
cycle;ltl answer;-DHANG=1 -DN_CANCEL_VOLATILE
LIST
}
# A clean line is the control of the mistake above it: the same without what triggers it.
naive_list() { cat <<'LIST'
property 1;safety;-DN_SPAWN_FIRST -DONLY=1
clean;safety;-DN_SPAWN_FIRST -DONLY=1 -DWC=0
property 8;safety;-DN_RUN_FIRST -DONLY=8
property 11;safety;-DN_RUN_FIRST -DONLY=11 -DCANCELS=0 -DSC=0
clean;safety;-DN_RUN_FIRST -DONLY=11 -DCANCELS=0 -DSC=0 -DWC=0
property 1;safety;-DN_NO_CLAIM -DONLY=1
clean;safety;-DN_NO_CLAIM -DONLY=1 -DWC=0
property 12;safety;-DN_NO_CLAIM -DONLY=12
property 6;safety;-DN_NO_BURN -DONLY=6
property 1;safety;-DN_CLEAN_CLAIM -DONLY=1
clean;safety;-DN_CLEAN_CLAIM -DONLY=1 -DWC=0
property 4;safety;-DN_ACCEPT_FIRST -DONLY=4
property 11;safety;-DN_ACCEPT_FIRST -DONLY=11 -DCANCELS=0
clean;safety;-DN_ACCEPT_FIRST -DONLY=11 -DCANCELS=0 -DWC=0
property 2;safety;-DN_SEND_FIRST -DONLY=2 -DWC=0 -DLL=0
clean;safety;-DN_SEND_FIRST -DONLY=2 -DWC=0 -DLL=0 -DCC=0
property 2;safety;-DN_LOCAL_CANCEL -DONLY=2
property 5;safety;-DN_LOCAL_CANCEL -DONLY=5
property 11;safety;-DN_CANCEL_VOLATILE -DONLY=11 -DHANG=1
clean;safety;-DN_CANCEL_VOLATILE -DONLY=11 -DHANG=1 -DCC=0
property 7;safety;-DN_RESULT_FIRST -DONLY=7
property 2;safety;-DN_NO_COUNT -DONLY=2
clean;safety;-DN_NO_COUNT -DONLY=2 -DSC=0
property 3;safety;-DN_RESULT_UNSAVED -DONLY=3
property 9;safety;-DN_RESULT_EAGER -DONLY=9
property 9;safety;-DN_CURSOR -DONLY=9 -DEV=2
clean;safety;-DN_CURSOR -DONLY=9 -DEV=2 -DCC=0 -DWC=0 -DLL=0
property 10;safety;-DN_ACK_FIRST -DONLY=10
property 11;safety;-DN_NO_OFFER -DONLY=11
clean;safety;-DN_NO_OFFER -DONLY=11 -DCC=0 -DWC=0 -DLL=0
property 1;safety;-DN_FORGET -DONLY=1 -DSTALE=1
clean;safety;-DN_FORGET -DONLY=1
property 6;safety;-DN_DENY_UNSAVED -DONLY=6 -DSTALE=1
clean;safety;-DN_DENY_UNSAVED -DONLY=6
LIST
}
reach_list() {
    for state in SUCC FAIL CANC INTR DENY EXPD; do echo "property 11;safety;-DREACH=$state -DOUTBOX=1"; done
    echo 'property 11;safety;-DREACH=SUCC -DT=2 -DCC=0 -DWC=0 -DSC=0 -DLL=0'
}
# Small bounds, but everything that a row can meet: restarts, an outbox, gaps, late frames, a follow-up.
rows_list() { cat <<'LIST'
clean;rows;-DOUTBOX=1 -DCC=0 -DLL=0 -DDENIALS=0 -DEV=0 -DK=1
clean;rows;-DCC=0 -DWC=0 -DLL=0 -DDENIALS=0 -DK=1
clean;rows;-DOUTBOX=1 -DAPPROVAL=1 -DCC=0 -DWC=0 -DSC=0 -DEV=0 -DK=1
clean;rows;-DSTALE=1 -DCC=0 -DWC=0 -DSC=0 -DEV=0 -DK=1
clean;rows;-DPRUNE=1 -DEV=2 -DCC=0 -DWC=0 -DSC=0 -DCANCELS=0 -DDENIALS=0 -DK=1
clean;rows;-DT=2 -DCC=0 -DWC=0 -DSC=0 -DLL=0 -DEV=0 -DCANCELS=0 -DK=1
LIST
}

build() { # SPIN-FLAGS GCC-FLAGS; the flags are words
    # shellcheck disable=SC2086
    spin -a $1 delegation.pml >spin.out 2>&1 || { cat spin.out; return 1; }
    # shellcheck disable=SC2086
    gcc "${optimise:--O2}" -w -DCOLLAPSE -DVECTORSZ=2048 -DMEMLIM="${MEGABYTES_EACH:-8000}" $2 -o pan pan.c
}

pan() { timeout "${SECONDS_EACH:-300}" ./pan "$@" >pan.out 2>&1; }

one() { # EXPECTED KIND FLAGS
    [ "$1" = clean ] || optimise=-O0 # what is found early costs more to compile than to run
    case $2 in
    safety) build "$3" -DSAFETY && pan -m300000 -w24 ;;
    unreduced) build "$3" '-DSAFETY -DNOREDUCE' && pan -m300000 -w24 ;;
    rows) build "-DROWS $3" '-DSAFETY -DNOREDUCE' && pan -m300000 -w24
        sed -n 's/^row: //p' pan.out >"$rows_to/$$" ;;
    cycles) build "$3" -DNP && pan -l -m600000 -w24 ;;
    ltl*) build "-DLTL $3" -DNFAIR=4 && pan -a -f -N "${2#ltl }" -m600000 -w24 ;;
    esac
    awk -v want="$1" -v label="$2 $3" '
        /^State-vector/ { sub(",", "", $6); depth = $6; errors = $8 }
        /states, stored/ { states = $1 }
        /total actual/ { memory = $1 }
        /elapsed time/ { seconds = $4 }
        /acceptance cycle|non-progress cycle/ { got = "cycle" }
        /assertion violated/ && match($0, /\|\|\([0-9]+(==0|!=[0-9]+)\)/) {
            got = substr($0, RSTART + 3, RLENGTH - 4); sub(/[!=]=.*/, "", got); got = "property " got }
        /invalid end state/ && !/^\t/ { if (!/^[ \t]*invalid/) got = "an invalid end state" }
        /MEMLIM bound|max search depth|out of memory/ { cut = 1 }
        END {
            if (seconds == "" || cut) got = "not complete"
            else if (errors == 0) got = "clean"
            else if (got == "") got = "an error"
            verdict = got == want ? "ok    " : "FAILED"
            printf "%s %-11s %-62s states %8s  depth %3s  %4.0f MB  %5s s%s\n", verdict, got, label, states, depth, memory, seconds,
                   got == want ? "" : "  (expected: " want ")"
            exit got != want }' pan.out
}

each() { # lines on standard input; fails when one fails
    rows_to=$work xargs -P "$jobs" -d '\n' -n 1 "$here/run.sh" one
}

rows() { # [--check]
    rows_list | each || return 1
    { echo '# What each row of delegation.pml was and did, and what a look met. Made by run.sh rows.'
        echo "# of $(cat "$here/delegation.pml" "$here/rows.pml" "$here/rows.c" | sha256sum | cut -d' ' -f1)"
        cat "$work"/[0-9]* | LC_ALL=C sort -u; } >"$work/rows.txt"
    if [ "${1:-}" != --check ]; then cp "$work/rows.txt" "$here/rows.txt"
    elif ! diff "$here/rows.txt" "$work/rows.txt" >"$work/diff"; then
        sed 20q "$work/diff"; echo 'FAILED rows.txt is not what the model does: models/run.sh rows'; return 1
    fi
}

short() {
    export MEGABYTES_EACH="${MEGABYTES_EACH:-1800}"
    status=0
    rows --check || status=1
    short_list | each || status=1
    return $status
}

trail() { # FLAGS; breadth first, so the shortest
    build "$1" '-DSAFETY -DBFS' && pan -w24
    # shellcheck disable=SC2086
    spin -t -p $1 delegation.pml | grep -E '^ *[0-9]+:.*\(state' | grep -vE '\[\(|\[else|\[assert|goto|\[(v|n|m|x|y|z) = 0'
}

for program in spin gcc; do
    command -v $program >/dev/null || { echo "run.sh: $program is missing: apt-get install $program" >&2; exit 3; }
done
work=$(mktemp -d) && trap 'rm -rf "$work"' EXIT && cd "$work" && cp "$here"/*.pml "$here"/rows.[ch] . || exit 1
case ${1:-} in
short) short ;;
rows) rows "${2:-}" ;;
safe | live | naive | reach) "$1_list" | each ;;
trail) trail "${2:-}" ;;
one) IFS=';' read -r expected kind flags <<LINE
$2
LINE
    one "$expected" "$kind" "$flags" ;;
*) sed -n '2,/^set/{s/^# \{0,1\}//p}' "$0"; exit 2 ;;
esac
