//! The command line.

use std::path::PathBuf;

use crate::link::Target;

/// What `--help` and a wrong command line print.
pub const USAGE: &str = "\
usage: drystone-fuse --socket PATH --export NAME --mount DIR --control PATH
                     [--read-only] [--trim-zeroes]

Shows the NBD export NAME on the unix socket PATH as the file DIR/volume.
  --control PATH  unix socket for the commands stat, resize BYTES, reconnect, quit
  --read-only     refuse every change
  --trim-zeroes   what this server trimmed reads as zeroes, so a hole may be a trim
";

/// The command line, parsed.
#[derive(Debug)]
pub struct Args {
    /// Where the export is.
    pub target: Target,
    /// An existing folder to mount on.
    pub mount: PathBuf,
    /// The control socket to make.
    pub control: PathBuf,
    /// Refuse every change.
    pub read_only: bool,
    /// Holes may be trims.
    pub trim_zeroes: bool,
}

impl Args {
    /// Parses the words after the program's name.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub fn parse(words: impl IntoIterator<Item = String>) -> Result<Self, String> {
        let (mut socket, mut export, mut mount, mut control) = (None, None, None, None);
        let (mut read_only, mut trim_zeroes) = (false, false);
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            let slot = match word.as_str() {
                "--socket" => &mut socket,
                "--export" => &mut export,
                "--mount" => &mut mount,
                "--control" => &mut control,
                "--read-only" => {
                    read_only = true;
                    continue;
                }
                "--trim-zeroes" => {
                    trim_zeroes = true;
                    continue;
                }
                _ => return Err(format!("unknown argument {word}")),
            };
            *slot = Some(words.next().ok_or(format!("{word} needs a value"))?);
        }
        let need = |value: Option<String>, name| value.ok_or(format!("{name} is missing"));
        let target = Target { socket: need(socket, "--socket")?.into(), export: need(export, "--export")? };
        let mount = need(mount, "--mount")?.into();
        let control = need(control, "--control")?.into();
        Ok(Self { target, mount, control, read_only, trim_zeroes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Args, String> {
        Args::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn a_whole_command_line_is_understood() {
        let line = "--socket s --export e --mount m --control c --trim-zeroes";
        let args = parse(line).unwrap();
        assert_eq!(args.target.export, "e");
        assert!(args.trim_zeroes && !args.read_only);
    }

    #[test]
    fn what_is_missing_or_unknown_is_named() {
        assert_eq!(parse("--socket s --export e").unwrap_err(), "--mount is missing");
        assert_eq!(parse("--socket").unwrap_err(), "--socket needs a value");
        assert_eq!(parse("--frobnicate").unwrap_err(), "unknown argument --frobnicate");
    }
}
