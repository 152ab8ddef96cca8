//! Tells the linker what of a PE it is not to decide by itself, when the door is built for UEFI.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "uefi") {
        // Some firmware takes the base that is asked for as the address to load at, whether or not there is memory.
        println!("cargo::rustc-link-arg-bins=/BASE:0");
        // The step to the image is code that is copied to pages which the firmware gives out, and jumped to under its page
        // tables. What says that it keeps data and code apart gets such pages only to write to.
        println!("cargo::rustc-link-arg-bins=/NXCOMPAT:NO");
        // No time of day, and no record of debug information, which has a hash of paths: the same sources make the same file.
        println!("cargo::rustc-link-arg-bins=/TIMESTAMP:0");
        println!("cargo::rustc-link-arg-bins=/DEBUG:NONE");
    }
}
