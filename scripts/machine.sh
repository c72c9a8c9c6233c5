# What scripts/test changes on the machine while it runs. Runs at the same time share the change, and the last one undoes it.
# Sourced, after lib.sh.
# shellcheck shell=bash

fuse_device=/dev/fuse
fuse_conf=/etc/fuse.conf
# What was before, kept for the run that ends last.
before=/run/mmfs-scripts-test
mount_list=/etc/mtab
# An ordinary user's number: tests mount as that user, and fusermount3 looks up the name.
tester_uid=1000

# Each run holds a shared lock on the directory of $before until its end. Who undoes, holds it alone.
share_changes() {
    exec 9<"$(dirname "$before")"
    flock --shared 9
}

# keep name : keeps what is read as the state before, unless an earlier run has kept that.
keep() {
    as_root mkdir -p "$before"
    [[ -e $before/$1 ]] || as_root tee "$before/$1" >/dev/null
}

# Ordinary users mount, too; on an ordinary machine the device is open to them already.
open_device() {
    local mode
    mode=$(stat -c %a "$fuse_device")
    [[ $mode != 666 ]] || return 0
    say "- $fuse_device gets the mode 666, until the end; it has $mode"
    keep mode <<<"$mode"
    as_root chmod 666 "$fuse_device"
}

allow_others() {
    ! grep -qx user_allow_other "$fuse_conf" 2>/dev/null || return 0
    say "- $fuse_conf gets the line user_allow_other, until the end"
    if [[ -e $fuse_conf ]]; then
        keep fuse.conf <"$fuse_conf"
        [[ -z $(tail -c 1 "$fuse_conf") ]] || say | as_root tee -a "$fuse_conf" >/dev/null
    else
        keep no-fuse.conf </dev/null
    fi
    say user_allow_other | as_root tee -a "$fuse_conf" >/dev/null
}

# fusermount3 reads it when an ordinary user unmounts. A new Debian has it from its first boot on.
link_mount_list() {
    [[ ! -e $mount_list && ! -L $mount_list ]] || return 0
    say "- $mount_list becomes a link to /proc/self/mounts, until the end"
    keep no-mtab </dev/null
    as_root ln -s /proc/self/mounts "$mount_list"
}

add_tester() {
    ((EUID == 0)) || return 0 # the user who runs this is one
    ! getent passwd "$tester_uid" >/dev/null || return 0
    say "- the account mmfs-test is made, until the end: nobody has the user id $tester_uid"
    keep no-tester </dev/null
    useradd --uid "$tester_uid" --no-create-home --shell /usr/sbin/nologin mmfs-test
}

# undo kept what command... : undoes one change, if it was made.
undo() {
    [[ -e $before/$1 ]] || return 0
    if "${@:3}" && as_root rm "$before/$1"; then
        say "undone: $2" || true
    else
        say "not undone: $2, kept in $before/$1" || true
    fi
}

# The file as it was, in the same inode.
restore_conf() { as_root tee "$fuse_conf" <"$before/fuse.conf" >/dev/null; }
restore_mode() { as_root chmod "$(<"$before/mode")" "$fuse_device"; }

undo_changes() {
    { flock --unlock 9; } 2>/dev/null || return 0
    if [[ ! -d $before ]]; then
        :
    elif flock --exclusive --nonblock 9; then
        undo mode "the mode of $fuse_device" restore_mode
        undo fuse.conf "the line in $fuse_conf" restore_conf
        undo no-fuse.conf "$fuse_conf" as_root rm -f "$fuse_conf"
        undo no-mtab "$mount_list" as_root rm -f "$mount_list"
        undo no-tester "the account mmfs-test" as_root userdel mmfs-test
        as_root rmdir --ignore-fail-on-non-empty "$before"
    else
        say "not undone: another scripts/test runs, and undoes it at its end" || true
    fi
    exec 9<&-
}
