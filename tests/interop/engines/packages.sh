# Sourced: installs $packages, as root, if they are not there.

install() {
    # A package of QEMU from another suite than the rest of QEMU would pull in all of it, or remove it.
    local codename; codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
    local words=() package
    for package in $packages; do
        dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' && continue
        case $package in qemu-* | nbdkit*) words+=("$package/$codename") ;; *) words+=("$package") ;; esac
    done
    [ ${#words[@]} -gt 0 ] || return 0
    local get=(apt-get -q -y -o DPkg::Lock::Timeout=120 install --no-install-recommends "${words[@]}")
    if [ "$(id -u)" -ne 0 ]; then
        echo "these packages are missing: ${words[*]}; as root: apt-get update && ${get[*]}" >&2
        return 1
    fi
    export DEBIAN_FRONTEND=noninteractive
    "${get[@]}" || { apt-get -q update && "${get[@]}"; }
}
