# Shell functions that make the virtual machine's disks. Sourced by scripts/test-vm, after lib.sh.
# shellcheck shell=bash
#
# A machine has three disks: `system.img`, a Debian that scripts/setup was run in, kept and never written; `pagurus.img`,
# with the installation, the base rootfs and a copy of the clone, made for each run; and one for the results.

readonly VM_DIR=$here/vm
readonly SYSTEM_MB=3072 # sparse: what the tests may fill
readonly FREE_MB=6144
# The kernel's modules and the initramfs are made in there, hence the packers; systemd is what this is about.
readonly SYSTEM_PACKAGES=busybox-static,ca-certificates,cpio,dbus,iproute2,kmod,lz4,procps,systemd,systemd-sysv,udev,xz-utils,zstd
# They would only take the emulated processor's time.
readonly MASKED=(apt-daily.timer apt-daily-upgrade.timer console-getty.service dpkg-db-backup.timer
    e2scrub_all.timer e2scrub_reap.service fstrim.timer getty@tty1.service ldconfig.service
    man-db.timer serial-getty@ttyS0.service systemd-journal-catalog-update.service systemd-tmpfiles-clean.timer
    systemd-update-done.service)

# suite_of NUMBER: Debian's name of a release.
suite_of() {
    case "$1" in
        12) echo bookworm ;;
        13) echo trixie ;;
    esac
}

# The cache's key: all that decides what is on the system's disk, but the state of Debian's archive.
recipe_of() {
    cat "$VM_DIR"/{image.sh,in-root,boot-files,init,unpack_kernel.py} "$here/setup" |
        sha256sum | cut -c 1-12
}

# Debian's sources for a suite, and how apt reaches them: as on this machine, by the code that setup uses.
debian_sources() {
    "$SYSTEM_PYTHON" -I - "$clone" "$1" <<'PYTHON'
import subprocess, sys
sys.path.insert(0, sys.argv[1])
sys.dont_write_bytecode = True
from rootfs_builder import mirrors
dump = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=True).stdout
for line in mirrors.transport_options(dump):
    print("option", line)
for line in mirrors.host_lines(sys.argv[2]):
    print("source", line)
PYTHON
}

bootstrap() {
    local suite=$1 root=$2 kind line options=() sources=() unit
    while read -r kind line; do
        case "$kind" in
            option) options+=("--aptopt=$line") ;;
            source) sources+=("$line") ;;
        esac
    done < <(debian_sources "$suite")
    mmdebstrap --mode=root --variant=apt --format=directory --skip=cleanup/apt --aptopt='APT::Install-Recommends "false"' \
        --aptopt='Acquire::Languages "none"' "${options[@]+"${options[@]}"}" --include="$SYSTEM_PACKAGES" \
        "$suite" "$root" "${sources[@]+"${sources[@]}"}"
    # A keyring's path is this machine's; in there apt trusts Debian's archive without being told.
    find "$root/etc/apt" -name '*.list' -exec sed -i 's/ \[signed-by=[^]]*\]//' {} +
    for unit in "${MASKED[@]}"; do
        ln -sf /dev/null "$root/etc/systemd/system/$unit"
    done
    echo 'pagurus-vm' >"$root/etc/hostname"
    printf '127.0.0.1 localhost pagurus-vm\n' >"$root/etc/hosts"
    echo '11111111111111111111111111111111' >"$root/etc/machine-id" # without one systemd takes this for a first boot
    mkdir -p "$root/mnt/pagurus" "$root/mnt/clone" "$root/opt/pagurus" "$root/var/lib/pagurus"
    cat >"$root/etc/systemd/system/pagurus-tests.service" <<'UNIT'
[Unit]
Description=Tests of Pagurus
After=multi-user.target

[Service]
Type=oneshot
TimeoutStartSec=infinity
ExecStart=/mnt/pagurus/checkout/scripts/vm/guest
UNIT
    mkdir -p "$root/etc/systemd/system/multi-user.target.wants"
    ln -sf ../pagurus-tests.service "$root/etc/systemd/system/multi-user.target.wants/"
}

# in_root IMAGE COMMAND...: in the system as it will be on the disk, with the network and the package index of this machine.
in_root() {
    local image=$1
    shift
    unshare --mount --propagation private --pid --fork --kill-child \
        bash "$VM_DIR/in-root" "$image" "$clone" "$@"
}

# disk_of FOLDER IMAGE MEGABYTES: an ext4 image of a folder, sparse.
disk_of() {
    rm -f "$2"
    mke2fs -q -F -t ext4 -d "$1" -O ^has_journal -m 0 -E root_owner=0:0 "$2" "${3}M"
}

# prepare_system NUMBER: sets `image` to the folder of the release's system, which is made when it is not there.
prepare_system() {
    local number=$1 suite new old
    suite=$(suite_of "$number")
    image=$CACHE/$suite-$(recipe_of)
    [ -z "$rebuild" ] || rm -rf "$image"
    if [ -e "$image/system.img" ]; then
        say "Debian $number: the system is in $image"
        return 0
    fi
    [ "$(df --output=avail -m "$CACHE" | tail -n 1)" -ge "$FREE_MB" ] ||
        die "less than $FREE_MB MB are free in $CACHE" 'free some, or let PAGURUS_STATE_DIR name a folder on a larger disk'
    say "Debian $number: making its system, which is kept in $image"
    new=$CACHE/.new-$suite
    rm -rf "$new"
    mkdir -p "$new"
    NEXT_STEP='check that `apt-get update` works on this machine, and run this again'
    step "bootstrapping $suite" bootstrap "$suite" "$new/root"
    NEXT_STEP='mend what is said above: it would fail in the same way on a new Debian machine'
    step 'running scripts/setup in it' in_root "$new" bash /mnt/clone/scripts/setup --test
    step 'unpacking its kernel' in_root "$new" bash /mnt/clone/scripts/vm/boot-files
    NEXT_STEP=''
    step 'making its disk' disk_of "$new/root" "$new/system.img" "$SYSTEM_MB"
    for old in "$CACHE/$suite"-*; do
        rm -rf "$old"
    done
    mv "$new" "$image"
}

# What changes from run to run: this clone, installed by setup (which does what has changed), and its tests.
prepare_disk() {
    local work=$1 size
    NEXT_STEP='mend what is said above; --rebuild makes the system anew'
    step 'installing this clone in it' in_root "$image" bash /mnt/clone/scripts/setup --test --quiet
    NEXT_STEP=''
    step 'making the disk with this clone' fill_disk "$work"
}

fill_disk() {
    local work=$1 size
    mkdir "$work/disk"
    mkdir "$work/disk/checkout"
    tar -C "$clone" --exclude=./.git --exclude=__pycache__ --exclude='./.*_cache' --exclude=./bench-results -cf - . |
        tar -C "$work/disk/checkout" --no-same-owner -xf -
    mv "$work/arguments" "$work/disk/"
    # Copied by hard links: mke2fs reads one folder.
    cp -al "$image/prefix" "$image/state" "$work/disk/"
    size=$(du -sm "$work/disk" | cut -f 1)
    disk_of "$work/disk" "$work/pagurus.img" $((size * 5 / 4 + 512))
    rm -rf "$work/disk"
    truncate -s 64M "$work/results.img"
}
