//! What the server is told: a TOML file, then the environment, then flags; later ones win.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base::{ErrorKind, Ipv4Range, PRIVATE_RANGES};
use clap::Args;
use serde::Deserialize;

use crate::store::KeySource;
use crate::{Failure, dirs, server_file};

/// Where a server keeps its things: flags of `serve`, and of whatever works on the same store and directory.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct PlaceArgs {
    /// Configuration file (TOML); default `$XDG_CONFIG_HOME/dormouse/config.toml` where it exists.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Data directory [default: `$XDG_DATA_HOME/dormouse`].
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Object store: file:///DIR, s3://BUCKET/PREFIX, gs://…, az://… [default: DATA/store].
    #[arg(long, value_name = "URL")]
    pub(crate) store: Option<String>,
    /// Encrypt what is stored, with the keys in this file (`dormouse keygen` makes one).
    #[arg(long, value_name = "FILE", conflicts_with = "encryption_key_command")]
    pub(crate) encryption_key_file: Option<PathBuf>,
    /// The same with keys that this command prints (run by `sh -c`), as from a key service.
    #[arg(long, value_name = "CMD")]
    pub(crate) encryption_key_command: Option<String>,
}

/// How machines run on this host: flags of `serve`, and of `doctor`, which looks whether they can.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct HostArgs {
    /// Where machine images are.
    #[arg(long, value_name = "DIR")]
    pub(crate) images: Option<PathBuf>,
    /// How machines reach the network: isolated (needs root), user, none.
    #[arg(long, value_parser = parse_network)]
    pub(crate) network: Option<runtime::Network>,
}

/// Flags of `serve`.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
    #[command(flatten)]
    pub(crate) host: HostArgs,
    /// Address to listen on; port 0 picks a free one [default: 127.0.0.1:8080].
    #[arg(long, value_name = "ADDR:PORT")]
    pub(crate) listen: Option<SocketAddr>,
    /// Boot new machines, too: make no templates and use none.
    #[arg(long)]
    pub(crate) no_templates: bool,
    /// How long machines stay warm once they sleep, while the host has memory to spare; 0: not at all.
    #[arg(long, value_name = "SECONDS")]
    pub(crate) warm_seconds: Option<u64>,
    /// At the end (SIGTERM), put every machine to sleep first.
    #[arg(long)]
    pub(crate) shutdown_machines: bool,
}

/// The configuration file. Unknown keys are refused, so that a typing error is not a silent default.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    listen: Option<SocketAddr>,
    data: Option<PathBuf>,
    store: Option<String>,
    encryption_key_file: Option<PathBuf>,
    encryption_key_command: Option<String>,
    images: Option<PathBuf>,
    network: Option<runtime::Network>,
    #[serde(default)]
    egress_private_ranges: Vec<Ipv4Range>,
    qemu: Option<PathBuf>,
    shutdown_machines: Option<bool>,
    templates: Option<bool>,
    warm_seconds: Option<u64>,
    boot_timeout_seconds: Option<u64>,
    store_memory: Option<bool>,
    store_memory_after_seconds: Option<u64>,
    store_memory_mib_max: Option<u64>,
    #[serde(default)]
    defaults: FileDefaults,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileDefaults {
    vcpu: Option<f64>,
    memory_mib: Option<u64>,
    storage_gib: Option<u64>,
    autosleep_seconds: Option<u64>,
    image: Option<String>,
}

/// Everything decided.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) listen: SocketAddr,
    pub(crate) data: PathBuf,
    pub(crate) store: String,
    /// Where the keys of the store come from.
    pub(crate) keys: KeySource,
    pub(crate) images: PathBuf,
    pub(crate) network: runtime::Network,
    /// Private ranges that egress policies may name.
    pub(crate) private_ranges: Vec<Ipv4Range>,
    /// QEMU's program; the one in `PATH` where it is not given.
    pub(crate) qemu: Option<PathBuf>,
    pub(crate) shutdown_machines: bool,
    /// New machines begin with templates.
    pub(crate) templates: bool,
    /// How long guests stay loaded once they sleep; 0: not at all.
    pub(crate) warm_seconds: u64,
    pub(crate) boot_timeout_seconds: u64,
    /// How long a machine has slept before its memory is stored; never where it is not given.
    pub(crate) store_memory_after: Option<Duration>,
    /// The most memory of a machine, as far as it was touched, that is stored.
    pub(crate) stored_memory_bytes_max: u64,
    pub(crate) defaults: control::Defaults,
}

/// Seconds that a guest stays loaded once it sleeps: who writes to an agent does so again within two minutes, or later.
const WARM_SECONDS: u64 = 120;

/// Seconds that a machine sleeps before its memory is stored: one that wakes every minute is spared that.
const STORE_MEMORY_AFTER_SECONDS: u64 = 60;

/// The most memory that is stored, in MiB. It compresses to a quarter or so.
const STORE_MEMORY_MIB_MAX: u64 = 4096;

/// Seconds that a guest may take to boot: emulated on a busy host it takes up to 11 s, and nothing
/// is gained by giving up early.
const BOOT_TIMEOUT_SECONDS: u64 = 120;

impl Config {
    /// What a server goes by that is started now.
    pub(crate) fn load(args: &ServeArgs) -> Result<Self, Failure> {
        let config = Self::load_or(args, |data| {
            let usual = format!("file://{}", data.join("store").display());
            match noted_store(data) {
                Some(last) if last != usual => Err(Failure::new(
                    ErrorKind::InvalidArgument,
                    format!(
                        "{} belongs to a server whose store was {last}: say --store {last} to go on with it, or \
                         --store {usual} to begin with an empty one",
                        data.display()
                    ),
                )),
                _ => Ok(usual),
            }
        })?;
        Ok(config)
    }

    /// What a tool goes by that works beside a server, running or not: that server's store, where no other one is named.
    pub(crate) fn beside(place: &PlaceArgs, host: &HostArgs) -> Result<Self, Failure> {
        let args = ServeArgs { place: place.clone(), host: host.clone(), ..ServeArgs::default() };
        Self::load_or(&args, |data| {
            let usual = || format!("file://{}", data.join("store").display());
            Ok(noted_store(data).unwrap_or_else(usual))
        })
    }

    fn load_or(
        args: &ServeArgs,
        unnamed_store: impl FnOnce(&Path) -> Result<String, Failure>,
    ) -> Result<Self, Failure> {
        let ServeArgs { place, host, .. } = args;
        let file = match &place.config {
            Some(path) => read(path)?,
            None => {
                let path = dirs::config_file();
                if path.exists() { read(&path)? } else { File::default() }
            }
        };
        let named = |variable| dirs::variable(variable).map(PathBuf::from);
        let data = place.data.clone().or_else(|| named("DORMOUSE_DATA")).or(file.data);
        let data = data.unwrap_or_else(dirs::data);
        let data = std::path::absolute(&data).map_err(|error| {
            Failure::new(
                ErrorKind::InvalidArgument,
                format!("data directory {}: {error}", data.display()),
            )
        })?;
        let named_store =
            place.store.clone().or_else(|| dirs::variable("DORMOUSE_STORE")).or(file.store);
        let store = match named_store {
            Some(store) => store,
            None => unnamed_store(&data)?,
        };
        let keys = keys(place, file.encryption_key_file, file.encryption_key_command)?;
        let defaults = control::Defaults::default();
        Ok(Self {
            listen: args
                .listen
                .or(file.listen)
                .unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 8080))),
            store,
            keys,
            images: host
                .images
                .clone()
                .or_else(|| named("DORMOUSE_IMAGES"))
                .or(file.images)
                .unwrap_or_else(dirs::images),
            network: host.network.or(file.network).unwrap_or_else(default_network),
            private_ranges: private_ranges(file.egress_private_ranges)?,
            qemu: file.qemu,
            shutdown_machines: args.shutdown_machines || file.shutdown_machines.unwrap_or(false),
            templates: !args.no_templates && file.templates.unwrap_or(true),
            warm_seconds: args.warm_seconds.or(file.warm_seconds).unwrap_or(WARM_SECONDS),
            boot_timeout_seconds: file.boot_timeout_seconds.unwrap_or(BOOT_TIMEOUT_SECONDS),
            store_memory_after: file.store_memory.unwrap_or(true).then(|| {
                let seconds = file.store_memory_after_seconds;
                Duration::from_secs(seconds.unwrap_or(STORE_MEMORY_AFTER_SECONDS))
            }),
            stored_memory_bytes_max: file
                .store_memory_mib_max
                .unwrap_or(STORE_MEMORY_MIB_MAX)
                .saturating_mul(1 << 20),
            defaults: control::Defaults {
                vcpu: file.defaults.vcpu.unwrap_or(defaults.vcpu),
                memory_mib: file.defaults.memory_mib.unwrap_or(defaults.memory_mib),
                storage_gib: file.defaults.storage_gib.unwrap_or(defaults.storage_gib),
                autosleep_seconds: file
                    .defaults
                    .autosleep_seconds
                    .unwrap_or(defaults.autosleep_seconds),
                image: file.defaults.image.unwrap_or(defaults.image),
            },
            data,
        })
    }
}

/// The store that belongs to a data directory, as was noted; `None` also where that was in the directory itself, which
/// has been moved since.
fn noted_store(data: &Path) -> Option<String> {
    let is_gone = |url: &String| {
        url.strip_prefix("file://").is_some_and(|path| !Path::new(path).exists())
            && data.join("store").is_dir()
    };
    server_file::last_store(data).filter(|url| !is_gone(url))
}

/// The first of flags, environment and file that says anything about keys.
fn keys(
    place: &PlaceArgs,
    file: Option<PathBuf>,
    command: Option<String>,
) -> Result<KeySource, Failure> {
    let flags = (place.encryption_key_file.clone(), place.encryption_key_command.clone());
    let said = match KeySource::of(flags.0, flags.1)? {
        Some(said) => Some(said),
        None => match KeySource::from_env()? {
            Some(said) => Some(said),
            None => KeySource::of(file, command)?,
        },
    };
    match said {
        // A keeper has another working directory, perhaps.
        Some(KeySource::File(path)) => {
            let path = std::path::absolute(&path).map_err(|error| {
                Failure::new(
                    ErrorKind::InvalidArgument,
                    format!("encryption key file {}: {error}", path.display()),
                )
            })?;
            Ok(KeySource::File(path))
        }
        said => Ok(said.unwrap_or_default()),
    }
}

/// Refuses what permits nothing: public ranges need no permission, and metadata gets none.
fn private_ranges(ranges: Vec<Ipv4Range>) -> Result<Vec<Ipv4Range>, Failure> {
    let private = |range: &Ipv4Range| PRIVATE_RANGES.iter().any(|other| range.is_within(*other));
    match ranges.iter().find(|range| !private(range)) {
        None => Ok(ranges),
        Some(range) => Err(Failure::new(
            ErrorKind::InvalidArgument,
            format!(
                "egress_private_ranges: {range} is in none of the private ranges 10.0.0.0/8, 100.64.0.0/10, \
                 172.16.0.0/12, 192.168.0.0/16"
            ),
        )),
    }
}

/// With root, machines get a namespace of their own. Without, they get no network: user-mode
/// networking alone would let guests reach services of this host, and that must be asked for.
fn default_network() -> runtime::Network {
    if nix::unistd::geteuid().is_root() {
        runtime::Network::Isolated
    } else {
        runtime::Network::None
    }
}

fn read(path: &Path) -> Result<File, Failure> {
    let bad = |error: &dyn std::fmt::Display| {
        Failure::new(
            ErrorKind::InvalidArgument,
            format!("configuration {}: {error}", path.display()),
        )
    };
    let text = std::fs::read_to_string(path).map_err(|error| bad(&error))?;
    toml::from_str(&text).map_err(|error| bad(&error))
}

fn parse_network(text: &str) -> Result<runtime::Network, String> {
    match text {
        "isolated" => Ok(runtime::Network::Isolated),
        "user" => Ok(runtime::Network::User),
        "none" => Ok(runtime::Network::None),
        _ => Err("one of isolated, user, none".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(config: &Path) -> ServeArgs {
        let place = PlaceArgs { config: Some(config.to_owned()), ..PlaceArgs::default() };
        ServeArgs { place, ..ServeArgs::default() }
    }

    #[test]
    fn private_ranges_are_private() {
        let said = |text: &str| {
            let file: Result<File, _> =
                toml::from_str(&format!("egress_private_ranges = [{text}]"));
            file.is_ok_and(|file| private_ranges(file.egress_private_ranges).is_ok())
        };
        assert!(said("") && said("\"10.1.0.0/16\", \"192.168.0.0/16\""));
        for bad in
            ["\"0.0.0.0/0\"", "\"8.8.8.0/24\"", "\"169.254.0.0/16\"", "\"10.0.0.1/8\"", "\"x\""]
        {
            assert!(!said(bad), "{bad}");
        }
    }

    #[test]
    fn a_flag_wins_over_the_file_and_a_typing_error_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        std::fs::write(
            &path,
            "listen = \"127.0.0.1:1\"\nstore = \"s3://b/p\"\n[defaults]\nvcpu = 2.0\n",
        )
        .unwrap();
        let mut flags = ServeArgs { listen: Some("127.0.0.1:2".parse().unwrap()), ..args(&path) };
        flags.place.data = Some("/tmp/x".into());
        let config = Config::load(&flags).unwrap();
        assert_eq!(config.listen.port(), 2);
        assert_eq!(config.store, "s3://b/p");
        assert!(config.templates, "unless somebody does not want them");
        assert!(!Config::load(&ServeArgs { no_templates: true, ..flags }).unwrap().templates);
        assert!((config.defaults.vcpu - 2.0).abs() < f64::EPSILON);

        assert_eq!(config.store_memory_after, Some(Duration::from_secs(60)));
        for (text, after) in [
            ("store_memory = false\nstore_memory_after_seconds = 5\n", None),
            ("store_memory_after_seconds = 5\n", Some(Duration::from_secs(5))),
        ] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(Config::load(&args(&path)).unwrap().store_memory_after, after);
        }

        std::fs::write(&path, "lisen = \"127.0.0.1:1\"\n").unwrap();
        let error = Config::load(&args(&path)).unwrap_err();
        assert!(error.to_string().contains("lisen"), "{error}");
    }

    #[test]
    fn the_store_of_a_data_directory_is_not_changed_by_saying_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (data, file) = (dir.path().join("data"), dir.path().join("config.toml"));
        std::fs::create_dir(&data).unwrap();
        std::fs::write(&file, "").unwrap();
        let mut args = args(&file);
        args.place.data = Some(data.clone());
        let usual = format!("file://{}", data.join("store").display());
        let beside = |args: &ServeArgs| {
            Config::beside(&args.place, &HostArgs::default()).map(|config| config.store)
        };
        assert_eq!(Config::load(&args).unwrap().store, usual);
        assert_eq!(beside(&args).unwrap(), usual);

        server_file::remember_store(&data, &usual).unwrap();
        assert_eq!(Config::load(&args).unwrap().store, usual);

        server_file::remember_store(&data, "s3://bucket/prefix").unwrap();
        assert_eq!(beside(&args).unwrap(), "s3://bucket/prefix");
        let refused = Config::load(&args).unwrap_err().to_string();
        assert!(refused.contains("--store s3://bucket/prefix"), "{refused}");

        // The directory was moved, with its store.
        server_file::remember_store(&data, "file:///nowhere/store").unwrap();
        assert!(Config::load(&args).is_err(), "it may be a disk that is not there yet");
        std::fs::create_dir(data.join("store")).unwrap();
        assert_eq!(Config::load(&args).unwrap().store, usual);
        assert_eq!(beside(&args).unwrap(), usual);

        args.place.store = Some("s3://other".to_owned());
        assert_eq!(Config::load(&args).unwrap().store, "s3://other");
        assert_eq!(beside(&args).unwrap(), "s3://other");
    }
}
