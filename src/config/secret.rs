//! Values that are never printed, and where they are read from.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;

/// How every secret looks when printed.
pub(crate) const REDACTED: &str = "***";

/// A secret file above this many bytes is not a password but a mistake.
const FILE_LIMIT: u64 = 64 * 1024;

/// A password. Prints as `***`, also in `Debug`.
///
/// Equality is for tests and configuration, not for checking what a client sent: it takes a time that depends on the
/// bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Box<[u8]>);

impl Secret {
    /// Keeps `bytes` as a secret.
    pub fn new(bytes: impl Into<Box<[u8]>>) -> Self {
        Self(bytes.into())
    }

    /// The bytes themselves, for the login command and nothing else.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

/// Where a secret comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretSource {
    /// Written in the configuration itself.
    Inline(Secret),
    /// In a file, which may change while the program runs. Relative to the working directory.
    File(PathBuf),
}

impl SecretSource {
    /// The secret as it is now. A file is read each time, so that a rotated secret serves the next login; one line end
    /// after it is dropped.
    ///
    /// # Errors
    /// When the file cannot be read, is empty, or has more than 64 KiB. The error names the file.
    pub fn read(&self) -> io::Result<Secret> {
        match self {
            Self::Inline(secret) => Ok(secret.clone()),
            Self::File(path) => {
                read_file(path).map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))
            }
        }
    }
}

fn read_file(path: &PathBuf) -> io::Result<Secret> {
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_LIMIT + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_LIMIT {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the file is larger than 64 KiB"));
    }
    let line_end = if bytes.ends_with(b"\r\n") { 2 } else { usize::from(bytes.ends_with(b"\n")) };
    bytes.truncate(bytes.len() - line_end);
    if bytes.is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the file is empty"));
    }
    Ok(Secret::new(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_prints_as_stars() {
        let source = SecretSource::Inline(Secret::new(*b"hunter2"));
        assert_eq!(format!("{source:?}"), "Inline(***)");
        assert_eq!(Secret::new(*b"hunter2").to_string(), "***");
    }

    #[test]
    fn a_file_is_read_again_each_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        let source = SecretSource::File(path.clone());
        let cases: [(&[u8], &[u8]); 4] =
            [(b"one", b"one"), (b"two\n", b"two"), (b"three\r\n", b"three"), (b"x\n\n", b"x\n")];
        for (written, read) in cases {
            std::fs::write(&path, written).unwrap();
            assert_eq!(source.read().unwrap().expose(), read);
        }
    }

    #[test]
    fn a_bad_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        let reason = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            SecretSource::File(path.clone()).read().unwrap_err().to_string()
        };
        assert_eq!(reason(b"\n"), format!("{}: the file is empty", path.display()));
        let large = reason(&vec![b'x'; 64 * 1024 + 1]);
        assert!(large.ends_with("the file is larger than 64 KiB"), "{large}");
        let absent = SecretSource::File(dir.path().join("absent")).read().unwrap_err();
        assert_eq!(absent.kind(), io::ErrorKind::NotFound);
        assert!(absent.to_string().contains("absent"));
    }
}
