# shellcheck shell=bash
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# What every script here shares: messages, the cache folder, and installing
# packages through apt. Sourced, never run. The caller sets `set -euo pipefail`.

# Where kernels are kept: outside the work tree, so that a clean checkout does
# not fetch them again.
ublk_cache_dir() {
	printf '%s\n' "${UBLK_RAMDISK_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/ublk-ramdisk}"
}

# A relative one is meant from here, wherever cargo is started.
if [[ ${CARGO_TARGET_DIR-} == [!/]* ]]; then
	export CARGO_TARGET_DIR=$PWD/$CARGO_TARGET_DIR
fi

# Progress goes to stderr: stdout belongs to the command a script runs.
say() {
	printf '%s: %s\n' "${0##*/}" "$*" >&2
}

# die [-STATUS] MESSAGE: one line, then exit. 1 is a failure while running, 2 a
# usage error, 3 something the environment lacks.
die() {
	local status=1
	if [[ ${1-} =~ ^-[0-9]+$ ]]; then
		status=${1#-}
		shift
	fi
	say "$*"
	exit "$status"
}

# Is PACKAGE installed? Asks dpkg, so it needs neither network nor root.
package_installed() {
	[[ $(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null) == installed ]]
}

# Reads the package lists at most once in the life of a script.
apt_lists_fresh=no
apt_update_once() {
	[[ $apt_lists_fresh == yes ]] && return
	say "reading the package lists"
	local log
	log=$(apt-get update -qq 2>&1) ||
		die -3 "apt-get update failed: $(tail -n 1 <<<"$log")"
	apt_lists_fresh=yes
}

# together FUNCTION...: calls these, and installs what all of them need in one go.
together() {
	local collected=() collecting=yes
	while (($#)); do
		"$1"
		shift
	done
	collecting=no
	need_packages "${collected[@]}"
}

# need_packages PACKAGE...: installs what is missing, prints what it installs,
# and is silent and quick when everything is there.
need_packages() {
	local package missing=()
	if [[ ${collecting-} == yes ]]; then
		collected+=("$@")
		return
	fi
	command -v dpkg-query >/dev/null ||
		die -3 "this needs a Debian system (no dpkg-query found); please install the equivalent of: $*"
	for package in "$@"; do
		[[ " ${missing[*]} " == *" $package "* ]] || package_installed "$package" || missing+=("$package")
	done
	((${#missing[@]})) || return 0
	((EUID == 0)) ||
		die -3 "these packages are missing and only root can install them: ${missing[*]} (run as root: apt-get install ${missing[*]})"
	apt_update_once
	say "installing ${missing[*]}"
	local log
	log=$(DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends \
		"${missing[@]}" 2>&1 </dev/null) || {
		tail -n 20 <<<"$log" >&2
		die -3 "apt-get could not install ${missing[*]}; its last lines are above"
	}
}
