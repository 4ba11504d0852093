// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lines at the control socket: each is a request that is written and read back the same, or an
//! error. What a request would change is judged as a server judges it.

#[path = "../../src/bin/ublk-ramdisk/server/protocol.rs"]
#[allow(dead_code)] // The server's part of it.
mod protocol;

use protocol::Request;
use ublk_ramdisk::config::space::SpaceConfig;
use ublk_ramdisk::config::Backing;
use ublk_ramdisk::pressure::Settings;

/// Size of the disk whose settings a line would change, in bytes.
const SIZE: u64 = 1 << 30;

/// Reads a line. Returns true if it is a request.
pub fn read(line: &[u8]) -> bool {
    let Ok(request) = serde_json::from_slice::<Request>(line) else {
        return false;
    };
    let written = serde_json::to_string(&request).expect("a request can be written");
    assert!(!written.contains('\n'), "a request is one line: {written}");
    let again: Request = serde_json::from_str(&written).expect("what was written can be read");
    assert_eq!(again, request);
    if let Request::Set(options) = request {
        let settings = options.pressure.applied_to(&Settings::default());
        let _ = settings.check();
        let _ = settings.to_string();
        let space = SpaceConfig::default();
        let _ = options.memory.applied_to(&space, SIZE, &Backing::Memfd);
    }
    true
}
