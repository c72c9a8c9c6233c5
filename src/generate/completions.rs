//! Completions for bash, zsh and fish: clap_complete's for the options of what mounts and of each verb, and around
//! them what it does not know: that a verb is the first word, and where mmfs has mounts.

use clap::builder::{PossibleValue, Resettable};
use clap::{Arg, Command, CommandFactory, ValueHint};
use clap_complete::{Shell, generate};

use crate::cli::{Options, command};
use crate::mount_table::MARK;
use crate::version::VERSION;

/// The files, by name.
pub fn files() -> [(&'static str, String); 3] {
    [
        ("mmfs.bash", bash()),
        ("_mmfs", zsh()),
        ("mmfs.fish", fish()),
    ]
}

/// A verb as the generators get it: a command of its own. Its mounts have the hint of host names, whose place in the generated text is then
/// taken by the mount points.
struct Part {
    name: String,
    about: String,
    takes_mount: bool,
    command: Command,
}

impl Part {
    fn new(command: Command, name: &str) -> Self {
        let is_verb = name != "mount";
        let is_mount = |arg: &Arg| {
            let names = arg.get_value_names().unwrap_or_default();
            names
                .iter()
                .any(|name| name.split("|").any(|one| one == "MNT"))
                && (is_verb || !arg.is_positional())
        };
        let takes_mount = command.get_positionals().any(is_mount);
        let about = command.get_about().map(ToString::to_string);
        let shown = command.get_arguments().filter(|arg| !arg.is_hide_set());
        let marked = shown.map(|arg| match is_mount(arg) {
            true => arg.clone().value_hint(ValueHint::Hostname),
            false => arg.clone(),
        });
        // Hidden options are left out, and one of them may be what another overrides.
        let marked = marked.map(|arg| arg.overrides_with(Resettable::Reset));
        let marked = Command::new("mmfs")
            .version(VERSION)
            .disable_help_flag(true)
            .disable_version_flag(true)
            .args(marked);
        Self {
            name: name.into(),
            about: about.unwrap_or_default(),
            takes_mount,
            command: marked,
        }
    }

    /// The generated script, for a command of this name.
    fn script(&self, shell: Shell, name: &str) -> String {
        let mut script = Vec::new();
        // Without this, it would be named like the verb.
        let mut command = self.command.clone().name(name.to_owned()).bin_name(name);
        generate(shell, &mut command, name, &mut script);
        String::from_utf8(script).expect("a script is text")
    }

    /// The function of the generated script that completes.
    fn function(&self, shell: Shell) -> String {
        let name = format!("mmfs_{}", self.name);
        let script = self.script(shell, &name);
        let head = format!("_{name}() {{\n");
        let from = script.find(&head).expect("the function");
        let length = script[from..].find("\n}\n").expect("its end") + 3;
        script[from..from + length].into()
    }
}

/// What mounts, as a part called `mount`, which is no verb.
fn mounting() -> Part {
    Part::new(Options::command(), "mount")
}

fn verbs() -> Vec<Part> {
    let all = command();
    let verbs = all.get_subcommands();
    verbs
        .map(|verb| Part::new(verb.clone(), verb.get_name()))
        .collect()
}

fn names(parts: &[Part], separator: &str) -> String {
    let names: Vec<&str> = parts.iter().map(|part| part.name.as_str()).collect();
    names.join(separator)
}

fn functions(shell: Shell, verbs: &[Part]) -> String {
    let all = [mounting()];
    let all = all.iter().chain(verbs);
    let functions: Vec<String> = all.map(|part| part.function(shell)).collect();
    functions.join("\n")
}

/// Names of verbs that have a mount for an object.
fn with_mounts(verbs: &[Part], separator: &str) -> String {
    let names = verbs.iter().filter(|verb| verb.takes_mount);
    let names: Vec<&str> = names.map(|verb| verb.name.as_str()).collect();
    names.join(separator)
}

/// Options of these parts after which a value is typed, no object.
fn with_values(parts: &[Part]) -> String {
    let options = parts.iter().flat_map(|part| part.command.get_arguments());
    let options = options.filter(|arg| arg.get_action().takes_values());
    let names = options.flat_map(|arg| {
        let short = arg.get_short().map(|name| format!("-{name}"));
        let long = arg.get_long().map(|name| format!("--{name}"));
        short.into_iter().chain(long)
    });
    names.collect::<Vec<_>>().join(" ")
}

fn bash() -> String {
    let verbs = verbs();
    const SCRIPT: &str = r#"
# The mount points of mmfs, dead ones too. No filesystem is asked.
_mmfs_mount_points() {
    local point quoted rest
    while read -r _ _ _ _ point rest; do
        [[ $rest == *"MARK"* ]] || continue
        printf -v point %b "$point"
        printf -v quoted %q "$point"
        [[ $point == "$1"* || $quoted == "$1"* ]] && COMPREPLY+=("$quoted")
    done </proc/self/mountinfo
}

_mmfs() {
    local verb=${COMP_WORDS[1]} word replies=()
    if ((COMP_CWORD > 1)) && [[ " VERBS " == *" $verb "* ]]; then
        COMP_WORDS=("mmfs_$verb" "${COMP_WORDS[@]:2}")
        ((COMP_CWORD -= 1))
    else
        verb=mount
        COMP_WORDS[0]=mmfs_mount
    fi
    "_mmfs_$verb" "mmfs_$verb" "$2" "$3"
    # Placeholders of objects are no words to type.
    for word in "${COMPREPLY[@]}"; do
        [[ $word == [\<\[]* ]] || replies+=("$word")
    done
    COMPREPLY=("${replies[@]}")
    if [[ $verb == mount && $3 == --check || " WITH_MOUNTS " == *" $verb "* && $2 != -* && " WITH_VALUES " != *" $3 "* ]]; then
        COMPREPLY=()
        # No files, where there are no mounts.
        compopt +o default +o bashdefault 2>/dev/null
        _mmfs_mount_points "$2"
    elif [[ $verb == mount && $2 != -* && " = MOUNT_VALUES " != *" $3 "* ]]; then
        compopt -o filenames 2>/dev/null
        mapfile -t COMPREPLY < <(compgen -d -- "$2"; ((COMP_CWORD > 1)) || compgen -W "VERBS" -- "$2")
    fi
}

complete -F _mmfs -o bashdefault -o default mmfs
"#;
    let around = SCRIPT
        .replace("MARK", MARK)
        .replace("WITH_MOUNTS", &with_mounts(&verbs, " "))
        .replace("MOUNT_VALUES", &with_values(&[mounting()]))
        .replace("WITH_VALUES", &with_values(&verbs))
        .replace("VERBS", &names(&verbs, " "));
    functions(Shell::Bash, &verbs) + &around
}

fn zsh() -> String {
    let verbs = verbs();
    const SCRIPT: &str = r#"
# The mount points of mmfs, dead ones too. No filesystem is asked.
_mmfs_mount_points() {
    local line; local -a fields points
    while read -r line; do
        fields=(${(s: :)line})
        [[ $line == *MARK* ]] && points+=(${(g:o:)fields[5]})
    done </proc/self/mountinfo
    compadd -X 'mount point' -a points
}

_mmfs() {
    local -a verbs=(
DESCRIBED    )
    if ((CURRENT > 2)) && (($verbs[(I)$words[2]:*])); then
        local verb=$words[2]
        shift words
        ((CURRENT -= 1))
        _mmfs_$verb
    else
        ((CURRENT > 2)) || _describe verb verbs
        _mmfs_mount
    fi
}

if [ "$funcstack[1]" = "_mmfs" ]; then
    _mmfs "$@"
else
    compdef _mmfs mmfs
fi
"#;
    let line = |verb: &Part| format!("        '{}:{}'\n", verb.name, quoted(&verb.about));
    let described: String = verbs.iter().map(line).collect();
    let around = SCRIPT
        .replace("MARK", MARK)
        .replace("DESCRIBED", &described);
    let functions = functions(Shell::Zsh, &verbs).replace(":_hosts'", ":_mmfs_mount_points'");
    format!("#compdef mmfs\n\nautoload -U is-at-least\n\n{functions}{around}")
}

fn fish() -> String {
    let verbs = verbs();
    const SCRIPT: &str = r"# The mount points of mmfs, dead ones too. No filesystem is asked.
function __mmfs_mount_points
    string replace -rf '^\S+ \S+ \S+ \S+ (\S+) .*MARK.*' '$1' </proc/self/mountinfo | string unescape
end

function __mmfs_verb
    set -l words (commandline -opc)
    contains -- $words[2] $argv
end

function __mmfs_mounts
    not __mmfs_verb VERBS
end

";
    let mut script = SCRIPT
        .replace("MARK", MARK)
        .replace("VERBS", &names(&verbs, " "));
    for part in [mounting()].iter().chain(&verbs) {
        let name = format!("mmfs_{}", part.name);
        let condition = match part.name.as_str() {
            "mount" => "__mmfs_mounts".into(),
            verb => format!("'__mmfs_verb {verb}'"),
        };
        let generated = part.script(Shell::Fish, &name);
        let ours = format!("complete -c mmfs -n {condition} ");
        script += &generated
            .replace(&format!("complete -c {name} "), &ours)
            .replace("(__fish_print_hostnames)", "(__mmfs_mount_points)");
        if part.takes_mount {
            script += &format!("{ours}-f -a '(__mmfs_mount_points)'\n");
        }
        for object in part.command.get_positionals() {
            let values = object.get_possible_values();
            let values: Vec<&str> = values.iter().map(PossibleValue::get_name).collect();
            if !values.is_empty() {
                script += &format!("{ours}-f -a '{}'\n", values.join(" "));
            }
        }
    }
    for verb in &verbs {
        let (name, about) = (&verb.name, quoted(&verb.about));
        script += &format!("complete -c mmfs -n __fish_is_first_arg -a {name} -d '{about}'\n");
    }
    script
}

/// A text between single quotes.
fn quoted(text: &str) -> String {
    text.replace('\'', "\u{2019}")
}
