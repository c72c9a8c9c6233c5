# What the scripts share. Sourced, never run.
# shellcheck shell=bash

root_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
target_dir=${CARGO_TARGET_DIR:-$root_dir/target}
tools_dir=$root_dir/target/tools
mmfs=${MMFS_BIN:-$target_dir/release/mmfs}

export LC_ALL=C.UTF-8

say() { printf '%s\n' "$*"; }
die() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; exit 1; }

can_be_root() { ((EUID == 0)) || command -v sudo >/dev/null; }

# Runs a command as root: directly, or through sudo.
as_root() {
    can_be_root || die "there is no sudo: run this script as root, or do as root: $*"
    if ((EUID == 0)); then "$@"; else sudo "$@"; fi
}

have() { command -v "$1" >/dev/null || [[ -x /usr/sbin/$1 || -x /sbin/$1 || $1 == /* && -e $1 ]]; }

# install_missing command:package... : installs the packages whose command (or /file) is missing, and nothing else.
# What apt-get prints is shown where it fails.
install_missing() {
    local pair words packages=()
    for pair; do
        have "${pair%%:*}" || packages+=("${pair##*:}")
    done
    ((${#packages[@]})) || return 0
    command -v apt-get >/dev/null || die "please install: ${packages[*]}"
    can_be_root || die "there is no sudo: run this script as root, or do as root: apt-get install ${packages[*]}"
    say "installing ${packages[*]} with apt-get, which may take some minutes" >&2
    words=$(as_root apt-get update -qq 2>&1) || die "apt-get update fails: $words"
    words=$(as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" \
        2>&1 </dev/null) || die "apt-get install ${packages[*]} fails: $words"
}

# The device every mount needs: made available, or a sentence why nothing can work.
require_fuse() {
    [[ -e /dev/fuse ]] || ! can_be_root || as_root modprobe fuse 2>/dev/null || true
    [[ -e /dev/fuse ]] || ! can_be_root || die "/dev/fuse is missing, and 'modprobe fuse' did not bring it"
    [[ -e /dev/fuse ]] || die "/dev/fuse is missing, and there is no sudo; do as root: modprobe fuse"
}

# fusermount3 unmounts for ordinary users only where this file is. systemd makes it at boot.
require_mtab() { [[ -e /etc/mtab ]] || ((EUID == 0)) || as_root ln -s /proc/self/mounts /etc/mtab; }

# The Rust that Cargo.toml asks for, or a sentence. Debian's rustup and the plain installer both leave cargo in the home
# directory, which may not be in PATH yet, or come there after an older one of Debian.
require_cargo() {
    local home=${HOME:-/root}/.cargo/bin needed found way
    needed=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' "$root_dir/Cargo.toml")
    way="install it from https://rustup.rs, or in Debian 13 with: apt-get install cargo"
    export PATH=$PATH:$home:/usr/sbin:/sbin
    found=$(rust_version)
    is_at_least "$needed" "$found" || [[ ! -x $home/cargo ]] || PATH=$home:$PATH found=$(rust_version)
    ! have rustup || way="get it with: rustup default stable && rustup update stable"
    [[ -n $found ]] || die "Rust is missing, mmfs needs $needed or newer: $way"
    is_at_least "$needed" "$found" || die "mmfs needs Rust $needed or newer, and the one of $(command -v cargo) is $found: $way"
}

# The older version of cargo and rustc, which differ in Debian 12. Nothing, where one is missing or is rustup's without a
# toolchain.
rust_version() {
    local program
    for program in cargo rustc; do
        say "$("$program" --version 2>/dev/null | awk '{print $2}')"
    done | sort -V | head -n 1
}

# is_at_least wanted given : whether the second version is the first one, or newer.
is_at_least() { [[ -n $2 && $(printf '%s\n' "$1" "$2" | sort -V | head -n 1) == "$1" ]]; }

# On a terminal cargo shows how far it is. Elsewhere it prints nothing, and an estimate says how long.
build_release() {
    local quiet=() seconds=180 # of one processor
    if [[ ! -t 2 ]]; then
        quiet=(--quiet)
        [[ -e $target_dir/release/mmfs ]] ||
            say "the first build takes about $((1 + seconds / $(nproc) / 60)) min with $(nproc) processors" >&2
    fi
    cargo build --release --locked "${quiet[@]}" --manifest-path "$root_dir/Cargo.toml"
}

# The program under test: MMFS_BIN, or this source built for release.
ensure_mmfs() { [[ -n ${MMFS_BIN:-} ]] || build_release; }

# Goes on as root, with the same tools and the same build. What cargo makes is made before, as the user.
become_root() {
    ((EUID == 0)) && return
    command -v sudo >/dev/null || die "needs root, and there is no sudo: run this script as root"
    exec sudo env "PATH=$PATH" "HOME=$HOME" "MMFS_BIN=$mmfs" "CARGO_TARGET_DIR=$target_dir" \
        ${MMFS_SEED:+"MMFS_SEED=$MMFS_SEED"} ${MMFS_TESTS:+"MMFS_TESTS=$MMFS_TESTS"} \
        ${XFSTESTS_EXPECT:+"XFSTESTS_EXPECT=$XFSTESTS_EXPECT"} ${XFSTESTS_TESTS:+"XFSTESTS_TESTS=$XFSTESTS_TESTS"} \
        ${LTP_TESTS:+"LTP_TESTS=$LTP_TESTS"} \
        ${MMFS_DEB:+"MMFS_DEB=$MMFS_DEB"} ${MMFS_TOOLCHAIN:+"MMFS_TOOLCHAIN=$MMFS_TOOLCHAIN"} "$0" "$@"
}

# cargo_tool crate version: builds it once, into target/tools.
cargo_tool() {
    [[ -x $tools_dir/bin/$1 ]] && grep -qF "\"$1 $2 " "$tools_dir/.crates.toml" 2>/dev/null && return
    say "building $1 $2"
    cargo install --quiet --locked --root "$tools_dir" "$1@$2"
}

# ---- mounts of the suites: taken down again, last first, whatever happens

work=
suite_mounts=()
suite_daemons=()

# Makes $work, a directory that goes again with everything mounted in it.
start_work() {
    work=$(mktemp -d "${TMPDIR:-/tmp}/mmfs-$1.XXXXXX")
    chmod 755 "$work"
    trap clean_up EXIT
    trap 'exit 130' INT TERM
}

clean_up() {
    local status=$? at pid point
    for ((at = ${#suite_mounts[@]} - 1; at >= 0; at--)); do
        mountpoint -q "${suite_mounts[at]}" || continue
        umount "${suite_mounts[at]}" 2>/dev/null || umount --lazy "${suite_mounts[at]}" || status=1
    done
    # What was mounted below $work and never written down here.
    while [[ -n $work ]] && point=$(awk -v work="$work/" 'index($5, work) == 1 {print $5}' /proc/self/mountinfo | tail -n 1) &&
        [[ -n $point ]]; do
        umount --lazy "$point" || break
    done
    for pid in "${suite_daemons[@]}"; do
        end_daemon "$pid" || status=1
    done
    if [[ -n $work ]] && ! grep -qF " $work/" /proc/self/mountinfo; then
        rm -rf --one-file-system "$work"
    elif [[ -n $work ]]; then
        say "still mounted below $work" >&2
        status=1
    fi
    exit "$status"
}

# Waits ten seconds for a daemon whose mount is gone.
end_daemon() {
    local tick
    for ((tick = 0; tick < 100; tick++)); do
        [[ -d /proc/$1 ]] || return 0
        sleep 0.1
    done
    say "the daemon $1 does not end: killed" >&2
    kill -KILL "$1"
    return 1
}

# For a mount namespace of a suite's own. Mounts that were copied into this namespace would keep the others' filesystems busy.
drop_inherited() {
    local point
    for point in $(awk '/ - fuse(blk)?[. ]/ || / - [^ ]+ \/dev\/loop/ {print $5}' /proc/self/mountinfo | tac); do
        umount --lazy "$point" 2>/dev/null || true
    done
}

# mount_image name size mkfs-arguments... : an ext4 filesystem of its own at $work/name.
mount_image() {
    local name=$1 size=$2
    shift 2
    truncate -s "$size" "$work/$name.img"
    mkfs.ext4 -q "$@" "$work/$name.img"
    mkdir "$work/$name"
    mount -o loop "$work/$name.img" "$work/$name"
    suite_mounts+=("$work/$name")
}

# ---- private views

# The directory of stores, if mount_mmfs makes private views. Set by private_way.
private=

# private_way "$@" : takes --private from the arguments of a suite. What is left are the options of mmfs, in $options.
private_way() {
    local word
    private='' options=()
    for word; do
        if [[ $word == --private ]]; then private=$work/stores; else options+=("$word"); fi
    done
}

# tree_listing directory : names, types, modes, owners, link counts, sizes, mtimes, ctimes, link targets, extended attributes and hashes
# of bytes. With directory_sizes=no, without the sizes of directories: of a replicated one, each replica has its own.
directory_sizes=yes
tree_listing() {
    local rest='%T@ %C@ %l\0' unsized=(-false)
    [[ $directory_sizes == yes ]] || unsized=(-type d)
    (
        cd "$1"
        find . "${unsized[@]}" -printf "%P\t%y %m %U %G %n - $rest" -o -printf "%P\t%y %m %U %G %n %s $rest" | sort -z
        # A filesystem without attributes says so for each name.
        find . -print0 | sort -z | xargs -0 getfattr --no-dereference --dump --match=- --encoding=hex 2>/dev/null
        find . -type f -print0 | sort -z | xargs -0r sha256sum --zero
    ) | tr '\0' '\n'
}

# same_listing before after sentence : two listings are the same, or the sentence and the first lines that differ.
same_listing() {
    [[ $1 != "$2" ]] || return 0
    diff --text <(printf '%s\n' "$1") <(printf '%s\n' "$2") | head -n 6 >&2 || true
    die "$3"
}

# The listings of sources that private views are over.
declare -A source_trees=()
keep_tree() { source_trees[$1]=$(tree_listing "$1"); }
same_tree() { same_listing "${source_trees[$1]}" "$(tree_listing "$1")" "the source $1 is not what it was"; }

# mount_mmfs source point options... : waits until it answers.
mount_mmfs() {
    local source=$1 point=$2 tick
    shift 2
    mkdir -p "$point"
    if [[ -n $private ]]; then
        mkdir -p "$private"
        set -- --private "$private/$(basename "$source")" "$@"
    fi
    "$mmfs" -f "$@" "$source" "$point" 2>>"$work/mmfs.log" &
    suite_daemons+=($!)
    suite_mounts+=("$point")
    for ((tick = 0; tick < 100; tick++)); do
        mountpoint -q "$point" && return
        kill -0 "${suite_daemons[-1]}" 2>/dev/null || break
        sleep 0.1
    done
    cat "$work/mmfs.log" >&2
    die "mmfs $* does not mount"
}

# Takes the last mount of mmfs down again; a daemon that ends with an error fails.
unmount_mmfs() {
    local tries
    # Of a file that was handed over to the kernel, the kernel lets go some moments after its last user.
    for tries in 1 2 3 4 5; do
        umount "${suite_mounts[-1]}" 2>/dev/null && break
        sleep "0.$tries"
    done
    ! mountpoint -q "${suite_mounts[-1]}" || umount "${suite_mounts[-1]}"
    wait "${suite_daemons[-1]}" || { cat "$work/mmfs.log" >&2; die "the daemon ended with an error"; }
    unset 'suite_mounts[-1]' 'suite_daemons[-1]'
}

# The clean roots: the release of Debian, and the packages that each has beside the minimum.
declare -A clean_roots=([bookworm]="fuse3,sudo" [bookworm-bare]="" [trixie]="cargo,gcc,libc6-dev,rustc")

# clean_root name: the archive of that minimal Debian.
clean_root() { say "$root_dir/target/cache/clean-root-$1.tar"; }

# make_clean_root name: makes that archive, once, with debootstrap.
make_clean_root() {
    local archive tree release=${1%%-*} packages=${clean_roots[$1]}
    archive=$(clean_root "$1") tree=$archive.tree
    [[ ! -e $archive ]] || return 0
    install_missing debootstrap:debootstrap
    rm -rf --one-file-system "$tree"
    mkdir -p "$tree"
    say "making a clean root of Debian $release with debootstrap${packages:+ and $packages}, which takes some minutes"
    debootstrap --variant=minbase ${packages:+--include="$packages"} "$release" "$tree" >"$archive.log" 2>&1 ||
        die "debootstrap: $(tail -n 3 "$archive.log")"
    rm -rf "$tree"/var/cache/apt/archives/*.deb
    tar -C "$tree" -cf "$archive.new" .
    rm -rf --one-file-system "$tree"
    mv "$archive.new" "$archive"
}

# unpack_clean_root directory name: with /proc mounted in it and a /dev of its own, and nothing that systemd makes at
# boot: no /etc/mtab.
unpack_clean_root() {
    make_clean_root "$2"
    mkdir "$1"
    # Set-user-ID programs and devices work in it, whatever the filesystem of $work says.
    mount --bind "$1" "$1" && suite_mounts+=("$1")
    mount --make-private "$1"
    mount -o remount,bind,suid,dev,exec "$1"
    tar -C "$1" -xpf "$(clean_root "$2")"
    mount -t proc proc "$1/proc" && suite_mounts+=("$1/proc")
    mknod -m 666 "$1/dev/fuse" c 10 229
}

# ---- recipes: blocks of README and docs/ that the suites run as they stand there

# The pages that have recipes. docs/internals.md has none.
recipe_pages() { printf '%s\n' "$root_dir/README.md" "$root_dir"/docs/*.md | grep -vx "$root_dir/docs/internals.md"; }

# blocks_named name : every block after <!-- recipe: name -->, each followed by its fence.
blocks_named() {
    local page
    while read -r page; do
        awk -v marker="<!-- recipe: $1 -->" '
            FNR == 1 { wanted = inside = 0 }
            $0 == marker { wanted = 1; next }
            wanted && /^```/ { if (inside) { wanted = inside = 0; print } else inside = 1; next }
            wanted && inside' "$page"
    done < <(recipe_pages)
}

# recipe name : the block after <!-- recipe: name -->. Where several pages have it, it is the same in all of them
# (scripts/check-recipes).
recipe() {
    local block
    block=$(blocks_named "$1" | sed '/^```$/,$d')
    [[ -n $block ]] || die "neither README.md nor docs/ has a recipe $1"
    printf '%s\n' "$block"
}

# file_in_docs name : the block after <!-- file: name -->.
file_in_docs() {
    local pages block
    mapfile -t pages < <(recipe_pages)
    block=$(awk -v marker="<!-- file: $1 -->" '
        $0 == marker { wanted = 1; next }
        wanted && /^```/ { if (inside) exit; inside = 1; next }
        wanted && inside' "${pages[@]}")
    [[ -n $block ]] || die "docs/ has no file $1"
    printf '%s\n' "$block"
}

# commands_of name : what stands after the prompts of that block, with the lines they go on in.
commands_of() {
    recipe "$1" | awk '/^[$#] / || more { more = /\\$/; sub(/^[$#] /, ""); print }'
}

# output_of name : the block's other lines.
output_of() {
    recipe "$1" | awk '/^[$#] / || more { more = /\\$/; next } 1'
}
