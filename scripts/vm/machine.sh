# Shell functions that boot the virtual machine and judge what comes out. Sourced by scripts/test-vm, after lib.sh.
# shellcheck shell=bash

readonly BOOT_S=${BOOT_S:-240}   # to the first test; a busy machine needs a quarter of it
readonly TESTS_S=${TESTS_S:-900} # from there to the end
readonly BOOT_ATTEMPTS=2         # of what does not come so far
readonly POLL_S=${POLL_S:-0.5}
readonly BEGIN='pagurus-vm: tests begin' # said by scripts/vm/guest

machine='' work=''
# Whatever way this ends: no qemu, no half-made disk, no ticker stays.
clean_up() {
    [ "$BASHPID" = "$$" ] || return 0 # a background shell that gets its signal before it has dropped our traps
    _end_step
    [ -z "$machine" ] || kill -KILL "$machine" 2>/dev/null || true
    [ -z "$machine" ] || wait "$machine" 2>/dev/null || true
    machine=''
    [ -z "$work" ] || rm -rf "$work"
    work=''
}
trap clean_up EXIT
trap 'exit 130' INT # said in full: bash goes on when the program that it waits for takes Ctrl-C as an ordinary end
trap 'exit 143' TERM

# start_machine IMAGE: sets `machine` to its process.
start_machine() {
    # setpriv: it ends with this script even when that is killed. 8>&-: it must not keep the lock.
    nice -n 10 setpriv --pdeathsig KILL -- qemu-system-x86_64 -M q35 -accel tcg,thread=multi,tb-size=512 -cpu max,la57=off \
        -smp 2 -m 2048 -nodefaults -display none -vga none -serial "file:$work/serial.log" -no-reboot \
        -kernel "$1/root/boot/vmlinux" -initrd "$1/root/boot/initramfs" \
        -append 'console=ttyS0 panic=-1 quiet loglevel=4 mitigations=off audit=0 selinux=0 apparmor=0 nokaslr tsc=reliable no_timer_check systemd.show_status=false' \
        -drive "file=$1/system.img,format=raw,if=virtio,snapshot=on,cache=unsafe" \
        -drive "file=$work/pagurus.img,format=raw,if=virtio,cache=unsafe" \
        -drive "file=$work/results.img,format=raw,if=virtio,cache=unsafe" \
        >"$work/qemu.log" 2>&1 </dev/null 8>&- 9>&- &
    machine=$!
}

# run_machine NAME IMAGE: boots it and waits for its end. Sets `outcome` to ended, boot or timeout.
run_machine() {
    local name=$1 began='' started=$SECONDS limit=$BOOT_S
    : >"$work/serial.log"
    outcome=''
    start_machine "$2"
    watch_step "$name: booting" "$work/serial.log"
    while [ -z "$outcome" ]; do
        if ! kill -0 "$machine" 2>/dev/null; then
            wait "$machine" || true
            outcome=ended
        elif [ $((SECONDS - started)) -gt "$limit" ]; then
            outcome=timeout
        else
            sleep "$POLL_S"
        fi
        if [ -z "$began" ] && grep -aqF "$BEGIN" "$work/serial.log"; then
            say "  $name: booted in $((SECONDS - started)) s"
            began=yes started=$SECONDS limit=$TESTS_S
            watch_step "$name: testing" "$work/serial.log"
        fi
    done
    _end_step
    kill -KILL "$machine" 2>/dev/null || true
    wait "$machine" 2>/dev/null || true
    machine=''
    if [ -z "$began" ]; then
        outcome=boot
    else
        say "  $name: $outcome after $((SECONDS - started)) s of tests"
    fi
}

# What a machine leaves is kept until the next run.
keep_results() {
    local last=$1
    rm -rf "$last"
    mkdir -p "$last"
    cp "$work/serial.log" "$work/qemu.log" "$last/"
    tar -C "$last" -xf "$work/results.img" 2>/dev/null || true
}

# test_machine NAME IMAGE LAST: runs it on the disks in `work`; what it leaves is in LAST. Sets `failed` to the verdict when
# tests have failed, or the machine.
test_machine() {
    local name=$1 image=$2 last=$3 attempt outcome=''
    rm -rf "$last"
    for ((attempt = 1; attempt <= BOOT_ATTEMPTS; attempt++)); do
        run_machine "$name" "$image"
        [ "$outcome" = boot ] || break
        say "  $name: it did not boot (attempt $attempt of $BOOT_ATTEMPTS); the end of its console:"
        cat "$work/qemu.log" "$work/serial.log" | tr -d '\r' | tail -n 40 | sed 's/^/  | /'
    done
    keep_results "$last"
    rm -rf "$work"
    work=''
    if [ "$outcome" = boot ]; then
        failed='= 1 error ='
        printf '  next step: look at %s/serial.log; --rebuild makes its system anew\n%s\n' "$last" "$failed"
    elif ! "$SYSTEM_PYTHON" -I "$here/vm/report.py" "$last" >"$last/report"; then
        failed=$(tail -n 1 "$last/report")
        [ "$outcome" = ended ] || say "  $name: the tests took longer than $TESTS_S s and were ended"
        say "  $name: the end of its console:"
        tr -d '\r' <"$last/serial.log" | tail -n 60 | sed 's/^/  | /'
        say "  next step: look at serial.log, pytest.log and journal.log in $last"
        cat "$last/report"
    else
        cat "$last/report"
    fi
}
