# shellcheck shell=bash
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# The Debian cloud kernels that the test VM boots. Sourced by scripts/vm and
# scripts/kernel after lib/common.sh. Each kernel is kept in the cache as
#
#   kernels/VERSION/vmlinuz
#   kernels/VERSION/lib/modules/VERSION/...     with modules.dep
#   kernels/oldest, kernels/newest              a version each, as text
#
# Packages come through a private apt root, so the machine's own apt state is
# not touched and every package is checked against the archive's signature.

kernel_dir() {
	printf '%s/kernels\n' "$(ublk_cache_dir)"
}

# The base address of the archive this machine installs from: the mirror is the
# machine's choice and is never written down here.
kernel_archive() {
	local codename uri
	codename=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
	# shellcheck disable=SC2016 # these are apt's own fields
	uri=$(apt-get indextargets --format '$(ORIGIN) $(CODENAME) $(REPO_URI)' 2>/dev/null |
		awk -v c="$codename" '$1 == "Debian" && $2 == c && !u { u = $3 } END { print u }')
	printf '%s' "$uri"
}

# kernel_apt_config ROOT SUITE...: a private apt root that knows only these suites;
# prints the path of its configuration.
kernel_apt_config() {
	local root=$1 archive keys config suite
	shift
	config=$root/apt.conf
	archive=$(kernel_archive)
	if [[ -z $archive ]]; then
		# No package lists yet, as in a fresh container.
		apt_update_once
		archive=$(kernel_archive)
	fi
	[[ -n $archive ]] ||
		die -3 "apt knows no Debian archive on this machine, so the test kernels cannot be fetched"
	keys=/usr/share/keyrings/debian-archive-keyring.gpg
	[[ -r $keys ]] || need_packages debian-archive-keyring
	mkdir -p "$root/state/lists/partial" "$root/cache/archives/partial"
	for suite; do
		echo "deb [arch=amd64 signed-by=$keys] $archive $suite main"
	done >"$root/sources.list"
	cat >"$config" <<-END
		Dir::Etc::SourceList "$root/sources.list";
		Dir::Etc::SourceParts "/dev/null";
		Dir::State "$root/state";
		Dir::State::Lists "$root/state/lists";
		Dir::Cache "$root/cache";
		Dir::Cache::srcpkgcache "";
		Acquire::Languages "none";
		Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
		APT::Sandbox::User "root";
	END
	printf '%s\n' "$config"
}

# kernel_probe CONFIG PATTERN: the highest version whose package name matches.
kernel_probe() {
	apt-cache -c "$1" pkgnames linux-image- |
		sed -n 's/^linux-image-\([0-9].*-cloud-amd64\)$/\1/p' |
		grep -E "$2" | sort -V | tail -n 1 || true
}

# kernel_unpack CONFIG VERSION: download, check, unpack, index, and only then
# move into place, so that an interrupted run leaves no half kernel.
kernel_unpack() {
	local config=$1 version=$2 dir work packages deb image
	dir=$(kernel_dir)
	[[ -e $dir/$version/vmlinuz ]] && return
	# From 7.0 on the image package is split, and only names its parts.
	mapfile -t packages < <(
		printf 'linux-image-%s\n' "$version"
		apt-cache -c "$config" depends "linux-image-$version" |
			sed -nE 's/^ *Depends: (linux-(binary|modules)-'"${version//+/\\+}"')$/\1/p'
	)
	say "fetching ${packages[*]}"
	mkdir -p "$dir"
	# What an interrupted run may have left, unless it is still at work.
	find "$dir" -maxdepth 1 \( -name '.unpack.*' -o -name '.apt.*' \) -mmin +60 -exec rm -rf {} +
	work=$(mktemp -d "$dir/.unpack.XXXXXX")
	if ! (cd "$work" && apt-get -c "$config" -qq download "${packages[@]}" >&2); then
		rm -rf "$work"
		die -3 "could not download the kernel $version; is the network up?"
	fi
	for deb in "$work"/*.deb; do
		dpkg-deb -x "$deb" "$work/root"
		rm "$deb"
	done
	mkdir -p "$work/out/lib/modules"
	image=$(find "$work/root" -name "vmlinuz*" -type f | head -n 1)
	[[ -n $image ]] || {
		rm -rf "$work"
		die "the packages of kernel $version hold no vmlinuz"
	}
	mv "$image" "$work/out/vmlinuz"
	if [[ -d $work/root/usr/lib/modules/$version ]]; then
		mv "$work/root/usr/lib/modules/$version" "$work/out/lib/modules/"
	else
		mv "$work/root/lib/modules/$version" "$work/out/lib/modules/"
	fi
	# The packages lack these lists of what is built in, which nothing here reads.
	depmod -b "$work/out" "$version" 2> >(grep -v 'could not open modules\.\(order\|builtin\)' >&2)
	chmod -R a+rX "$work/out"
	# Another session may have been quicker; its copy is as good.
	mv -T "$work/out" "$dir/$version" 2>/dev/null || [[ -e $dir/$version/vmlinuz ]] ||
		die "could not move the kernel $version into $dir"
	rm -rf "$work"
	say "kernel $version is in the cache"
}

# kernel_fetch NAME...: has these kernels, the names now for what the archive has.
# In a shell of its own, whose end takes the package lists away.
kernel_fetch() (
	local root config dir name version log suites=()
	local -A pattern=(
		[oldest]='^6\.12\.'
		[newest]='^7\.'
	)
	# Only the lists that are needed: reading them takes as long as the kernel itself.
	local -A suite=(
		[oldest]=trixie
		[newest]=testing
	)
	[[ $(uname -m) == x86_64 ]] || die -3 "the test VM is written for x86_64; this is $(uname -m)"
	need_packages kmod
	dir=$(kernel_dir)
	for name in "$@"; do
		suites+=("${suite[$name]}")
	done
	mkdir -p "$dir"
	# Where earlier versions kept the package lists.
	rm -rf "$(ublk_cache_dir)/apt"
	root=$(mktemp -d "$dir/.apt.XXXXXX")
	trap 'rm -rf "$root"' EXIT
	config=$(kernel_apt_config "$root" "${suites[@]}")
	say "looking for test kernels in the Debian archive"
	log=$(apt-get -c "$config" update -qq 2>&1) ||
		die -3 "could not read the kernel package lists: $(tail -n 1 <<<"$log")"
	for name in "$@"; do
		version=$(kernel_probe "$config" "${pattern[$name]}")
		[[ -n $version ]] || die -3 "the archive has no cloud kernel for '$name'"
		kernel_unpack "$config" "$version"
		printf '%s\n' "$version" >"$dir/.$name.$$"
		mv "$dir/.$name.$$" "$dir/$name"
	done
)

# kernel_resolve NAME: sets kernel_version and kernel_root to a cached kernel.
# `oldest` and `newest` are fetched when the cache lacks them; any other name is
# a version that must be there. A cached kernel costs neither network nor apt.
kernel_resolve() {
	local name=$1 dir
	dir=$(kernel_dir)
	case $name in
	oldest | newest)
		if [[ ! -s $dir/$name || ! -e $dir/$(<"$dir/$name")/vmlinuz ]]; then
			kernel_fetch "$name"
		fi
		kernel_version=$(<"$dir/$name")
		;;
	*)
		kernel_version=$name
		[[ -e $dir/$name/vmlinuz ]] ||
			die -2 "no kernel '$name' in $dir; there is: $(kernel_list) (or say oldest or newest)"
		;;
	esac
	# shellcheck disable=SC2034 # for the script that sources this file
	kernel_root=$dir/$kernel_version
}

# The cached versions on one line.
kernel_list() {
	local dir image list=()
	dir=$(kernel_dir)
	for image in "$dir"/*/vmlinuz; do
		[[ -e $image ]] || continue
		image=${image%/vmlinuz}
		list+=("${image##*/}")
	done
	printf '%s\n' "${list[*]:-none}"
}
