//! The logical units that the suites run on.

use image_launch::disk::Server;

/// A kind of logical unit, and which suites run on it.
pub(crate) struct Unit {
    /// What is special about it.
    pub(crate) name: &'static str,
    /// What serves its disk.
    pub(crate) server: fn() -> Server,
    /// Keys of the appliance's configuration for it.
    pub(crate) keys: &'static [(&'static str, &'static str)],
    /// What its URL has before the address.
    credentials: &'static str,
    /// What its URL has after the logical unit number.
    query: &'static str,
    /// The suites that run on it in every run of the tests.
    suites: Suites,
    /// Tests that want here what a standard does not allow.
    except: &'static [&'static str],
}

enum Suites {
    All,
    /// These, and with `CORBEL_SUITE=everything` all.
    Some(&'static [&'static str]),
    /// These and no other: where nothing may be written, the tests of reservations fail by themselves.
    Only(&'static [&'static str]),
}

/// The order is that of the table in CONFORMANCE.md.
pub(crate) static LIST: &[Unit] = &[
    Unit {
        name: "thin 512e",
        server: || Server::QemuNbd,
        keys: &[],
        credentials: "",
        query: "",
        suites: Suites::All,
        except: &["WriteSame10.UnmapUntilEnd", "GetLBAStatus.UnmapSingle"],
    },
    Unit {
        name: "thin 512, LBPRZ=0",
        server: || nbdkit("file", &["nozero", "blocksize-policy"], &["blocksize-preferred=512"]),
        keys: &[],
        credentials: "",
        query: "",
        suites: Suites::Some(&[
            "GetLBAStatus",
            "Inquiry",
            "ReadCapacity16",
            "Unmap",
            "WriteSame10",
            "WriteSame16",
        ]),
        except: &[],
    },
    Unit {
        name: "thin 4Kn",
        server: || {
            nbdkit("file", &["blocksize-policy"], &["blocksize-minimum=4096", "blocksize-error-policy=error"])
        },
        keys: &[],
        credentials: "",
        query: "",
        suites: Suites::Some(&[
            "CompareAndWrite",
            "GetLBAStatus",
            "Inquiry",
            "ModeSense6",
            "Read10",
            "Read16",
            "ReadCapacity10",
            "ReadCapacity16",
            "Unmap",
            "Verify16",
            "Write10",
            "Write16",
            "iSCSIResiduals",
        ]),
        except: &["WriteSame10.UnmapUntilEnd"],
    },
    Unit {
        name: "thick 512",
        server: || nbdkit("split", &["nozero", "nocache", "blocksize-policy"], &["blocksize-preferred=512"]),
        keys: &[("assume-durable", "yes")],
        credentials: "",
        query: "",
        suites: Suites::Some(&[
            "GetLBAStatus",
            "Inquiry",
            "ModeSense6",
            "Read10",
            "ReadCapacity16",
            "ReportSupportedOpcodes",
            "Unmap",
            "Write10",
            "WriteSame10",
            "WriteSame16",
        ]),
        except: &[],
    },
    Unit {
        name: "removable",
        server: || Server::QemuNbd,
        keys: &[("removable", "yes")],
        credentials: "",
        query: "",
        suites: Suites::Some(&[
            "Inquiry",
            "Mandatory",
            "NoMedia",
            "PreventAllow",
            "StartStopUnit",
            "TestUnitReady",
        ]),
        except: &["WriteSame10.UnmapUntilEnd", "GetLBAStatus.UnmapSingle"],
    },
    Unit {
        name: "read-only",
        server: || Server::QemuNbd,
        keys: &[("read-only", "yes")],
        credentials: "",
        query: "",
        suites: Suites::Only(&[
            "Inquiry",
            "ModeSense6",
            "Read16",
            "ReadOnly",
            "ReportSupportedOpcodes",
            "Verify10",
        ]),
        except: &[],
    },
    Unit {
        name: "header digests",
        server: || Server::QemuNbd,
        keys: &[],
        credentials: "",
        query: "?header_digest=crc32c",
        suites: Suites::Some(&[
            "Read10",
            "Write10",
            "iSCSIResiduals",
            "iSCSITMF",
            "iSCSIcmdsn",
            "iSCSIdatasn",
        ]),
        except: &["WriteSame10.UnmapUntilEnd", "GetLBAStatus.UnmapSingle"],
    },
    Unit {
        name: "CHAP",
        server: || Server::QemuNbd,
        keys: &[("chap.0.user", "host"), ("chap.0.secret", "a-secret-of-the-host")],
        credentials: "host%a-secret-of-the-host@",
        query: "",
        suites: Suites::Some(&[
            "MultipathIO",
            "ProutReserve",
            "Read10",
            "Write10",
            "iSCSIResiduals",
            "iSCSITMF",
            "iSCSIcmdsn",
            "iSCSIdatasn",
        ]),
        except: &["WriteSame10.UnmapUntilEnd", "GetLBAStatus.UnmapSingle"],
    },
];

fn nbdkit(plugin: &'static str, filters: &[&str], parameters: &[&str]) -> Server {
    let owned = |words: &[&str]| words.iter().map(|word| (*word).to_string()).collect();
    Server::Nbdkit { plugin, filters: owned(filters), parameters: owned(parameters) }
}

/// It compares one block more than it has cleared, and so wants a disk that nobody has written to.
const FIRST: &str = "MultipathIO";

impl Unit {
    /// The suites that run on it, in the order in which they do.
    pub(crate) fn order<'a>(
        &self,
        suites: &'a [(String, Vec<String>)],
        everything: bool,
    ) -> Vec<(&'a str, &'a [String])> {
        let runs = |suite: &str| match self.suites {
            Suites::All => true,
            Suites::Some(list) => everything || list.contains(&suite),
            Suites::Only(list) => list.contains(&suite),
        };
        let mut order: Vec<_> = suites.iter().filter(|(suite, _)| runs(suite)).collect();
        order.sort_by_key(|(suite, _)| suite != FIRST);
        order.into_iter().map(|(suite, tests)| (suite.as_str(), tests.as_slice())).collect()
    }

    /// How the tool is told which tests of a suite to run.
    pub(crate) fn tests(&self, suite: &str, tests: &[String]) -> String {
        let is_left_out = |test: &String| self.except.contains(&format!("{suite}.{test}").as_str());
        if !tests.iter().any(is_left_out) {
            return format!("ALL.{suite}");
        }
        // It takes them from the last to the first.
        let rest = tests.iter().rev().filter(|test| !is_left_out(test));
        rest.map(|test| format!("ALL.{suite}.{test}")).collect::<Vec<_>>().join(",")
    }

    /// Two, as the tests of several paths want it, by two initiators. But where a test resets and a later one makes a
    /// second session of its own, the second path would have to be told of the reset just when the test wants another
    /// answer.
    pub(crate) fn paths(&self, suite: &str) -> usize {
        if suite == "PreventAllow" { 1 } else { 2 }
    }

    /// Tests that write are there for units that can be written to, but for the one that wants to be refused.
    pub(crate) fn may_lose_data(&self, suite: &str) -> bool {
        suite == "ReadOnly" || !self.keys.contains(&("read-only", "yes"))
    }

    /// Its URL, made of the plain one.
    pub(crate) fn url(&self, plain: &str) -> String {
        let (scheme, rest) = plain.split_once("//").expect("a URL");
        format!("{scheme}//{}{rest}{}", self.credentials, self.query)
    }
}
