//! The list of what the image is made of, as CycloneDX 1.5 has it.
//!
//! Cargo says what it compiled and for what; the registry's checksums are in `Cargo.lock`, licences in each package's own
//! manifest. Only what is in the image is listed: what built it, such as procedural macros, ran on the builder's machine and
//! is not in it.

use crate::process;
use crate::{Context, Error, Result};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(120);
/// The root of the sources.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// A package of the image.
#[derive(Debug, PartialEq, Eq)]
struct Part {
    name: String,
    version: String,
    /// Whether it comes from a registry: all others are this repository's and the compiler's own.
    registry: bool,
    /// By place among the parts.
    needs: Vec<usize>,
}

/// The document for the image that this program has, whose SHA-256 is `digest` in hexadecimal.
///
/// # Errors
/// When cargo cannot be asked for licences, or answers what is not understood.
pub fn document(digest: &str) -> Result<String> {
    let precursor = fs::read_to_string(image_pack::parts()).context("what cargo says of the image")?;
    let lock = fs::read_to_string(Path::new(ROOT).join("Cargo.lock")).context("Cargo.lock")?;
    let mut cargo = process::command(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["metadata", "--format-version", "1", "--locked", "--manifest-path"]);
    cargo.arg(Path::new(ROOT).join("Cargo.toml"));
    let metadata = process::check(cargo, LIMIT)?;
    let document = made(&precursor, &lock, &licences(&metadata)?, digest)?;
    serde_json::to_string_pretty(&document).context("the list of parts")
}

/// The licence of each package, by name and version.
fn licences(metadata: &str) -> Result<BTreeMap<(String, String), String>> {
    let metadata: Value = serde_json::from_str(metadata).context("cargo metadata")?;
    let packages =
        metadata["packages"].as_array().ok_or_else(|| Error::new("cargo metadata: no packages"))?;
    let text = |package: &Value, key: &str| package[key].as_str().unwrap_or_default().to_string();
    let of = |package| ((text(package, "name"), text(package, "version")), text(package, "license"));
    Ok(packages.iter().map(of).collect())
}

/// The checksums of the registry's packages, by name and version.
fn checksums(lock: &str) -> BTreeMap<(&str, &str), &str> {
    let value = |line: &str, key: &str| -> Option<(usize, usize)> {
        let start = line.strip_prefix(key)?.strip_prefix(" = \"")?.strip_suffix('"')?;
        let at = line.len() - start.len() - 1;
        Some((at, at + start.len()))
    };
    let mut found = BTreeMap::new();
    for block in lock.split("[[package]]").skip(1) {
        let get = |key| block.lines().find_map(|line| value(line, key).map(|(from, to)| &line[from..to]));
        if let (Some(name), Some(version), Some(checksum)) = (get("name"), get("version"), get("checksum")) {
            found.insert((name, version), checksum);
        }
    }
    found
}

/// The packages of the image, its own first, and the compiler's version.
fn parts(precursor: &str) -> Result<(Vec<Part>, String)> {
    let precursor: Value = serde_json::from_str(precursor).context("what cargo says of the image")?;
    let odd = || Error::new("what cargo says of the image is not understood");
    let crates = precursor["crates"].as_array().ok_or_else(odd)?;
    let root = precursor["root"].as_u64().ok_or_else(odd)? as usize;
    // From the program along all that is compiled into it.
    let (mut order, mut parts) = (vec![root], Vec::new());
    while let Some(&place) = order.get(parts.len()) {
        let this = crates.get(place).ok_or_else(odd)?;
        let mut needs = Vec::new();
        for dependency in this["dependencies"].as_array().ok_or_else(odd)? {
            let index = dependency["index"].as_u64().ok_or_else(odd)? as usize;
            let kind = &crates.get(index).ok_or_else(odd)?["kind"];
            let in_it = dependency["kind"] == "normal"
                && *kind != json!(["proc-macro"])
                && *kind != json!(["custom-build"]);
            if !in_it || index == place {
                continue;
            }
            let known = order.iter().position(|it| *it == index);
            needs.push(known.unwrap_or_else(|| {
                order.push(index);
                order.len() - 1
            }));
        }
        let id = this["id"].as_str().ok_or_else(odd)?;
        let (source, named) = id.split_once('#').ok_or_else(odd)?;
        // A package that is called as its folder is named by its version alone.
        let folder = || source.rsplit('/').next().unwrap_or_default();
        let (name, version) = named.rsplit_once('@').unwrap_or_else(|| (folder(), named));
        let registry = source.starts_with("registry+");
        parts.push(Part { name: name.into(), version: version.into(), registry, needs });
    }
    Ok((parts, precursor["rustc"]["version"].as_str().ok_or_else(odd)?.to_string()))
}

fn made(
    precursor: &str,
    lock: &str,
    licences: &BTreeMap<(String, String), String>,
    digest: &str,
) -> Result<Value> {
    let (parts, rustc) = parts(precursor)?;
    let checksums = checksums(lock);
    let reference = |part: &Part| match part.registry {
        true => format!("pkg:cargo/{}@{}", part.name, part.version),
        false => format!("{}@{}", part.name, part.version),
    };
    let component = |part: &Part| {
        let mut component = json!({
            "type": "library", "bom-ref": reference(part), "name": part.name, "version": part.version,
        });
        if part.registry {
            component["purl"] = json!(reference(part));
            let checksum = checksums.get(&(part.name.as_str(), part.version.as_str()));
            let checksum =
                checksum.ok_or_else(|| Error::new(format!("{} is not in Cargo.lock", part.name)))?;
            component["hashes"] = json!([{ "alg": "SHA-256", "content": checksum }]);
        }
        match licences.get(&(part.name.clone(), part.version.clone())).filter(|licence| !licence.is_empty()) {
            // The old way to write a choice.
            Some(licence) => component["licenses"] = json!([{ "expression": licence.replace('/', " OR ") }]),
            None if part.registry => return Error::because(format!("{} names no licence", part.name)),
            // Of the compiler's own library.
            None => component["version"] = json!(rustc),
        }
        Ok(component)
    };
    let Some((program, libraries)) = parts.split_first() else {
        return Error::because("cargo says that the image is made of nothing");
    };
    let components: Vec<_> = libraries.iter().map(component).collect::<Result<_>>()?;
    let dependencies: Vec<_> = parts
        .iter()
        .map(|part| {
            let needs: Vec<_> = part.needs.iter().map(|place| reference(&parts[*place])).collect();
            json!({ "ref": reference(part), "dependsOn": needs })
        })
        .collect();
    let mut itself = component(program)?;
    itself["type"] = json!("firmware");
    itself["hashes"] = json!([{ "alg": "SHA-256", "content": digest }]);
    Ok(json!({
        "bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
        "metadata": {
            "component": itself,
            "tools": { "components": [{ "type": "application", "name": "rustc", "version": rustc }] },
        },
        "components": components,
        "dependencies": dependencies,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRECURSOR: &str = r#"{"version":1,"root":0,"rustc":{"version":"1.97.0"},"crates":[
        {"id":"path+file:///somewhere/image/appliance#image_appliance@0.1.0","kind":["bin"],"dependencies":[
            {"index":1,"kind":"normal"},{"index":2,"kind":"normal"},{"index":3,"kind":"build"},{"index":4,"kind":"normal"}]},
        {"id":"registry+https://registry#log@0.4.1","kind":["lib"],"dependencies":[{"index":5,"kind":"normal"}]},
        {"id":"registry+https://registry#derive@1.0.0","kind":["proc-macro"],"dependencies":[]},
        {"id":"registry+https://registry#cc@1.0.0","kind":["lib"],"dependencies":[]},
        {"id":"path+file:///somewhere/kernel#0.1.0","kind":["lib"],"dependencies":[{"index":5,"kind":"normal"}]},
        {"id":"path+file:///compiler/core#0.0.0","kind":["lib"],"dependencies":[]}]}"#;
    const LOCK: &str = "version = 4\n\n[[package]]\nname = \"log\"\nversion = \"0.4.1\"\nsource = \"registry\"\nchecksum = \"aa11\"\n\n[[package]]\nname = \"kernel\"\nversion = \"0.1.0\"\n";

    fn licences() -> BTreeMap<(String, String), String> {
        let licence =
            |name: &str, version: &str, licence: &str| ((name.into(), version.into()), licence.into());
        [
            licence("log", "0.4.1", "MIT/Apache-2.0"),
            licence("kernel", "0.1.0", "MIT"),
            licence("image_appliance", "0.1.0", "MIT"),
        ]
        .into()
    }

    #[test]
    fn what_is_in_the_image_is_listed_and_what_built_it_is_not() {
        let document = made(PRECURSOR, LOCK, &licences(), "ff00").unwrap();
        let names: Vec<_> = document["components"]
            .as_array()
            .unwrap()
            .iter()
            .map(|it| it["name"].as_str().unwrap())
            .collect();
        assert_eq!(names, ["log", "kernel", "core"]);
        assert_eq!(document["metadata"]["component"]["hashes"][0]["content"], "ff00");
        let log = &document["components"][0];
        assert_eq!(log["purl"], "pkg:cargo/log@0.4.1");
        assert_eq!(log["hashes"][0]["content"], "aa11");
        assert_eq!(log["licenses"][0]["expression"], "MIT OR Apache-2.0");
        // The compiler's own library is of the compiler's version.
        assert_eq!(document["components"][2]["version"], "1.97.0");
        assert_eq!(document["dependencies"][0]["dependsOn"], json!(["pkg:cargo/log@0.4.1", "kernel@0.1.0"]));
        assert!(!document.to_string().contains("somewhere"), "where it was built is nobody's business");
    }

    #[test]
    fn a_package_that_is_in_no_lock_file_or_names_no_licence_is_an_error() {
        assert!(
            made(PRECURSOR, "", &licences(), "")
                .unwrap_err()
                .to_string()
                .contains("log is not in Cargo.lock")
        );
        let mut fewer = licences();
        fewer.remove(&("log".into(), "0.4.1".into()));
        assert!(made(PRECURSOR, LOCK, &fewer, "").unwrap_err().to_string().contains("log names no licence"));
    }

    #[test]
    fn what_is_not_cargos_is_refused() {
        for text in
            ["", "{}", r#"{"crates":[],"root":7,"rustc":{"version":""}}"#, r#"{"crates":[{}],"root":0}"#]
        {
            assert!(made(text, LOCK, &licences(), "").is_err(), "{text}");
        }
    }
}
