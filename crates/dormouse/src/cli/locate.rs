//! Finding the server and its key.
//!
//! Flag, then environment, then the server of this host by its data directory. The key comes from
//! `DORMOUSE_API_KEY`, or from that data directory; the command line has no flag for it, because
//! other users of a host can see command lines.

use std::path::Path;

use base::ErrorKind;
use client::Client;

use crate::server_file::{ServerFile, read_key};
use crate::{Failure, dirs};

pub(super) fn client(url: Option<&str>, data: Option<&Path>) -> Result<Client, Failure> {
    let data = data.map_or_else(dirs::data, Path::to_path_buf);
    let url = url
        .map(str::to_owned)
        .or_else(|| dirs::variable("DORMOUSE_URL"))
        .or_else(|| ServerFile::read(&data).map(|server| server.url))
        .ok_or_else(|| {
            Failure::new(
                ErrorKind::Unreachable,
                format!(
                    "no server is running with data directory {}; start one with: dormouse serve (or set DORMOUSE_URL)",
                    data.display()
                ),
            )
        })?;
    let key = dirs::variable("DORMOUSE_API_KEY").or_else(|| read_key(&data)).ok_or_else(|| {
        Failure::new(
            ErrorKind::Unauthenticated,
            "no API key: set DORMOUSE_API_KEY to the content of api-key in the server's data directory",
        )
    })?;
    Ok(Client::new(&url, &key)?)
}
