//! The socket of a connection, whatever it speaks below HTTP.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A connection that was accepted. One type for all listeners, and no trait object, so that what is
/// written in several pieces is still given to the operating system at once.
#[derive(Debug)]
pub enum Stream {
    /// Cleartext.
    Plain(TcpStream),
}

impl Stream {
    /// The socket itself, for its options.
    pub fn socket(&self) -> SockRef<'_> {
        match self {
            Stream::Plain(stream) => SockRef::from(stream),
        }
    }

    /// Whether something has come that nobody has read.
    pub fn has_unread(&self) -> bool {
        match self {
            Stream::Plain(stream) => matches!(stream.try_read(&mut [0]), Ok(1..)),
        }
    }

    /// Has the end of the connection look like a fault to the peer.
    ///
    /// # Errors
    ///
    /// What the operating system says.
    pub fn set_zero_linger(&self) -> io::Result<()> {
        match self {
            Stream::Plain(stream) => stream.set_zero_linger(),
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Stream::Plain(stream) => stream.as_fd(),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, into),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, pieces),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Stream::Plain(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
