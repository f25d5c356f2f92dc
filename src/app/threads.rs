//! Parts of the control plane with a thread and a runtime of their own.

use std::io;
use std::thread;

use tokio::sync::oneshot;

/// A part that runs on its own thread.
#[derive(Debug)]
pub(super) struct ThreadHandle {
    ended: oneshot::Receiver<()>,
}

impl ThreadHandle {
    /// Runs `work` and the tasks it spawns on a thread called `name`, until `work` ends.
    ///
    /// # Errors
    ///
    /// If the runtime or the thread cannot be started.
    pub(super) fn start(
        name: &str,
        work: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<ThreadHandle> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .thread_name(format!("{name}-blocking"))
            .build()?;
        let (end, ended) = oneshot::channel();
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                runtime.block_on(work);
                // The end does not wait for blocking tasks, such as reading a file.
                runtime.shutdown_background();
                let _ = end.send(());
            })?;
        Ok(ThreadHandle { ended })
    }

    /// Waits until the work has ended or panicked.
    pub(super) async fn ended(self) {
        let _ = self.ended.await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_work_is_done_elsewhere_and_waited_for_also_when_it_panics() {
        let (tell, told) = oneshot::channel();
        let here = thread::current().id();
        let work = async move {
            let there = tokio::spawn(async { thread::current().id() })
                .await
                .unwrap();
            tell.send(there).unwrap();
        };
        ThreadHandle::start("apart", work).unwrap().ended().await;
        assert_ne!(told.await.unwrap(), here);
        let panics = ThreadHandle::start("apart", async { panic!("as it should") }).unwrap();
        panics.ended().await;
    }
}
