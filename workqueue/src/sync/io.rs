// SPDX-License-Identifier: MIT OR Apache-2.0
//! Readers and writers whose calls are declared.

use crate::pool::concurrency::blocking;
use std::io::{self, IoSlice, IoSliceMut, Read, Seek, SeekFrom, Write};

/// A reader or writer whose every call is a [`crate::blocking`] section.
///
/// There is no way to ask a file in general whether a call would wait, so this one cannot try
/// first: give it few large calls rather than many small ones. Where [`super::poll()`] can tell
/// (sockets, pipes), poll first and use the file plainly.
///
/// ```
/// use std::io::Read;
/// let mut text = String::new();
/// workqueue::sync::Declared(std::fs::File::open("/proc/version")?).read_to_string(&mut text)?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Declared<T>(pub T);

impl<T: Read> Read for Declared<T> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        blocking(|| self.0.read(buf))
    }

    fn read_vectored(&mut self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        blocking(|| self.0.read_vectored(bufs))
    }

    fn read_to_end(&mut self, buf: &mut Vec<u8>) -> io::Result<usize> {
        blocking(|| self.0.read_to_end(buf))
    }

    fn read_to_string(&mut self, buf: &mut String) -> io::Result<usize> {
        blocking(|| self.0.read_to_string(buf))
    }

    fn read_exact(&mut self, buf: &mut [u8]) -> io::Result<()> {
        blocking(|| self.0.read_exact(buf))
    }
}

impl<T: Write> Write for Declared<T> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        blocking(|| self.0.write(buf))
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        blocking(|| self.0.write_vectored(bufs))
    }

    fn write_all(&mut self, buf: &[u8]) -> io::Result<()> {
        blocking(|| self.0.write_all(buf))
    }

    fn flush(&mut self) -> io::Result<()> {
        blocking(|| self.0.flush())
    }
}

impl<T: Seek> Seek for Declared<T> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        blocking(|| self.0.seek(to))
    }
}
