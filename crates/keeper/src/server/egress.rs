//! What the guest may reach, and the call that changes it while it runs.

use std::sync::{Arc, OnceLock};

use axum::Json;
use axum::extract::State;
use base::Egress;
use parking_lot::Mutex;
use runtime::Instance;

use super::{Ctx, starting};
use crate::{Result, Status};

/// The egress policy in force.
#[derive(Debug)]
pub(crate) struct Policy {
    in_force: Mutex<Egress>,
    /// Held while it changes: what is said to be in force is what was set last.
    changing: tokio::sync::Mutex<()>,
    instance: OnceLock<Arc<dyn Instance>>,
}

impl Policy {
    /// The one that the guest starts with.
    pub(crate) fn new(egress: Egress) -> Self {
        let (in_force, changing) = (Mutex::new(egress), tokio::sync::Mutex::default());
        Self { in_force, changing, instance: OnceLock::new() }
    }

    /// From here on it can be changed.
    pub(crate) fn holds(&self, instance: &Arc<dyn Instance>) {
        self.instance.set(instance.clone()).ok();
    }

    pub(crate) fn in_force(&self) -> Egress {
        self.in_force.lock().clone()
    }

    async fn set(&self, egress: Egress) -> Result<()> {
        let _changing = self.changing.lock().await;
        let instance = self.instance.get().ok_or_else(|| starting("its guest"))?;
        instance.set_egress(&egress).await?;
        tracing::info!(%egress, "egress policy");
        *self.in_force.lock() = egress;
        Ok(())
    }
}

/// Puts another policy in force. To its end, also where whoever asked for it goes away.
pub(super) async fn set(State(shared): Ctx, Json(egress): Json<Egress>) -> Result<Json<Status>> {
    let policy = shared.egress.clone();
    shared.door.through(async move { policy.set(egress).await }).await?;
    Ok(Json((shared.status)()))
}
