//! How large the machine is, and the call that changes it while it runs.

use std::sync::{Arc, OnceLock};

use axum::Json;
use axum::extract::State;
use homefs::HomeFs;
use parking_lot::Mutex;
use runtime::Instance;

use super::{Ctx, starting};
use crate::{Result, Sizes, Status};

/// The sizes in force.
#[derive(Debug)]
pub(crate) struct SizesInForce {
    in_force: Mutex<Sizes>,
    /// Held while they change: what is said to be in force is what was set last.
    changing: tokio::sync::Mutex<()>,
    machine: OnceLock<(Arc<dyn Instance>, Arc<HomeFs>)>,
}

impl SizesInForce {
    /// Those that the guest starts with.
    pub(crate) fn new(sizes: Sizes) -> Self {
        let (in_force, changing) = (Mutex::new(sizes), tokio::sync::Mutex::default());
        Self { in_force, changing, machine: OnceLock::new() }
    }

    /// From here on they can be changed.
    pub(crate) fn are_of(&self, instance: &Arc<dyn Instance>, home: &Arc<HomeFs>) {
        self.machine.set((instance.clone(), home.clone())).ok();
    }

    pub(crate) fn in_force(&self) -> Sizes {
        *self.in_force.lock()
    }

    async fn set(&self, sizes: Sizes) -> Result<()> {
        let _changing = self.changing.lock().await;
        let (instance, home) = self.machine.get().ok_or_else(|| starting("its guest"))?;
        home.grow(sizes.storage_bytes_max);
        self.in_force.lock().storage_bytes_max = sizes.storage_bytes_max;
        instance.set_vcpu(sizes.vcpu).await?;
        self.in_force.lock().vcpu = sizes.vcpu;
        tracing::info!(sizes.vcpu, sizes.storage_bytes_max, "sizes");
        Ok(())
    }
}

/// Puts other sizes in force, but for the memory. To its end, also where whoever asked for it goes away.
pub(super) async fn set(State(shared): Ctx, Json(sizes): Json<Sizes>) -> Result<Json<Status>> {
    let in_force = shared.sizes.clone();
    shared.door.through(async move { in_force.set(sizes).await }).await?;
    Ok(Json((shared.status)()))
}
