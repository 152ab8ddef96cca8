//! The document that comes by SMBIOS, put together of its pieces.

use super::{Channel, Error, printable};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use image_channels::smbios::{Piece, is_whole, pieces};

/// What the OEM strings of a table say; `None` where none is meant for us.
///
/// # Errors
/// A string that is meant for us in a way that we do not know; a table that has some for us and may have had more.
pub fn document(table: &[u8]) -> Result<Option<Vec<u8>>, Error> {
    let mut document: Option<Vec<u8>> = None;
    for piece in pieces(table) {
        match (piece, &mut document) {
            (Piece::Line(line), document) => {
                let document = document.get_or_insert_default();
                document.extend(line);
                document.push(b'\n');
            }
            (Piece::More(more), Some(document)) => {
                document.pop();
                document.extend(more);
                document.push(b'\n');
            }
            (Piece::More(_), None) => {
                return Err(refused("corbel.config+=", "goes on where nothing has begun"));
            }
            (Piece::Unknown(string), _) => {
                return Err(refused(
                    &String::from_utf8_lossy(string.split(|byte| *byte == b'=').next().unwrap_or_default()),
                    "expected corbel.config= or corbel.config+=",
                ));
            }
        }
    }
    if !is_whole(table) {
        if document.is_some() {
            return Err(refused(
                "corbel.config=",
                "the table is cut or broken behind it: more may be missing",
            ));
        }
        log::warn!("{}: the table is cut or broken, and has none for us until there", Channel::Smbios);
    }
    Ok(document)
}

fn refused(string: &str, reason: &str) -> Error {
    Error { channel: Some(Channel::Smbios), key: printable(string), reason: reason.to_string() }
}

#[cfg(test)]
mod tests {
    use super::document;

    fn table(strings: &[&str]) -> Vec<u8> {
        let mut table = vec![11, 5, 0, 0, strings.len() as u8];
        for string in strings {
            table.extend(string.as_bytes());
            table.push(0);
        }
        table.push(0);
        table
    }

    #[test]
    fn pieces_are_lines_unless_they_go_on() {
        let long = table(&[
            "corbel.config=a=b c=d",
            "vendor",
            "corbel.config=tls.anchors=MIG",
            "corbel.config+=HAg==",
            "corbel.config=e=f",
        ]);
        assert_eq!(document(&long), Ok(Some(b"a=b c=d\ntls.anchors=MIGHAg==\ne=f\n".to_vec())));
        assert_eq!(document(&table(&["io.systemd.credential:a=b"])), Ok(None));
        assert_eq!(document(&[]), Ok(None));
    }

    #[test]
    fn a_table_that_is_cut_behind_something_for_us_is_refused() {
        let whole =
            [table(&["vendor"]), table(&["corbel.config=a=b"]), table(&["corbel.config=c=d"])].concat();
        assert_eq!(document(&whole), Ok(Some(b"a=b\nc=d\n".to_vec())));
        // In the first nothing is for us yet, nor is there anything in the second until it is whole.
        let (first, second) = (table(&["vendor"]).len(), whole.len() * 2 / 3);
        assert_eq!(document(&whole[..first - 1]), Ok(None));
        assert_eq!(document(&whole[..first + 4]), Ok(None));
        let error = document(&whole[..second + 8]).unwrap_err().to_string();
        assert_eq!(
            error,
            "configuration: SMBIOS OEM strings: corbel.config=: the table is cut or broken behind it: more may be missing"
        );
    }

    #[test]
    fn what_is_meant_for_us_and_not_known_is_refused() {
        let error = document(&table(&["corbel.confg=a=b"])).unwrap_err().to_string();
        assert_eq!(
            error,
            "configuration: SMBIOS OEM strings: corbel.confg: expected corbel.config= or corbel.config+="
        );
        let error = document(&table(&["corbel.config+=b"])).unwrap_err().to_string();
        assert!(error.contains("goes on where nothing has begun"), "{error}");
    }
}
