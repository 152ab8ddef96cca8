//! Gives the linker the kernel's layout when the appliance is built for the bare machine.

fn main() {
    println!("cargo::rerun-if-changed=../../kernel/link.ld");
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "none") {
        let folder = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
        println!("cargo::rustc-link-arg-bins=-T{folder}/../../kernel/link.ld");
        // What moves when it is unpacked: image/pack reads it there.
        println!("cargo::rustc-link-arg-bins=--emit-relocs");
    }
}
