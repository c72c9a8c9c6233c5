//! Mounting as uid 1000, through fusermount3.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::place::{Place, refuses, said};

#[test]
fn an_ordinary_user_mounts_and_unmounts() {
    let place = Place::new();
    let output = place.sh_as_user(
        "",
        "$USER $MMFS -o suid,dev $S $M; echo $?; $USER cat $M/hello; grep $M /proc/mounts
         $USER fusermount3 -u $M; echo $?
         $USER $MMFS -qq -f $S $M & sleep 1; $USER cat $M/hello; kill $!; wait $!; echo $?
         $USER $MMFS -qq -f $S $M & sleep 1; $USER sh -c 'exec 8< $M/hello
         kill $1; sleep 0.5; cat <&8' sh $!; wait $!; echo $?; grep -c $M /proc/mounts",
    );
    let text = said(&output).1;
    assert!(
        text.contains("nosuid,nodev") && text.contains("user_id=1000"),
        "{text}"
    );
    let lines: Vec<_> = text.lines().filter(|line| !line.contains("mmfs")).collect();
    assert_eq!(
        lines,
        ["0", "hello", "0", "hello", "0", "hello", "0", "0"],
        "{text}"
    );
}

#[test]
fn an_ordinary_user_is_refused_with_a_sentence() {
    let place = Place::new();
    let table = [
        (
            "$USER $MMFS --allow-other $S $M",
            "/etc/fuse.conf has a line user_allow_other",
        ),
        (
            "$USER $MMFS --allow-root $S $M",
            "/etc/fuse.conf has a line user_allow_other",
        ),
        (
            "U=$(command -v setpriv); PATH=/nowhere $U --reuid=1000 --clear-groups $MMFS $S $M",
            "fusermount3 is not installed",
        ),
        (
            "chmod 600 /dev/fuse; $USER $MMFS $S $M",
            "/dev/fuse may not be opened by you",
        ),
        (
            "mount -t tmpfs dev /dev; mknod -m 666 /dev/null c 1 3; $USER $MMFS $S $M",
            "/dev/fuse is missing",
        ),
        (
            "mount -t tmpfs dev /dev; mknod -m 666 /dev/null c 1 3; $MMFS $S $M",
            "/dev/fuse is missing",
        ),
        (
            "mount --bind -o nodev dev dev; mount -o remount,bind,nodev dev; \
          mount --bind dev/fuse /dev/fuse; $MMFS $S $M",
            "/dev/fuse cannot be opened",
        ),
        ("chown 0 $M; $USER $MMFS $S $M", "is not allowed for you"),
        (
            "chown 0 $M; chmod 1777 $M; $USER $MMFS $S $M",
            "is not allowed for you",
        ),
        (
            "chmod 711 $S; $USER $MMFS $S $M",
            "may not be read and searched by you",
        ),
        (
            "chmod 744 $S; $USER $MMFS $S $M",
            "may not be read and searched by you",
        ),
        ("chmod 700 $T; $USER $MMFS $S $M", "permission denied"),
    ];
    for (script, words) in table {
        let output = place.sh_as_user("# user_allow_other\n", script);
        refuses(&output, words);
        for path in [place.dir.path(), &place.source(), &place.mount()] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        }
    }
}

#[test]
fn an_ordinary_user_may_admit_others_where_fuse_conf_allows_it() {
    let place = Place::new();
    for (option, root) in [("--allow-other", "0"), ("--allow-root", "0"), ("-q", "1")] {
        let script = format!(
            "$USER $MMFS {option} $S $M; echo $?; cat $M/hello >/dev/null 2>&1; echo $?
             setpriv --reuid=2000 --clear-groups cat $M/hello >/dev/null 2>&1; echo $?
             $USER fusermount3 -u $M"
        );
        let output = place.sh_as_user("user_allow_other\n", &script);
        let other = if option == "--allow-other" { "0" } else { "1" };
        assert_eq!(
            said(&output).1.lines().collect::<Vec<_>>(),
            ["0", root, other],
            "{option}"
        );
    }
}

#[test]
fn an_ordinary_user_clears_a_dead_mount_too() {
    let place = Place::new();
    let output = place.sh_as_user(
        "",
        "$USER $MMFS -f $S $M & sleep 1; kill -9 $!; wait $!; $USER $MMFS $S $M; echo $?
         cat /proc/mounts | grep -c $M; $USER fusermount3 -u $M",
    );
    let text = said(&output).1;
    assert!(text.contains("cleared a dead mount of mmfs"), "{text}");
    assert!(text.contains("0\n1\n"), "{text}");
}
