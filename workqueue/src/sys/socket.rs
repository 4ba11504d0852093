// SPDX-License-Identifier: MIT OR Apache-2.0
//! A listening Unix socket that only its owner can connect to, from the first moment.
//!
//! Used by [`crate::observe::control_socket`]. The standard library makes the socket and its file
//! in one step, with the permissions of the process's umask; until the mode is set afterwards,
//! others may connect. Linux gives the file the mode that the socket has when it is bound.

use std::fs::{File, Permissions};
use std::io::{self, ErrorKind};
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;

/// Connections that may wait for `accept`.
const BACKLOG: i32 = 128;

/// Listens at `path`, where there must be nothing yet; the file has this mode, less the umask.
pub(crate) fn listen(path: &Path, mode: u32) -> io::Result<UnixListener> {
    let (address, len) = address_of(path)?;
    // SAFETY: plain numbers in, a descriptor out.
    let fd = unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and has no other owner.
    let socket = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
    socket.set_permissions(Permissions::from_mode(mode))?;
    // SAFETY: the pointer and the length describe `address`, which is only read.
    let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len) };
    if bound < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: plain numbers in, nothing written.
    if unsafe { libc::listen(socket.as_raw_fd(), BACKLOG) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(UnixListener::from(OwnedFd::from(socket)))
}

fn address_of(path: &Path) -> io::Result<(libc::sockaddr_un, libc::socklen_t)> {
    let bytes = path.as_os_str().as_bytes();
    // SAFETY: a socket address is plain data for which all-zero is a valid value.
    let mut address: libc::sockaddr_un = unsafe { mem::zeroed() };
    let invalid = |why: String| Err(io::Error::new(ErrorKind::InvalidInput, why));
    if bytes.is_empty() || bytes.contains(&0) {
        return invalid("a socket's path is not empty and has no NUL".to_owned());
    }
    let most = address.sun_path.len() - 1;
    if bytes.len() > most {
        let len = bytes.len();
        return invalid(format!(
            "a socket's path has at most {most} bytes, not {len}"
        ));
    }
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    for (place, &byte) in address.sun_path.iter_mut().zip(bytes) {
        *place = byte as libc::c_char;
    }
    let len = mem::offset_of!(libc::sockaddr_un, sun_path) + bytes.len() + 1;
    let len = libc::socklen_t::try_from(len).expect("an address is short");
    Ok((address, len))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::net::UnixStream;

    #[cfg(not(miri))]
    #[test]
    fn the_file_has_its_mode_by_being_made() {
        let path = std::env::temp_dir().join(format!("wq-socket-{}", std::process::id()));
        let listener = listen(&path, 0o600).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        let caller = UnixStream::connect(&path).unwrap();
        drop((listener.accept().unwrap(), caller));
        assert_eq!(
            listen(&path, 0o600).unwrap_err().kind(),
            ErrorKind::AddrInUse
        );
        fs::remove_file(&path).unwrap();
        let long = path.join("x".repeat(200));
        for bad in [Path::new(""), Path::new("a\0b"), &long] {
            assert_eq!(
                listen(bad, 0o600).unwrap_err().kind(),
                ErrorKind::InvalidInput
            );
        }
    }
}
