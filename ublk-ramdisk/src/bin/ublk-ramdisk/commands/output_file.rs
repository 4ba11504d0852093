// SPDX-License-Identifier: MIT OR Apache-2.0
//! A file that a command writes its result to, as the user named it.
//!
//! Only a regular file that the command itself has made is ever removed. A regular file that was
//! there is replaced when there is something to put in. Anything else (a FIFO, a device node, a
//! link to an open pipe) is a stream: opened once, written from begin to end, never cut and never
//! removed.

use std::fs::{self, File};
use std::io::{self, BufWriter, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use ublk_ramdisk::error::Failure;
use ublk_ramdisk::sys::remove;

/// A file that can be written, but has not been touched yet.
#[derive(Debug)]
pub struct OutputFile {
    path: PathBuf,
    /// A stream stays open: its reader would take the end of the first opening as the end of all.
    stream: Option<File>,
}

/// What a path has turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// A regular file, made by the opening.
    Made,
    /// A regular file that was there.
    Found,
    /// Something else.
    Stream,
}

impl OutputFile {
    /// Opens the file and leaves a regular one as it was: a complaint comes before the work, not
    /// after it. Waits for the reader of a FIFO.
    pub fn check(path: &Path) -> Result<OutputFile, Failure> {
        let (file, origin) = open(path).map_err(|error| cannot_write(path, &error))?;
        // Made again by `begin`, if the work comes to a result.
        if origin == Origin::Made {
            let _ = remove::this_file(path, &file);
        }
        Ok(OutputFile {
            path: path.to_owned(),
            stream: (origin == Origin::Stream).then_some(file),
        })
    }

    /// Makes or empties the file, now that there is something to put in.
    pub fn begin(self) -> Result<Writing, Failure> {
        let OutputFile { path, stream } = self;
        let opened = match stream {
            Some(file) => Ok((file, Origin::Stream)),
            None => open(&path).and_then(|(file, origin)| {
                if origin == Origin::Found {
                    file.set_len(0)?;
                }
                Ok((file, origin))
            }),
        };
        let (file, origin) = opened.map_err(|error| cannot_write(&path, &error))?;
        Ok(Writing {
            path,
            file: BufWriter::with_capacity(
                1 << 16,
                Sink {
                    file,
                    origin,
                    unread: false,
                },
            ),
            done: false,
        })
    }
}

fn cannot_write(path: &Path, error: &io::Error) -> Failure {
    Failure::runtime(format!("cannot write {}: {error}", path.display()))
}

/// Opens for writing and cuts nothing. The first try makes the file, which tells one that is made
/// from one that is found, without a race.
fn open(path: &Path) -> io::Result<(File, Origin)> {
    let mut options = File::options();
    options.write(true).custom_flags(libc::O_NOCTTY);
    match options.clone().create_new(true).open(path) {
        Ok(file) => return Ok((file, Origin::Made)),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    let file = options.open(path).map_err(|error| {
        let is_link = fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink());
        if is_link && error.kind() == ErrorKind::NotFound {
            return io::Error::new(error.kind(), "it is a link to a file that does not exist");
        }
        error
    })?;
    let is_file = file.metadata()?.is_file();
    Ok((
        file,
        if is_file {
            Origin::Found
        } else {
            Origin::Stream
        },
    ))
}

/// A file while it is written. Dropped before [`Writing::finish`], it leaves no part of a result: a
/// file that was made is removed, one that was found is empty.
#[derive(Debug)]
pub struct Writing {
    path: PathBuf,
    /// Dropped after `drop` below has run, and then writes the rest of its buffer.
    file: BufWriter<Sink>,
    /// The result is whole: dropping leaves the file as it is.
    done: bool,
}

impl Writing {
    /// Leaves a hole, which reads as zeros. In a stream they are written.
    pub fn skip(&mut self, bytes: u64) -> io::Result<()> {
        if self.file.get_ref().origin == Origin::Stream {
            return io::copy(&mut io::repeat(0).take(bytes), self).map(drop);
        }
        self.file.flush()?;
        let file = &mut self.file.get_mut().file;
        let end = file.seek(SeekFrom::Current(bytes as i64))?;
        file.set_len(end)
    }

    /// The result is whole.
    pub fn finish(mut self) -> Result<(), Failure> {
        self.file
            .flush()
            .map_err(|error| cannot_write(&self.path, &error))?;
        self.done = true;
        Ok(())
    }

    /// The failure that an error of writing is.
    pub fn failed(&self, error: &io::Error) -> Failure {
        cannot_write(&self.path, error)
    }
}

impl Write for Writing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        let sink = self.file.get_mut();
        let _ = match sink.origin {
            Origin::Made => remove::this_file(&self.path, &sink.file),
            Origin::Found => sink.file.set_len(0),
            Origin::Stream => Ok(()),
        };
        // The buffer is dropped next, and would write what it still holds.
        sink.unread = true;
    }
}

/// The file itself.
#[derive(Debug)]
struct Sink {
    file: File,
    origin: Origin,
    /// Nobody reads any more: what is written goes nowhere.
    unread: bool,
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.unread {
            return Ok(bytes.len());
        }
        match self.file.write(bytes) {
            // As on standard output: a reader that went away is no error.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                self.unread = true;
                Ok(bytes.len())
            }
            written => written,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::stat::{makedev, mknod, Mode, SFlag};
    use std::os::unix::fs::{symlink, FileTypeExt};
    use ublk_ramdisk::sys::scratch::Scratch;

    fn begun(path: &Path) -> Writing {
        let mut writing = OutputFile::check(path).and_then(OutputFile::begin).unwrap();
        writing.write_all(b"a part").unwrap();
        writing
    }

    #[test]
    fn l1_a_file_that_was_made_is_removed_unless_it_is_whole() {
        let place = Scratch::new("ublk-out-made").unwrap();
        let path = place.0.join("trace");
        OutputFile::check(&path).unwrap();
        assert!(!path.exists(), "looking leaves nothing");
        drop(begun(&path));
        assert!(!path.exists());
        begun(&path).finish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"a part");
    }

    #[test]
    fn l1_a_file_that_was_there_is_replaced_and_never_removed() {
        let place = Scratch::new("ublk-out-found").unwrap();
        let path = place.0.join("trace");
        fs::write(&path, "another trace").unwrap();
        OutputFile::check(&path).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"another trace");
        begun(&path).finish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"a part");
        drop(begun(&path));
        assert_eq!(fs::read(&path).unwrap(), b"");
    }

    #[test]
    fn l1_a_link_is_followed_and_one_to_nothing_is_refused() {
        let place = Scratch::new("ublk-out-link").unwrap();
        let (target, link) = (place.0.join("target"), place.0.join("link"));
        symlink(&target, &link).unwrap();
        let refused = OutputFile::check(&link).unwrap_err();
        assert!(refused.message.contains("a link to"), "{refused}");
        assert!(link.is_symlink() && !target.exists());
        fs::write(&target, "").unwrap();
        begun(&link).finish().unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"a part");
        drop(begun(&link));
        assert!(link.is_symlink() && target.exists());
    }

    #[test]
    fn l1_a_name_that_is_anothers_by_now_is_left() {
        let place = Scratch::new("ublk-out-renamed").unwrap();
        let (path, kept) = (place.0.join("trace"), place.0.join("kept"));
        let writing = begun(&path);
        fs::rename(&path, &kept).unwrap();
        fs::write(&path, "another's").unwrap();
        drop(writing);
        assert_eq!(fs::read(&path).unwrap(), b"another's");
    }

    #[test]
    fn l1_a_stream_is_opened_once_and_stays() {
        let place = Scratch::new("ublk-out-fifo").unwrap();
        let fifo = place.0.join("fifo");
        nix::unistd::mkfifo(&fifo, Mode::S_IRWXU).unwrap();
        for whole in [true, false] {
            let source = fifo.clone();
            let reader = std::thread::spawn(move || {
                let mut text = String::new();
                let read = File::open(source).and_then(|mut file| file.read_to_string(&mut text));
                read.map(|_| text)
            });
            let writing = begun(&fifo);
            match whole {
                true => writing.finish().unwrap(),
                false => drop(writing),
            }
            let text = reader.join().unwrap().unwrap();
            assert_eq!(text, if whole { "a part" } else { "" });
            let found = fs::symlink_metadata(&fifo).unwrap();
            assert!(found.file_type().is_fifo());
        }
    }

    #[test]
    fn l1_a_stream_whose_reader_has_gone_is_no_error() {
        let place = Scratch::new("ublk-out-gone").unwrap();
        let link = place.0.join("link");
        let (reader, writer) = io::pipe().unwrap();
        let number = std::os::fd::AsRawFd::as_raw_fd(&writer);
        symlink(format!("/proc/self/fd/{number}"), &link).unwrap();
        let mut writing = OutputFile::check(&link)
            .and_then(OutputFile::begin)
            .unwrap();
        drop((reader, writer));
        writing.write_all(&vec![0; 1 << 20]).unwrap();
        writing.finish().unwrap();
        assert!(link.is_symlink());
    }

    /// A node made here, with the numbers of the one that is always full.
    #[test]
    fn l1_a_device_node_stays() {
        let place = Scratch::new("ublk-out-node").unwrap();
        let node = place.0.join("full");
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        if let Err(error) = mknod(&node, SFlag::S_IFCHR, mode, makedev(1, 7)) {
            eprintln!("SKIP l1_a_device_node_stays: no right to make one: {error}");
            return;
        }
        // A file system may be mounted without devices: then it cannot even be opened.
        if let Ok(mut writing) = OutputFile::check(&node).and_then(OutputFile::begin) {
            writing.write_all(b"a part").unwrap();
            let failed = writing.finish().unwrap_err();
            assert!(failed.message.contains("No space"), "{failed}");
        }
        let found = fs::symlink_metadata(&node).unwrap();
        assert!(found.file_type().is_char_device());
    }
}
