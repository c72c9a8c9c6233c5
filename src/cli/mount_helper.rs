//! `mount.mmfs SRC MNT [-sfnv] [-N NAMESPACE] [-o LIST] [-t TYPE]`: how mount(8) starts mmfs for `mount -t mmfs`.

use std::ffi::OsString;
use std::path::Path;

use super::mount_options::Unknown;
use crate::refusal::StartError;

/// Whether argv is that of a helper of mount(8): its program's name begins with `mount.`.
pub fn is_helper(args: &[OsString]) -> bool {
    let program = args.first().map(Path::new).and_then(Path::file_name);
    program.is_some_and(|name| name.as_encoded_bytes().starts_with(b"mount."))
}

/// The command line of mmfs for argv of a helper, and what `-o` means for options that mmfs does not have. `None` for `mount -f`,
/// which mounts nothing.
///
/// # Errors
/// For a mount in another namespace.
pub fn command_line(args: Vec<OsString>) -> Result<Option<(Vec<OsString>, Unknown)>, StartError> {
    let (mut meant, mut unknown) = (Vec::new(), Unknown::Refused);
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        match arg.to_str() {
            Some("-f") => return Ok(None),
            Some("-s") => unknown = Unknown::Ignored,
            // /etc/mtab is not to be written; more is to be told.
            Some("-n" | "-v") => {}
            Some("-t") => drop(args.next()),
            Some("-N") => {
                let sentence = "mount --namespace is not for mmfs; use: nsenter --mount=FILE mount -t mmfs SRC MNT";
                return Err(StartError::Verb(sentence.into()));
            }
            Some("-o") => meant.extend([arg].into_iter().chain(args.next())),
            _ => meant.push(arg),
        }
    }
    Ok(Some((meant, unknown)))
}

/// The exit code of a helper. It has the meaning that mount(8) has for it, because mount(8) exits with it.
pub fn exit_code(error: &StartError) -> u8 {
    const USAGE: u8 = 1;
    const SYSTEM: u8 = 2;
    const FAILED: u8 = 32;
    match error {
        StartError::Usage(error) if error.exit_code() == 0 => 0,
        // Of the verbs, none runs here: it is a mount in another namespace.
        StartError::Usage(_) | StartError::Verb(_) => USAGE,
        StartError::SourceForbidden(_)
        | StartError::MountPointForbidden(_)
        | StartError::OthersForbidden => USAGE,
        StartError::System(..) | StartError::FewDescriptors { .. } => SYSTEM,
        _ => FAILED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &str) -> Vec<OsString> {
        words.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn options_of_mount_are_not_those_of_mmfs() {
        for program in ["mount.mmfs", "/sbin/mount.mmfs", "/sbin/mount.fuse.mmfs"] {
            assert!(is_helper(&words(&format!("{program} /s /m"))));
        }
        for program in ["mmfs", "/usr/bin/mmfs", "/mount.d/mmfs"] {
            assert!(!is_helper(&words(&format!("{program} /s /m"))));
        }
        let meant = |line| command_line(words(line)).expect("taken");
        for (line, unknown) in [
            ("mount.mmfs /s /m -o rw,user", Unknown::Refused),
            ("mount.mmfs /s /m -n -v -s -o rw,user", Unknown::Ignored),
            ("mount.mmfs /s /m -o rw,user -t fuse.mmfs", Unknown::Refused),
        ] {
            let args = words("mount.mmfs /s /m -o rw,user");
            assert_eq!(meant(line), Some((args, unknown)));
        }
        assert_eq!(meant("mount.mmfs /s /m -f -o rw"), None);
        assert_eq!(
            meant("mount.mmfs /s /m -o -f"),
            Some((words("mount.mmfs /s /m -o -f"), Unknown::Refused))
        );
        assert!(command_line(words("mount.mmfs /s /m -N /proc/1/ns/mnt")).is_err());
    }
}
