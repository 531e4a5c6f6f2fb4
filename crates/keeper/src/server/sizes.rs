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
    /// Virtual CPUs that the guest started with.
    started_with: f64,
    in_force: Mutex<Sizes>,
    /// Held while they change: what is said to be in force is what was set last.
    changing: tokio::sync::Mutex<()>,
    machine: OnceLock<(Arc<dyn Instance>, Arc<HomeFs>)>,
}

impl SizesInForce {
    /// Those that the guest starts with.
    pub(crate) fn new(sizes: Sizes) -> Self {
        let (in_force, changing) = (Mutex::new(sizes), tokio::sync::Mutex::default());
        Self { started_with: sizes.vcpu, in_force, changing, machine: OnceLock::new() }
    }

    /// Whether the memory of the guest, as many CPUs as it started with, fits those that it is to have when it wakes.
    /// Where there is one whatever the size, under emulation, this is false more often than it had to be.
    pub(crate) fn guest_fits(&self) -> bool {
        self.started_with.ceil().total_cmp(&self.in_force().vcpu.ceil()).is_eq()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_fits_as_long_as_it_is_to_have_the_cpus_that_it_started_with() {
        let of = |vcpu| Sizes { vcpu, memory_mib: 512, storage_bytes_max: 1 << 30 };
        let sizes = SizesInForce::new(of(1.0));
        for (vcpu, fits) in [(1.0, true), (0.25, true), (1.25, false), (2.0, false), (1.0, true)] {
            *sizes.in_force.lock() = of(vcpu);
            assert_eq!(sizes.guest_fits(), fits, "{vcpu}");
        }
    }
}
