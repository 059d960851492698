# Shell functions that setup, run, test and uninstall share. Sourced, never run.
# shellcheck shell=bash
# shellcheck disable=SC2034 # what is set here is used by those who source it

readonly PREFIX=${PAGURUS_PREFIX:-/opt/pagurus}
readonly STATE_DIR=${PAGURUS_STATE_DIR:-/var/lib/pagurus}
readonly RUN_DIR=${PAGURUS_RUN_DIR:-/run/pagurus}
readonly VENV=$PREFIX/venv
readonly SYSTEM_PYTHON=/usr/bin/python3
readonly GATEWAY_USER=${PAGURUS_GATEWAY_USER:-pagurus}
readonly BUILDER_USER=${PAGURUS_BUILDER_USER:-pagurus-build}
QUIET=${QUIET:-}
unset PYTHONHOME PYTHONPATH # of another Python, as likely as not
_step_log='' _step_ticker=''
trap _end_step EXIT

say() {
    [ -n "$QUIET" ] || printf '%s\n' "$*"
}

# die MESSAGE [NEXT STEP]: ends the script with what went wrong and what to do about it.
die() {
    printf '%s: %s\n' "${0##*/}" "$1" >&2
    [ $# -lt 2 ] || printf '  next step: %s\n' "$2" >&2
    exit 1
}

need_root() {
    [ "$(id -u)" = 0 ] || die "needs root: it makes system users, $PREFIX and $STATE_DIR" "sudo $0${*:+ $*}"
}

need_debian() {
    local ID='' ID_LIKE='' VERSION_ID='' PRETTY_NAME='an unknown system'
    # shellcheck disable=SC1091
    [ ! -r /etc/os-release ] || . /etc/os-release
    case " $ID $ID_LIKE " in
        *" debian "*) ;;
        *) die "this is $PRETTY_NAME; setup knows Debian 12 and 13" \
            "CONTRIBUTING.md lists what setup installs, to do the same by hand" ;;
    esac
    command -v apt-get >/dev/null && command -v dpkg-query >/dev/null ||
        die "apt-get or dpkg-query is missing" "install the packages apt and dpkg"
    if [ "$ID" = debian ] && [ -n "$VERSION_ID" ] && [ "$VERSION_ID" -lt 12 ]; then
        die "this is $PRETTY_NAME; its Python is older than 3.11" "use Debian 12 or 13"
    fi
}

# need_absolute NAME VALUE: a folder that root will fill must be named in full and be no system folder.
need_absolute() {
    case "$2" in
        / | /usr | /etc | /var | /var/lib | /home | /root | /opt | /run | /tmp | /srv | /boot)
            die "$1 is $2, a folder of the system" "name a folder of its own, such as $2/pagurus" ;;
        *:* | *,*) die "$1 is $2; it must not contain ':' or ','" ;;
        /*) ;;
        *) die "$1 is $2; it must be an absolute path" ;;
    esac
}

# need_packages PACKAGE...: installs by apt those that are missing.
need_packages() {
    local missing=() have package
    have=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "$@" 2>/dev/null || true)
    for package in "$@"; do
        grep -qx "installed $package" <<<"$have" || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    say "Debian packages: ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    # A machine that has just booted may be upgrading itself: wait for its lock.
    step 'reading the package lists' apt-get -o DPkg::Lock::Timeout=300 update
    step "installing ${#missing[@]} packages" apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "${missing[@]}"
}

# Shows that a step still runs, and what it says last: a changing line on a terminal, a line each 10 s elsewhere.
_tick() {
    local message=$1 log=$2 started=$SECONDS last='' pause
    trap 'exit 0' TERM
    exec {pause}<> <(:) # nothing ever comes from it: `read -t` on it is a sleep without a process to clean up
    while kill -0 "$$" 2>/dev/null; do # $$: the script, which may be killed
        read -r -t 1 -u "$pause" _ || true
        [ -n "$QUIET" ] && continue
        last=$(tail -n 1 "$log" 2>/dev/null | tr -d '\000-\037' | cut -c 1-60 || true)
        if [ -t 1 ]; then
            printf '\r\033[K  %s … %d s  %s' "$message" $((SECONDS - started)) "$last"
        elif [ $(((SECONDS - started) % 10)) = 0 ]; then
            printf '    … %d s: %s\n' $((SECONDS - started)) "$last"
        fi
    done
}

# Whatever way a script ends: no ticker and no log of a step stay.
_end_step() {
    [ -z "$_step_ticker" ] || kill "$_step_ticker" 2>/dev/null || true
    [ -z "$_step_ticker" ] || wait "$_step_ticker" 2>/dev/null || true
    [ -z "$_step_log" ] || rm -f "$_step_log"
    _step_ticker='' _step_log=''
}

# watch_step MESSAGE FILE: shows that something still runs, and the end of a file, until the next step or watch, or _end_step.
watch_step() {
    _end_step
    [ -t 1 ] || say "  $1 …"
    _tick "$1" "$2" &
    _step_ticker=$!
}

# step MESSAGE COMMAND...: runs a command with its output in a log file, which is shown when it fails.
# NEXT_STEP, where the caller has set it, is said then, too.
# Not to be called in a condition: `set -e` would then be off inside the command.
step() {
    local message=$1 status started=$SECONDS
    shift
    _step_log=$(mktemp "${TMPDIR:-/tmp}/pagurus-step.XXXXXX")
    [ -t 1 ] || say "  $message …"
    _tick "$message" "$_step_log" &
    _step_ticker=$!
    set +e
    (
        set -e
        exec 9>&- # setup's lock: a daemon that a package starts would keep it
        "$@"
    ) >"$_step_log" 2>&1 </dev/null
    status=$?
    set -e
    [ ! -t 1 ] || printf '\r\033[K'
    if [ "$status" != 0 ]; then
        printf '%s: failed (status %d): %s; the end of what it said:\n' "${0##*/}" "$status" "$message" >&2
        tail -n 40 "$_step_log" | sed 's/^/  | /' >&2
        [ -z "${NEXT_STEP-}" ] || printf '  next step: %s\n' "$NEXT_STEP" >&2
        exit 1
    fi
    _end_step
    say "  $message: done in $((SECONDS - started)) s"
}
