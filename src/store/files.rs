//! Detects whether the files of an open database are still those that a restart would open.
//!
//! SQLite keeps writing to a file that was removed or moved, and reports a commit. So the files are
//! compared with their names before a change is written and again before it is acknowledged.

use std::fmt::{self, Display, Formatter};
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The database.
pub(super) const DATABASE: &str = "weighbridge.db";
/// SQLite's write-ahead log.
pub(super) const LOG: &str = "weighbridge.db-wal";

/// The identity of a file, independent of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileIdentity {
    device: u64,
    inode: u64,
}

impl FileIdentity {
    pub(super) fn of(metadata: &Metadata) -> FileIdentity {
        FileIdentity {
            device: metadata.dev(),
            inode: metadata.ino(),
        }
    }

    /// `None` if no file has this name.
    fn at(path: &Path) -> io::Result<Option<FileIdentity>> {
        match fs::metadata(path) {
            Ok(metadata) => Ok(Some(FileIdentity::of(&metadata))),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

/// The files of an open database.
#[derive(Debug)]
pub(super) struct DatabaseFiles {
    directory: PathBuf,
    files: Vec<(&'static str, FileIdentity)>,
    identity: FileIdentity,
    /// The database. Must not be closed while SQLite has it open: that would release SQLite's
    /// locks.
    database: File,
}

/// A file that is no longer where it was.
#[derive(Debug)]
pub(super) enum MissingFile {
    /// The directory is gone.
    Directory,
    /// The file no longer exists under this name.
    Gone(&'static str),
    /// Another file has this name.
    Replaced(&'static str),
    /// The file cannot be checked.
    Unknown(&'static str, io::Error),
}

impl DatabaseFiles {
    /// Notes the files `names` in `directory`, which must all exist; the first is the database.
    pub(super) fn note(directory: &Path, names: [&'static str; 3]) -> io::Result<DatabaseFiles> {
        let mut files = Vec::new();
        for name in names {
            let missing = || io::Error::new(io::ErrorKind::NotFound, format!("{name} is missing"));
            let identity = FileIdentity::at(&directory.join(name))?.ok_or_else(missing)?;
            files.push((name, identity));
        }
        let [database, ..] = names;
        let database = File::open(directory.join(database))?;
        Ok(DatabaseFiles {
            directory: directory.to_owned(),
            files,
            identity: FileIdentity::of(&database.metadata()?),
            database,
        })
    }

    /// The identity of the database file.
    pub(super) fn database(&self) -> FileIdentity {
        self.identity
    }

    /// Checks that all files are still there.
    pub(super) fn check(&self) -> Result<(), MissingFile> {
        for (name, identity) in &self.files {
            match FileIdentity::at(&self.directory.join(name)) {
                Ok(Some(there)) if there == *identity => {}
                Ok(Some(_)) => return Err(MissingFile::Replaced(name)),
                Ok(None) if !self.directory.is_dir() => return Err(MissingFile::Directory),
                Ok(None) => return Err(MissingFile::Gone(name)),
                Err(error) => return Err(MissingFile::Unknown(name, error)),
            }
        }
        Ok(())
    }

    /// Whether the database file has no name left: it was removed, not moved.
    pub(super) fn is_removed(&self) -> bool {
        self.database
            .metadata()
            .is_ok_and(|metadata| metadata.nlink() == 0)
    }
}

impl Display for MissingFile {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        match self {
            MissingFile::Directory => formatter.write_str("the directory is gone"),
            MissingFile::Gone(name) => write!(formatter, "{name} is gone"),
            MissingFile::Replaced(name) => write!(formatter, "{name} was replaced by another file"),
            MissingFile::Unknown(name, error) => {
                write!(formatter, "{name} cannot be checked: {error}")
            }
        }
    }
}
