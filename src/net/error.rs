//! What an error of a socket says.

use std::io;

/// Whether a connection failed for want of something on this machine (file descriptors, ports,
/// memory), so that it says nothing of the endpoint.
pub(crate) fn is_local(error: &io::Error) -> bool {
    use libc::{EADDRNOTAVAIL, EAGAIN, EMFILE, ENFILE, ENOBUFS, ENOMEM};
    let code = error.raw_os_error();
    code.is_some_and(|code| {
        [EMFILE, ENFILE, EADDRNOTAVAIL, ENOBUFS, ENOMEM, EAGAIN].contains(&code)
    })
}
