# What the wrappers in scripts/bench share: finds the installed Pagurus and runs one benchmark with it. Sourced.
# shellcheck shell=bash

bench=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
. "$bench/../lib.sh"

# run_bench FILE PROGRAMS -- ARGUMENTS...: runs scripts/bench/FILE; PROGRAMS are those it needs.
run_bench() {
    local file=$1 missing=()
    shift
    while [ "$1" != -- ]; do
        command -v "$1" >/dev/null || missing+=("$1")
        shift
    done
    shift
    [ -x "$VENV/bin/pagurusd" ] || missing+=("$VENV")
    case " $* " in
        # Help is for everybody.
        *' -h '* | *' --help '*) [ -x "$VENV/bin/pagurusd" ] && exec "$VENV/bin/python" -P "$bench/$file" --help ;;
    esac
    [ "$(id -u)" = 0 ] || die 'needs root: it makes sandboxes' "sudo $0${*:+ $*}"
    [ -d "$STATE_DIR/rootfs" ] || missing+=("$STATE_DIR/rootfs")
    [ ${#missing[@]} = 0 ] || die "missing: ${missing[*]}" "sudo $(dirname "$bench")/setup --bench"
    export PAGURUS_STATE_DIR=$STATE_DIR PATH=$VENV/bin:$PATH
    # -P: the clone must not come before the installed packages on the path of modules.
    exec "$VENV/bin/python" -P "$bench/$file" "$@"
}
