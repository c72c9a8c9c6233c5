//! Extended attributes.

mod common;
mod stage;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use common::user::{as_user, ordinary};
use rustix::fs::{XattrFlags, getxattr, listxattr, removexattr, setxattr};
use stage::{noise, on, on_mount, printed, shared, tree};

/// "xattrs (user, trusted, security, POSIX ACLs)" of every size, with create and replace: answers, errors and values are
/// the source's, on files, directories and links.
/// (proves: S31)
#[test]
fn extended_attributes_answer_as_natively() {
    on_mount(&[], |stage| {
        stage.twins("xattrs", |dir| {
            fs::write(dir.join("file"), "x").unwrap();
            fs::create_dir(dir.join("directory")).unwrap();
            std::os::unix::fs::symlink("file", dir.join("link")).unwrap();
            let answers =
                ["file", "directory", "link"].map(|name| attribute_answers(&dir.join(name)));
            let left =
                ["file", "directory", "link"].map(|name| tree::attributes_of(&dir.join(name)));
            (answers, left)
        });
        for name in ["file", "directory"] {
            let [shown, there] =
                [stage.mount(name), stage.source(name)].map(|path| tree::attributes_of(&path));
            assert_eq!(shown, there, "{name}");
        }
    });
}

/// Names of every namespace and of none, and how much to store under them.
const VALUES: [(&str, u64); 10] = [
    ("user.empty", 0),
    ("user.one", 1),
    ("trusted.one", 1),
    ("security.test", 100),
    ("user.large", 3000),
    ("user.larger", 65_536),
    ("user.too-large", 65_537),
    ("system.unknown", 1),
    ("nonsense", 1),
    ("user.", 1),
];

fn attribute_answers(path: &Path) -> Vec<String> {
    let mut answers: Vec<String> = VALUES
        .iter()
        .map(|(name, size)| store_and_load(path, name, *size))
        .collect();
    let create = setxattr(path, "user.one", b"again", XattrFlags::CREATE);
    let replace = setxattr(path, "user.absent", b"x", XattrFlags::REPLACE);
    answers.push(format!("create {create:?}, replace {replace:?}"));
    let remove = [(); 2].map(|()| removexattr(path, "user.one"));
    answers.push(format!("remove {remove:?}"));
    let list = [
        listxattr(path, &mut [0; 3][..]),
        listxattr(path, &mut [0; 0][..]),
    ];
    answers.push(format!("list, too short and for the length {list:?}"));
    answers
}

fn store_and_load(path: &Path, name: &str, size: u64) -> String {
    let value = noise(size, size + 1);
    let stored = setxattr(path, name, &value, XattrFlags::empty());
    let mut read = vec![0; 65_536];
    let got = getxattr(path, name, &mut read[..]);
    let same = got.is_ok_and(|length| read[..length] == value);
    let length = getxattr(path, name, &mut [0; 0][..]);
    let short = getxattr(path, name, &mut [0; 50][..]);
    format!("{name}: set {stored:?}, get {got:?} {same}, length {length:?}, too short {short:?}")
}

/// "trusted.*" is root's alone: an ordinary user neither sees, reads nor sets it.
/// (proves: S31)
#[test]
fn as_root_trusted_attributes_are_hidden_from_ordinary_users() {
    on(shared(), |stage| {
        stage.twins("as an ordinary user", |dir| {
            let file = dir.join("file");
            fs::write(&file, "x").unwrap();
            fs::set_permissions(&file, Permissions::from_mode(0o666)).unwrap();
            for name in ["user.shown", "trusted.hidden", "security.shown"] {
                setxattr(&file, name, b"value", XattrFlags::empty()).unwrap();
            }
            let script = r#"cd "$1"; getfattr -m - -d file; for name in user.shown trusted.hidden security.shown; do
                getfattr -n $name file 2>&1; setfattr -n $name -v new file 2>&1 || true; done"#;
            let listed = printed(as_user(ordinary(), "bash").args(["-c", script, "bash"]).arg(dir));
            assert!(!listed.contains("trusted.hidden=") && listed.contains("user.shown="), "{listed}");
            listed.lines().map(str::to_owned).collect::<Vec<_>>()
        });
    });
}
