// SPDX-License-Identifier: MIT OR Apache-2.0
//! What keeps our control plane off the `libublk` crate: the features that it
//! does not let through. These tests fail on the day that a newer version does,
//! so that the decision is looked at again; ublk-ramdisk/doc/design.md has the reason.
//!
//! None of them needs the driver. The crate looks at the flags before it looks
//! for the driver, and without `UBLK_DEV_F_ADD_DEV` it makes no device where
//! there is one.

use libublk::ctrl::{UblkCtrl, UblkCtrlBuilder};
use libublk::{sys, UblkError, UblkFlags};

/// Does the crate refuse a device with this flag, whatever the kernel says?
fn refuses(flag: u64) -> bool {
    let asked = UblkCtrlBuilder::default()
        .dev_flags(UblkFlags::empty())
        .ctrl_flags(flag)
        .build();
    matches!(asked, Err(UblkError::InvalidVal))
}

#[test]
fn f18_libublk_refuses_the_flags_our_control_plane_needs() {
    for (flag, name) in [
        (1 << 9, "USER_RECOVERY_FAIL_IO"),
        (1 << 17, "SAFE_STOP_DEV"),
        (1 << 18, "NO_AUTO_PART_SCAN"),
        (1 << 19, "SHMEM_ZC"),
    ] {
        assert!(
            refuses(flag),
            "libublk lets UBLK_F_{name} through now: is it time to build on it?"
        );
    }
}

#[test]
fn f18_libublk_accepts_the_flags_it_accepted() {
    let accepted: Vec<u32> = (0..64).filter(|bit| !refuses(1 << bit)).collect();
    assert_eq!(
        accepted,
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 15],
        "libublk's set of flags has changed: look at F18 again"
    );
}

/// What a call comes to when the crate has no function of that name.
#[derive(Debug, PartialEq)]
struct NotThere;

/// An inherent function of `UblkCtrl` would be taken before one of this trait,
/// and the test below would not compile any more.
trait Fallback {
    fn try_stop_dev(&self) -> NotThere {
        NotThere
    }
    fn safe_stop_dev(&self) -> NotThere {
        NotThere
    }
}

impl Fallback for UblkCtrl {}

#[test]
fn f18_libublk_has_no_call_for_try_stop_dev() {
    // It knows the number of the command from the kernel's header.
    assert_eq!(sys::UBLK_U_CMD_TRY_STOP_DEV & 0xff, 0x17);
    let _: [fn(&UblkCtrl) -> NotThere; 2] = [UblkCtrl::try_stop_dev, UblkCtrl::safe_stop_dev];
}
