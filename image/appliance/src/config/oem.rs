//! The document that comes by SMBIOS, put together of its pieces.

use super::{Channel, Error, printable};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use image_channels::smbios::{Piece, pieces};

/// What the OEM strings of a table say; `None` where none is meant for us.
///
/// # Errors
/// A string that is meant for us in a way that we do not know.
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
        table.extend([0, 0]);
        table
    }

    #[test]
    fn pieces_are_lines_unless_they_go_on() {
        let long = table(&[
            "corbel.config=a=b c=d",
            "vendor",
            "corbel.config=tls.key=MIG",
            "corbel.config+=HAg==",
            "corbel.config=e=f",
        ]);
        assert_eq!(document(&long), Ok(Some(b"a=b c=d\ntls.key=MIGHAg==\ne=f\n".to_vec())));
        assert_eq!(document(&table(&["io.systemd.credential:a=b"])), Ok(None));
        assert_eq!(document(&[]), Ok(None));
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
