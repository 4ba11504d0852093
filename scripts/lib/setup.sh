# shellcheck shell=bash
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# What a fresh Debian machine with nothing but Rust needs, by purpose. Sourced
# after lib/common.sh; every function is quick and silent when all is there.

# To build all but bench/libublk: the linker and the C library. What can be said
# at once is said before anything is installed.
setup_build() {
	command -v cargo >/dev/null ||
		die -3 "cargo is not on the PATH; install Rust first (https://rustup.rs)"
	local wanted have
	wanted=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' "${BASH_SOURCE[0]%/*}/../../Cargo.toml")
	have=$(cargo --version | cut -d ' ' -f 2)
	[[ ! $have || $(printf '%s\n' "$wanted" "$have" | sort -V | head -n 1) == "$wanted" ]] ||
		die -3 "cargo is $have and this needs $wanted: run 'rustup update stable' (Debian's own is older: https://rustup.rs)"
	need_packages gcc libc6-dev
}

# To build the comparison with libublk, whose crate generates bindings through
# libclang; it also wants the kernel's headers for user space.
setup_bench() {
	setup_build
	need_packages libclang-dev linux-libc-dev fio
}

# What boots a guest.
setup_vm_packages() {
	need_packages qemu-system-x86 qemu-system-common kmod util-linux mount iproute2
	# A package of its own from Debian 13 on, part of qemu-system-common before.
	[[ -x /usr/lib/qemu/virtiofsd || -x /usr/libexec/virtiofsd ]] ||
		grep -qx 'VERSION_ID="12"' /etc/os-release || need_packages virtiofsd
}

# The same and the kernels that it boots, newest or oldest or both.
setup_vm() {
	setup_vm_packages
	# shellcheck source-path=SCRIPTDIR source=kernel.sh
	. "${BASH_SOURCE[0]%/*}/kernel.sh"
	local name
	for name in "${@:-newest}"; do
		kernel_resolve "$name"
	done
}

# To put a device under load.
setup_load() {
	need_packages fio
}

# The same, and to check what it returns.
setup_demo() {
	need_packages fio jq bsdextrautils
}

# What the device tests call: file systems, partitions, load,
# tracing; and shellcheck for the scripts themselves.
setup_tests() {
	need_packages fio e2fsprogs xfsprogs btrfs-progs util-linux fdisk strace udev shellcheck
	# What the documents look inside with, and git, which lists the project's files.
	need_packages jq procps gdb linux-perf git
}

# To open the report of the studies as its readers do.
setup_report() {
	command -v chromium >/dev/null || need_packages chromium
}
