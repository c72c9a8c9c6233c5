# What scripts/test changes on the machine while it runs. Runs at the same time share the change, and the last one undoes it.
# Sourced, after lib.sh.
# shellcheck shell=bash

fuse_device=/dev/fuse
fuse_conf=/etc/fuse.conf
# What was before, kept for the run that ends last.
before=/run/mmfs-scripts-test

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
        as_root rmdir --ignore-fail-on-non-empty "$before"
    else
        say "not undone: another scripts/test runs, and undoes it at its end" || true
    fi
    exec 9<&-
}
