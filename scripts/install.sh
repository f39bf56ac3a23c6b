#!/bin/sh
# Installs cmesh for the user who calls it, or brings an installation to another version.
#
# This part checks a wheel and makes an environment of its own for it, in
# ~/.local/share/cmesh/versions/VERSION-HASH. The rest is done by what was installed, in
# cmesh/setup/install.py: the link, the daemon, PATH, the agents. What fails is taken back.
#
# Everything is a function until the last line: half a download of this file does nothing.
[ -n "${ZSH_VERSION-}" ] && emulate sh
set -u

# `scripts/release` fills these in for the copy that it puts beside the wheels.
RELEASE_URL=''
SIGNER_IDENTITY=''
SIGNER_ISSUER=''

MAKE_ONE='install.sh --from FOLDER; in a clone, scripts/release --host makes a release in dist'
CONNECT_LIMIT_S=20
STALL_LIMIT_S=60

help() {
    cat <<'TEXT'
Usage: install.sh [OPTIONS]

Install cmesh for the user who calls this, or upgrade it. No root. Run again it changes
nothing but what is new; a running daemon is replaced, and its tasks go on.

  --from PLACE     a release: its folder, its https address, or one wheel in it;
                   default: where this script came from
  --python PROGRAM the Python to use, 3.11 or newer with venv; default: the first found
  --uv             let uv make the environment, also where such a Python is found
  --offline        fetch no dependency; PLACE is a folder that holds their wheels too
  --no-shell       leave the shells' start files alone
  --no-agents      register cmesh with no agent
  --allow-root     install for root; then tasks of others run as root, where you allow it
  --dry-run        say what would be done, and do nothing
  --help           this text
TEXT
}

say() { printf 'install: %s\n' "$*"; }
stop() { # PROBLEM HINT
    printf 'install: %s\nhint: %s\n' "$1" "$2" >&2
    exit 1
}
has() { command -v "$1" >/dev/null 2>&1; }

parse() {
    from='' python='' use_uv='' offline='' shells=yes agents=yes root='' dry=''
    while [ $# -gt 0 ]; do
        case $1 in
            --from | --python)
                [ $# -gt 1 ] || stop "$1 needs a value" 'install.sh --help'
                if [ "$1" = --from ]; then from=$2; else python=$2; fi
                shift
                ;;
            --uv) use_uv=yes ;;
            --offline) offline=yes ;;
            --no-shell) shells='' ;;
            --no-agents) agents='' ;;
            --allow-root) root=yes ;;
            --dry-run) dry=yes ;;
            -h | --help) help; exit 0 ;;
            *) stop "there is no option \`$1\`" 'install.sh --help' ;;
        esac
        shift
    done
}

# --- this machine ---------------------------------------------------------------------------

find_places() {
    newline='
'
    case ${HOME:-} in
        /*) ;;
        *) stop 'HOME names no directory' 'HOME=/home/you sh install.sh' ;;
    esac
    data=${XDG_DATA_HOME:-$HOME/.local/share}/cmesh
    versions=$data/versions
    link=$HOME/.local/bin/cmesh
    [ "$(id -u)" != 0 ] || [ -n "$root" ] || stop \
        'this is root; cmesh belongs to the user whose agents use it' \
        'call this as your own user, or with --allow-root'
    before=''
    [ -L "$link" ] && before=$(readlink "$link")
    case $before in
        "$versions"/*) ;;
        *) if [ -e "$link" ] || [ -L "$link" ]; then
            stop "\`$link\` is there already and is not this installer's" "mv '$link' '$link.old'"
        fi ;;
    esac
}

find_platform() {
    case $(uname -m) in
        x86_64 | amd64) cpu=x86_64 ;;
        aarch64 | arm64) cpu=aarch64 ;;
        *) stop "there is no wheel for the processor \`$(uname -m)\`" 'see docs/platforms.md' ;;
    esac
    case $(uname -s) in
        Linux)
            # musl's `ldd --version` names itself and fails.
            if ldd --version 2>&1 | grep -qi musl; then
                stop 'this Linux uses musl, which cmesh does not support' \
                    'use a system with glibc 2.28 or newer, such as Debian 10 or Alma 8'
            fi
            pattern="linux.*_$cpu"
            ;;
        Darwin)
            [ "$cpu" = aarch64 ] && cpu=arm64
            pattern="macosx_.*_($cpu|universal2)"
            ;;
        *) stop "there is no wheel for \`$(uname -s)\`" 'on Windows use install.ps1' ;;
    esac
}

# Prints the path of a Python that can make an environment, or nothing.
try_python() {
    "$1" -I -c 'import ensurepip, sys, venv
if sys.version_info < (3, 11): sys.exit(1)
print(sys.executable)' 2>/dev/null </dev/null
}

find_maker() {
    uv=''
    if [ -n "$python" ]; then
        found=$(try_python "$python") ||
            stop "\`$python\` is no Python from 3.11 on with venv" 'install.sh without --python'
        python=$found
    else
        for name in python3 python3.13 python3.12 python3.11 python3.14; do
            python=$(try_python "$name") && break
            python=''
        done
    fi
    [ -n "$python" ] && [ -z "$use_uv" ] && return
    for name in uv "$HOME/.local/bin/uv" "$HOME/.cargo/bin/uv"; do
        has "$name" && uv=$name && return
    done
    stop 'neither Python from 3.11 on with venv nor uv is here' \
        'apt-get install python3 python3-venv, or dnf install python3.12, or brew install python'
}

# --- the release ----------------------------------------------------------------------------

fetch() { # URL FILE
    case $1 in
        https://*) ;;
        http://127.0.0.1[:/]* | http://localhost[:/]*) ;;
        *) stop "\`$1\` is not an https address" 'install.sh --from https://…' ;;
    esac
    if has curl; then
        curl --fail --silent --show-error --location --proto-redir '=https' --retry 2 \
            --connect-timeout $CONNECT_LIMIT_S --speed-limit 1024 --speed-time $STALL_LIMIT_S \
            --output "$2" "$1" 2>"$work/why" && return
    elif has wget; then
        wget -q -t 2 -T $STALL_LIMIT_S -O "$2" "$1" 2>"$work/why" && return
    elif [ -n "$python" ]; then
        "$python" -I -c 'import shutil, sys, urllib.request
with urllib.request.urlopen(sys.argv[1], timeout=int(sys.argv[3])) as got:
    with open(sys.argv[2], "wb") as out: shutil.copyfileobj(got, out)' \
            "$1" "$2" $STALL_LIMIT_S 2>"$work/why" && return
    else
        stop 'curl, wget and Python are missing: nothing can be fetched' 'apt-get install curl'
    fi
    tail -n 1 "$work/why" >&2
    stop "\`$1\` could not be fetched; nothing was changed" \
        'check the network and HTTPS_PROXY, or copy the release here: install.sh --from FOLDER'
}

# Puts a file of the release into $work.
take() { # NAME
    case $base in
        http://* | https://*) fetch "$base/$1" "$work/$1" ;;
        *) cp -- "$base/$1" "$work/$1" 2>/dev/null || stop "\`$base/$1\` is not there" "$MAKE_ONE" ;;
    esac
}

digest() { # FILE
    if has sha256sum; then sha256sum <"$1" | cut -c 1-64
    elif has shasum; then shasum -a 256 <"$1" | cut -c 1-64
    elif has openssl; then openssl dgst -sha256 -r <"$1" | cut -c 1-64
    else "$python" -I -c 'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())' <"$1"
    fi
}

# Prints the names in SHA256SUMS that fit an extended expression; a path is no name.
listed() { # EXPRESSION
    sed -n -E "s/^[0-9a-f]{64} [ *]([A-Za-z0-9][A-Za-z0-9._+-]*)\$/\\1/p" "$work/SHA256SUMS" | grep -E "^$1\$"
}

checked() { # NAME
    take "$1"
    wanted=$(sed -n "s/ [ *]$1\$//p" "$work/SHA256SUMS")
    [ "$(digest "$work/$1")" = "$wanted" ] || stop \
        "\`$1\` is not what SHA256SUMS says: cut off or changed; nothing was changed" \
        'fetch the release again; if it happens again, tell who gave it to you'
}

find_release() {
    here=${0%/*}
    [ -n "$from" ] || { [ "$here" != "$0" ] && [ -f "$here/SHA256SUMS" ] && from=$here; } || from=$RELEASE_URL
    [ -n "$from" ] || stop 'there is no release beside this script' \
        "$MAKE_ONE"
    only=''
    base=${from%/}
    case $base in *.whl)
        only=${base##*/}
        base=${base%"$only"}
        base=${base%/}
        [ -n "$base" ] || base=.
        ;;
    esac
    case $base in http://* | https://*) ;; *)
        [ ! -f "$base" ] || stop "\`$base\` is no wheel" 'install.sh --from FOLDER, or a .whl in it'
        [ -d "$base" ] || stop "there is no folder \`$base\`" "$MAKE_ONE"
        base=$(cd "$base" && pwd) ;;
    esac
    take SHA256SUMS
    check_signature
    name=$only
    # What was made for an old glibc is preferred to what was made for this machine.
    [ -n "$name" ] || name=$(listed "cmesh-[^-]+-[^-]+-abi3-many$pattern\\.whl") ||
        name=$(listed "cmesh-[^-]+-[^-]+-abi3-$pattern\\.whl") ||
        stop "the release has no wheel for $(uname -s) on $cpu" 'see docs/platforms.md'
    case $name in *"$newline"*) stop 'the release has more than one wheel that fits' 'install.sh --from FOLDER/WHEEL' ;; esac
    listed "$(printf %s "$name" | sed 's/[.+]/\\&/g')" >/dev/null ||
        stop "SHA256SUMS does not list \`$name\`" 'install.sh --from FOLDER'
    version=${name#cmesh-}
    version=${version%%-*}
    sum=$(sed -n "s/ [ *]$name\$//p" "$work/SHA256SUMS")
    env=$versions/$version-$(printf %s "$sum" | cut -c 1-12)
    lock=$(listed "cmesh-$version-lock\\.txt") || lock=''
}

# One signature over SHA256SUMS speaks for every file that it lists.
check_signature() {
    bundle=SHA256SUMS.sigstore.json
    case $base in
        http*) (fetch "$base/$bundle" "$work/$bundle") 2>/dev/null || rm -f "$work/$bundle" ;;
        *) [ ! -f "$base/$bundle" ] || take "$bundle" ;;
    esac
    if [ ! -f "$work/$bundle" ]; then
        # Who changes a release can leave its signature out; then there is nothing to trust it by.
        if [ -n "$SIGNER_IDENTITY" ] && { has sigstore || has cosign; }; then
            stop "the signature of $SIGNER_IDENTITY is missing; nothing was changed" \
                'do not use this release; tell who gave it to you'
        fi
        say 'note: no signature came with this release; only its checksums are checked'
        return
    fi
    if [ -z "$SIGNER_IDENTITY" ]; then
        say 'note: this script names no signer, so the signature is not checked'
        return
    fi
    if has sigstore; then
        set -- sigstore verify identity --bundle "$work/$bundle" \
            --cert-identity "$SIGNER_IDENTITY" --cert-oidc-issuer "$SIGNER_ISSUER" "$work/SHA256SUMS"
    elif has cosign; then
        set -- cosign verify-blob --bundle "$work/$bundle" --certificate-identity "$SIGNER_IDENTITY" \
            --certificate-oidc-issuer "$SIGNER_ISSUER" "$work/SHA256SUMS"
    else
        say 'note: neither sigstore nor cosign is here, so the signature is not checked'
        return
    fi
    "$@" >"$work/why" 2>&1 </dev/null || {
        tail -n 3 "$work/why" >&2
        stop "the signature of SHA256SUMS is not that of $SIGNER_IDENTITY; nothing was changed" \
            'do not use this release; tell who gave it to you'
    }
    say "the signature of $SIGNER_IDENTITY is good, says $1"
}

# --- the environment ------------------------------------------------------------------------

# What the user has set for other installations would send the packages elsewhere.
install_packages() {
    if [ -n "$uv" ]; then
        set -- "$uv" pip install --no-cache --python "$env/bin/python" --only-binary :all: "$@"
    else
        # A narrow PATH: pip asks `rustc` for its version, and rustup then writes into the home.
        set -- env PATH="$env/bin:/usr/bin:/bin" "$env/bin/python" -I -m pip install \
            --no-cache-dir --no-input --disable-pip-version-check --only-binary :all: "$@"
    fi
    [ -z "$offline" ] || set -- "$@" --no-index --find-links "$base"
    "$@" >>"$work/log" 2>&1 </dev/null
}

make_environment() {
    unset PIP_TARGET PIP_PREFIX PIP_USER PYTHONHOME PYTHONPATH
    # uv makes a folder for credentials where there is none.
    [ -d "${data%/*}/uv/credentials" ] || export UV_CREDENTIALS_DIR="$work/credentials"
    checked "$name"
    [ -z "$lock" ] || checked "$lock"
    # Whoever made it to the mark has a whole environment; what has no mark was cut off.
    [ "$(cat "$env/ready" 2>/dev/null)" = "$sum" ] && return
    unfetched='the packages that cmesh needs could not be installed'
    say "making an environment with cmesh $version; this takes up to a minute"
    made=$env
    rm -rf "$env"
    if [ -n "$uv" ]; then
        set -- "$uv" venv --quiet --no-cache --python "${python:->=3.11}" "$env"
    else
        set -- "$python" -I -m venv "$env"
    fi
    "$@" >"$work/log" 2>&1 </dev/null || broken 'the environment could not be made'
    if [ -n "$lock" ]; then
        install_packages --require-hashes -r "$work/$lock" || broken "$unfetched"
        install_packages --no-deps "$work/$name" || broken "$unfetched"
    else
        install_packages "$work/$name" || broken "$unfetched"
    fi
    "$env/bin/cmesh" version >"$work/log" 2>&1 </dev/null || broken 'this version does not start here'
    printf '%s\n' "$sum" >"$env/ready" || broken 'the environment could not be finished'
}

# One installation at a time; what a killed one left is taken over. The lock is a link that leads
# to no file but names its holder: made with its content in one step, and by one alone.
take_turn() {
    turn=$versions/.installing
    # An older installer's lock is a folder: a link made of its name would lie inside.
    if [ -d "$turn" ] || ! ln -s $$ "$turn" 2>/dev/null; then
        # Of those who find a dead holder at once, one takes over; it looks again when it may.
        ln -s $$ "$turn.taking" 2>/dev/null || busy "$(readlink "$turn.taking")" "$turn.taking"
        other=$(readlink "$turn" || cat "$turn/pid" 2>/dev/null)
        if [ -n "$other" ] && kill -0 "$other" 2>/dev/null; then
            rm -f "$turn.taking"
            busy "$other" "$turn"
        fi
        rm -rf "$turn"
        ln -s $$ "$turn" 2>/dev/null || other=another
        rm -f "$turn.taking"
        [ "$(readlink "$turn")" = $$ ] || busy "$other" "$turn"
    fi
    locked=$turn
}

busy() { # PROCESS LOCK
    stop "process ${1:-of another installer} is installing already" \
        "wait for it; or, if it is none of ours: rm -r '$2'"
}

broken() { # PROBLEM
    tail -n 12 "$work/log" >&2
    stop "$1; nothing was changed" \
        'see the lines above; without a network: install.sh --offline --from FOLDER, with all wheels in it'
}

# Folders that this run had to make, deepest last; taken away again when it fails.
make_folders() { # FOLDER
    [ -d "$1" ] && return
    make_folders "${1%/*}"
    mkdir -m 700 "$1" 2>"$work/why" || stop "\`$1\` could not be made: $(cat "$work/why")" "ls -ld '${1%/*}'"
    folders="$1$newline$folders"
}

finish() {
    code=$? # `status` is a name of zsh
    trap - EXIT INT TERM HUP
    [ -z "$locked" ] || rm -rf "$locked"
    if [ "$code" != 0 ] || [ -n "$dry" ]; then
        # Only what nothing points to: a daemon that could not go back keeps its environment.
        if [ -n "$made" ] && [ "$(readlink "$link")" != "$made/bin/cmesh" ]; then rm -rf "$made"; fi
        printf %s "$folders" | while read -r folder; do
            rmdir "$folder" 2>/dev/null
        done
    fi
    rm -rf "$work"
    exit "$code"
}

main() {
    parse "$@"
    made='' folders='' locked=''
    find_places
    work=$(mktemp -d) || stop 'there is no room for temporary files' 'TMPDIR=/var/tmp sh install.sh'
    trap finish EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    find_platform
    find_maker
    find_release
    # Only with all of it there can be said exactly what would be done.
    [ -z "$dry" ] || { versions=$work/versions; env=$versions/${env##*/}; }
    make_folders "$versions"
    take_turn
    make_environment
    set -- --environment "$env" --sha256 "$sum" --folders "$folders"
    [ -z "$dry" ] || set -- "$@" --dry-run
    [ -n "$shells" ] || set -- "$@" --no-shell
    [ -n "$agents" ] || set -- "$@" --no-agents
    "$env/bin/python" -I -m cmesh.setup.install "$@" </dev/null
}

main "$@"
