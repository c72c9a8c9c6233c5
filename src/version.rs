//! The text of `--version`. With `-v` it lists the kernel features that mmfs uses on this machine.

use std::fmt::Write;

use rustix::io::Errno;

use crate::{fuse, session};

pub use crate::VERSION;

/// The version, then the kernel features in use. The process must end soon: see [`session::offered`].
pub fn in_detail() -> String {
    let release = rustix::system::uname();
    let mut text = format!(
        "{VERSION}\nkernel: {} {}\n",
        release.sysname().to_string_lossy(),
        release.release().to_string_lossy()
    );
    let guarded = cfg!(any(target_arch = "x86_64", target_arch = "aarch64"));
    let mut line = |name: &str, value: &str| {
        // Writing to a String does not fail.
        let _ = writeln!(text, "{name}: {value}");
    };
    line(
        "writes into maps",
        if guarded { "yes" } else { "no, pwrite" },
    );
    match session::offered() {
        Ok(offer) => {
            let (in_use, missing) = fuse::features(offer.flags);
            line(
                "FUSE protocol",
                &format!("{}.{}", offer.version.0, offer.version.1),
            );
            line("in use", &in_use.join(" "));
            let passing = fuse::offers_passthrough(offer.flags);
            line("--passthrough", if passing { "yes, as root" } else { "no" });
            line("not offered by this kernel", &or_none(missing.join(" ")));
        }
        Err(Errno::NOENT) => line("FUSE", "no /dev/fuse here"),
        Err(errno) => line(
            "FUSE",
            &format!("the kernel's features cannot be read: {errno}"),
        ),
    }
    text.truncate(text.trim_end().len());
    text
}

fn or_none(list: String) -> String {
    if list.is_empty() {
        "nothing".into()
    } else {
        list
    }
}
