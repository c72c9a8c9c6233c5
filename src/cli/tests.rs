//! Tests of the command line: the meaning of each option, and that no arguments make the parser panic.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::*;
use crate::config::{OnSourceChange, StoreConfig};
use crate::refusal::ExitCode;

fn mounting(args: impl IntoIterator<Item = OsString>) -> Result<Options, StartError> {
    match Request::read(args)? {
        Request::Mount(options) => Ok(*options),
        other => panic!("{other:?} mounts nothing"),
    }
}

fn read(args: &[&str]) -> Result<Options, StartError> {
    let args = ["mmfs", "/src", "/mnt"].iter().chain(args);
    mounting(args.map(OsString::from))
}

fn meant(args: &[&str]) -> Options {
    read(args).unwrap_or_else(|error| panic!("{args:?}: {error}"))
}

fn refusal(args: &[&str]) -> String {
    let error = read(args).expect_err("refused");
    assert_eq!(error.exit_code(), ExitCode::Usage, "{args:?}");
    error.to_string()
}

#[test]
fn every_option_means_the_same_in_both_spellings() {
    let same = [
        (vec!["--read-only"], vec!["read_only", "read-only", "ro"]),
        (vec!["--allow-other"], vec!["allow_other", "allow-other"]),
        (vec!["--allow-root"], vec!["allow_root", "allow-root"]),
        (vec!["--auto-unmount"], vec!["auto_unmount", "auto-unmount"]),
        (vec!["--threads", "4"], vec!["threads=4"]),
        (
            vec!["--window-size", "128K"],
            vec!["window_size=128k", "window-size=131072"],
        ),
        (
            vec!["--map-budget=64M"],
            vec!["map_budget=64M", "map-budget=64MiB"],
        ),
        (vec!["--write-path", "region"], vec!["write_path=region"]),
        (vec!["--sync-on-close"], vec!["sync_on_close"]),
        (vec!["--attr-timeout", "0.5"], vec!["attr_timeout=.5"]),
        (vec!["--entry-timeout", "2"], vec!["entry_timeout=2.0"]),
        (vec!["--direct-io"], vec!["direct_io", "direct-io"]),
        (vec!["--private", "/s"], vec!["store=/s"]),
        (vec!["--ephemeral"], vec!["ephemeral"]),
        (vec!["--fsname", "a,b\\c"], vec![r"fsname=a\,b\\c"]),
        (vec!["--subtype", "x=y"], vec!["subtype=x=y"]),
        (vec!["--log", "/l"], vec!["log=/l"]),
        (vec!["--pidfile", "/p"], vec!["pidfile=/p"]),
        (vec!["-vv"], vec!["verbose,verbose"]),
        (vec!["-q"], vec!["quiet"]),
        (vec!["-f"], vec!["foreground"]),
    ];
    for (long, spellings) in same {
        let expected = format!("{:?}", meant(&long));
        assert_ne!(
            expected,
            format!("{:?}", meant(&[])),
            "{long:?} has no effect"
        );
        for spelling in spellings {
            assert_eq!(
                format!("{:?}", meant(&["-o", spelling])),
                expected,
                "-o {spelling}"
            );
        }
    }
}

#[test]
fn the_generic_flags_have_their_effect() {
    let flags = |change: fn(&mut MountFlags)| {
        let mut flags = meant(&[]).flags();
        change(&mut flags);
        flags
    };
    assert!(flags(|_| ()).no_suid && flags(|_| ()).no_dev);
    let table = [
        ("", flags(|_| ())),
        ("ro", flags(|flags| flags.read_only = true)),
        ("ro,rw", flags(|_| ())),
        ("rw,ro", flags(|flags| flags.read_only = true)),
        ("noexec", flags(|flags| flags.no_exec = true)),
        ("noexec,exec", flags(|_| ())),
        ("suid", flags(|flags| flags.no_suid = false)),
        (
            "nosuid,nodev,dev,suid,nosuid",
            flags(|flags| flags.no_dev = false),
        ),
        ("noatime", flags(|flags| flags.no_atime = true)),
        ("noatime,atime", flags(|_| ())),
        ("sync", flags(|flags| flags.sync = true)),
        ("dirsync", flags(|flags| flags.dir_sync = true)),
        ("sync,async", flags(|_| ())),
        ("nosymfollow", flags(|flags| flags.no_symfollow = true)),
        ("nosymfollow,symfollow", flags(|_| ())),
        // Who may mount is mount(8)'s business. What that implies is ours, and what follows overrides it.
        ("user", flags(|flags| flags.no_exec = true)),
        ("users,exec", flags(|_| ())),
        ("suid,dev,user=joe", flags(|flags| flags.no_exec = true)),
        ("suid,owner", flags(|_| ())),
        ("dev,group,dev", flags(|flags| flags.no_dev = false)),
    ];
    for (list, flags) in table {
        assert_eq!(meant(&["-o", list]).flags(), flags, "-o {list}");
    }
}

#[test]
fn the_last_one_wins_across_both_spellings() {
    assert!(!meant(&["-r", "-o", "rw"]).flags().read_only);
    assert!(meant(&["-o", "rw", "-r", "-r"]).flags().read_only);
    assert_eq!(meant(&["-o", "threads=8", "--threads=2"]).threads, Some(2));
    assert_eq!(meant(&["--threads=2", "-o", "threads=8"]).threads, Some(8));
}

/// Each option of a private view has its effect, in both spellings.
#[test]
fn options_of_a_private_view_reach_its_configuration() {
    let store = |args: &[&str]| meant(args).store.config().unwrap();
    assert_eq!(store(&[]), None);
    let plain = StoreConfig {
        directory: Some("/s".into()),
        temporary: PathBuf::new(),
        limit: None,
        base_moved: false,
        on_source_change: OnSourceChange::Stop,
    };
    assert_eq!(store(&["--private", "/s"]), Some(plain.clone()));
    let all = StoreConfig {
        limit: Some(1 << 20),
        base_moved: true,
        on_source_change: OnSourceChange::Copy,
        ..plain.clone()
    };
    let long = "--private=/s --store-limit=1M --base-moved --on-source-change=copy";
    let long: Vec<&str> = long.split(' ').collect();
    let list = "store=/s,store_limit=1M,base_moved,on_source_change=copy";
    assert_eq!(store(&long), Some(all.clone()));
    assert_eq!(store(&["-o", list]), Some(all));
    let ephemeral = StoreConfig {
        directory: None,
        temporary: std::env::temp_dir(),
        ..plain
    };
    assert_eq!(store(&["--ephemeral", "-r"]), Some(ephemeral));
}

#[test]
fn lists_may_be_repeated_joined_and_empty() {
    let expected = format!(
        "{:?}",
        meant(&["--foreground", "--read-only", "--allow-other"])
    );
    for args in [
        vec!["-f", "-o", "ro", "-o", "allow_other"],
        vec!["-fo", "ro,,allow_other,"],
        vec!["-foro", "-o", "", "-oallow_other"],
    ] {
        assert_eq!(format!("{:?}", meant(&args)), expected, "{args:?}");
    }
}

#[test]
fn fstab_options_of_other_programs_are_ignored() {
    let ignored = "defaults,nofail,auto,noauto,nouser,relatime,lazytime,nolazytime,nostrictatime,\
                   nodiratime,diratime,async,_netdev,comment=a b,x-systemd.automount,X-mount.mkdir,\
                   x-gvfs-name=n,default_permissions,nonempty";
    let meant_nothing = meant(&["-o", ignored]);
    assert_eq!(meant_nothing.flags(), meant(&[]).flags());
    assert!(!meant_nothing.allow_other && meant_nothing.fsname.is_none());
}

#[test]
fn usage_errors_name_the_option() {
    let table = [
        (vec!["-o", "remount,ro"], "-o remount: a mounted mmfs"),
        (
            vec!["-o", "ro,fancy=1"],
            "-o fancy: no such mount option; mmfs help",
        ),
        (
            vec!["-o", "nosuch"],
            "no such mount option; did you mean 'nosuid'?",
        ),
        (vec!["-o", "read-ony"], "did you mean 'read_only'?"),
        (vec!["-o", "atr_timeout=3"], "did you mean 'attr_timeout'?"),
        (
            vec!["-o", "strictatime"],
            "-o strictatime: access times move as",
        ),
        (
            vec!["-o", "drop_privileges"],
            "with: mount -t fuse.mmfs -o drop_privileges SRC",
        ),
        (vec!["-o", "uid=1000"], "-o uid: mmfs shows owners"),
        (vec!["-o", "help"], "-o help"),
        (vec!["-o", "version"], "-o version"),
        (vec!["-o", "mount_flag=exec"], "-o mount_flag"),
        (vec!["-o", "ro=1"], "-o ro: it takes no value"),
        (vec!["-o", "threads"], "-o threads: give it a value"),
        (vec!["-o", "threads=0"], "from 1 to 256"),
        (vec!["--threads", "-1"], "from 1 to 256"),
        (vec!["--threads", "257"], "from 1 to 256"),
        (vec!["--threads", "many"], "'many' for '--threads"),
        (vec!["-o", "window_size=4K"], "at least 64K"),
        (vec!["-o", "window_size=65537"], "multiple of the page size"),
        (vec!["-o", "map_budget=lots"], "--map-budget"),
        (vec!["--map-budget", "1K"], "a map budget is at least 2M"),
        (vec!["-o", "attr_timeout=-1"], "not negative"),
        (vec!["--entry-timeout", "-1"], "not negative"),
        (vec!["-o", "write_path=fast"], "--write-path"),
        (vec!["-o", "fsname="], "--fsname"),
        (vec!["-o", "subtype="], "--subtype"),
        (vec!["-o", "allow_other,allow_root"], "--allow-root"),
        (vec!["-o"], "-o"),
        (vec!["--fancy"], "--fancy"),
        (vec!["/third"], "/third"),
        (vec!["--threads", "a\n\nb"], "for '--threads <N>': give"),
    ];
    for (args, words) in table {
        refuses(&args, words);
    }
}

#[track_caller]
fn refuses(args: &[&str], words: &str) {
    let sentence = refusal(args);
    assert!(sentence.contains(words), "{args:?}: {sentence}");
    assert_eq!(sentence.lines().count(), 1, "{args:?}: {sentence}");
    assert!(!sentence.contains("error: "), "{args:?}: {sentence}");
}

#[test]
fn usage_errors_of_private_views() {
    let table = [
        (vec!["-o", "private=/s"], "write store=STORE"),
        (vec!["-o", "stor=/s"], "did you mean 'store'?"),
        (
            vec!["--store-limit", "1G"],
            "--store-limit is for private views: add --private STORE or --ephemeral",
        ),
        (
            vec!["-o", "on_source_change=stop"],
            "--on-source-change is for private views",
        ),
        (vec!["--base-moved"], "--base-moved is for private views"),
        (
            vec!["--ephemeral", "--base-moved"],
            "'--ephemeral' cannot be used with '--base-moved'",
        ),
        (
            vec!["-o", "store=/s,ephemeral"],
            "'--private <STORE>' cannot be used with '--ephemeral'",
        ),
        (
            vec!["--private", "/s", "--passthrough", "--store-limit", "1G"],
            "--store-limit cannot be used with --passthrough",
        ),
        (
            vec!["-o", "ephemeral,passthrough,store_limit=1G"],
            "--store-limit cannot be used with --passthrough",
        ),
        (vec!["--private", ""], "--private <STORE>"),
        (vec!["--ephemeral", "--store-limit", "1X"], "--store-limit"),
        (
            vec!["--ephemeral", "--on-source-change", "die"],
            "[possible values: stop, follow, copy]",
        ),
    ];
    for (args, words) in table {
        refuses(&args, words);
    }
}

/// What is wrong, then a word that is similar, or else where it is explained.
#[test]
fn usage_errors_are_one_sentence() {
    let table = [
        (
            &["mmfs"][..],
            "<SRC> and <MNT> are missing; usage: mmfs [OPTIONS] <SRC> <MNT>",
        ),
        (
            &["mmfs", "/s", "/m", "--readonly"],
            "unexpected argument '--readonly' found; did you mean '--read-only'?",
        ),
        (
            &["mmfs", "/s", "/m", "/third"],
            "unexpected argument '/third' found; see mmfs --help",
        ),
        (
            &["mmfs", "/s", "/m", "--threads", "many"],
            "invalid value 'many' for '--threads <N>': give a whole number from 1 to 256",
        ),
        (
            &["mmfs", "unmount"],
            "<MNT> is missing; usage: mmfs unmount <MNT>",
        ),
        (
            &["mmfs", "unmount", "/m", "--qqq"],
            "unexpected argument '--qqq' found; see mmfs help unmount",
        ),
    ];
    for (args, words) in table {
        let error = Request::read(args.iter().map(OsString::from)).expect_err("refused");
        assert_eq!(error.to_string(), words, "{args:?}");
    }
}

/// Every name that can stand after `-o` is explained in docs/configuration.md, and every long option has a group in `--help`.
#[test]
fn mount_options_are_documented() {
    let page = include_str!("../../docs/configuration.md");
    let (_, section) = page
        .split_once("\n### Generic options of mount(8)\n")
        .unwrap();
    let section = section.split("\n## ").next().unwrap();
    for (names, _) in mount_options::groups() {
        for name in names.split(' ').filter(|name| *name != "NAME[=VALUE]") {
            assert!(section.contains(&format!("`{name}`")), "{name} is missing");
        }
    }
    let command = command();
    for arg in command.get_arguments() {
        let is_grouped =
            arg.is_positional() || arg.is_hide_set() || arg.get_help_heading().is_some();
        assert!(is_grouped, "{arg} has no heading in --help");
    }
}

/// The short help fits on a screen of 24 lines with a prompt on it, and names the long one.
#[test]
fn the_short_help_fits_a_screen() {
    let error = Request::read(["mmfs", "-h"].map(OsString::from)).expect_err("an answer");
    let text = error.to_string();
    assert!(text.lines().count() <= 23, "{text}");
    for line in text.lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
    assert!(text.contains("mmfs --help"), "{text}");
}

#[test]
fn names_are_bytes() {
    let odd = OsString::from_vec(b"/a\xff,\n".to_vec());
    let list = OsString::from_vec(b"log=/a\xff\\,\n,fsname=\xfe".to_vec());
    let args = [
        "mmfs".into(),
        "-o".into(),
        list,
        "--".into(),
        odd.clone(),
        odd.clone(),
    ];
    let options = mounting(args).unwrap();
    assert_eq!(
        (options.source.as_os_str(), options.mount_point.as_os_str()),
        (&*odd, &*odd)
    );
    assert_eq!(options.log().unwrap().file.unwrap().as_os_str(), odd);
    assert_eq!(options.fsname.unwrap(), OsStr::from_bytes(b"\xfe"));
}

#[test]
fn verbose_and_quiet_cancel_each_other() {
    let verbosity = |args: &[&str]| meant(args).log().unwrap().verbosity;
    assert_eq!(
        (verbosity(&[]), verbosity(&["-vvq"]), verbosity(&["-qq"])),
        (0, 1, -2)
    );
}

#[test]
fn a_check_takes_one_path_and_nothing_else() {
    let read = |args: &[&str]| Request::read(args.iter().map(OsString::from));
    assert!(matches!(
        read(&["mmfs", "--check", "/m"]).unwrap(),
        Request::Check(path) if path == Path::new("/m")
    ));
    for args in [
        &["mmfs", "--check", "/m", "-f"][..],
        &["mmfs", "--check", "/m", "/s"],
    ] {
        let error = read(args).expect_err("refused");
        assert_eq!(error.exit_code(), ExitCode::Usage, "{args:?}");
    }
}

#[test]
fn the_version_is_short_unless_asked_with_v() {
    let version = |args: &[&str]| {
        let args = ["mmfs"].iter().chain(args).map(OsString::from);
        let error = Request::read(args).expect_err("an answer");
        assert_eq!(error.exit_code(), ExitCode::Success);
        error.to_string()
    };
    for short in [&["-V"][..], &["--version"], &["--version", "-q"]] {
        assert_eq!(version(short), format!("mmfs {VERSION}\n"), "{short:?}");
    }
    for long in [&["-vV"][..], &["--version", "-v"], &["-V", "--verbose"]] {
        let text = version(long);
        assert!(
            text.starts_with(&format!("mmfs {VERSION}\nkernel: Linux ")),
            "{text}"
        );
        assert!(text.lines().count() > 3, "{text}");
    }
}

proptest! {
    #[test]
    fn no_list_makes_the_reader_panic(list in prop::collection::vec(1..=255_u8, 0..40)) {
        let args = ["mmfs".into(), "-o".into(), OsString::from_vec(list), "s".into(), "m".into()];
        let _ = mounting(args);
    }

    #[test]
    fn no_argv_makes_the_reader_panic(args in prop::collection::vec("[-ofrv=,a-z\\\\]{0,9}", 0..6)) {
        let args = args.into_iter().map(OsString::from);
        let _ = mounting(["mmfs".into()].into_iter().chain(args));
    }

    #[test]
    fn every_value_survives_escaping(value in prop::collection::vec(1..=255_u8, 1..40)) {
        let escape = |&byte| matches!(byte, b',' | b'\\').then_some(b'\\').into_iter().chain([byte]);
        let list = [b"fsname=".to_vec(), value.iter().flat_map(escape).collect()].concat();
        let args = ["mmfs".into(), "-o".into(), OsString::from_vec(list), "s".into(), "m".into()];
        prop_assert_eq!(mounting(args).unwrap().fsname.unwrap().into_vec(), value);
    }
}
