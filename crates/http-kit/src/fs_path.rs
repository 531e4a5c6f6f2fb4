//! Paths of files in a URL: percent-encoded bytes.
//!
//! Names in a home are bytes, so they are decoded here and not by the router, which wants UTF-8. The
//! path is split before it is decoded: an encoded slash would stand inside a name, where none can be,
//! and is refused.

use vfs::path::{TreePath, show};

use crate::ApiError;

/// The path below `/fs` in the raw path of a request; the root where there is none.
///
/// # Errors
/// 400 that names the component: `.`, `..`, an empty one, NUL, an encoded slash, a `%` without two hex
/// digits, more than 255 bytes, more than 4,096 in all.
pub fn below_fs(raw_path: &str) -> Result<TreePath, ApiError> {
    // `/v1/machines/{machine}/fs/…`: the path starts after the fifth slash.
    let encoded = raw_path.splitn(6, '/').nth(5).unwrap_or_default();
    parse(encoded)
}

/// Decodes and checks a path.
///
/// # Errors
/// As [`below_fs`].
pub fn parse(encoded: &str) -> Result<TreePath, ApiError> {
    let mut decoded = Vec::with_capacity(encoded.len());
    for (index, text) in encoded.split('/').enumerate() {
        if index > 0 {
            decoded.push(b'/');
        }
        decoded.extend_from_slice(&component(text)?);
    }
    Ok(TreePath::parse(&decoded)?)
}

/// Decodes one component of a path.
///
/// # Errors
/// 400 that names it: an encoded slash, a `%` without two hex digits.
pub fn component(encoded: &str) -> Result<Vec<u8>, ApiError> {
    let named = |what: &str| {
        ApiError::invalid(format!("path component {:?} {what}", show(encoded.as_bytes())))
    };
    let name = percent_decode(encoded)
        .ok_or_else(|| named("has a % that no two hex digits follow; write %25 for a %"))?;
    if name.contains(&b'/') {
        return Err(named("contains an encoded slash; no name can have one"));
    }
    Ok(name)
}

fn percent_decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let high = hex_digit(bytes.next()?)?;
        let low = hex_digit(bytes.next()?)?;
        decoded.push(high << 4 | low);
    }
    Some(decoded)
}

fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_bytes() {
        let path = parse("a%20b/%FF%fe/%25/ü+").unwrap();
        let expected: [&[u8]; 4] = [b"a b", b"\xff\xfe", b"%", "ü+".as_bytes()];
        assert_eq!(path.parts(), expected);
    }

    #[test]
    fn the_path_starts_after_fs() {
        let parts = |raw| below_fs(raw).unwrap().to_bytes();
        assert_eq!(parts("/v1/machines/m/fs/src/main.rs"), b"src/main.rs");
        assert_eq!(parts("/v1/machines/m/fs"), b"");
        assert_eq!(parts("/v1/machines/m/fs/"), b"");
        assert_eq!(parts("/v1/machines/m/fs/fs/"), b"fs");
    }

    #[test]
    fn what_could_mean_another_place_is_refused_by_name() {
        for (bad, named) in [
            ("a/../b", ".."),
            ("%2e%2e/b", ".."),
            ("a/%2E/b", "\".\""),
            ("a%2Fb", "a%2Fb"),
            ("a//b", "empty"),
            ("/abs", "empty"),
            ("nul%00byte", "NUL"),
            ("50%", "50%"),
            ("%zz", "%zz"),
            ("%e", "%e"),
        ] {
            let error = parse(bad).unwrap_err();
            assert_eq!(error.status(), 400, "{bad}");
            assert!(error.body().message.contains(named), "{bad}: {}", error.body().message);
        }
        assert_eq!(parse(&"x".repeat(256)).unwrap_err().status(), 400);
        assert_eq!(parse(&"abc/".repeat(2000)).unwrap_err().status(), 400);
    }
}
