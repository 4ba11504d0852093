// SPDX-License-Identifier: MIT OR Apache-2.0
//! The words of `export` and `unexport`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use clap::Args;
use ublk_ramdisk::ublk::export::{host_nqn, Hosts};

use crate::parse::device_id;

pub const EXPORT_LONG: &str = "\
Let other hosts use a disk, through the kernel's own NVMe target over TCP.

Prints the command with which another host connects; the disk is a /dev/nvmeXnY there. Without
--host and --any-host no host may connect, and only this one reaches the default address. A host
that connects reads and writes everything; its name is no proof, and nothing is encrypted. A resize and the death of the
server reach the other host as what they are here: another size, and a moment of waiting. The disk
cannot be deleted before `unexport` without --force. Where it listens, port 4420 is the usual one.";

pub const EXPORT_EXAMPLES: &str = "\
Examples:
  ublk-ramdisk export 0 --listen 192.168.1.5 --host \"$(ssh client cat /etc/nvme/hostnqn)\"
  ublk-ramdisk export 0 --any-host                 for a try on this host alone
  ublk-ramdisk list -o DISK,EXPORTED";

/// `export`
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// Disk to export: its name, N, ublkbN or /dev/ublkbN
    #[arg(value_name = "ID", value_parser = device_id)]
    pub id: u32,
    /// Address of this host to listen at, and the port
    #[arg(long, value_name = "ADDR[:PORT]", default_value = "127.0.0.1:4420", value_parser = listen)]
    pub listen: SocketAddr,
    /// A host that may connect, by its NQN (can be given more than once)
    #[arg(long = "host", value_name = "NQN", value_parser = host_nqn)]
    hosts: Vec<String>,
    /// Any host that reaches the address may connect
    #[arg(long, conflicts_with = "hosts")]
    any_host: bool,
}

impl ExportArgs {
    /// Who may connect.
    pub fn hosts(&self) -> Hosts {
        match self.any_host {
            true => Hosts::Any,
            false => Hosts::Named(self.hosts.clone()),
        }
    }
}

/// `unexport`
#[derive(Debug, Args)]
pub struct UnexportArgs {
    /// Disk that other hosts are to use no longer: its name, N, ublkbN or /dev/ublkbN
    #[arg(value_name = "ID", value_parser = device_id)]
    pub id: u32,
}

/// The port that NVMe over TCP has by default.
const PORT: u16 = 4420;

fn listen(text: &str) -> Result<SocketAddr, String> {
    let address = text.parse().or_else(|_| {
        let bare = text.trim_start_matches('[').trim_end_matches(']');
        bare.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, PORT))
    });
    match address {
        // The target knows no scopes.
        Ok(SocketAddr::V6(address)) if address.scope_id() != 0 => {
            Err("expected an address without a scope (%)".to_owned())
        }
        Ok(address) if address.port() != 0 => Ok(address),
        _ => Err(format!(
            "expected an address of this host, such as {}, {}:{PORT} or [::1]:{PORT}",
            Ipv4Addr::LOCALHOST,
            Ipv4Addr::LOCALHOST
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn l1_an_address_has_a_port_or_the_usual_one() {
        for (typed, meant) in [
            ("127.0.0.1", "127.0.0.1:4420"),
            ("0.0.0.0:9", "0.0.0.0:9"),
            ("::1", "[::1]:4420"),
            ("[::1]", "[::1]:4420"),
            ("[::1]:9", "[::1]:9"),
        ] {
            assert_eq!(listen(typed).map(|a| a.to_string()).as_deref(), Ok(meant));
        }
        for bad in [
            "",
            "host",
            "127.0.0.1:",
            "127.0.0.1:0",
            "127.0.0.1:70000",
            "[fe80::1%2]:9",
            "1.2.3",
        ] {
            assert!(listen(bad).is_err(), "{bad}");
        }
    }
}
