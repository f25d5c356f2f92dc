//! Watches the configuration file for changes.
//!
//! It watches the directory, since editors replace a file by renaming and Kubernetes swaps a
//! symbolic link beside it, which a watch on the file would miss. Only a change of the content
//! counts. Where the kernel does not notify (network file systems, too many watches), a slow poll
//! detects changes.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};
use std::{io, thread};

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher};

/// Debounce time: the directory must be quiet this long, since a save causes several events.
const QUIET: Duration = Duration::from_millis(200);

/// The file is read after this time even if the directory is never quiet.
const RESTLESS: Duration = Duration::from_secs(2);

/// Polling interval without events.
const POLL: Duration = Duration::from_secs(30);

/// Watches a file until it is dropped.
#[derive(Debug)]
pub struct FileWatch {
    events: Sender<Signal>,
    /// Kept alive to receive events; `None` when only polling works.
    _watcher: Option<RecommendedWatcher>,
}

#[derive(Debug)]
enum Signal {
    Touched,
    Stop,
}

/// Calls `changed` on a separate thread whenever the content of the file at `path` changes.
///
/// # Errors
///
/// If the thread cannot be started. A missing or unreadable file is no error: it may appear later.
pub fn watch(path: &Path, changed: impl FnMut() + Send + 'static) -> io::Result<FileWatch> {
    start(path, POLL, true, changed)
}

fn start(
    path: &Path,
    poll: Duration,
    notified: bool,
    changed: impl FnMut() + Send + 'static,
) -> io::Result<FileWatch> {
    let (events, signals) = channel();
    let watcher = if notified {
        directory(path, events.clone())
    } else {
        None
    };
    let mut looker = Looker {
        path: path.to_owned(),
        poll,
        known: super::read_text(path).ok(),
        signals,
        changed,
    };
    thread::Builder::new()
        .name("config-watch".into())
        .spawn(move || looker.run())?;
    Ok(FileWatch {
        events,
        _watcher: watcher,
    })
}

impl Drop for FileWatch {
    fn drop(&mut self) {
        // Fails only if the thread has already ended.
        self.events.send(Signal::Stop).ok();
    }
}

fn directory(path: &Path, events: Sender<Signal>) -> Option<RecommendedWatcher> {
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let directory = parent.unwrap_or(Path::new("."));
    let watched = notify::recommended_watcher(move |event: notify::Result<Event>| {
        if event.map_or(true, |event| matters(event.kind)) {
            events.send(Signal::Touched).ok();
        }
    })
    .and_then(|mut watcher| {
        watcher.watch(directory, RecursiveMode::NonRecursive)?;
        Ok(watcher)
    });
    watched
        .inspect_err(|error| {
            let directory = directory.display();
            let seconds = POLL.as_secs();
            tracing::warn!(%error, "cannot watch {directory}; polling every {seconds} s");
        })
        .ok()
}

/// Ignores read accesses: otherwise each read of the file would trigger the next one.
fn matters(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(access) => access == AccessKind::Close(AccessMode::Write),
        _ => true,
    }
}

struct Looker<F> {
    path: PathBuf,
    poll: Duration,
    /// The last content; `None` until the file could be read.
    known: Option<String>,
    signals: Receiver<Signal>,
    changed: F,
}

impl<F: FnMut()> Looker<F> {
    fn run(&mut self) {
        loop {
            match self.signals.recv_timeout(self.poll) {
                Ok(Signal::Touched) => {
                    if !self.settle() {
                        return;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Ok(Signal::Stop) | Err(RecvTimeoutError::Disconnected) => return,
            }
            self.look();
        }
    }

    /// Waits until the directory is quiet; false if the watch was dropped.
    fn settle(&self) -> bool {
        let began = Instant::now();
        while began.elapsed() < RESTLESS {
            match self.signals.recv_timeout(QUIET) {
                Ok(Signal::Touched) => {}
                Err(RecvTimeoutError::Timeout) => return true,
                Ok(Signal::Stop) | Err(RecvTimeoutError::Disconnected) => return false,
            }
        }
        true
    }

    /// An unreadable file counts as unchanged: a swap may be in progress, and a deleted file has no
    /// content to load.
    fn look(&mut self) {
        let Ok(text) = super::read_text(&self.path) else {
            return;
        };
        if self.known.as_ref() != Some(&text) {
            self.known = Some(text);
            (self.changed)();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    fn watched(path: &Path, poll: Duration, notified: bool) -> (FileWatch, Receiver<()>) {
        let (told, changes) = channel();
        let watch = start(path, poll, notified, move || {
            told.send(()).ok();
        });
        (watch.unwrap(), changes)
    }

    #[test]
    fn a_rewritten_and_a_replaced_file_are_reported_once_each() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("weighbridge.yaml");
        fs::write(&path, "a").unwrap();
        let (_watch, changes) = watched(&path, LONG, true);
        fs::write(&path, "b").unwrap();
        changes.recv_timeout(LONG).unwrap();
        let beside = directory.path().join("new");
        fs::write(&beside, "c").unwrap();
        fs::rename(&beside, &path).unwrap();
        changes.recv_timeout(LONG).unwrap();
        assert!(changes.try_recv().is_err());
    }

    #[test]
    fn a_symlink_swap_as_by_kubernetes_is_reported() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        for (version, text) in [("..v1", "a"), ("..v2", "b")] {
            fs::create_dir(at(version)).unwrap();
            fs::write(at(version).join("w.yaml"), text).unwrap();
        }
        symlink("..v1", at("..data")).unwrap();
        symlink("..data/w.yaml", at("w.yaml")).unwrap();
        let (_watch, changes) = watched(&at("w.yaml"), LONG, true);
        symlink("..v2", at("..data_tmp")).unwrap();
        fs::rename(at("..data_tmp"), at("..data")).unwrap();
        changes.recv_timeout(LONG).unwrap();
    }

    #[test]
    fn the_poll_detects_changes_without_notifications_and_ignores_equal_content() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("weighbridge.yaml");
        fs::write(&path, "a").unwrap();
        let (watch, changes) = watched(&path, Duration::from_millis(1), false);
        for text in ["a", "b", "b"] {
            fs::write(directory.path().join("new"), text).unwrap();
            fs::rename(directory.path().join("new"), &path).unwrap();
        }
        changes.recv_timeout(LONG).unwrap();
        drop(watch);
        assert_eq!(changes.iter().count(), 0);
    }

    #[test]
    fn the_thread_ends_with_the_watch() {
        let directory = tempfile::tempdir().unwrap();
        let (watch, changes) = watched(&directory.path().join("none.yaml"), LONG, true);
        drop(watch);
        assert_eq!(
            changes.recv_timeout(LONG),
            Err(RecvTimeoutError::Disconnected)
        );
    }
}
