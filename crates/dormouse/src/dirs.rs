//! Where things are by default (XDG base directories).

use std::path::PathBuf;

/// An environment variable, where it is set and not empty.
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn home() -> PathBuf {
    variable("HOME").map_or_else(|| PathBuf::from("/root"), PathBuf::from)
}

fn xdg(name: &str, below_home: &str) -> PathBuf {
    variable(name)
        .map(PathBuf::from)
        // The specification says to ignore relative ones.
        .filter(|path| path.is_absolute())
        .unwrap_or_else(|| home().join(below_home))
        .join("dormouse")
}

/// `DORMOUSE_DATA`, else `$XDG_DATA_HOME/dormouse`.
pub(crate) fn data() -> PathBuf {
    variable("DORMOUSE_DATA").map_or_else(|| xdg("XDG_DATA_HOME", ".local/share"), PathBuf::from)
}

/// `DORMOUSE_CONFIG`, else `$XDG_CONFIG_HOME/dormouse/config.toml`.
pub(crate) fn config_file() -> PathBuf {
    variable("DORMOUSE_CONFIG")
        .map_or_else(|| xdg("XDG_CONFIG_HOME", ".config").join("config.toml"), PathBuf::from)
}

/// `DORMOUSE_IMAGES`, else the usual place of images in the user's cache.
pub(crate) fn images() -> PathBuf {
    variable("DORMOUSE_IMAGES").map_or_else(
        || {
            let cache = std::env::var_os("XDG_CACHE_HOME");
            let home = std::env::var_os("HOME");
            images::default_dir(cache.as_deref(), home.as_deref())
        },
        PathBuf::from,
    )
}
