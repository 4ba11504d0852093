// SPDX-License-Identifier: MIT OR Apache-2.0
//! The numbers and structures that the ublk driver and this server exchange.
//!
//! Everything here is fixed by the kernel's user ABI; the assertions at the end
//! refuse to compile a layout that differs. [`super::ctrl`] sends the control
//! commands, [`super::queue`] the I/O commands. Kernel counterpart:
//! `include/uapi/linux/ublk_cmd.h`.

use std::mem::size_of;

/// An ioctl number (`_IOC`): direction from bit 30, size of the argument from bit 16, the driver's
/// letter `u` from bit 8, and the command. The older plain numbers may be compiled out (F6).
const fn ioc(direction: u32, number: u32, size: usize) -> u32 {
    direction << 30 | (size as u32) << 16 | (b'u' as u32) << 8 | number
}

/// `_IOR('u', nr, struct ublksrv_ctrl_cmd)`.
const fn read_command(number: u32) -> u32 {
    ioc(2, number, size_of::<CtrlCmd>())
}

/// `_IOWR('u', nr, struct ublksrv_ctrl_cmd)`.
const fn write_command(number: u32) -> u32 {
    ioc(3, number, size_of::<CtrlCmd>())
}

/// `_IOWR('u', nr, struct ublksrv_io_cmd)`; the batch commands have the same size.
const fn io_command(number: u32) -> u32 {
    ioc(3, number, size_of::<IoCmd>())
}

// Control commands, sent to /dev/ublk-control; kernel names `UBLK_U_CMD_*`. What each may answer is
// in the table behind F8.
pub(crate) const CMD_GET_QUEUE_AFFINITY: u32 = read_command(0x01);
pub(crate) const CMD_GET_DEV_INFO: u32 = read_command(0x02);
pub(crate) const CMD_ADD_DEV: u32 = write_command(0x04);
pub(crate) const CMD_DEL_DEV: u32 = write_command(0x05);
pub(crate) const CMD_START_DEV: u32 = write_command(0x06);
pub(crate) const CMD_STOP_DEV: u32 = write_command(0x07);
pub(crate) const CMD_SET_PARAMS: u32 = write_command(0x08);
pub(crate) const CMD_GET_PARAMS: u32 = read_command(0x09);
pub(crate) const CMD_START_USER_RECOVERY: u32 = write_command(0x10);
pub(crate) const CMD_END_USER_RECOVERY: u32 = write_command(0x11);
// As GET_DEV_INFO, but by the path of the node, so it also works without privilege.
pub(crate) const CMD_GET_DEV_INFO2: u32 = read_command(0x12);
pub(crate) const CMD_GET_FEATURES: u32 = read_command(0x13);
pub(crate) const CMD_DEL_DEV_ASYNC: u32 = read_command(0x14);
pub(crate) const CMD_UPDATE_SIZE: u32 = write_command(0x15);
pub(crate) const CMD_TRY_STOP_DEV: u32 = write_command(0x17);

// Commands per tag, sent to /dev/ublkcN by the thread of the queue (F9). FETCH comes once;
// COMMIT_AND_FETCH commits a result and completes with the tag's next request.
pub(crate) const IO_FETCH: u32 = io_command(0x20);
pub(crate) const IO_COMMIT_AND_FETCH: u32 = io_command(0x21);
// Commands of BATCH_IO (7.0) for many tags each (F14).
pub(crate) const IO_PREP_BATCH: u32 = io_command(0x25);
pub(crate) const IO_COMMIT_BATCH: u32 = io_command(0x26);
pub(crate) const IO_FETCH_BATCH: u32 = io_command(0x27);

/// Result of a fetch that brings a request: its descriptor is in the tag's place. A fetch that the
/// driver ends brings -ENODEV instead.
pub(crate) const IO_RES_OK: i32 = 0;

/// Largest queue depth that the driver takes.
pub const MAX_QUEUE_DEPTH: u32 = 4096;
/// Largest buffer of one request that the file positions below can address.
pub const MAX_IO_BUFFER: u32 = 32 << 20;

/// The page of the architectures that this server is built for.
pub const PAGE_SIZE: u32 = 4096;

/// File offset of queue `q`'s descriptor area in `/dev/ublkcN`: each queue's
/// area is as large as one of the greatest depth.
pub(crate) fn descriptor_offset(queue: u16) -> u64 {
    u64::from(queue) * (MAX_QUEUE_DEPTH as u64 * size_of::<IoDesc>() as u64)
}

/// File position in `/dev/ublkcN` at which USER_COPY finds the data of a request.
///
/// The low 25 bits count bytes of the request, which gives [`MAX_IO_BUFFER`]; 16 bits for the tag
/// follow, then the queue. The descriptors are below the first of these positions.
pub(crate) fn user_copy_position(queue: u16, tag: u16) -> u64 {
    0x8000_0000 + (u64::from(queue) << 41 | u64::from(tag) << 25)
}

/// One control command, carried in the second half of a 128-byte SQE; `struct ublksrv_ctrl_cmd`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CtrlCmd {
    /// N of /dev/ublkcN; `u32::MAX` in ADD_DEV lets the driver choose.
    pub dev_id: u32,
    /// Always `u16::MAX` here: GET_QUEUE_AFFINITY has its queue in `data`.
    pub queue_id: u16,
    /// Bytes at `addr`.
    pub len: u16,
    /// Buffer in this process that the driver reads, fills, or both.
    pub addr: u64,
    /// The one number that some commands take: a process, a queue, a size in sectors.
    pub data: u64,
    /// GET_DEV_INFO2: bytes of the path at the start of the buffer, with its NUL.
    pub dev_path_len: u16,
    pub pad: u16,
    pub reserved: u32,
}

/// What the driver knows of a device; `struct ublksrv_ctrl_dev_info`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct DeviceInfo {
    /// Hardware queues, after the driver clamped them (A2).
    pub nr_hw_queues: u16,
    /// Tags of each queue.
    pub queue_depth: u16,
    /// A [`DeviceState`] by number.
    pub state: u16,
    pub(crate) pad0: u16,
    /// Largest request in bytes, after the driver rounded it.
    pub max_io_buf_bytes: u32,
    /// N of /dev/ublkcN and /dev/ublkbN.
    pub dev_id: u32,
    /// Process that serves the device, -1 if none.
    pub ublksrv_pid: i32,
    pub(crate) pad1: u32,
    /// Features that are in force; see [`super::features`].
    pub flags: u64,
    /// A word the driver keeps for the server.
    pub ublksrv_flags: u64,
    /// User that added the device.
    pub owner_uid: u32,
    /// Group that added the device.
    pub owner_gid: u32,
    pub(crate) reserved1: u64,
    pub(crate) reserved2: u64,
}

/// State of a device as the driver reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceState {
    /// No disk: not started, or stopped.
    Dead,
    /// /dev/ublkbN takes I/O.
    Live,
    /// The server is gone, I/O waits for a new one.
    Quiesced,
    /// The server is gone, I/O fails until there is a new one.
    FailIo,
    /// A state this program has no name for.
    Unknown(u16),
}

impl std::fmt::Display for DeviceState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            DeviceState::Dead => f.write_str("DEAD"),
            DeviceState::Live => f.write_str("LIVE"),
            DeviceState::Quiesced => f.write_str("QUIESCED"),
            DeviceState::FailIo => f.write_str("FAIL_IO"),
            DeviceState::Unknown(number) => write!(f, "UNKNOWN({number})"),
        }
    }
}

impl DeviceInfo {
    /// The state by name.
    pub fn device_state(&self) -> DeviceState {
        match self.state {
            0 => DeviceState::Dead,
            1 => DeviceState::Live,
            2 => DeviceState::Quiesced,
            3 => DeviceState::FailIo,
            other => DeviceState::Unknown(other),
        }
    }
}

pub(crate) const OP_READ: u8 = 0;
pub(crate) const OP_WRITE: u8 = 1;
pub(crate) const OP_FLUSH: u8 = 2;
pub(crate) const OP_DISCARD: u8 = 3;
pub(crate) const OP_WRITE_ZEROES: u8 = 5;

/// Flags of a descriptor, as masks of the whole word `op_flags`. Its low 8 bits are the operation,
/// one of the `OP_*` above.
pub(crate) const IO_F_NOUNMAP: u32 = 1 << 15;
pub(crate) const IO_F_FUA: u32 = 1 << 13;

/// One request as the driver describes it: operation and flags in one word, then where it begins and
/// how long it is, in sectors of 512 bytes; `struct ublksrv_io_desc`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct IoDesc {
    pub(crate) op_flags: u32,
    /// The driver lowers it when a copy moved only a part (F13).
    pub(crate) nr_sectors: u32,
    pub(crate) start_sector: u64,
    /// Not read: the server knows each tag's buffer.
    pub(crate) addr: u64,
}

/// Command of the per-tag paths: the result of the tag's last request, and where the driver finds the
/// tag's buffer, or 0; `struct ublksrv_io_cmd`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct IoCmd {
    pub q_id: u16,
    pub tag: u16,
    /// Bytes for READ and WRITE, 0 for others, or a negative errno (F11). FETCH passes 0.
    pub result: i32,
    /// The tag's buffer on the path `buffer`. MUST be 0 under USER_COPY.
    pub addr: u64,
}

/// Command of the batch path: how many elements there are, and how long each is. Where they are is in
/// the submission entry; `struct ublk_batch_io`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct BatchIo {
    pub q_id: u16,
    pub flags: u16,
    /// 0 in a fetch: its tags go to provided buffers.
    pub nr_elem: u16,
    /// Size of a [`BatchElem`], with its address if there are any; in a fetch that of a tag.
    pub elem_bytes: u8,
    pub reserved: u8,
    pub reserved2: u64,
}

/// Each element is followed by the address of its tag's buffer; of `BatchIo::flags`.
pub(crate) const BATCH_HAS_BUF_ADDR: u16 = 1 << 1;

/// One tag of a batch command, with the result of its last request; `struct ublk_elem_header`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct BatchElem {
    pub tag: u16,
    /// For registered buffers, which this server does not use.
    pub buf_index: u16,
    /// As in [`IoCmd`]. PREP passes 0.
    pub result: i32,
}

// Bits of `Params::types`: which parts of the struct count; kernel names `UBLK_PARAM_TYPE_*`.
pub(crate) const PARAM_BASIC: u32 = 1 << 0;
pub(crate) const PARAM_DISCARD: u32 = 1 << 1;
pub(crate) const PARAM_DMA_ALIGN: u32 = 1 << 4;

// Bits of `ParamBasic::attrs`; kernel names `UBLK_ATTR_*`.
pub(crate) const ATTR_READ_ONLY: u32 = 1 << 0;
pub(crate) const ATTR_ROTATIONAL: u32 = 1 << 1;
pub(crate) const ATTR_VOLATILE_CACHE: u32 = 1 << 2;
pub(crate) const ATTR_FUA: u32 = 1 << 3;

/// Size, blocks and kind of the disk. Lengths are in sectors of 512 bytes, block sizes are powers of
/// two; `struct ublk_param_basic`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct ParamBasic {
    pub(crate) attrs: u32,
    pub(crate) logical_bs_shift: u8,
    pub(crate) physical_bs_shift: u8,
    pub(crate) io_opt_shift: u8,
    pub(crate) io_min_shift: u8,
    /// Largest request.
    pub(crate) max_sectors: u32,
    /// 0: no boundary that a request may not cross.
    pub(crate) chunk_sectors: u32,
    pub(crate) dev_sectors: u64,
    pub(crate) virt_boundary_mask: u64,
}

/// What DISCARD and WRITE_ZEROES may cover: the unit in bytes, the most in sectors of 512 bytes;
/// `struct ublk_param_discard`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ParamDiscard {
    pub discard_alignment: u32,
    pub discard_granularity: u32,
    pub max_discard_sectors: u32,
    pub max_write_zeroes_sectors: u32,
    pub max_discard_segments: u16,
    pub reserved0: u16,
}

/// Limits of the pieces of a request's memory. This server sets none, but the kernel's struct has
/// them; `struct ublk_param_segment`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ParamSegment {
    pub seg_boundary_mask: u64,
    pub max_segment_size: u32,
    pub max_segments: u16,
    pub pad: [u8; 2],
}

/// All parameters of a device; `struct ublk_params` of kernel 6.16. An older
/// kernel copies as many bytes as it knows and clears the types it does not.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Params {
    /// Bytes of this struct as the sender knows it.
    pub(crate) len: u32,
    /// `PARAM_*` bits of the parts that count. The driver drops those it has no name for (F16).
    pub(crate) types: u32,
    pub(crate) basic: ParamBasic,
    pub(crate) discard: ParamDiscard,
    /// Never sent, as `zoned` and `segment`: here only for the layout.
    pub(crate) devt: [u32; 4],
    pub(crate) zoned: [u32; 8],
    /// A mask: 3 asks for buffers at multiples of 4 bytes.
    pub(crate) dma_align: [u32; 2],
    pub(crate) segment: ParamSegment,
}

impl Params {
    /// Size of the disk in bytes, if the device has been given parameters.
    pub fn size(&self) -> Option<u64> {
        (self.types & PARAM_BASIC != 0).then_some(self.basic.dev_sectors << 9)
    }

    /// Logical block size in bytes, if the device has been given parameters.
    pub fn logical_block_size(&self) -> Option<u32> {
        let shift = u32::from(self.basic.logical_bs_shift);
        (self.types & PARAM_BASIC != 0).then(|| 1u32.checked_shl(shift).unwrap_or(0))
    }

    /// Is the disk read-only?
    pub fn read_only(&self) -> bool {
        self.basic.attrs & ATTR_READ_ONLY != 0
    }
}

const _: () = {
    assert!(size_of::<CtrlCmd>() == 32);
    assert!(size_of::<DeviceInfo>() == 64);
    assert!(size_of::<IoDesc>() == 24);
    assert!(size_of::<IoCmd>() == 16);
    assert!(size_of::<BatchIo>() == 16);
    assert!(size_of::<BatchElem>() == 8);
    assert!(size_of::<ParamBasic>() == 32);
    assert!(size_of::<ParamDiscard>() == 20);
    assert!(size_of::<ParamSegment>() == 16);
    assert!(size_of::<Params>() == 8 + 32 + 20 + 16 + 32 + 8 + 16 + 4);
    assert!(CMD_ADD_DEV == 0xc020_7504);
    assert!(CMD_GET_FEATURES == 0x8020_7513);
    assert!(IO_FETCH == 0xc010_7520);
};
