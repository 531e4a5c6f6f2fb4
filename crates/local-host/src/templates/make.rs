//! Makes a template: boots a guest that is nobody's, and saves it.
//!
//! It has no home, an empty upper, no way out of its network namespace, and nothing of any user: what it
//! runs is a shell that does nothing, so that the first command of a clone finds in memory what every
//! command needs.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use agent_proto::{AgentClient, Exec, Output};
use base::{Entropy, MachineId};
use keeper::KeeperSpec;
use keeper::template::{Kind, Note, TemplateDir};
use runtime::{Memory, Purpose, Runtime, Started};
use tokio::net::UnixStream;

/// What is run in it once: a clone's first command finds in memory what most of them begin with.
const WARM_UP: &str = "bash -c true; ls -l / >/dev/null; cat /etc/passwd >/dev/null; cd /bin; \
     cat cat cp date echo env find grep head id ls mkdir mv pwd rm sed sleep tail true >/dev/null";
/// How long that may take; without it a template is as good, only slower.
const WARM_UP_PATIENCE: Duration = Duration::from_secs(20);

/// What is said of an agent that knows of no templates.
const TOO_OLD: &str = "the image's agent is too old for templates: build the image anew with `cargo xtask setup`, or take \
     one of this version; until then every machine of it boots";

/// What it takes.
#[derive(Debug, Clone)]
pub(super) struct Maker {
    pub(super) runtime: Arc<dyn Runtime>,
    pub(super) entropy: Arc<dyn Entropy>,
    /// How long a guest may take to boot.
    pub(super) patience: Duration,
}

impl Maker {
    /// Makes the template of a machine like that of `spec` in `dir`.
    ///
    /// # Errors
    /// Why not, for the log. `dir` is not removed.
    pub(super) async fn make(
        &self,
        spec: &KeeperSpec,
        kind: Kind,
        dir: &TemplateDir,
    ) -> Result<(), String> {
        let (upper, bytes) = (dir.upper(), spec.upper.bytes);
        blocking(move || images::make_upper(&upper, bytes).map_err(io::Error::other)).await?;
        let instance = runtime::Spec {
            machine: MachineId::generate(),
            purpose: Purpose::Template,
            memory: Memory::File(dir.memory()),
            upper_image: dir.upper(),
            upper_server: None,
            log_dir: dir.path().join("log"),
            ..spec.instance.clone()
        };
        let started = self.runtime.start(&instance).await.map_err(|error| error.to_string())?;
        let Started { instance, control, fuse, .. } = started;
        // Other handles, so that the guest's ports are not hung up before it is saved.
        let line = control.try_clone().map_err(|error| error.to_string())?;
        let ready = tokio::select! {
            ready = ready(control, &*self.entropy, self.patience) => ready,
            exit = instance.wait() => Err(format!("the guest ended: {exit:?}")),
        };
        let saved = match ready {
            Ok(()) => instance.suspend(&dir.devices()).await.map_err(|error| error.to_string()),
            Err(why) => {
                tracing::debug!(console = instance.console_tail(), "a template that is none");
                instance.stop(Duration::ZERO).await;
                Err(why)
            }
        };
        drop((line, fuse));
        saved?;
        let dir = dir.clone();
        blocking(move || {
            std::fs::remove_dir_all(dir.path().join("log"))?;
            std::fs::File::open(dir.upper())?.sync_all()?;
            Note::of(&dir, kind)?.write(&dir)
        })
        .await
    }
}

/// Waits for a guest that is up and nobody's.
async fn ready(
    control: std::os::unix::net::UnixStream,
    entropy: &dyn Entropy,
    patience: Duration,
) -> Result<(), String> {
    control.set_nonblocking(true).map_err(|error| error.to_string())?;
    let control = UnixStream::from_std(control).map_err(|error| error.to_string())?;
    let meeting = async {
        let agent = AgentClient::connect(control, entropy).await?;
        let hello = agent.hello().await?;
        Ok((agent, hello))
    };
    let met = tokio::time::timeout(patience, meeting).await;
    let (agent, hello) = met.map_err(|_| "the guest did not answer")?.map_err(told)?;
    if !hello.unconfigured {
        return Err(TOO_OLD.to_owned());
    }
    match tokio::time::timeout(WARM_UP_PATIENCE, warm_up(&agent)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "warm a template up"),
        // It may be in the middle of anything.
        Err(_) => return Err("the guest runs no commands".to_owned()),
    }
    // After the last command: what lies in /root cannot be looked at any more.
    agent.prepare().await.map_err(unprepared)?;
    agent.close().await;
    Ok(())
}

fn told(error: agent_proto::Error) -> String {
    error.to_string()
}

/// Why a guest could not be prepared. An agent that does not know what it is asked hangs up, on that request alone.
fn unprepared(error: agent_proto::Error) -> String {
    if matches!(error, agent_proto::Error::Closed { .. }) {
        TOO_OLD.to_owned()
    } else {
        told(error)
    }
}

async fn warm_up(agent: &AgentClient) -> Result<(), agent_proto::Error> {
    let command = ["/bin/sh", "-c", WARM_UP].map(str::to_owned).to_vec();
    let exec = Exec { command, cwd: Some("/".to_owned()), ..Exec::default() };
    let mut running = agent.exec(&exec).await?;
    while !matches!(running.output.next().await?, Output::Exited(_)) {}
    Ok(())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, String> {
    let done = tokio::task::spawn_blocking(work).await.map_err(|error| error.to_string())?;
    done.map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use agent_proto::mux::AgentMux;
    use agent_proto::{
        FrameReader, FrameWriter, Hello, PROTOCOL_VERSION, Reply, Request, handshake,
    };
    use base::SystemEntropy;

    use super::*;

    /// A guest whose agent was made before guests were prepared.
    async fn older_agent(mut port: UnixStream) {
        handshake::agent(&mut port).await.unwrap();
        let mut mux = AgentMux::start(port);
        while let Ok(stream) = mux.accept().await {
            let (reader, writer) = tokio::io::split(stream);
            let mut reader = FrameReader::new(reader);
            let hello = Hello {
                protocol: PROTOCOL_VERSION,
                version: "0.0.1".to_owned(),
                uptime_ms: 1,
                home_mounted: true,
                unconfigured: true,
                detail: None,
            };
            // What it does not know ends a stream.
            if reader.message::<Request>("request").await.unwrap() == Request::Hello {
                FrameWriter::new(writer).message(&Reply::Hello(hello)).await.unwrap();
            }
        }
    }

    #[tokio::test]
    async fn an_agent_that_cannot_be_prepared_is_told_what_to_do_about() {
        let (near, far) = std::os::unix::net::UnixStream::pair().unwrap();
        far.set_nonblocking(true).unwrap();
        let agent = tokio::spawn(older_agent(UnixStream::from_std(far).unwrap()));
        let why = ready(near, &SystemEntropy, Duration::from_secs(10)).await.unwrap_err();
        assert!(why.contains("too old") && why.contains("cargo xtask setup"), "{why}");
        agent.abort();
    }
}
