//! Clients of cloud stores, set up from variables.
//!
//! # Invariants
//! Only the variables named here are looked at, through the lookup that is passed in. Plain HTTP is
//! spoken only to an endpoint that is written as `http://`.
//!
//! # Not here
//! Proxy variables: the HTTP client below reads the customary ones itself.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::{BackoffConfig, ClientOptions, RetryConfig};

use crate::limits::CONNECT_TIMEOUT;
use crate::location::Provider;
use crate::{Error, Result};

/// How a variable is looked up.
pub(crate) type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The client for a bucket.
pub(crate) fn client(
    provider: Provider,
    bucket: &str,
    env: Env<'_>,
) -> Result<Arc<dyn object_store::ObjectStore>> {
    match provider {
        Provider::S3 => s3(bucket, env),
        Provider::Gcs => gcs(bucket, env),
        Provider::Azure => azure(bucket, env),
    }
}

/// In order: a later one wins over an earlier one.
const S3_VARIABLES: &[&str] = &[
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_DEFAULT_REGION",
    "AWS_REGION",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_ENDPOINT_URL_STS",
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_METADATA_ENDPOINT",
    "AWS_VIRTUAL_HOSTED_STYLE_REQUEST",
];

const GCS_VARIABLES: &[&str] = &[
    "GOOGLE_SERVICE_ACCOUNT",
    "GOOGLE_SERVICE_ACCOUNT_KEY",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "GOOGLE_BASE_URL",
];

const AZURE_VARIABLES: &[&str] = &[
    "AZURE_STORAGE_ACCOUNT_NAME",
    "AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_STORAGE_SAS_TOKEN",
    "AZURE_STORAGE_ENDPOINT",
    "AZURE_CLIENT_ID",
    "AZURE_CLIENT_SECRET",
    "AZURE_TENANT_ID",
    "AZURE_AUTHORITY_HOST",
    "AZURE_FEDERATED_TOKEN_FILE",
];

fn s3(bucket: &str, env: Env<'_>) -> Result<Arc<dyn object_store::ObjectStore>> {
    let endpoint = present(env, "AWS_ENDPOINT_URL_S3").or_else(|| present(env, "AWS_ENDPOINT_URL"));
    check_endpoint("AWS_ENDPOINT_URL", endpoint.as_deref())?;
    let id = present(env, "AWS_ACCESS_KEY_ID").is_some();
    let secret = present(env, "AWS_SECRET_ACCESS_KEY").is_some();
    if id != secret {
        return Err(Error::unusable(
            "only one of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY is set: set both or neither",
        ));
    }
    let borrowed = [
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_METADATA_ENDPOINT",
    ];
    if endpoint.is_some() && !id && !borrowed.iter().any(|name| present(env, name).is_some()) {
        // Else the client would wait for Amazon's metadata service, which is not there.
        return Err(Error::unusable(
            "AWS_ENDPOINT_URL is set without a credential: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        ));
    }
    let mut builder = AmazonS3Builder::new()
        .with_client_options(client_options())
        .with_retry(no_retry())
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        // A plain DELETE is what every server of the protocol has.
        .with_disable_bulk_delete(true)
        .with_bucket_name(bucket);
    for (key, value) in settings::<AmazonS3ConfigKey>(S3_VARIABLES, env) {
        builder = builder.with_config(key, value);
    }
    let builder = builder.with_allow_http(is_plain_http(endpoint.as_deref()));
    Ok(Arc::new(builder.build().map_err(|_| unbuildable("AWS_"))?))
}

fn gcs(bucket: &str, env: Env<'_>) -> Result<Arc<dyn object_store::ObjectStore>> {
    let endpoint = present(env, "GOOGLE_BASE_URL");
    check_endpoint("GOOGLE_BASE_URL", endpoint.as_deref())?;
    let options = client_options().with_allow_http(is_plain_http(endpoint.as_deref()));
    let mut builder = GoogleCloudStorageBuilder::new()
        .with_client_options(options)
        .with_retry(no_retry())
        .with_bucket_name(bucket);
    for (key, value) in settings::<GoogleConfigKey>(GCS_VARIABLES, env) {
        builder = builder.with_config(key, value);
    }
    Ok(Arc::new(builder.build().map_err(|_| unbuildable("GOOGLE_"))?))
}

fn azure(container: &str, env: Env<'_>) -> Result<Arc<dyn object_store::ObjectStore>> {
    let endpoint = present(env, "AZURE_STORAGE_ENDPOINT");
    check_endpoint("AZURE_STORAGE_ENDPOINT", endpoint.as_deref())?;
    let mut builder = MicrosoftAzureBuilder::new()
        .with_client_options(client_options())
        .with_retry(no_retry())
        .with_container_name(container);
    for (key, value) in settings::<AzureConfigKey>(AZURE_VARIABLES, env) {
        builder = builder.with_config(key, value);
    }
    let builder = builder.with_allow_http(is_plain_http(endpoint.as_deref()));
    Ok(Arc::new(builder.build().map_err(|_| unbuildable("AZURE_"))?))
}

/// The value of a variable that is set to something.
fn present(env: Env<'_>, name: &str) -> Option<String> {
    env(name).filter(|value| !value.is_empty())
}

fn settings<'a, K: FromStr>(
    names: &'a [&'a str],
    env: Env<'a>,
) -> impl Iterator<Item = (K, String)> + 'a {
    names.iter().filter_map(move |name| {
        let key = name.to_ascii_lowercase().parse().ok()?;
        Some((key, present(env, name)?))
    })
}

fn is_plain_http(endpoint: Option<&str>) -> bool {
    endpoint.is_some_and(|endpoint| endpoint.starts_with("http://"))
}

fn check_endpoint(name: &str, endpoint: Option<&str>) -> Result<()> {
    let Some(endpoint) = endpoint else { return Ok(()) };
    let host = endpoint.strip_prefix("http://").or_else(|| endpoint.strip_prefix("https://"));
    match host {
        Some(host) if !host.is_empty() && !host.contains(['@', '?', '#']) => Ok(()),
        _ => Err(Error::unusable(format!(
            "{name} must be http://host:port or https://host, without a credential in it"
        ))),
    }
}

/// The client's own words may quote a setting, so they are not repeated.
fn unbuildable(variables: &str) -> Error {
    Error::unusable(format!(
        "the object store cannot be set up: a needed {variables}* variable is missing or malformed"
    ))
}

fn client_options() -> ClientOptions {
    // `remote` bounds every attempt; a total timeout here would cut long bodies.
    ClientOptions::new().with_connect_timeout(CONNECT_TIMEOUT).with_timeout_disabled()
}

/// `remote` retries, since it knows what a create that failed may have done.
fn no_retry() -> RetryConfig {
    RetryConfig { backoff: BackoffConfig::default(), max_retries: 0, retry_timeout: Duration::ZERO }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(variables: &[(&str, &str)]) -> Result<Arc<dyn object_store::ObjectStore>> {
        let lookup = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        client(Provider::S3, "bucket", &lookup)
    }

    #[test]
    fn every_variable_named_is_one_the_client_knows() {
        for name in S3_VARIABLES {
            assert!(name.to_ascii_lowercase().parse::<AmazonS3ConfigKey>().is_ok(), "{name}");
        }
        for name in GCS_VARIABLES {
            assert!(name.to_ascii_lowercase().parse::<GoogleConfigKey>().is_ok(), "{name}");
        }
        for name in AZURE_VARIABLES {
            assert!(name.to_ascii_lowercase().parse::<AzureConfigKey>().is_ok(), "{name}");
        }
    }

    #[test]
    fn half_a_credential_is_refused_without_repeating_it() {
        let error = open(&[("AWS_SECRET_ACCESS_KEY", "s3cr3t")]).unwrap_err();
        assert!(error.to_string().contains("AWS_ACCESS_KEY_ID"));
        assert!(!error.to_string().contains("s3cr3t"));
    }

    #[test]
    fn an_endpoint_of_ones_own_needs_a_credential() {
        assert!(open(&[("AWS_ENDPOINT_URL", "http://127.0.0.1:9000")]).is_err());
        assert!(open(&[("AWS_ENDPOINT_URL", "http://u:s3cr3t@h")]).is_err());
        assert!(
            open(&[
                ("AWS_ENDPOINT_URL", "http://127.0.0.1:9000"),
                ("AWS_ACCESS_KEY_ID", "k"),
                ("AWS_SECRET_ACCESS_KEY", "s"),
            ])
            .is_ok()
        );
    }
}
