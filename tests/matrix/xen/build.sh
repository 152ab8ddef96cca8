#!/bin/bash
# build.sh FOLDER GUEST OUT: Xen, and a dom0 that is nothing but its tools, to be started by QEMU. FOLDER keeps Debian's packages, which
# nothing here is installed of; GUEST has what dom0 is to find at its root; OUT gets `xen`, `linux` and `initrd`.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
folder=$(mkdir -p "$1" && cd "$1" && pwd) guest=$2 out=$3
packages="xen-system-amd64 qemu-system-xen seabios ipxe-qemu linux-image-amd64 kmod open-iscsi busybox-static"
modules="xen-evtchn xen-gntdev xen-gntalloc xen-privcmd xenfs xen-netback xen-blkback loop tun bridge e1000 iscsi_tcp sd_mod crc32c_generic"
tree=$folder/tree root=$folder/root

if ! [ -e "$folder/unpacked" ]; then
    mkdir -p "$folder/packages/partial"
    # These and what they need that is not here.
    apt-get -y -qq -o "Dir::Cache::archives=$folder/packages" --no-install-recommends --reinstall --download-only install $packages
    rm -rf "$tree"
    for package in "$folder"/packages/*.deb; do dpkg-deb -x "$package" "$tree"; done
    # Its links lead to where it is not.
    mkdir -p "$folder/bin"
    for name in depmod modprobe; do ln -sf "$tree/bin/kmod" "$folder/bin/$name"; done
    "$folder/bin/depmod" -b "$tree" "$(ls "$tree/lib/modules")"
    touch "$folder/unpacked"
fi
kernel=$(ls "$tree/lib/modules")
libraries=$(echo "$tree"/usr/lib/xen-[0-9]*/lib/x86_64-linux-gnu)
export LD_LIBRARY_PATH=$tree/usr/lib/x86_64-linux-gnu:$tree/lib/x86_64-linux-gnu:$libraries

# A program with its libraries, to the same place.
put() {
    mkdir -p "$root/$(dirname "$1")"
    cp -L "$tree/$1" "$root/$1"
    linked=$(ldd "$tree/$1" 2>/dev/null || :)
    case $linked in *"not found"*) echo "$1: $linked" >&2; exit 1 ;; esac
    for library in $(echo "$linked" | grep -o '/[^ ]*' || :); do
        case $library in
        *ld-linux*) cp -Ln "$library" "$root/lib64/" ;;
        *) cp -Ln "$library" "$root/lib/x86_64-linux-gnu/" ;;
        esac
    done
}

if ! [ "$folder/base" -nt "$here" ] || [ -n "$(find "$here" -newer "$folder/base")" ]; then
    rm -rf "$root"
    mkdir -p "$root"/{bin,sbin,proc,sys,dev,run,tmp,modules,lib64,lib/x86_64-linux-gnu,etc/{xen/scripts,iscsi},usr/share,usr/lib/ipxe,var/{lib/{xen,xenstored,iscsi},log/xen/console}}
    ln -s /run "$root/var/run"
    put bin/busybox
    for applet in $("$root/bin/busybox" --list); do [ -e "$root/bin/$applet" ] || ln -s busybox "$root/bin/$applet"; done
    tools=$(cd "$tree" && echo usr/lib/xen-[0-9]*/bin)
    for tool in xl xenstored xenconsoled xen-init-dom0 libxl-save-helper; do
        put "$tools/$tool"
        ln -s "/$tools/$tool" "$root/sbin/$tool"
    done
    for tool in xenstore-read xenstore-write; do put "usr/bin/$tool"; ln -s "/usr/bin/$tool" "$root/sbin/$tool"; done
    for tool in sbin/iscsid sbin/iscsiadm usr/libexec/xen-qemu-system-i386; do put $tool; done
    mkdir -p "$root/$tools/../boot" "$root/usr/share/qemu" "$root/usr/share/seabios" "$root/usr/lib/ipxe/qemu"
    cp "$tree/$tools/../boot/hvmloader" "$root/$tools/../boot/"
    cp "$tree"/usr/share/seabios/bios-256k.bin "$root/usr/share/seabios/"
    cp "$tree"/usr/lib/ipxe/qemu/{pxe,efi}-{rtl8139,e1000}.rom "$root/usr/lib/ipxe/qemu/"
    cp -r /usr/share/qemu/keymaps "$root/usr/share/qemu/"
    cp "$tree/etc/iscsi/iscsid.conf" "$root/etc/iscsi/"
    echo "InitiatorName=iqn.2026-11.example.corbel:dom0" >"$root/etc/iscsi/initiatorname.iscsi"
    echo "root::0:0::/:/bin/sh" >"$root/etc/passwd"
    touch "$root/etc/xen/xl.conf"
    # In the order in which they are to be loaded.
    for module in $modules; do
        "$folder/bin/modprobe" -d "$tree" -S "$kernel" --show-depends $module
    done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' >"$folder/modules"
    while read -r file; do
        cp "$file" "$root/modules/"
        basename "$file"
    done <"$folder/modules" >"$root/modules/list"
    cp "$here/init" "$root/init"
    cp "$here/vif-bridge" "$here/block" "$root/etc/xen/scripts/"
    chmod +x "$root/init" "$root"/etc/xen/scripts/*
    (cd "$root" && find . | "$root/bin/busybox" cpio -o -H newc 2>"$folder/log" | gzip -1) >"$folder/base"
fi

cp "$tree"/boot/xen-*-amd64.gz "$out/xen.gz"
gunzip -f "$out/xen.gz"
cp "$tree/boot/vmlinuz-$kernel" "$out/linux"
cp "$folder/base" "$out/initrd"
(cd "$guest" && find . | "$root/bin/busybox" cpio -o -H newc 2>>"$folder/log" | gzip -1) >>"$out/initrd"
